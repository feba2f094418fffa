//! How many failed logins are too many: per source address, and per account. And how many connections of an address may end without one:
//! each costs a key exchange.
//!
//! Secrets are 256 random bits, so nobody guesses one; this keeps the noise of those who try away from the store and from the logs.
//! Everything here is counting: the clock comes in as an argument, and the maps are bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxyard_proto::AccountId;
use tokio::time::Instant;

use super::source::Source;

/// What failures are counted over.
const MINUTE: Duration = Duration::from_secs(60);
/// How long an address is sent away at first; each time it is twice as long.
const AWAY_FIRST: Duration = MINUTE;
/// How long it is sent away at most.
const AWAY_MAX: Duration = Duration::from_secs(15 * 60);
/// After this long without a failure an address is as good as new.
const FORGIVEN_AFTER: Duration = Duration::from_secs(3600);
/// How long a successful login vouches for its address.
const KNOWN_FOR: Duration = Duration::from_secs(3600);
/// Entries of each map at most. The oldest go.
const ENTRIES_MAX: usize = 16_384;

/// Counts failed logins.
#[derive(Debug)]
pub(super) struct Throttle {
    per_address: u32,
    per_account: u32,
    idlers: u32,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    addresses: HashMap<Source, Address>,
    /// Failures to log in to boxes of an account.
    accounts: HashMap<AccountId, Minute>,
    /// Lines written into logs of boxes of an account.
    lines: HashMap<AccountId, Minute>,
    /// When somebody last logged in to an account from an address.
    known: HashMap<(AccountId, Source), Instant>,
}

/// A count that begins anew every minute.
#[derive(Debug, Clone, Copy)]
struct Minute {
    began: Instant,
    count: u32,
}

#[derive(Debug)]
struct Address {
    /// Failures.
    minute: Minute,
    /// Connections that ended without a login.
    idlers: Minute,
    last: Instant,
    /// How often it was sent away.
    strikes: u32,
    away_until: Option<Instant>,
}

impl Minute {
    fn at(now: Instant) -> Self {
        Self { began: now, count: 0 }
    }

    /// The count, as of now.
    fn count(&self, now: Instant) -> u32 {
        if now.duration_since(self.began) < MINUTE { self.count } else { 0 }
    }

    fn add(&mut self, now: Instant) -> u32 {
        let count = self.count(now).saturating_add(1);
        if count == 1 {
            self.began = now;
        }
        self.count = count;
        count
    }
}

impl Address {
    fn new(now: Instant) -> Self {
        let minute = Minute::at(now);
        Self { minute, idlers: minute, last: now, strikes: 0, away_until: None }
    }

    /// Notes that it has done something that it should not do often.
    fn seen(&mut self, now: Instant) {
        if now.duration_since(self.last) >= FORGIVEN_AFTER {
            self.strikes = 0;
        }
        self.last = now;
    }

    fn send_away(&mut self, now: Instant) {
        let away = AWAY_FIRST.saturating_mul(1 << self.strikes.min(10)).min(AWAY_MAX);
        self.strikes = self.strikes.saturating_add(1);
        self.away_until = Some(now + away);
        (self.minute, self.idlers) = (Minute::at(now), Minute::at(now));
    }
}

impl Throttle {
    /// Allows so many failures a minute for each address, and for each account; and so many connections of an address that end without
    /// a login.
    pub(super) fn new(per_address: u32, per_account: u32, idlers: u32) -> Self {
        Self { per_address, per_account, idlers, counts: Mutex::default() }
    }

    /// How much longer an address is sent away, if it is.
    pub(super) fn away(&self, source: Source, now: Instant) -> Option<Duration> {
        let until = self.counts().addresses.get(&source)?.away_until?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Whether a password for a box of `account` is to be looked at. An account that is being tried from everywhere stays open to
    /// the addresses that it knows, and to public keys, so that trying does not lock the owner out.
    pub(super) fn may_try(&self, source: Source, account: Option<&AccountId>, now: Instant) -> bool {
        let counts = self.counts();
        if let Some(address) = counts.addresses.get(&source)
            && address.away_until.is_some_and(|until| until > now)
        {
            return false;
        }
        let Some(account) = account else { return true };
        let failures = counts.accounts.get(account).map_or(0, |minute| minute.count(now));
        let known = || counts.known.get(&(account.clone(), source));
        failures < self.per_account || known().is_some_and(|at| now.duration_since(*at) < KNOWN_FOR)
    }

    /// Counts a failure, for the account too whose box was named.
    pub(super) fn failed(&self, source: Source, account: Option<&AccountId>, now: Instant) {
        let mut counts = self.counts();
        let address = counts.address(source, now);
        if address.minute.add(now) >= self.per_address {
            address.send_away(now);
        }
        if let Some(account) = account {
            add(&mut counts.accounts, account, now);
        }
    }

    /// Counts a connection that has ended without a login.
    pub(super) fn idled(&self, source: Source, now: Instant) {
        let mut counts = self.counts();
        let address = counts.address(source, now);
        // Those that were open when the address was sent away do not make it worse.
        if address.away_until.is_none_or(|until| until <= now) && address.idlers.add(now) >= self.idlers {
            address.send_away(now);
        }
    }

    /// Remembers an address that somebody logged in from.
    pub(super) fn succeeded(&self, source: Source, account: &AccountId, now: Instant) {
        let mut counts = self.counts();
        make_room(&mut counts.known, |at| *at);
        counts.known.insert((account.clone(), source), now);
    }

    /// Whether one more line on a failure may go to the log of a box of this account: no more than failures a minute, or whoever
    /// tries could drown what the owner wants to read.
    pub(super) fn may_log(&self, account: &AccountId, now: Instant) -> bool {
        add(&mut self.counts().lines, account, now) <= self.per_account
    }

    // The maps are whole after every statement.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// What is known of an address, of which there is news.
    fn address(&mut self, source: Source, now: Instant) -> &mut Address {
        make_room(&mut self.addresses, |address| {
            address.away_until.map_or(address.last, |until| until.max(address.last))
        });
        let address = self.addresses.entry(source).or_insert_with(|| Address::new(now));
        address.seen(now);
        address
    }
}

fn add(minutes: &mut HashMap<AccountId, Minute>, account: &AccountId, now: Instant) -> u32 {
    make_room(minutes, |minute| minute.began);
    minutes.entry(account.clone()).or_insert_with(|| Minute::at(now)).add(now)
}

/// Drops the older half of a full map: rarely, so that it costs next to nothing an entry.
fn make_room<K: Eq + Hash, V>(map: &mut HashMap<K, V>, age: impl Fn(&V) -> Instant) {
    if map.len() < ENTRIES_MAX {
        return;
    }
    let mut ages: Vec<Instant> = map.values().map(&age).collect();
    let middle = ages.len() / 2;
    let (_, &mut middle, _) = ages.select_nth_unstable(middle);
    let mut left = ENTRIES_MAX / 2;
    map.retain(|_, value| {
        // Many may be of the same age.
        let stays = age(value) >= middle && left > 0;
        left -= usize::from(stays);
        stays
    });
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn source(last: u8) -> Source {
        Source::of(IpAddr::from([192, 0, 2, last]))
    }

    fn account(seed: u8) -> AccountId {
        AccountId::from_entropy(seed.into())
    }

    fn later(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn an_address_is_sent_away_for_ever_longer_and_forgiven_after_a_quiet_hour() {
        let (throttle, mut now) = (Throttle::new(3, 100, 1000), Instant::now());
        for minutes in [1, 2, 4, 8, 15, 15] {
            for _ in 0..2 {
                throttle.failed(source(1), None, now);
                assert_eq!(throttle.away(source(1), now), None);
                assert!(throttle.may_try(source(1), None, now));
            }
            throttle.failed(source(1), None, now);
            assert_eq!(throttle.away(source(1), now), Some(MINUTE * minutes));
            assert!(!throttle.may_try(source(1), None, now));
            assert_eq!(throttle.away(source(2), now), None, "others are not concerned");
            now += MINUTE * minutes;
            assert_eq!(throttle.away(source(1), now), None);
            assert!(throttle.may_try(source(1), None, now));
        }
        now += FORGIVEN_AFTER;
        for _ in 0..3 {
            throttle.failed(source(1), None, now);
        }
        assert_eq!(throttle.away(source(1), now), Some(MINUTE));
    }

    #[test]
    fn an_address_that_connects_again_and_again_without_a_login_is_sent_away() {
        let (throttle, now) = (Throttle::new(100, 100, 5), Instant::now());
        for second in 0..60 {
            throttle.idled(source(2), later(now, second * 15));
        }
        assert_eq!(throttle.away(source(2), later(now, 885)), None, "four a minute are none too many");
        for _ in 0..4 {
            throttle.idled(source(1), now);
        }
        assert_eq!(throttle.away(source(1), now), None);
        // As many again were under way.
        for _ in 0..6 {
            throttle.idled(source(1), now);
        }
        assert_eq!(throttle.away(source(1), now), Some(MINUTE));
        assert_eq!(throttle.away(source(2), now), None, "others are not concerned");
        for _ in 0..5 {
            throttle.idled(source(1), later(now, 60));
        }
        assert_eq!(throttle.away(source(1), later(now, 60)), Some(MINUTE * 2));
    }

    #[test]
    fn few_failures_a_minute_do_no_harm() {
        let (throttle, start) = (Throttle::new(3, 100, 1000), Instant::now());
        for minute in 0..100 {
            for second in [0, 30] {
                throttle.failed(source(1), None, later(start, minute * 60 + second));
            }
            assert_eq!(throttle.away(source(1), later(start, minute * 60 + 30)), None);
        }
    }

    #[test]
    fn an_account_that_is_tried_from_everywhere_stays_open_to_addresses_it_knows() {
        let (throttle, now) = (Throttle::new(100, 5, 1000), Instant::now());
        throttle.succeeded(source(200), &account(1), now);
        for attacker in 0..5 {
            assert!(throttle.may_try(source(attacker), Some(&account(1)), now));
            throttle.failed(source(attacker), Some(&account(1)), now);
        }
        assert!(!throttle.may_try(source(77), Some(&account(1)), now));
        assert!(throttle.may_try(source(200), Some(&account(1)), now), "it logged in from there before");
        assert!(throttle.may_try(source(77), Some(&account(2)), now), "another account");
        assert!(throttle.may_try(source(77), None, now), "a box that there is not");
        assert!(throttle.may_try(source(77), Some(&account(1)), later(now, 60)), "the minute is over");
        let hours = later(now, 3600);
        for attacker in 0..5 {
            throttle.failed(source(attacker), Some(&account(1)), hours);
        }
        assert!(!throttle.may_try(source(200), Some(&account(1)), hours), "what was an hour ago vouches for nothing");
    }

    #[test]
    fn log_lines_are_bounded_a_minute() {
        let (throttle, now) = (Throttle::new(100, 2, 1000), Instant::now());
        let said: Vec<_> = (0..4).map(|_| throttle.may_log(&account(1), now)).collect();
        assert_eq!(said, [true, true, false, false]);
        assert!(throttle.may_log(&account(2), now));
        assert!(throttle.may_log(&account(1), later(now, 60)));
    }

    #[test]
    fn memory_is_bounded_and_who_is_away_stays_so_while_others_come() {
        let (throttle, now) = (Throttle::new(1, 1, 1000), Instant::now());
        let one = |n: u32, at: Instant| {
            let source = Source::of(IpAddr::from(Ipv4Addr::from_bits(0x0100_0000 + n)));
            throttle.failed(source, Some(&AccountId::from_entropy(n.into())), at);
            throttle.succeeded(source, &account(1), at);
        };
        for n in 0..40_000 {
            one(n, now + Duration::from_millis(u64::from(n)));
        }
        // All of the same moment.
        for n in 40_000..80_000 {
            one(n, later(now, 50));
        }
        let counts = throttle.counts();
        assert!(counts.addresses.len() <= ENTRIES_MAX && counts.accounts.len() <= ENTRIES_MAX);
        assert!(counts.known.len() <= ENTRIES_MAX);
        drop(counts);
        let last = Source::of(IpAddr::from(Ipv4Addr::from_bits(0x0100_0000 + 79_999)));
        assert!(throttle.away(last, later(now, 51)).is_some());
    }
}
