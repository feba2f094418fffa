//! Following a box's log.

use std::collections::VecDeque;

use boxyard_proto::api::logs::LogEntry;
use tokio_util::sync::CancellationToken;

use super::kept::Kept;
use super::spool::Cut;
use super::{BoxError, Boxes};
use crate::store::{LogFollower, LogRow, NumberedLog, Store};

/// Entries that are read of the log when somebody is too slow.
const AGAIN: u32 = 1000;

/// A box's log as it grows.
#[derive(Debug)]
pub struct LogStream {
    store: Store,
    kept: Kept,
    follower: LogFollower,
    /// What is still to be told of what was there before.
    waiting: VecDeque<NumberedLog>,
    /// The newest that was there or was told.
    newest: (i64, i64),
    /// What was read before anything was heard of, in which the first new ones may be already.
    known: Vec<i64>,
    leaving: CancellationToken,
}

impl Boxes {
    /// The newest `tail` entries of the box's log, and then every new one.
    ///
    /// # Errors
    /// The store failed.
    pub async fn follow_log(&self, kept: &Kept, tail: u32) -> Result<LogStream, BoxError> {
        let store = self.yard.store.clone();
        // First this, so that nothing is missed.
        let follower = store.follow_log(kept.id().clone());
        let waiting = store.newest_logs(kept.id(), tail).await?;
        let newest = waiting.last().map_or((i64::MIN, i64::MIN), |(seq, row)| (row.at, *seq));
        let known = waiting.iter().map(|(seq, _)| *seq).collect();
        let leaving = self.yard.leaving.clone();
        Ok(LogStream { store, kept: kept.clone(), follower, waiting: waiting.into(), newest, known, leaving })
    }
}

impl LogStream {
    /// The next entry; `None` when the box has ended.
    ///
    /// # Errors
    /// The log goes on, and cannot be followed any more here.
    pub async fn next(&mut self) -> Result<Option<LogEntry>, Cut> {
        loop {
            if let Some((_, row)) = self.waiting.pop_front() {
                return Ok(Some(entry(row)));
            }
            let heard = tokio::select! {
                biased;
                heard = self.follower.next() => heard,
                () = self.kept.shared.over.cancelled() => return Ok(None),
                () = self.leaving.cancelled() => return Err(Cut::Leaving),
            };
            match heard {
                Some(new) => {
                    let (seq, row) = &*new;
                    if !self.known.contains(seq) {
                        self.newest = self.newest.max((row.at, *seq));
                        return Ok(Some(entry(row.clone())));
                    }
                }
                None => {
                    let read = self.store.newest_logs(self.kept.id(), AGAIN).await.map_err(|_| Cut::Broken)?;
                    let newest = self.newest;
                    self.waiting = read.into_iter().filter(|(seq, row)| (row.at, *seq) > newest).collect();
                    self.known = self.waiting.iter().map(|(seq, _)| *seq).collect();
                    self.newest = self.waiting.back().map_or(newest, |(seq, row)| (row.at, *seq));
                }
            }
        }
    }
}

pub(super) fn entry(row: LogRow) -> LogEntry {
    LogEntry { timestamp: row.at / 1000, level: row.level, source: row.source, message: row.message }
}
