//! The memory that bodies of requests, and messages of live sessions, may take: bounded for each account, and for all together.
//!
//! Each body has its own cap, but there can be thousands of connections: without this, whoever has a key could fill the host's memory by
//! sending many bodies slowly. What is small is free, so that ordinary requests are answered whatever large ones do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boxyard_proto::AccountId;

use super::error::ApiError;

/// Bytes of each request that are not counted.
const FREE: u64 = 64 * 1024;

/// What all requests share.
#[derive(Debug, Clone)]
pub(super) struct Bodies(Arc<All>);

#[derive(Debug)]
struct All {
    /// Bytes at most of all accounts; of one, half of it.
    max: u64,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    all: u64,
    of: HashMap<AccountId, u64>,
}

impl Bodies {
    /// About `max` bytes for all requests.
    pub(super) fn new(max: u64) -> Self {
        Self(Arc::new(All { max, used: Mutex::default() }))
    }

    /// The share of one request of `account`, which takes nothing yet.
    pub(super) fn share(&self, account: AccountId) -> Arc<Share> {
        Arc::new(Share { all: Arc::clone(&self.0), account, taken: Mutex::new(0), come: AtomicUsize::new(0) })
    }
}

/// What one request takes. Given back when it is dropped, or released.
#[derive(Debug)]
pub(super) struct Share {
    all: Arc<All>,
    account: AccountId,
    taken: Mutex<u64>,
    /// Bytes that have come, where they are counted here.
    come: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Share {
    /// Takes as much more as a request needs that holds `bytes`.
    ///
    /// # Errors
    /// There is not so much left.
    pub(super) fn hold(&self, bytes: usize) -> Result<(), ApiError> {
        let wanted = (bytes as u64).saturating_sub(FREE);
        let mut taken = lock(&self.taken);
        let Some(more) = wanted.checked_sub(*taken).filter(|more| *more > 0) else { return Ok(()) };
        let mut used = lock(&self.all.used);
        let own = used.of.get(&self.account).copied().unwrap_or(0);
        if used.all + more > self.all.max || own + more > self.all.max / 2 {
            return Err(ApiError::no_room_for_body());
        }
        used.all += more;
        *used.of.entry(self.account.clone()).or_default() += more;
        *taken += more;
        Ok(())
    }

    /// The same where `bytes` more have come.
    ///
    /// # Errors
    /// There is not so much left.
    pub(super) fn come(&self, bytes: usize) -> Result<(), ApiError> {
        self.hold(self.come.fetch_add(bytes, Ordering::Relaxed) + bytes)
    }

    /// Of what has come so much is not held.
    pub(super) fn gone(&self, bytes: usize) {
        let less = |come: usize| Some(come.saturating_sub(bytes));
        let _ = self.come.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Gives everything back: the request has been answered.
    pub(super) fn release(&self) {
        self.come.store(0, Ordering::Relaxed);
        let taken = std::mem::take(&mut *lock(&self.taken));
        if taken == 0 {
            return;
        }
        let mut used = lock(&self.all.used);
        used.all = used.all.saturating_sub(taken);
        if let Some(own) = used.of.get_mut(&self.account) {
            *own = own.saturating_sub(taken);
            if *own == 0 {
                used.of.remove(&self.account);
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn one_account_takes_half_and_what_is_small_is_free() {
        let bodies = Bodies::new(1024 * KIB as u64);
        let (one, other) = (AccountId::from_entropy(1), AccountId::from_entropy(2));
        let first = bodies.share(one.clone());
        assert!(first.hold(300 * KIB).is_ok() && first.hold(576 * KIB).is_ok() && first.hold(100 * KIB).is_ok());
        assert!(first.hold(577 * KIB).is_err(), "more than half of it, and what is free");
        let second = bodies.share(one.clone());
        assert!(second.hold(64 * KIB).is_ok() && second.hold(65 * KIB).is_err());
        let others = bodies.share(other);
        assert!(others.hold(576 * KIB).is_ok());
        first.release();
        assert!(second.hold(576 * KIB).is_ok());
        drop((first, second, others));
        let used = lock(&bodies.0.used);
        assert_eq!((used.all, used.of.len()), (0, 0));
    }
}
