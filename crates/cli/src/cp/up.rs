//! Into a box.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::files::{FileType, Unpacked};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Body, Method};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use super::bar::{Counted, bar};
use super::place::Remote;
use super::{Copy, blocking, failed, name_of, pack, tree};
use crate::client::{Client, read_json};
use crate::failure::Failure;
use crate::output::note;

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

/// Standard input, as a file.
pub(super) async fn pipe(copy: &Copy, to: &Remote) -> Result<(), Failure> {
    if to.name().is_none() || to.path.ends_with('/') {
        return Err(Failure::usage("standard input needs the path of a file to go to: BOX:PATH"));
    }
    let bar = bar(copy, "-", None);
    let body = Counted { inner: Box::pin(pieces(tokio::io::stdin())), bar: bar.clone() };
    let request = to.request(&copy.client, Method::PUT, "upload", &[("path", &to.path)]).body(Body::wrap_stream(body));
    let answer = copy.client.send(request).await?;
    bar.finish_and_clear();
    read_json::<MessageBody>(answer).await.map(drop)
}

/// A file or folder of this host.
pub(super) async fn path(copy: &Copy, from: &Path, to: &Remote) -> Result<(), Failure> {
    let metadata = tokio::fs::metadata(from).await.map_err(|error| failed("read", from, error))?;
    if metadata.is_dir() {
        return folder(copy, from, to).await;
    }
    if !metadata.is_file() {
        return Err(Failure::plain(format!("{} is neither a file nor a folder", from.display())));
    }
    file(copy, from, &metadata, &within(copy, from, to, to.path.ends_with('/')).await?).await
}

/// Where a copy of `from` goes: into what is a folder.
async fn within(copy: &Copy, from: &Path, to: &Remote, is_folder: bool) -> Result<Remote, Failure> {
    let is_folder = is_folder
        || to.path.is_empty()
        || to.stat(&copy.client).await?.is_some_and(|there| there.r#type == FileType::Directory);
    if !is_folder {
        return Ok(to.clone());
    }
    let name = name_of(from)?;
    let name = name.to_str().ok_or_else(|| {
        Failure::plain(format!("the name of {} is not UTF-8: say what its copy is called", from.display()))
    })?;
    Ok(to.child(name))
}

async fn file(copy: &Copy, from: &Path, metadata: &Metadata, to: &Remote) -> Result<(), Failure> {
    let file = tokio::fs::File::open(from).await.map_err(|error| failed("read", from, error))?;
    let mode = format!("{:o}", metadata.permissions().mode() & 0o777);
    let bar = bar(copy, &from.to_string_lossy(), Some(metadata.size()));
    // What it gains meanwhile is not part of it; what it loses breaks the request off.
    let body = Counted { inner: Box::pin(pieces(file.take(metadata.size()))), bar: bar.clone() };
    let request = to
        .request(&copy.client, Method::PUT, "upload", &[("path", &to.path), ("mode", &mode)])
        .header(CONTENT_LENGTH, metadata.size())
        .body(Body::wrap_stream(body));
    let answer = copy.client.send(request).await?;
    bar.finish_and_clear();
    read_json::<MessageBody>(answer).await.map(drop)
}

async fn folder(copy: &Copy, from: &Path, to: &Remote) -> Result<(), Failure> {
    let contents_only = from.as_os_str().as_encoded_bytes().ends_with(b"/.") || from == Path::new(".");
    let to = if contents_only { to.clone() } else { within(copy, from, to, false).await? };
    let there = if copy.resume { tree::files(&copy.client, &to).await? } else { tree::Files::default() };
    let (pieces, packed) = mpsc::channel(8);
    let bar = bar(copy, &from.to_string_lossy(), None);
    let packing = {
        let from = from.to_owned();
        blocking(move || pack::pack(&from, &there, pieces))
    };
    let body = unfold(packed, async |mut packed: mpsc::Receiver<io::Result<Bytes>>| {
        packed.recv().await.map(|piece| (piece, packed))
    });
    let body = Counted { inner: Box::pin(body), bar: bar.clone() };
    let path = if to.path.is_empty() { "." } else { &to.path };
    let request = to.request(&copy.client, Method::PUT, "archive", &[("path", path)]).body(Body::wrap_stream(body));
    let (packed, answer) = tokio::join!(packing, copy.client.send(request));
    bar.finish_and_clear();
    // What the box says comes first: packing breaks off when nobody takes what is packed.
    let packed = match (packed, answer) {
        (Ok(packed), Ok(answer)) => {
            let unpacked: Unpacked = read_json(answer).await?;
            if unpacked.truncated {
                note("boxyard: some things were left out, which the box does not unpack");
            }
            packed
        }
        (Err(failure), Err(other)) => return Err(if failure.text().is_empty() { other } else { failure }),
        (Ok(_), Err(failure)) | (Err(failure), Ok(_)) => return Err(failure),
    };
    for path in &packed.left_out {
        note(&format!("boxyard: {} is left out: it is no file, folder or link", path.display()));
    }
    if copy.resume && packed.skipped > 0 {
        note(&format!("boxyard: {} files were there already", packed.skipped));
    }
    Ok(())
}

/// What there is to read, in pieces.
fn pieces(from: impl AsyncRead + Unpin + Send + 'static) -> impl Stream<Item = io::Result<Bytes>> + Send {
    unfold(Some(from), async |from| {
        let mut from = from?;
        let mut piece = Vec::with_capacity(PIECE);
        match (&mut from).take(PIECE as u64).read_buf(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(piece.into()), Some(from))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// Writes a file as it is, where the one there is the one that is known.
pub(crate) async fn put(client: &Client, to: &Remote, content: Vec<u8>, version: Option<&str>) -> Result<(), Failure> {
    let mut query = vec![("path", to.path.as_str())];
    query.extend(version.map(|version| ("if_version", version)));
    let answer = client.send(to.request(client, Method::PUT, "upload", &query).body(content)).await?;
    read_json::<MessageBody>(answer).await.map(drop)
}
