//! A file or an archive as it comes out of a box.

use boxyard_proto::files::{Answer, Ask, Stat};
use bytes::Bytes;

use super::answers::nonsense;
use super::{Files, FilesError, Said};

/// Bytes of a file at most, as Linux has it.
const LENGTH_MAX: u64 = u64::MAX >> 1;

/// The content of a file or an archive. Dropping it ends the job in the box.
#[derive(Debug)]
pub struct Content {
    files: Files,
    stat: Stat,
    length: Option<u64>,
    got: u64,
    end: Option<End>,
}

/// How content has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// It is not all there: a file shrank while it was read, or something was left out of an archive.
    pub truncated: bool,
}

impl Files {
    /// Opens a file, or what else [`Ask`] opens. It is not read faster than [`Content::next`] is called.
    ///
    /// # Errors
    /// The box refuses, or is lost.
    pub async fn open(mut self, ask: &Ask) -> Result<Content, FilesError> {
        self.send(ask).await?;
        match self.answer(self.patience.answer).await? {
            Answer::Opened { stat, length } => {
                let is_right = if let Ask::Read { length: most, .. } = ask {
                    length.is_some_and(|length| length <= most.unwrap_or(u64::MAX).min(LENGTH_MAX))
                } else {
                    length.is_none()
                };
                if !is_right {
                    return Err(nonsense("a file of a length that it cannot have").into());
                }
                Ok(Content { files: self, stat, length, got: 0, end: None })
            }
            other => Err(out_of_turn(&other)),
        }
    }
}

impl Content {
    /// What it is of.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Bytes that come unless the file shrinks meanwhile; unknown for archives.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes, never empty; none at the end. Cancel safe.
    ///
    /// # Errors
    /// The box is lost or lies: sends more than it said, or less without saying so; or it fails while it reads.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FilesError> {
        if self.end.is_some() {
            return Ok(None);
        }
        match self.files.answers.next(self.files.patience.answer).await? {
            Said::Data(bytes) => {
                self.got += bytes.len() as u64;
                if self.length.is_some_and(|length| self.got > length) {
                    return Err(nonsense("more of a file than it said there was").into());
                }
                Ok(Some(bytes))
            }
            Said::Answer(Answer::Done { truncated }) => {
                if self.length.is_some_and(|length| self.got < length) && !truncated {
                    return Err(nonsense("less of a file than it said there was").into());
                }
                self.end = Some(End { truncated });
                Ok(None)
            }
            Said::Answer(Answer::Failed { kind, message }) => Err(FilesError::refused(kind, &message)),
            Said::Answer(other) => Err(out_of_turn(&other)),
        }
    }

    /// How it ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }
}

pub(super) fn out_of_turn(answer: &Answer) -> FilesError {
    let what = match answer {
        Answer::Opened { .. } => "an open file",
        Answer::Stat { .. } => "what a path is",
        Answer::Entries { .. } => "entries",
        Answer::Matches { .. } => "matches",
        Answer::Watching { .. } => "a watch",
        Answer::Changes { .. } => "changes",
        Answer::Done { .. } => "an end",
        Answer::Failed { .. } => "a failure",
    };
    nonsense(what).into()
}
