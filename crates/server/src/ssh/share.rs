//! What all connections of one account, and those to one box, take of this server together: nobody can take what the others need, neither an
//! account nor whoever has a token for one of its boxes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use boxyard_proto::{AccountId, BoxId};

/// Channels that we closed before their client did, in one connection's life. `russh` keeps about 3 KiB of each until the connection ends
/// (a CHANNEL_CLOSE that answers ours does not reach its table), so a connection that has used this up must be made anew.
const CLOSED_FIRST_MAX: u32 = 20_000;
/// The same of all open connections of one account.
const CLOSED_FIRST_OF_ACCOUNT_MAX: u32 = 3 * CLOSED_FIRST_MAX;

/// The shares of all accounts and boxes that have connections.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<Of, Weak<Share>>>);

/// Whose share it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Of {
    Account(AccountId),
    Box(BoxId),
}

/// A share, which the connections hold that it is for.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Bytes that wait (see `flow.rs`).
    waiting: AtomicUsize,
    closed_first: AtomicU32,
}

impl Shares {
    /// The share of this account or box.
    pub(super) fn of(&self, whose: Of) -> Arc<Share> {
        // The map is whole after every statement.
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&whose).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Share::default());
        shares.insert(whose, Arc::downgrade(&share));
        share
    }
}

impl Share {
    /// Bytes that wait now.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Counts the channels of one connection that we closed before their client did. Dropping it says that the connection is gone.
#[derive(Debug)]
pub(super) struct ClosedFirst {
    own: AtomicU32,
    share: Arc<Share>,
}

impl ClosedFirst {
    /// None yet.
    pub(super) fn new(share: Arc<Share>) -> Self {
        Self { own: AtomicU32::new(0), share }
    }

    /// One more.
    pub(super) fn add(&self) {
        self.own.fetch_add(1, Ordering::Relaxed);
        self.share.closed_first.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there may be more channels.
    pub(super) fn has_room(&self) -> bool {
        self.has_room_below(CLOSED_FIRST_MAX, CLOSED_FIRST_OF_ACCOUNT_MAX)
    }

    /// Whether something in the box may open more channels. Half of all is left to the clients: any program in a box can connect to a
    /// forward and break off as often as it likes, and must not be able to lock its account out.
    pub(super) fn has_room_for_box(&self) -> bool {
        self.has_room_below(CLOSED_FIRST_MAX / 2, CLOSED_FIRST_OF_ACCOUNT_MAX / 2)
    }

    fn has_room_below(&self, own: u32, of_account: u32) -> bool {
        self.own.load(Ordering::Relaxed) < own && self.share.closed_first.load(Ordering::Relaxed) < of_account
    }
}

impl Drop for ClosedFirst {
    fn drop(&mut self) {
        self.share.closed_first.fetch_sub(*self.own.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_of_an_account_do_not_keep_more_than_a_few() {
        let shares = Shares::default();
        let [one, other] = [1, 2].map(|seed| Of::Account(AccountId::from_entropy(seed)));
        let connections: Vec<_> = (0..10).map(|_| ClosedFirst::new(shares.of(one.clone()))).collect();
        let mut count = 0;
        for connection in &connections {
            while connection.has_room() {
                connection.add();
                count += 1;
            }
        }
        assert_eq!(count, CLOSED_FIRST_OF_ACCOUNT_MAX);
        assert!(ClosedFirst::new(shares.of(other)).has_room(), "another account");
        drop(connections);
        assert!(ClosedFirst::new(shares.of(one.clone())).has_room(), "what is gone does not count");
        assert_eq!(shares.of(one.clone()).closed_first.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_box_that_breaks_its_connections_off_does_not_use_up_what_the_clients_need() {
        let shares = Shares::default();
        let account = Of::Account(AccountId::from_entropy(1));
        let connections: Vec<_> = (0..10).map(|_| ClosedFirst::new(shares.of(account.clone()))).collect();
        for connection in &connections {
            while connection.has_room_for_box() {
                connection.add();
            }
        }
        assert!(connections.iter().all(ClosedFirst::has_room), "also on the connections that the box went for");
        assert_eq!(shares.of(account).closed_first.load(Ordering::Relaxed), CLOSED_FIRST_OF_ACCOUNT_MAX / 2);
    }

    #[test]
    fn accounts_without_connections_are_forgotten() {
        let shares = Shares::default();
        for n in 0..1000 {
            drop(shares.of(Of::Account(AccountId::from_entropy(n))));
        }
        assert!(shares.0.lock().expect("whole").len() <= 1);
    }
}
