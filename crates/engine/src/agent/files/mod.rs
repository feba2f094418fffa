//! The client of the files part of `boxyard-init`: see [`boxyard_proto::files`].
//!
//! [`Files::start`] starts it as a job of its own, which ends when what came of it is dropped. Requests of one job are carried out one
//! after the other. What a box answers is checked as far as it can be: lengths, lists, names, turns. Whatever it does, memory here stays
//! bounded and every wait has an end: an answer has to come within [`ANSWER_DEADLINE`] or [`LONG_DEADLINE`], and of content at least a
//! byte within the first of them.
#![expect(clippy::wildcard_enum_match_arm, reason = "whatever is not what was asked for is out of turn")]

use std::time::Duration;

use boxyard_proto::BoxId;
use boxyard_proto::files::{Answer, Ask, Change, Entry, Failure, Match, PATH_MAX, PathText, Stat};
use boxyard_proto::wire::{self, Builtin, User};

use super::{AgentError, fit_to_show};
use crate::Engine;

mod answers;
mod asks;
mod content;
#[cfg(test)]
mod tests;

pub use answers::{Answers, Said};
pub use asks::Asks;
pub use content::{Content, End};

use answers::nonsense;
use content::out_of_turn;

/// How long a box may take to answer, or to go on with what it has begun to answer. Generous: a box that is out of CPU is slow, not
/// broken.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// The same for what takes long by itself: whole trees, archives.
pub const LONG_DEADLINE: Duration = Duration::from_secs(600);

/// How long a box may take none of what is sent to it.
const STALL_MAX: Duration = Duration::from_secs(120);

/// Bytes of a file's name at most.
const NAME_MAX: usize = 255;

/// Why something was not done with a file.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The box says why. Fit for users, without the path.
    #[error("{message}")]
    Refused {
        /// What sort of failure.
        kind: Failure,
        /// Its text, cut to a sane length.
        message: String,
    },
    /// The box is lost, or answers nonsense.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

impl FilesError {
    /// What a box says of a failure.
    pub fn refused(kind: Failure, message: &str) -> Self {
        Self::Refused { kind, message: fit_to_show(message) }
    }
}

/// Work on a box's files.
#[derive(Debug)]
pub struct Files {
    /// Says.
    pub asks: Asks,
    /// Is told.
    pub answers: Answers,
    patience: Patience,
}

/// How long a box may take to answer.
#[derive(Debug, Clone, Copy)]
struct Patience {
    answer: Duration,
    long: Duration,
}

impl Files {
    /// Starts it, as boxuser, under a job's name that the box does not know yet.
    ///
    /// # Errors
    /// As [`exec`](super::exec).
    pub async fn start(engine: &dyn Engine, id: &BoxId, job: String) -> Result<Self, AgentError> {
        let exec = wire::Exec {
            stdin: true,
            builtin: Some(Builtin::Files),
            ..wire::Exec::new(job, vec!["files".into()], "/", User::BOXUSER)
        };
        let job = super::exec(engine, id, exec).await?;
        let patience = Patience { answer: ANSWER_DEADLINE, long: LONG_DEADLINE };
        Ok(Self { asks: Asks::new(job.control()), answers: Answers::new(job), patience })
    }

    /// Does what is answered by its end only. Returns whether something was left out.
    ///
    /// # Errors
    /// The box refuses, or is lost.
    pub async fn carry_out(&mut self, ask: &Ask) -> Result<bool, FilesError> {
        self.send(ask).await?;
        match self.answer(self.patience.long).await? {
            Answer::Done { truncated } => Ok(truncated),
            other => Err(out_of_turn(&other)),
        }
    }

    /// What a path is; with `follow`, what a symbolic link there leads to.
    ///
    /// # Errors
    /// The box refuses, or is lost.
    pub async fn stat(&mut self, path: PathText, follow: bool) -> Result<Stat, FilesError> {
        self.send(&Ask::Stat { path, follow }).await?;
        let stat = match self.answer(self.patience.answer).await? {
            Answer::Stat { stat } => stat,
            other => return Err(out_of_turn(&other)),
        };
        match self.answer(self.patience.answer).await? {
            Answer::Done { .. } => Ok(stat),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Begins a list: its parts come from [`next_entries`](Self::next_entries) or [`next_matches`](Self::next_matches).
    ///
    /// # Errors
    /// The box is lost.
    pub async fn begin(&mut self, ask: &Ask) -> Result<(), FilesError> {
        self.send(ask).await
    }

    /// The next part of a folder's list.
    ///
    /// # Errors
    /// The box refuses, is lost, or names what cannot be a name.
    pub async fn next_entries(&mut self) -> Result<Part<Entry>, FilesError> {
        match self.answer(self.patience.long).await? {
            Answer::Entries { entries } if entries.iter().all(|entry| is_name(&entry.name)) => Ok(Part::Some(entries)),
            Answer::Entries { .. } => Err(nonsense("a name that cannot be one").into()),
            Answer::Done { truncated } => Ok(Part::End { truncated }),
            other => Err(out_of_turn(&other)),
        }
    }

    /// The next part of what a search finds.
    ///
    /// # Errors
    /// The box refuses, is lost, or names what cannot be a path.
    pub async fn next_matches(&mut self) -> Result<Part<Match>, FilesError> {
        match self.answer(self.patience.long).await? {
            Answer::Matches { matches } if matches.iter().all(|found| is_path(&found.path)) => Ok(Part::Some(matches)),
            Answer::Matches { .. } => Err(nonsense("a path that cannot be one").into()),
            Answer::Done { truncated } => Ok(Part::End { truncated }),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Begins to watch a folder; returns when changes are told, and whether some are not because there is too much to watch.
    ///
    /// # Errors
    /// The box refuses, or is lost.
    pub async fn watch(&mut self, path: PathText, recursive: bool) -> Result<bool, FilesError> {
        self.send(&Ask::Watch { path, recursive }).await?;
        match self.answer(self.patience.long).await? {
            Answer::Watching { truncated } => Ok(truncated),
            other => Err(out_of_turn(&other)),
        }
    }

    /// What has changed next. Waits for as long as nothing changes. Cancel safe.
    ///
    /// # Errors
    /// The box is lost, or names what cannot be a path.
    pub async fn next_changes(&mut self) -> Result<Changes, FilesError> {
        let is_right = |change: &Change| is_path(&change.path) && change.from.as_ref().is_none_or(is_path);
        match self.answer(Duration::MAX).await? {
            Answer::Changes { changes, lost } if changes.iter().all(is_right) => Ok(Changes::Some { changes, lost }),
            Answer::Changes { .. } => Err(nonsense("a path that cannot be one").into()),
            // More folders have come than can be watched.
            Answer::Watching { truncated } => Ok(Changes::Some { changes: Vec::new(), lost: truncated }),
            Answer::Done { .. } => Ok(Changes::Gone),
            other => Err(out_of_turn(&other)),
        }
    }

    async fn send(&mut self, ask: &Ask) -> Result<(), FilesError> {
        self.asks.ask(ask).await?;
        Ok(self.asks.flush().await?)
    }

    /// The next answer, where no content is to come.
    async fn answer(&mut self, patience: Duration) -> Result<Answer, FilesError> {
        match self.answers.next(patience).await? {
            Said::Answer(Answer::Failed { kind, message }) => Err(FilesError::refused(kind, &message)),
            Said::Answer(answer) => Ok(answer),
            Said::Data(_) => Err(nonsense("content that nobody asked for").into()),
        }
    }
}

/// A part of a list.
#[derive(Debug)]
pub enum Part<T> {
    /// There may be more.
    Some(Vec<T>),
    /// That was all.
    End {
        /// There would have been more.
        truncated: bool,
    },
}

/// What a watch tells.
#[derive(Debug)]
pub enum Changes {
    /// Changes, in order.
    Some {
        /// They.
        changes: Vec<Change>,
        /// Some before these are not told.
        lost: bool,
    },
    /// The folder itself is gone; nothing comes after.
    Gone,
}

/// Whether it can be the name of a file in a folder: others would lead clients elsewhere that put it behind the folder's path.
fn is_name(text: &PathText) -> bool {
    text.bytes().is_some_and(|name| {
        !name.is_empty()
            && name.len() <= NAME_MAX
            && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
            && !matches!(&*name, b"." | b"..")
    })
}

/// Whether it can be an absolute path.
fn is_path(text: &PathText) -> bool {
    // The path of a deep folder, and one name more.
    text.bytes().is_some_and(|path| path.starts_with(b"/") && path.len() <= PATH_MAX + NAME_MAX && !path.contains(&0))
}
