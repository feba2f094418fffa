//! Out of a box.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxyard_proto::api::files::{FileStat, FileType};
use reqwest::{Method, Response, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::bar::bar;
use super::part::Part;
use super::place::Remote;
use super::{Copy, blocking, failed, shown, unpack};
use crate::failure::Failure;
use crate::output::note;

/// A file, or a folder as a tar archive, to standard output.
pub(super) async fn pipe(copy: &Copy, from: &Remote) -> Result<(), Failure> {
    let query: &[(&str, &str)] = match kind(copy, from).await? {
        FileType::Directory => &[("path", path_of(from)), ("format", "tar")],
        FileType::File | FileType::Symlink | FileType::Other => &[("path", path_of(from))],
    };
    let mut answer = copy.client.send(from.request(&copy.client, Method::GET, "download", query)).await?;
    let bar = bar(copy, path_of(from), answer.content_length());
    let mut out = tokio::io::stdout();
    while let Some(piece) = answer.chunk().await.map_err(broke_off)? {
        bar.inc(piece.len() as u64);
        match out.write_all(&piece).await {
            Ok(()) => {}
            // A reader that has gone is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::failed("cannot write to standard output", error)),
        }
    }
    bar.finish_and_clear();
    out.flush()
        .await
        .or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
        .map_err(|error| Failure::failed("cannot write to standard output", error))
}

/// A file or folder to a path of this host.
pub(super) async fn path(copy: &Copy, from: &Remote, to: &Path) -> Result<(), Failure> {
    let is_folder = kind(copy, from).await? == FileType::Directory;
    let contents_only = from.path.is_empty() || from.path == "." || from.path.ends_with("/.");
    let to = within(from, to, is_folder && contents_only)?;
    if is_folder { folder(copy, from, to).await } else { file(copy, from, &to).await }
}

async fn kind(copy: &Copy, from: &Remote) -> Result<FileType, Failure> {
    match from.stat(&copy.client).await? {
        Some(there) => Ok(there.r#type),
        None => Err(Failure::plain(format!("{}: there is no such file or folder in the box", path_of(from)))),
    }
}

fn path_of(from: &Remote) -> &str {
    if from.path.is_empty() { "." } else { &from.path }
}

/// Where a copy of `from` goes: into what is a folder.
fn within(from: &Remote, to: &Path, contents_only: bool) -> Result<PathBuf, Failure> {
    let is_folder = to.is_dir() || to.as_os_str().as_encoded_bytes().ends_with(b"/");
    if contents_only || !is_folder {
        return Ok(to.to_owned());
    }
    let name = from.name();
    let name =
        name.ok_or_else(|| Failure::usage(format!("'{}' has no name: say what its copy is called", from.path)))?;
    Ok(to.join(name))
}

/// One file, from where an earlier copy of the same version broke off.
async fn file(copy: &Copy, from: &Remote, to: &Path) -> Result<(), Failure> {
    let (mut idle, mut versions) = (0, Vec::new());
    loop {
        let Broken { failure, had, version, goes_on } =
            match fetch(copy, from, to, idle > 0 || !versions.is_empty()).await {
                Ok(()) => return Ok(()),
                Err(broken) => broken,
            };
        idle = if had > 0 { 0 } else { idle + 1 };
        if version.is_some() && versions.last() != Some(&version) {
            versions.push(version);
        }
        if !goes_on || idle > IDLE_MAX {
            return Err(failure);
        }
        if versions.len() > VERSIONS_MAX {
            return Err(Failure::plain(format!("{}: the file is changed again and again while it is read", from.path)));
        }
        note(&format!("boxyard: {}; going on from where it was", failure.text()));
        if had == 0 {
            sleep(PAUSE).await;
        }
    }
}

/// The pause after a try in which nothing came.
const PAUSE: Duration = Duration::from_secs(1);

/// Tries in a row in which nothing comes.
const IDLE_MAX: u32 = 10;

/// Versions of a file that are begun with: one that others write all the time may never stand still for long enough.
const VERSIONS_MAX: usize = 5;

/// A copy that did not come to its end.
struct Broken {
    failure: Failure,
    /// Bytes that came this time.
    had: u64,
    /// Of which version.
    version: Option<String>,
    /// Whether to try again.
    goes_on: bool,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self { failure, had: 0, version: None, goes_on: false }
    }
}

/// Fetches what is missing of a file; `again` where the box was there before, so that a server that does not answer may come back.
async fn fetch(copy: &Copy, from: &Remote, to: &Path, again: bool) -> Result<(), Broken> {
    let unreached = |failure, goes_on| Broken { goes_on, ..Broken::from(failure) };
    let write = |error| failed("write", to, error);
    let stat = from.stat(&copy.client).await.map_err(|failure| unreached(failure, again))?;
    let mut stat = stat.ok_or_else(|| Failure::plain(format!("{}: the file is gone from the box", from.path)))?;
    let mut part = Part::open(to, &stat.version).map_err(write)?;
    let mut request = from.request(&copy.client, Method::GET, "download", &[("path", &from.path)]);
    if part.length() > 0 && part.length() < stat.size {
        request = request
            .header("range", format!("bytes={}-", part.length()))
            .header("if-range", format!("\"{}\"", stat.version));
    } else if part.length() == stat.size && stat.size > 0 {
        // All of it came the last time.
        return Ok(part.finish(to, &stat).map_err(write)?);
    }
    let mut answer = copy.client.ask(request).await.map_err(|failure| unreached(failure, true))?;
    if !answer.status().is_success() {
        return Err(copy.client.refusal(answer).await.into());
    }
    let is_rest = answer.status() == StatusCode::PARTIAL_CONTENT;
    if told(&answer, "etag").trim_matches('"') != stat.version {
        // It is another one since, and this is all of it.
        part.forget();
        match now(&answer, &stat).filter(|_| !is_rest) {
            Some(now) => stat = now,
            None => {
                return Err(
                    Failure::plain(format!("{}: the server does not say which version it sends", from.path)).into()
                );
            }
        }
        part = Part::open(to, &stat.version).map_err(write)?;
    }
    if !is_rest {
        part.restart().map_err(write)?;
    }
    let bar = bar(copy, &from.path, Some(stat.size));
    bar.set_position(part.length());
    let before = part.length();
    let broken = |failure, part: &Part| Broken {
        failure,
        had: part.length() - before,
        version: Some(stat.version.clone()),
        goes_on: true,
    };
    loop {
        let piece = match answer.chunk().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => return Err(broken(broke_off(error), &part)),
        };
        bar.inc(piece.len() as u64);
        part.write(&piece).map_err(write)?;
    }
    bar.finish_and_clear();
    if part.length() != stat.size {
        let failure = Failure::plain(format!("{}: {} of {} bytes came", from.path, part.length(), stat.size));
        return Err(broken(failure, &part));
    }
    Ok(part.finish(to, &stat).map_err(write)?)
}

/// What a header says.
fn told<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What the file is that comes, by the answer's headers; none where they do not say it.
fn now(answer: &Response, before: &FileStat) -> Option<FileStat> {
    let version = told(answer, "etag").trim_matches('"').to_owned();
    let changed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(told(answer, "last-modified")).ok()?;
    let (size, mode) = (answer.content_length()?, told(answer, "x-file-mode").to_owned());
    (!version.is_empty()).then(|| FileStat { version, size, mode, mod_time: changed.to_string(), ..before.clone() })
}

async fn folder(copy: &Copy, from: &Remote, to: PathBuf) -> Result<(), Failure> {
    let query = [("path", path_of(from)), ("format", "tar")];
    let mut answer = copy.client.send(from.request(&copy.client, Method::GET, "download", &query)).await?;
    let bar = bar(copy, path_of(from), None);
    let (pieces, packed) = mpsc::channel(8);
    let unpacking = blocking(move || unpack::unpack(&to, packed));
    let counted = bar.clone();
    // With its end the pieces end.
    let receiving = async move {
        loop {
            let piece = answer.chunk().await;
            let piece = match piece {
                Ok(Some(piece)) => Ok(piece),
                Ok(None) => return,
                Err(error) => Err(io::Error::other(broke_off(error).text().to_owned())),
            };
            counted.inc(piece.as_ref().map_or(0, |piece| piece.len() as u64));
            if pieces.send(piece).await.is_err() {
                // It has failed, and says why.
                return;
            }
        }
    };
    let (unpacked, ()) = tokio::join!(unpacking, receiving);
    bar.finish_and_clear();
    let left_out = unpacked?;
    for name in left_out.names {
        note(&format!(
            "boxyard: {} is left out: a link that leads elsewhere, or something that is no file",
            shown(&name)
        ));
    }
    if left_out.more > 0 {
        note(&format!("boxyard: and {} more", left_out.more));
    }
    Ok(())
}

fn broke_off(error: reqwest::Error) -> Failure {
    Failure::failed("the answer broke off", error.without_url())
}
