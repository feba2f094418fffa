//! Work on a box's files. Like a session it has no record and lives no longer than whoever asks for it, and it holds a lease: a paused
//! box is resumed for it, and is `running` meanwhile.

use boxyard_engine::agent::AgentError;
use boxyard_engine::agent::files::{Answers, Asks, Changes, Content, Files, FilesError, Part};
use boxyard_proto::files::{Ask, Entry, Match, PATH_MAX, PathText, Stat};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::kept::{Kept, Lease};
use super::order::WORKSPACE;
use super::sessions::lost;
use super::{BoxError, Boxes};

/// A path in a box: absolute, as a kernel would take it, and not yet known to lead anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath(Vec<u8>);

/// Why a text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// It has a NUL.
    #[error("contains a NUL byte")]
    Nul,
    /// It is too long.
    #[error("is longer than {} bytes", PATH_MAX - 1)]
    TooLong,
}

impl FilePath {
    /// The path that a request means: absolute as it is, relative to the workspace otherwise; so nothing means the workspace itself.
    ///
    /// # Errors
    /// No file can have this path.
    pub fn new(given: &[u8]) -> Result<Self, InvalidPath> {
        let path = match given {
            [] => WORKSPACE.as_bytes().to_vec(),
            [b'/', ..] => given.to_vec(),
            relative => [WORKSPACE.as_bytes(), b"/", relative].concat(),
        };
        if path.contains(&0) {
            return Err(InvalidPath::Nul);
        }
        if path.len() >= PATH_MAX {
            return Err(InvalidPath::TooLong);
        }
        Ok(Self(path))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As requests to a box have it.
    pub fn text(&self) -> PathText {
        PathText::new(&self.0)
    }

    /// As people read it.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// What to put before a name to have the path of what is in this folder. Parts that say nothing are left out; `..` is not one, because
    /// what stands before it may be a symbolic link.
    pub fn prefix(&self) -> Vec<u8> {
        let mut prefix = vec![b'/'];
        for part in self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
            prefix.extend_from_slice(part);
            prefix.push(b'/');
        }
        prefix
    }
}

/// Why something was not done with a box's files. Texts are fit for users.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The box takes no work.
    #[error(transparent)]
    Box(#[from] BoxError),
    /// The box did not do as asked.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The box was deleted, paused or lost meanwhile.
    #[error("{0}")]
    Interrupted(String),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Leaving,
}

impl From<AgentError> for FileError {
    fn from(error: AgentError) -> Self {
        Self::Files(error.into())
    }
}

/// What must not be waited beyond, and what keeps the box running.
#[derive(Debug)]
struct Hold {
    lease: Lease,
    leaving: CancellationToken,
}

impl Hold {
    /// Waits for `work` for as long as the box is there and runs.
    async fn during<T, E: Into<FileError>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, FileError> {
        let kept = self.lease.kept();
        tokio::select! {
            biased;
            done = work => done.map_err(|error| {
                let error = error.into();
                let is_lost = matches!(error, FileError::Files(FilesError::Agent(AgentError::Lost { .. })));
                // Its connections end when it is deleted or stopped, which says more.
                if is_lost && !kept.phase().is_awake() {
                    return FileError::Interrupted(kept.farewell(kept.phase(), None));
                }
                error
            }),
            (phase, halt) = kept.unready() => Err(FileError::Interrupted(kept.farewell(phase, halt))),
            () = self.lease.over().cancelled() => Err(FileError::Interrupted(kept.farewell(kept.phase(), None))),
            () = self.leaving.cancelled() => Err(FileError::Leaving),
        }
    }
}

/// Work on files that has been begun.
#[derive(Debug)]
pub struct FileWork {
    files: Files,
    hold: Hold,
}

impl Boxes {
    /// Begins work on a box's files: it is ready for requests when this returns.
    ///
    /// # Errors
    /// The box takes no work, or has no room for it.
    pub async fn files(&self, kept: &Kept) -> Result<FileWork, FileError> {
        let hold = Hold { lease: kept.lease().await?, leaving: self.leaving() };
        let name = format!("files-{:032x}", rand::random::<u128>());
        let files = hold
            .during(async {
                let _awake = kept.shared.awake().await;
                let started = Files::start(self.yard.engine.as_ref(), kept.id(), name).await;
                started.map_err(|error| lost(kept, error))
            })
            .await?;
        Ok(FileWork { files, hold })
    }
}

impl FileWork {
    /// Does what is answered by its end only. Returns whether something was left out.
    ///
    /// # Errors
    /// The box refuses, or is lost.
    pub async fn carry_out(&mut self, ask: &Ask) -> Result<bool, FileError> {
        self.hold.during(self.files.carry_out(ask)).await
    }

    /// See [`Files::stat`].
    ///
    /// # Errors
    /// The box refuses, or is lost.
    pub async fn stat(&mut self, path: &FilePath, follow: bool) -> Result<Stat, FileError> {
        self.hold.during(self.files.stat(path.text(), follow)).await
    }

    /// See [`Files::open`].
    ///
    /// # Errors
    /// The box refuses, or is lost.
    pub async fn open(self, ask: &Ask) -> Result<FileContent, FileError> {
        let Self { files, hold } = self;
        let content = hold.during(files.open(ask)).await?;
        Ok(FileContent { content, hold })
    }

    /// Begins a list of a folder or of what a search finds.
    ///
    /// # Errors
    /// The box is lost.
    pub async fn begin(&mut self, ask: &Ask) -> Result<(), FileError> {
        self.hold.during(self.files.begin(ask)).await
    }

    /// See [`Files::next_entries`].
    ///
    /// # Errors
    /// The box refuses, or is lost.
    pub async fn next_entries(&mut self) -> Result<Part<Entry>, FileError> {
        self.hold.during(self.files.next_entries()).await
    }

    /// See [`Files::next_matches`].
    ///
    /// # Errors
    /// The box refuses, or is lost.
    pub async fn next_matches(&mut self) -> Result<Part<Match>, FileError> {
        self.hold.during(self.files.next_matches()).await
    }

    /// See [`Files::watch`].
    ///
    /// # Errors
    /// The box refuses, or is lost.
    pub async fn watch(&mut self, path: &FilePath, recursive: bool) -> Result<bool, FileError> {
        self.hold.during(self.files.watch(path.text(), recursive)).await
    }

    /// See [`Files::next_changes`]. Cancel safe.
    ///
    /// # Errors
    /// The box is lost.
    pub async fn next_changes(&mut self) -> Result<Changes, FileError> {
        self.hold.during(self.files.next_changes()).await
    }

    /// Does `work` with both directions at once: what is sent must not wait for answers, nor the other way round.
    ///
    /// # Errors
    /// What `work` says, or the box is lost.
    pub async fn both<T, E>(&mut self, work: impl AsyncFnOnce(&mut Asks, &mut Answers) -> Result<T, E>) -> Result<T, E>
    where
        E: From<FileError>,
    {
        let Files { asks, answers, .. } = &mut self.files;
        let worked = async { Ok::<_, FileError>(work(asks, answers).await) };
        self.hold.during(worked).await?
    }
}

/// A file or an archive as it comes out of a box. Dropping it ends the work.
#[derive(Debug)]
pub struct FileContent {
    content: Content,
    hold: Hold,
}

impl FileContent {
    /// What it is of.
    pub fn stat(&self) -> &Stat {
        self.content.stat()
    }

    /// Bytes that come unless the file shrinks meanwhile; unknown for archives.
    pub fn length(&self) -> Option<u64> {
        self.content.length()
    }

    /// The next bytes, never empty; none at the end. Cancel safe.
    ///
    /// # Errors
    /// The box is lost, lies, or fails while it reads.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        self.hold.during(self.content.next()).await
    }

    /// Whether it has ended before all of it came, because the file shrank or something was left out.
    pub fn is_truncated(&self) -> bool {
        self.content.end().is_some_and(|end| end.truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_or_lie_in_the_workspace() {
        for (given, meant, prefix) in [
            ("", "/workspace/home", "/workspace/home/"),
            (".", "/workspace/home/.", "/workspace/home/"),
            ("a//b/", "/workspace/home/a//b/", "/workspace/home/a/b/"),
            ("/workspace/home/.", "/workspace/home/.", "/workspace/home/"),
            ("/", "/", "/"),
            ("/a/../b", "/a/../b", "/a/../b/"),
            ("..", "/workspace/home/..", "/workspace/home/../"),
        ] {
            let path = FilePath::new(given.as_bytes()).expect("a path");
            assert_eq!((path.shown().as_str(), path.prefix().as_slice()), (meant, prefix.as_bytes()));
        }
        assert_eq!(FilePath::new(b"a\0b"), Err(InvalidPath::Nul));
        assert_eq!(FilePath::new(&[b'/'; PATH_MAX]), Err(InvalidPath::TooLong));
        assert!(FilePath::new(&[b'/'; PATH_MAX - 1]).is_ok());
        assert_eq!(FilePath::new(&[b'x'; PATH_MAX - 16]), Err(InvalidPath::TooLong));
    }
}
