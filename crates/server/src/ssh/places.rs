//! How many connections there are: in all, not logged in, of one address, in one box. Each has its [`Place`] and gives it back by
//! dropping it.
//!
//! Anybody can connect and say nothing, from many addresses. So when all places of those who are not logged in are taken, whoever comes is
//! let in all the same, and the address that has most of them loses its oldest: clients that do log in do so within a moment, and are kept
//! out only by somebody who fills all places anew in each such moment.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use boxyard_proto::BoxId;
use tokio_util::sync::CancellationToken;

use super::source::Source;
use crate::config::Limits;
use crate::metrics::{Metrics, Reason};

/// The counts of all connections.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    metrics: Arc<Metrics>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    /// Who is not logged in, the oldest first.
    logging_in: BTreeMap<u64, Guest>,
    /// Numbers them.
    next: u64,
    of_address: HashMap<Source, u32>,
    logging_in_of_address: HashMap<Source, u32>,
    in_box: HashMap<BoxId, u32>,
}

/// A connection that is not logged in.
#[derive(Debug)]
struct Guest {
    source: Source,
    /// Cancelled when its place is given to somebody else.
    evicted: CancellationToken,
}

/// Which limit is reached. Texts are for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("this server has as many SSH connections as it takes; try again later")]
    All,
    #[error("too many clients are logging in; try again in a moment")]
    LoggingIn,
    #[error("too many SSH connections from your address; close some first")]
    Address,
    #[error("too many SSH connections to this box; close some first")]
    Box,
}

impl Full {
    /// A word for the figures.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::All => "connections",
            Self::LoggingIn => "unauthenticated",
            Self::Address => "address",
            Self::Box => "box",
        }
    }
}

impl Places {
    /// None is taken.
    pub(super) fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared { limits, metrics, counts: Mutex::default() }))
    }

    /// A place for a connection that is not logged in.
    pub(super) fn enter(&self, source: Source) -> Result<Place, Full> {
        let limits = &self.0.limits;
        let mut counts = self.0.counts();
        if counts.all >= limits.ssh_connections {
            return Err(Full::All);
        }
        // Before the next: one address must not be told that others are in its way while it is in theirs.
        if counts.of_address.get(&source).is_some_and(|count| *count >= limits.ssh_connections_per_address) {
            return Err(Full::Address);
        }
        // Half of them at most for one address, or anybody could keep everybody out by connecting and saying nothing.
        let own = counts.logging_in_of_address.get(&source).copied().unwrap_or(0);
        if own >= limits.ssh_unauthenticated.div_ceil(2) {
            return Err(Full::LoggingIn);
        }
        counts.all += 1;
        *counts.of_address.entry(source).or_default() += 1;
        let number = counts.next;
        counts.next += 1;
        let evicted = CancellationToken::new();
        counts.logging_in.insert(number, Guest { source, evicted: evicted.clone() });
        *counts.logging_in_of_address.entry(source).or_default() += 1;
        while counts.logging_in.len() > usize::try_from(limits.ssh_unauthenticated).unwrap_or(usize::MAX) {
            counts.evict();
            self.0.metrics.ssh_refused.get_or_create(&Reason { reason: Full::LoggingIn.word() }).inc();
        }
        self.0.metrics.ssh_connections.inc();
        Ok(Place { shared: Arc::clone(&self.0), source, number, evicted, inside: OnceLock::new() })
    }
}

impl Counts {
    /// Takes its place from the oldest connection of the address that has most that are not logged in; of several such addresses, from
    /// the one that has waited longest.
    fn evict(&mut self) {
        let most = self.logging_in_of_address.values().copied().max();
        let loses =
            self.logging_in.iter().find(|(_, guest)| self.logging_in_of_address.get(&guest.source).copied() == most);
        if let Some(number) = loses.map(|(number, _)| *number)
            && let Some(guest) = self.no_longer_logs_in(number)
        {
            guest.evicted.cancel();
        }
    }

    /// Forgets a connection as one that is not logged in, if it still is one.
    fn no_longer_logs_in(&mut self, number: u64) -> Option<Guest> {
        let guest = self.logging_in.remove(&number)?;
        leave(&mut self.logging_in_of_address, &guest.source);
        Some(guest)
    }
}

impl Shared {
    // Every change is a single step, so a panic elsewhere does not spoil the counts.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    source: Source,
    number: u64,
    evicted: CancellationToken,
    /// The box that it is logged in to.
    inside: OnceLock<BoxId>,
}

impl Place {
    /// The box that the connection is logged in to, when it is.
    pub(super) fn inside(&self) -> Option<&BoxId> {
        self.inside.get()
    }

    /// Waits until the place has been given to somebody else, because its client has not logged in.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Turns it into a place in a box. Once only.
    pub(super) fn settle(&self, id: &BoxId) -> Result<(), Full> {
        let mut counts = self.shared.counts();
        if self.evicted.is_cancelled() {
            return Err(Full::LoggingIn);
        }
        let count = counts.in_box.get(id).copied().unwrap_or(0);
        if count >= self.shared.limits.ssh_connections_per_box {
            return Err(Full::Box);
        }
        if self.inside.set(id.clone()).is_ok() {
            counts.no_longer_logs_in(self.number);
            counts.in_box.insert(id.clone(), count + 1);
            self.shared.metrics.ssh_sessions.inc();
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.shared.counts();
        counts.all -= 1;
        leave(&mut counts.of_address, &self.source);
        self.shared.metrics.ssh_connections.dec();
        match self.inside.get() {
            Some(id) => {
                leave(&mut counts.in_box, id);
                self.shared.metrics.ssh_sessions.dec();
            }
            None => {
                counts.no_longer_logs_in(self.number);
            }
        }
    }
}

fn leave<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;
    use crate::config::{Config, Flags};
    use crate::store::{Store, StoreOptions};

    async fn places(change: impl FnOnce(&mut Limits)) -> (Places, Arc<Metrics>, TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("test.db"), StoreOptions::default()).await.expect("open a store");
        let config = Config::load(&Flags::default(), &BTreeMap::new(), &BTreeMap::new(), Path::new("/bin/boxyard"));
        let mut limits = config.expect("defaults").limits;
        change(&mut limits);
        let metrics = Arc::new(Metrics::new(store));
        (Places::new(limits, Arc::clone(&metrics)), metrics, folder)
    }

    fn source(last: u8) -> Source {
        Source::of(IpAddr::from([192, 0, 2, last]))
    }

    #[tokio::test]
    async fn one_address_cannot_keep_all_others_from_logging_in() {
        let (places, _, _folder) = places(|limits| limits.ssh_unauthenticated = 4).await;
        let a = places.enter(source(1)).expect("a place");
        let _b = places.enter(source(1)).expect("a place");
        assert_eq!(places.enter(source(1)).err(), Some(Full::LoggingIn));
        let _c = places.enter(source(2)).expect("half is left");
        a.settle(&BoxId::from_entropy(1)).expect("a place in the box");
        let _d = places.enter(source(1)).expect("who is logged in does not count");
        let _e = places.enter(source(3)).expect("a place");
    }

    #[tokio::test]
    async fn two_silent_addresses_do_not_keep_a_third_from_logging_in() {
        let (places, metrics, _folder) = places(|limits| limits.ssh_unauthenticated = 6).await;
        let enter = |last| places.enter(source(last)).expect("a place");
        let silent: Vec<_> = [1, 2, 1, 2, 1, 2].map(enter).into_iter().collect();
        let gone = |place: &Place| place.evicted.is_cancelled();
        let third = enter(3);
        assert_eq!(silent.iter().map(gone).collect::<Vec<_>>(), [true, false, false, false, false, false]);
        // The other has most now.
        let fourth = enter(4);
        assert_eq!(silent.iter().map(gone).collect::<Vec<_>>(), [true, true, false, false, false, false]);
        // Who comes again and again pushes out nobody else.
        let pushy: Vec<_> = (0..20).map(|_| enter(1)).collect();
        assert!(!gone(&third) && !gone(&fourth));
        assert_eq!(pushy.iter().filter(|place| !gone(place)).count(), 2);
        assert_eq!(third.settle(&BoxId::from_entropy(1)), Ok(()));
        assert_eq!(silent[0].settle(&BoxId::from_entropy(1)), Err(Full::LoggingIn), "too late");
        assert_eq!(metrics.ssh_refused.get_or_create(&Reason { reason: "unauthenticated" }).get(), 22);
        // Whether evicted or not, each gives back what it has, once.
        drop((silent, third, fourth, pushy));
        let counts = places.0.counts();
        assert!(counts.all == 0 && counts.logging_in.is_empty() && counts.logging_in_of_address.is_empty());
        assert!(counts.of_address.is_empty() && counts.in_box.is_empty());
    }

    #[tokio::test]
    async fn every_limit_is_told_apart_and_places_come_back() {
        let (places, metrics, _folder) = places(|limits| {
            limits.ssh_connections = 4;
            limits.ssh_connections_per_address = 2;
            limits.ssh_unauthenticated = 4;
            limits.ssh_connections_per_box = 1;
        })
        .await;
        let (first, second) = (BoxId::from_entropy(1), BoxId::from_entropy(2));
        let a = places.enter(source(1)).expect("a place");
        let b = places.enter(source(1)).expect("a place");
        assert_eq!(places.enter(source(1)).err(), Some(Full::Address));
        let c = places.enter(source(2)).expect("a place");
        let spare = places.enter(source(3)).expect("a place");
        drop(spare);
        assert_eq!((a.settle(&first), b.settle(&first), b.settle(&second)), (Ok(()), Err(Full::Box), Ok(())));
        let d = places.enter(source(3)).expect("two have logged in");
        assert_eq!(places.enter(source(4)).err(), Some(Full::All));
        assert_eq!((metrics.ssh_connections.get(), metrics.ssh_sessions.get()), (4, 2));
        drop(a);
        assert_eq!(c.settle(&first), Ok(()));
        drop((b, c, d));
        let counts = places.0.counts();
        assert_eq!((counts.all, counts.logging_in.len()), (0, 0));
        assert!(counts.of_address.is_empty() && counts.logging_in_of_address.is_empty() && counts.in_box.is_empty());
        assert_eq!((metrics.ssh_connections.get(), metrics.ssh_sessions.get()), (0, 0));
    }
}
