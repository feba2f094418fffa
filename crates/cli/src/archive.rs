//! `boxyard snapshot export` and `import`: snapshots as files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use boxyard_proto::SnapshotId;
use boxyard_proto::api::snapshots::SnapshotData;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Body, Method, header};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::client::ClientOptions;
use crate::failure::Failure;
use crate::output::{note, print};
use crate::signals::Signals;

/// What stands for standard input or output.
const STANDARD: &str = "-";

/// How often a bar moves.
const TICK: Duration = Duration::from_millis(200);

/// Bytes that are sent at once.
const PIECE: usize = 128 * 1024;

/// What a shell says of a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Id of the snapshot
    id: SnapshotId,
    /// Where to write it, - for standard output [default: ID.tar]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Leave the image's files out: such an archive can be imported only where the very same image is
    #[arg(long)]
    without_image: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The archive, - for standard input
    file: PathBuf,
    /// What to call the snapshot; as it was called where it was exported when missing
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

impl Export {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let path = self.output.clone().unwrap_or_else(|| format!("{}.tar", self.id).into());
        let standard = path.as_os_str() == STANDARD;
        if standard && io::stdout().is_terminal() {
            return Err(Failure::usage("an archive is nothing for a terminal; name a file with -o, or use a pipe"));
        }
        let cannot = |error| Failure::failed(format!("cannot write to {}", path.display()), error);
        // Before anything is asked for.
        let mut draft = if standard { None } else { Some(Draft::new(&path).map_err(cannot)?) };
        let mut signals = Signals::watch()?;
        tokio::select! {
            written = self.write(&mut draft, cannot) => written?,
            () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
        }
        if let Some(draft) = draft {
            draft.keep().map_err(cannot)?;
            note(&format!("{} is exported to {}", self.id, path.display()));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn write(&self, draft: &mut Option<Draft>, cannot: impl Fn(io::Error) -> Failure) -> Result<(), Failure> {
        let client = self.client.connect()?;
        let shown = Shown::begin("packing");
        let query: &[(&str, &str)] = if self.without_image { &[("image", "false")] } else { &[] };
        let request = client.request_with(Method::GET, &["snapshots", self.id.as_str(), "export"], query);
        let mut answer = client.send(request).await?;
        shown.of(answer.content_length(), "exporting");
        let broke_off = |error: reqwest::Error| Failure::failed("the archive broke off", error.without_url());
        while let Some(piece) = answer.chunk().await.map_err(broke_off)? {
            match draft {
                Some(draft) => draft.file.write_all(&piece).map_err(&cannot)?,
                None => io::stdout().lock().write_all(&piece).map_err(&cannot)?,
            }
            shown.advance(piece.len());
        }
        io::stdout().lock().flush().map_err(cannot)
    }
}

impl Import {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let (source, length): (Box<dyn AsyncRead + Send + Sync + Unpin>, _) = if self.file.as_os_str() == STANDARD {
            (Box::new(tokio::io::stdin()), None)
        } else {
            let cannot = |error| Failure::failed(format!("cannot read {}", self.file.display()), error);
            let file = File::open(&self.file).map_err(cannot)?;
            let metadata = file.metadata().map_err(cannot)?;
            if metadata.is_dir() {
                return Err(cannot(io::ErrorKind::IsADirectory.into()));
            }
            (Box::new(tokio::fs::File::from_std(file)), metadata.is_file().then_some(metadata.len()))
        };
        let shown = Shown::begin("importing");
        shown.of(length, "importing");
        let source = shown.0.wrap_async_read(source);
        let pieces = ReaderStream::with_capacity(source, PIECE);
        let query: Vec<(&str, &str)> = self.name.as_deref().map(|name| ("name", name)).into_iter().collect();
        let mut request = client.request_with(Method::POST, &["snapshots", "import"], &query);
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        let request = request.header(header::CONTENT_TYPE, "application/x-tar").body(Body::wrap_stream(pieces));
        let made: SnapshotData = client.call_patiently(request).await?;
        print(made.id.as_str())
    }
}

/// A file that gets its name when it is whole. Dropped before, it is removed.
struct Draft {
    file: File,
    draft: Option<PathBuf>,
    path: PathBuf,
}

impl Draft {
    fn new(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut draft = std::ffi::OsString::from(".");
        draft.push(name);
        draft.push(format!(".{}.part", std::process::id()));
        let draft = path.with_file_name(draft);
        // What is in boxes is not for everybody on this host.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        Ok(Self { file, draft: Some(draft), path: path.to_owned() })
    }

    fn keep(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(draft) = &self.draft {
            fs::rename(draft, &self.path)?;
        }
        self.draft = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            // There is nothing more to be done about it.
            let _ = fs::remove_file(draft);
        }
    }
}

/// A bar on a terminal, and nothing elsewhere.
struct Shown(ProgressBar);

impl Shown {
    fn begin(doing: &'static str) -> Self {
        if !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner().with_message(doing);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// From here on, of so many bytes if that is known.
    fn of(&self, length: Option<u64>, doing: &'static str) {
        let template = match length {
            Some(length) => {
                self.0.set_length(length);
                "{msg} {spinner} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}"
            }
            None => "{msg} {spinner} {bytes} {bytes_per_sec}",
        };
        self.0.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.0.set_message(doing);
    }

    fn advance(&self, bytes: usize) {
        self.0.inc(u64::try_from(bytes).unwrap_or_default());
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
