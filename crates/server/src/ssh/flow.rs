//! How much a client may send that its box has not taken yet.
//!
//! `russh` gives a client new window when its bytes arrive, not when the box has taken them, and it knows one target window for all
//! channels of a connection. Left alone, `ssh box sleep 1000 < big-file` would bring the whole file into this server's memory. What we
//! can steer is the target: `russh` asks for it each time it has granted window, by the rule `w -= len; if w < target / 2 { grant
//! target - w; target = ask() }`. So:
//!
//! * While a channel has more than [`HIGH`] bytes waiting, the target is [`TRICKLE`]. Each channel then uses up the window that it has and
//!   gets two bytes at a time, which keep `russh` asking. When no channel is full any more (below [`LOW`]), the target is the whole
//!   window again.
//! * Meanwhile we read from the connection with pauses (see [`Pace`]), the longer the less the box takes, so that the two-byte packets
//!   cost next to nothing.
//! * Whoever sends more than [`CAP`] on one channel has ignored its window (or several clients together fill [`Backlogs`] to the brim):
//!   that channel is closed.
//! * No account fills more than half of what there is for all, and no box more than half of that ([`ACCOUNT_CAP`], [`BOX_CAP`]): clients
//!   of the others go on.
//!
//! What waits on a channel is therefore at most [`HIGH`] and about one and a half windows, of clients that keep to the protocol. No
//! callback ever waits for a box, so the connection's other channels go on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge as metrics;
use tokio::time::Instant;

use super::Pace;
use super::share::Share;

/// Bytes waiting on a channel above which its client is slowed down.
const HIGH: usize = 4 * 1024 * 1024;
/// Bytes waiting on a channel below which its client is no longer slowed down.
const LOW: usize = 1024 * 1024;
/// Bytes that wait on one channel at most.
const CAP: usize = 32 * 1024 * 1024;
/// The window of clients that are slowed down: the least for which `russh` still asks.
const TRICKLE: u32 = 2;
/// Bytes that may wait on all channels of this server together before every client is slowed down.
const ALL_HIGH: usize = 512 * 1024 * 1024;
/// Bytes that may wait on all channels of this server together.
const ALL_CAP: usize = 2 * ALL_HIGH;
/// The part of [`ALL_HIGH`] that one account can have before its own clients, and nobody else's, are slowed down.
const ACCOUNT_HIGH: usize = ALL_HIGH / 2;
/// The part of [`ALL_CAP`] that one account can have.
const ACCOUNT_CAP: usize = ALL_CAP / 2;
/// The part of [`ACCOUNT_HIGH`] that the channels into one box can have: whoever has a token for it must not slow its account's others down.
const BOX_HIGH: usize = ACCOUNT_HIGH / 2;
/// The part of [`ACCOUNT_CAP`] that the channels into one box can have.
const BOX_CAP: usize = ACCOUNT_CAP / 2;
/// How long we pause between reads of a connection that is slowed down, by how long its box has taken nothing. The first step keeps the
/// two-byte packets from taking CPU time from the box that reads as fast as it can.
const PACES: [(Duration, Duration); 4] = [
    (Duration::ZERO, Duration::from_millis(1)),
    (Duration::from_millis(100), Duration::from_millis(5)),
    (Duration::from_secs(1), Duration::from_millis(20)),
    (Duration::from_secs(5), Duration::from_millis(50)),
];

/// What waits on all channels of all connections, as the metrics show it, on those of one account, and on those into
/// one box. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Backlogs {
    all: metrics::Gauge,
    account: Arc<Share>,
    in_box: Arc<Share>,
}

impl Backlogs {
    /// Counts in this figure, and in the shares of an account and a box.
    pub(super) fn new(figure: &metrics::Gauge, account: Arc<Share>, in_box: Arc<Share>) -> Self {
        Self { all: figure.clone(), account, in_box }
    }

    /// Bytes that wait now.
    pub(super) fn waiting(&self) -> usize {
        usize::try_from(self.all.get()).unwrap_or(0)
    }

    /// Whether every client here is to be slowed down.
    fn crowded(&self) -> bool {
        self.waiting() > ALL_HIGH || self.account.waiting() > ACCOUNT_HIGH || self.in_box.waiting() > BOX_HIGH
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.waiting() + bytes <= ALL_CAP
            && self.account.waiting() + bytes <= ACCOUNT_CAP
            && self.in_box.waiting() + bytes <= BOX_CAP
    }

    fn add(&self, bytes: usize) {
        self.all.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.account.add(bytes);
        self.in_box.add(bytes);
    }

    fn sub(&self, bytes: usize) {
        self.all.dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.account.sub(bytes);
        self.in_box.sub(bytes);
    }
}

/// A channel's client has sent more than there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overrun;

/// The flow of one connection.
#[derive(Debug)]
pub(super) struct Flow {
    policy: Mutex<Policy>,
    backlogs: Backlogs,
    pace: Pace,
}

impl Flow {
    /// Nothing waits.
    pub(super) fn new(backlogs: Backlogs, pace: Pace) -> Arc<Self> {
        Arc::new(Self { policy: Mutex::new(Policy::new(Instant::now())), backlogs, pace })
    }

    /// A channel has been granted window up to `granted`; returns what the next one shall be granted.
    pub(super) fn next_window(&self, granted: u32) -> u32 {
        let crowded = self.backlogs.crowded();
        let mut policy = self.policy();
        let window = policy.next_window(granted, crowded, Instant::now());
        self.tell(&mut policy);
        window
    }

    /// Whether there is room for another channel.
    pub(super) fn has_room(&self) -> bool {
        !self.backlogs.crowded()
    }

    /// Counts a channel's waiting bytes.
    pub(super) fn gauge(self: &Arc<Self>) -> Gauge {
        Gauge { flow: Arc::clone(self), level: Level::default() }
    }

    fn policy(&self) -> MutexGuard<'_, Policy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, policy: &mut Policy) {
        if let Some(pace) = policy.changed_pace() {
            self.pace.set(pace);
        }
    }
}

/// The bytes that wait on one channel. Dropping it says that they are gone.
#[derive(Debug)]
pub(super) struct Gauge {
    flow: Arc<Flow>,
    level: Level,
}

impl Gauge {
    /// Bytes have come.
    ///
    /// # Errors
    /// There is no room for so many; they are not counted.
    pub(super) fn arrived(&mut self, bytes: usize) -> Result<(), Overrun> {
        let flow = &self.flow;
        if self.level.waiting + bytes > CAP || !flow.backlogs.has_room_for(bytes) {
            return Err(Overrun);
        }
        flow.backlogs.add(bytes);
        flow.policy().arrived(&mut self.level, bytes);
        Ok(())
    }

    /// Bytes have gone into the box.
    pub(super) fn taken(&mut self, bytes: usize) {
        let flow = &self.flow;
        flow.backlogs.sub(bytes);
        let mut policy = flow.policy();
        policy.taken(&mut self.level, bytes, Instant::now());
        flow.tell(&mut policy);
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.taken(self.level.waiting);
    }
}

/// What waits on a channel, and whether that was once too much and is not yet little enough.
#[derive(Debug, Default)]
struct Level {
    waiting: usize,
    full: bool,
}

/// The rules of this module, without a clock or anybody to tell.
#[derive(Debug)]
struct Policy {
    /// The window of a connection that is not slowed down: the largest that was ever granted.
    window: u32,
    /// Channels that are full.
    full: usize,
    /// Whether the last window that was given out was [`TRICKLE`].
    slowed: bool,
    /// When the box took something last.
    taken_at: Instant,
    pace: Option<Duration>,
    told: Option<Duration>,
}

impl Policy {
    fn new(now: Instant) -> Self {
        Self { window: 0, full: 0, slowed: false, taken_at: now, pace: None, told: None }
    }

    fn arrived(&mut self, level: &mut Level, bytes: usize) {
        level.waiting += bytes;
        if level.waiting > HIGH && !level.full {
            level.full = true;
            self.full += 1;
        }
    }

    fn taken(&mut self, level: &mut Level, bytes: usize, now: Instant) {
        level.waiting -= bytes;
        if bytes > 0 {
            self.taken_at = now;
            self.pace = self.pace.and(Some(PACES[0].1));
        }
        if level.waiting < LOW && level.full {
            level.full = false;
            self.full -= 1;
        }
        if self.full == 0 {
            self.pace = None;
        }
    }

    fn next_window(&mut self, granted: u32, crowded: bool, now: Instant) -> u32 {
        self.window = self.window.max(granted);
        let slow = self.full > 0 || crowded;
        if slow && !self.slowed {
            // A box that has been idle for long is not one that takes nothing.
            self.taken_at = self.taken_at.max(now);
        }
        self.slowed = slow;
        let idle = now.saturating_duration_since(self.taken_at);
        let pace = PACES.iter().rev().find(|(after, _)| idle >= *after).map(|(_, pace)| *pace);
        self.pace = pace.filter(|_| slow);
        if slow { TRICKLE } else { self.window }
    }

    /// The pace, if it is another than the last time.
    fn changed_pace(&mut self) -> Option<Option<Duration>> {
        let changed = self.pace != self.told;
        self.told = self.pace;
        changed.then_some(self.pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u32 = 2 * 1024 * 1024;
    const PACKET: usize = 32 * 1024;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// The rule in `russh`, of one channel whose client sends whatever it may.
    struct Client {
        window: u32,
        target: u32,
    }

    impl Client {
        /// Sends a packet if it may; says how long it was.
        fn send(&mut self, policy: &mut Policy, now: Instant) -> usize {
            let length = PACKET.min(self.window as usize);
            self.window -= u32::try_from(length).expect("a packet");
            if self.window < self.target / 2 {
                let granted = self.target;
                self.window = granted;
                self.target = policy.next_window(granted, false, now);
            }
            length
        }
    }

    #[test]
    fn what_waits_is_bounded_while_the_box_takes_nothing_and_flows_again_afterwards() {
        let start = Instant::now();
        let (mut policy, mut level) = (Policy::new(start), Level::default());
        let mut client = Client { window: WINDOW, target: WINDOW };
        for step in 0..100_000 {
            let sent = client.send(&mut policy, after(start, step));
            assert!(sent > 0, "a client that may send nothing cannot wake us");
            policy.arrived(&mut level, sent);
        }
        let most = HIGH + WINDOW as usize * 3 / 2 + 100_000 * TRICKLE as usize;
        assert!(level.waiting <= most, "{} waiting", level.waiting);
        assert_eq!(policy.pace, Some(Duration::from_millis(50)));

        let now = after(start, 100_001);
        policy.taken(&mut level, PACKET, now);
        assert_eq!(policy.pace, Some(Duration::from_millis(1)), "the box takes something");
        assert_eq!(policy.next_window(TRICKLE, false, now), TRICKLE, "but too much waits");
        let rest = level.waiting - LOW + 1;
        policy.taken(&mut level, rest, now);
        assert_eq!(policy.pace, None);
        let before = client.window;
        let sent = client.send(&mut policy, now) + client.send(&mut policy, now) + client.send(&mut policy, now);
        assert!(before <= TRICKLE && sent > TRICKLE as usize && client.target == WINDOW);
    }

    #[test]
    fn the_pace_grows_while_nothing_is_taken_and_is_told_once_each() {
        let start = Instant::now();
        let (mut policy, mut level) = (Policy::new(start), Level::default());
        policy.arrived(&mut level, HIGH + 1);
        let begin = after(start, 60_000);
        let steps = [(0, 1), (50, 1), (100, 5), (999, 5), (1000, 20), (5000, 50), (60_000, 50)];
        let mut told = Vec::new();
        for (at, pace) in steps {
            assert_eq!(policy.next_window(WINDOW, false, after(begin, at)), TRICKLE);
            assert_eq!(policy.pace, Some(Duration::from_millis(pace)), "after {at} ms");
            told.extend(policy.changed_pace());
        }
        assert_eq!(told.len(), 4);
        policy.taken(&mut level, HIGH + 1, after(begin, 60_001));
        assert_eq!(policy.changed_pace(), Some(None));
        assert_eq!(policy.changed_pace(), None);
        assert_eq!(policy.next_window(TRICKLE, false, after(begin, 60_002)), WINDOW);
    }

    #[test]
    fn one_full_channel_slows_all_and_only_the_last_one_lets_go() {
        let now = Instant::now();
        let mut policy = Policy::new(now);
        let (mut one, mut other) = (Level::default(), Level::default());
        policy.arrived(&mut one, HIGH + 1);
        policy.arrived(&mut other, HIGH + 1);
        policy.arrived(&mut other, 1);
        policy.taken(&mut one, HIGH + 1, now);
        assert_eq!(policy.next_window(WINDOW, false, now), TRICKLE);
        policy.taken(&mut other, 2, now);
        assert_eq!(policy.next_window(TRICKLE, false, now), TRICKLE, "between the marks it stays as it was");
        policy.taken(&mut other, HIGH, now);
        assert_eq!(policy.next_window(TRICKLE, false, now), WINDOW);
        assert_eq!(policy.next_window(WINDOW, true, now), TRICKLE, "other connections have filled the server");
    }

    #[test]
    fn whoever_ignores_windows_is_stopped_and_a_channel_that_ends_gives_its_bytes_back() {
        let backlogs = Backlogs::default();
        let flow = Flow::new(backlogs.clone(), Pace::new());
        let mut gauge = flow.gauge();
        assert_eq!(gauge.arrived(CAP), Ok(()));
        assert_eq!(gauge.arrived(1), Err(Overrun));
        assert_eq!(backlogs.waiting(), CAP);
        assert_eq!(flow.next_window(WINDOW), TRICKLE);
        drop(gauge);
        assert_eq!(backlogs.waiting(), 0);
        assert_eq!(flow.next_window(TRICKLE), WINDOW);
    }

    #[test]
    fn who_fills_what_a_box_or_an_account_can_have_does_not_slow_the_others_down() {
        let figure = metrics::Gauge::default();
        let [account, other, third] = [(); 3].map(|()| Arc::<Share>::default());
        let flow =
            |account: &Arc<Share>| Flow::new(Backlogs::new(&figure, Arc::clone(account), Arc::default()), Pace::new());
        let fill = |flow: &Arc<Flow>, most: usize| -> Vec<Gauge> {
            let fill_one = |_| {
                let mut gauge = flow.gauge();
                gauge.arrived(CAP).is_ok().then_some(gauge)
            };
            (0..most / CAP).map_while(fill_one).collect()
        };
        let [one, two, three] = [(); 3].map(|()| flow(&account));
        let (stranger, last) = (flow(&other), flow(&third));
        assert_eq!(fill(&one, ALL_CAP).len() * CAP, BOX_CAP, "and it is given back");

        let held = fill(&one, BOX_HIGH + CAP);
        assert!(!one.has_room() && two.has_room() && stranger.has_room());
        assert_eq!((one.next_window(WINDOW), two.next_window(WINDOW)), (TRICKLE, WINDOW));
        drop(held);

        let held = (fill(&one, ALL_CAP), fill(&two, ALL_CAP));
        assert!(!three.has_room() && stranger.has_room());
        assert_eq!((three.next_window(WINDOW), stranger.next_window(WINDOW)), (TRICKLE, WINDOW));
        assert_eq!(three.gauge().arrived(1), Err(Overrun), "the account has its half");

        let all = (fill(&stranger, ALL_CAP), fill(&flow(&other), ALL_CAP));
        assert!(!last.has_room());
        assert_eq!(last.gauge().arrived(1), Err(Overrun), "several have filled the server");
        drop((held, all));
        assert_eq!(figure.get(), 0);
    }
}
