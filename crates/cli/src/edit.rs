//! `boxyard edit`: a file of a box in this host's editor.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use reqwest::Method;

use crate::client::{Client, ClientOptions, box_argument};
use crate::cp::{Remote, put};
use crate::failure::Failure;
use crate::output::note;

/// Variables that name the editor, in order of precedence.
const EDITORS: [&str; 2] = ["VISUAL", "EDITOR"];
/// The editor when none is named.
const EDITOR: &str = "vi";
/// Bytes of a file at most.
const FILE_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Edit {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// The file, absolute or below /workspace/home; it may be a new one
    #[arg(value_name = "PATH")]
    path: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Edit {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let remote = Remote { id: self.id, path: self.path };
        let (content, version) = fetch(&client, &remote).await?;
        let folder = tempfile::Builder::new().prefix("boxyard-edit-").tempdir();
        let folder = folder.map_err(|error| Failure::failed("cannot make a folder for the copy", error))?;
        // Editors go by the name; what a box calls its files is not to matter here.
        let name: String =
            remote.path.rsplit('/').next().unwrap_or_default().chars().filter(|c| is_plain(*c)).collect();
        let copy = folder.path().join(format!(
            "file{}",
            Path::new(&name).extension().map_or(String::new(), |ending| { format!(".{}", ending.to_string_lossy()) })
        ));
        let copy = if name.is_empty() || name.starts_with('.') { copy } else { folder.path().join(&name) };
        std::fs::write(&copy, &content).map_err(|error| Failure::failed("cannot write the copy", error))?;
        edit(&copy)?;
        let edited = std::fs::read(&copy).map_err(|error| Failure::failed("cannot read the copy", error))?;
        if edited == content && version.is_some() {
            note("boxyard: not changed");
            return Ok(ExitCode::SUCCESS);
        }
        match put(&client, &remote, edited, version.as_deref()).await {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(failure) => {
                let kept: PathBuf = folder.keep().join(copy.file_name().unwrap_or_default());
                Err(Failure::plain(format!("{}; what you wrote is in {}", failure.text(), kept.display())))
            }
        }
    }
}

fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// The file's content and version; nothing where there is no file.
async fn fetch(client: &Client, remote: &Remote) -> Result<(Vec<u8>, Option<String>), Failure> {
    let Some(stat) = remote.stat(client).await? else { return Ok((Vec::new(), None)) };
    if stat.size > FILE_MAX {
        return Err(Failure::plain(format!("{} has {} bytes: too many to edit", remote.path, stat.size)));
    }
    let request = remote.request(client, Method::GET, "download", &[("path", &remote.path)]);
    let answer = client.send(request).await?;
    let version = answer.headers().get("etag").and_then(|tag| tag.to_str().ok());
    let version = version.map(|tag| tag.trim_matches('"').to_owned()).unwrap_or(stat.version);
    Ok((client.read_bytes(answer).await?, Some(version)))
}

/// Runs the editor, whose variable is a command line as for git.
fn edit(copy: &Path) -> Result<(), Failure> {
    let named = EDITORS.iter().find_map(|name| std::env::var_os(name).filter(|editor| !editor.is_empty()));
    let mut line = named.unwrap_or_else(|| EDITOR.into());
    line.push(" \"$@\"");
    let status = std::process::Command::new("sh").arg("-c").arg(line).arg("editor").arg(copy).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::plain(format!("the editor failed ({status}): nothing is written"))),
        Err(error) => Err(Failure::failed("cannot run the editor", io::Error::from(error.kind()))),
    }
}
