//! Those who want to hear of new entries in boxes' logs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boxyard_proto::BoxId;
use tokio::sync::broadcast::{self, error::RecvError};

use super::LogRow;

/// Entries that wait for a follower at most; one that is slower reads the log again.
const BEHIND_MAX: usize = 256;

/// A new entry with its number, which orders entries of the same millisecond.
pub type NumberedLog = (i64, LogRow);

/// All of them, by box.
#[derive(Debug, Default)]
pub(super) struct LogFollowers {
    by_box: Mutex<HashMap<BoxId, broadcast::Sender<Arc<NumberedLog>>>>,
    /// How many boxes are followed: mostly none.
    count: AtomicUsize,
}

impl LogFollowers {
    fn lock(&self) -> MutexGuard<'_, HashMap<BoxId, broadcast::Sender<Arc<NumberedLog>>>> {
        self.by_box.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of an entry that has been committed.
    pub(super) fn tell(&self, box_id: &BoxId, entry: &Arc<NumberedLog>) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(followers) = self.lock().get(box_id) {
            // Nobody listens where the last one is just leaving.
            let _ = followers.send(Arc::clone(entry));
        }
    }

    pub(super) fn follow(self: &Arc<Self>, box_id: BoxId) -> LogFollower {
        let mut by_box = self.lock();
        let entries = match by_box.entry(box_id.clone()) {
            Entry::Occupied(followers) => followers.get().subscribe(),
            Entry::Vacant(vacant) => vacant.insert(broadcast::Sender::new(BEHIND_MAX)).subscribe(),
        };
        self.count.store(by_box.len(), Ordering::Release);
        LogFollower { box_id, entries, followers: Arc::clone(self) }
    }
}

/// Hears of every entry that is committed to a box's log while it lives.
#[derive(Debug)]
pub struct LogFollower {
    box_id: BoxId,
    entries: broadcast::Receiver<Arc<NumberedLog>>,
    followers: Arc<LogFollowers>,
}

impl LogFollower {
    /// The next entry; `None` when so many have come that some were dropped. Cancel safe.
    pub async fn next(&mut self) -> Option<Arc<NumberedLog>> {
        match self.entries.recv().await {
            Ok(entry) => Some(entry),
            Err(RecvError::Lagged(_)) => None,
            // The sender lives as long as somebody follows.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Drop for LogFollower {
    fn drop(&mut self) {
        let mut by_box = self.followers.lock();
        if by_box.get(&self.box_id).is_some_and(|followers| followers.receiver_count() <= 1) {
            by_box.remove(&self.box_id);
        }
        self.followers.count.store(by_box.len(), Ordering::Release);
    }
}
