//! Output of a pretended job that is held until it is taken, as `boxyard-init` does.

use std::collections::VecDeque;
use std::time::Duration;

use boxyard_proto::wire::{Exit, HELD_MAX, HELD_SECONDS, Kind};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

/// What is held, and who follows it.
pub(super) struct Spooled(watch::Sender<State>);

#[derive(Default)]
struct State {
    pieces: VecDeque<(Kind, Bytes)>,
    /// The number of the first byte.
    start: u64,
    held: usize,
    /// Which connection follows it now; 0 for none.
    follower: u64,
    followers: u64,
    overwrites: bool,
    /// Bytes that were sent to who follows now.
    sent: u64,
    /// Who follows is not heard, because of input that the program does not read: what was sent counts as taken.
    unheard: bool,
    exit: Option<Exit>,
}

/// What comes next for who follows.
pub(super) enum Next {
    Bytes(Kind, Bytes),
    Exit(Exit),
    /// Somebody else follows now.
    Replaced,
}

impl State {
    fn end(&self) -> u64 {
        self.start + self.held as u64
    }

    fn drop_before(&mut self, upto: u64) {
        while self.start < upto
            && let Some((_, piece)) = self.pieces.front_mut()
        {
            let count = usize::try_from(upto - self.start).map_or(piece.len(), |count| count.min(piece.len()));
            drop(piece.split_to(count));
            self.start += count as u64;
            self.held -= count;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    fn at(&self, byte: u64) -> Option<(Kind, Bytes)> {
        let mut begin = self.start;
        for (kind, piece) in &self.pieces {
            let end = begin + piece.len() as u64;
            if byte < end {
                let skipped = usize::try_from(byte.saturating_sub(begin)).unwrap_or(usize::MAX);
                return Some((*kind, piece.slice(skipped..)));
            }
            begin = end;
        }
        None
    }
}

impl Spooled {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(State::default()))
    }

    /// Output; waits for room, though not for ever when nobody follows.
    pub(super) async fn say(&self, kind: Kind, bytes: Bytes) {
        let fits = |state: &State| state.overwrites || state.held == 0 || state.held + bytes.len() <= HELD_MAX;
        let followed = |state: &State| state.follower != 0;
        let mut changes = self.0.subscribe();
        loop {
            if fits(&changes.borrow_and_update()) {
                break;
            }
            let alone = !followed(&changes.borrow());
            let changed = changes.wait_for(|state| fits(state) || followed(state) == alone);
            let patience = if alone { Duration::from_secs(HELD_SECONDS) } else { Duration::MAX };
            if timeout(patience, changed).await.is_err() {
                self.0.send_modify(|state| state.overwrites = true);
            }
        }
        self.0.send_modify(|state| {
            state.held += bytes.len();
            state.pieces.push_back((kind, bytes));
            state.drop_before(state.end().saturating_sub(HELD_MAX as u64));
        });
    }

    pub(super) fn finish(&self, exit: Exit) {
        self.0.send_modify(|state| state.exit = Some(exit));
    }

    /// Somebody follows from this byte on. Returns its number and the first byte that there is for it.
    pub(super) fn follow(&self, from: Option<u64>) -> (u64, u64) {
        let mut following = (0, 0);
        self.0.send_modify(|state| {
            state.followers += 1;
            state.follower = state.followers;
            (state.overwrites, state.unheard) = (false, false);
            state.sent = from.map_or_else(|| state.end(), |from| from.clamp(state.start, state.end()));
            following = (state.follower, state.sent);
        });
        following
    }

    pub(super) fn leave(&self, follower: u64) {
        self.0.send_if_modified(|state| {
            let follows = state.follower == follower;
            if follows {
                state.follower = 0;
            }
            follows
        });
    }

    /// Bytes before this one were sent.
    pub(super) fn sent(&self, upto: u64) {
        self.0.send_modify(|state| {
            state.sent = upto;
            if state.unheard {
                state.drop_before(upto);
            }
        });
    }

    pub(super) fn unheard(&self, unheard: bool) {
        self.0.send_modify(|state| {
            state.unheard = unheard;
            if unheard {
                state.drop_before(state.sent);
            }
        });
    }

    pub(super) fn take(&self, upto: u64) {
        self.0.send_modify(|state| state.drop_before(upto));
    }

    /// What comes for this follower at this byte. Waits for it.
    pub(super) async fn next(&self, follower: u64, byte: u64) -> Next {
        let there = |state: &State| state.follower != follower || state.end() > byte || state.exit.is_some();
        let mut changes = self.0.subscribe();
        let Ok(state) = changes.wait_for(there).await else { return Next::Replaced };
        match (state.at(byte), state.exit) {
            _ if state.follower != follower => Next::Replaced,
            (Some((kind, bytes)), _) => Next::Bytes(kind, bytes),
            (None, Some(exit)) => Next::Exit(exit),
            (None, None) => Next::Replaced,
        }
    }
}
