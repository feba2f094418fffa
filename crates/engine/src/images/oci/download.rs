//! Layers from the registry to the disk, going on where a transfer broke off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use sha2::{Digest as _, Sha256};

use super::client::{Endpoint, PullError, Repository};
use super::reference::Digest;

/// Tries of one blob in all, however much progress each of them makes.
const TRIES_MAX: u32 = 100;

/// A blob to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::images) struct Blob {
    /// What it must hash to.
    pub digest: Digest,
    /// How long it must be.
    pub size: u64,
}

impl Repository {
    /// Gets `blob` into `folder` and returns its path, which is the caller's to remove. What an earlier call has left of it is used. The
    /// caller sees to it that nobody else gets the same blob at the same time. `heard` counts the bytes that are there.
    pub async fn download(&self, blob: &Blob, folder: &Path, heard: &AtomicU64) -> Result<PathBuf, PullError> {
        let done = folder.join(blob.digest.hex());
        // It got its name when it was whole and right.
        if fs::metadata(&done).is_ok_and(|meta| meta.len() == blob.size) {
            heard.fetch_add(blob.size, Ordering::Relaxed);
            return Ok(done);
        }
        let part = folder.join(format!("{}.part", blob.digest.hex()));
        let (path, size) = (part.clone(), blob.size);
        let mut partial = blocking(move || Partial::open(&path, size)).await?;
        heard.fetch_add(partial.length, Ordering::Relaxed);
        for (index, endpoint) in self.endpoints().iter().enumerate() {
            match self.complete(endpoint, blob, &mut partial, heard).await {
                Ok(()) => break,
                Err(error) if self.has_another(index, &error) => {}
                Err(error) => return Err(error),
            }
        }
        fs::rename(&part, &done)?;
        Ok(done)
    }

    /// Gets what is missing from one mirror or the registry, asking again where that may help.
    async fn complete(
        &self,
        endpoint: &Endpoint,
        blob: &Blob,
        partial: &mut Partial,
        heard: &AtomicU64,
    ) -> Result<(), PullError> {
        let (mut idle, mut tries) = (0, 0);
        while partial.length < blob.size {
            let before = partial.length;
            tries += 1;
            let result = match self.blob(endpoint, &blob.digest, before).await {
                Ok(response) => partial.fill(response, blob.size, heard).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => {}
                Err(PullError::Passing(why, wait)) => {
                    idle = if partial.length > before { 0 } else { idle + 1 };
                    if idle >= self.limits.attempts || tries >= TRIES_MAX {
                        return Err(PullError::Passing(why, wait));
                    }
                    tracing::info!(blob = %blob.digest, have = partial.length, why, "going on with a layer");
                    tokio::time::sleep(self.wait(idle.max(1), wait)).await;
                }
                Err(error) => return Err(error),
            }
        }
        if Digest::finish(partial.hash.clone()) == blob.digest {
            return Ok(());
        }
        // Another mirror may have the right one: from nothing again.
        heard.fetch_sub(partial.length, Ordering::Relaxed);
        partial.clear()?;
        Err(PullError::lasting(format!("a layer that was downloaded is not {}", blob.digest)))
    }
}

/// A blob that is partly there. What is there has been hashed.
#[derive(Debug)]
struct Partial {
    file: File,
    hash: Sha256,
    length: u64,
}

impl Partial {
    /// Opens what there is, or begins with nothing. Blocks while it reads what is there.
    fn open(path: &Path, size: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        let mut partial = Self { file: file.try_clone()?, hash: Sha256::new(), length: 0 };
        if file.metadata()?.len() > size {
            partial.clear()?;
            return Ok(partial);
        }
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(partial);
            }
            partial.hash.update(&buffer[..count]);
            partial.length += count as u64;
        }
    }

    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Adds what `response` brings.
    async fn fill(&mut self, mut response: reqwest::Response, size: u64, heard: &AtomicU64) -> Result<(), PullError> {
        let host = response.url().host_str().unwrap_or_default().to_owned();
        if self.length > 0 {
            let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
            let from_here = range.starts_with(&format!("bytes {}-", self.length));
            if response.status() != StatusCode::PARTIAL_CONTENT || !from_here {
                // It does not know ranges: all of it again.
                heard.fetch_sub(self.length, Ordering::Relaxed);
                self.clear()?;
                if response.status() == StatusCode::PARTIAL_CONTENT {
                    return Err(PullError::passing(format!("{host} sent another part than it was asked for")));
                }
            }
        }
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) if self.length < size => {
                    return Err(PullError::passing(format!(
                        "{host} ended a layer after {} of {size} bytes",
                        self.length
                    )));
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    return Err(PullError::passing(format!(
                        "{host} broke off or stood still in the middle of a layer"
                    )));
                }
            };
            if self.length + chunk.len() as u64 > size {
                return Err(PullError::lasting(format!("{host} sends more than the {size} bytes of a layer")));
            }
            // A write to the page cache; a thread for each would cost more.
            self.file.write_all(&chunk)?;
            self.hash.update(&chunk);
            self.length += chunk.len() as u64;
            heard.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    }
}

async fn blocking<T: Send + 'static>(deed: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(deed).await.map_err(io::Error::other)?
}
