//! Following a box's log.

use std::collections::VecDeque;

use boxyard_proto::api::logs::{FollowedEntry, LIMIT_MAX, LogEntry};
use tokio_util::sync::CancellationToken;

use super::kept::Kept;
use super::spool::Cut;
use super::{BoxError, Boxes};
use crate::store::{LogFollower, LogRow, NumberedLog, Store};

/// Where following a log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFrom {
    /// So many entries before its end.
    Tail(u32),
    /// After a place in it.
    After(LogCursor),
}

/// A place in a box's log: that of the entry of this time and with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogCursor(i64, i64);

impl LogCursor {
    /// Before all entries.
    const BEGINNING: Self = Self(0, 0);

    fn of((seq, row): &NumberedLog) -> Self {
        Self(row.at, *seq)
    }

    /// Reads what [`Display`](std::fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (at, seq) = text.split_once('-')?;
        Some(Self(at.parse().ok()?, seq.parse().ok()?))
    }
}

impl std::fmt::Display for LogCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// A box's log as it grows.
#[derive(Debug)]
pub struct LogStream {
    store: Store,
    kept: Kept,
    follower: LogFollower,
    /// What has been read and is still to be told.
    waiting: VecDeque<NumberedLog>,
    /// Before the first entry that is told.
    begins: LogCursor,
    /// The newest that was read or told.
    newest: LogCursor,
    /// There may be more to read.
    behind: bool,
    /// What was read last, and before that: among it may be what is heard of.
    known: [Vec<i64>; 2],
    leaving: CancellationToken,
}

impl Boxes {
    /// Entries of the box's log from there on, and then every new one.
    ///
    /// # Errors
    /// The store failed.
    pub async fn follow_log(&self, kept: &Kept, from: LogFrom) -> Result<LogStream, BoxError> {
        let store = self.yard.store.clone();
        // First this, so that nothing is missed.
        let follower = store.follow_log(kept.id().clone());
        let (mut waiting, mut newest) = match from {
            // The newest one tells the place, whether it is wanted or not.
            LogFrom::Tail(tail) => (VecDeque::from(store.newest_logs(kept.id(), tail.max(1)).await?), None),
            LogFrom::After(cursor) => (VecDeque::new(), Some(cursor)),
        };
        let known = waiting.iter().map(|(seq, _)| *seq).collect();
        let read_to = waiting.back().map_or(LogCursor::BEGINNING, LogCursor::of);
        if from == LogFrom::Tail(0) {
            waiting.clear();
        }
        let begins = match (waiting.front().map(LogCursor::of), newest) {
            (_, Some(cursor)) => cursor,
            (Some(LogCursor(at, seq)), None) => LogCursor(at, seq.saturating_sub(1)),
            (None, None) => read_to,
        };
        let behind = newest.is_some();
        let newest = *newest.get_or_insert(read_to);
        let (kept, leaving) = (kept.clone(), self.yard.leaving.clone());
        Ok(LogStream { store, kept, follower, waiting, begins, newest, behind, known: [known, Vec::new()], leaving })
    }
}

impl LogStream {
    /// The place from which it begins: all entries after it are told, but for those that were not asked for.
    pub fn begins(&self) -> LogCursor {
        self.begins
    }

    /// The next entry; `None` when the box has ended.
    ///
    /// # Errors
    /// The log goes on, and cannot be followed any more here.
    pub async fn next(&mut self) -> Result<Option<FollowedEntry>, Cut> {
        loop {
            if let Some(read) = self.waiting.pop_front() {
                return Ok(Some(followed(&read)));
            }
            if self.behind {
                self.read_on().await?;
                continue;
            }
            let heard = tokio::select! {
                biased;
                heard = self.follower.next() => heard,
                () = self.kept.shared.over.cancelled() => return Ok(None),
                () = self.leaving.cancelled() => return Err(Cut::Leaving),
            };
            match heard {
                Some(new) => {
                    if !self.known.iter().any(|known| known.contains(&new.0)) {
                        self.newest = self.newest.max(LogCursor::of(&new));
                        return Ok(Some(followed(&new)));
                    }
                }
                // Some have been missed.
                None => self.behind = true,
            }
        }
    }

    /// Reads what comes next.
    async fn read_on(&mut self) -> Result<(), Cut> {
        let LogCursor(at, seq) = self.newest;
        let read = self.store.logs_after(self.kept.id(), (at, seq)).await.map_err(|_| Cut::Broken)?;
        self.behind = read.len() >= LIMIT_MAX as usize;
        self.newest = read.last().map_or(self.newest, LogCursor::of);
        let known = read.iter().map(|(seq, _)| *seq).collect();
        let before = std::mem::replace(&mut self.known[0], known);
        self.known[1] = before;
        self.waiting = read.into();
        Ok(())
    }
}

fn followed(numbered: &NumberedLog) -> FollowedEntry {
    FollowedEntry { entry: entry(numbered.1.clone()), cursor: Some(LogCursor::of(numbered).to_string()) }
}

pub(super) fn entry(row: LogRow) -> LogEntry {
    LogEntry { timestamp: row.at / 1000, level: row.level, source: row.source, message: row.message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_what_it_was_written_as() {
        for cursor in [LogCursor::BEGINNING, LogCursor(1_700_000_000_000, 1_700_000_000_000_000_001)] {
            assert_eq!(LogCursor::parse(&cursor.to_string()), Some(cursor));
        }
        for text in ["", "-", "1", "1-", "-1", "a-b", "1-2-3", "1-99999999999999999999"] {
            assert_eq!(LogCursor::parse(text), None, "{text}");
        }
    }
}
