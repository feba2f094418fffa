//! What a keeper does by itself, and when: pause a box in which nothing works, stop a paused one, delete one that has expired.
//!
//! Nothing here waits or looks at a clock: a keeper asks for the next moment each time something has happened, and sleeps until then. So
//! a thousand boxes that do nothing cost a thousand timers and no wake-up.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::keeper::backoff;
use super::lifecycle::Phase;

/// A box that has lived for so long and then dies is started again at once.
const STEADY: Duration = Duration::from_mins(10);

/// The moments of one box's life.
#[derive(Debug)]
pub(super) struct Clock {
    /// How long nothing works in it before it is paused, if it ever is.
    pub(super) pause_after: Option<Duration>,
    /// How long it keeps its memory while it is paused.
    pub(super) keep_memory_for: Duration,
    /// When it is deleted, if it is ephemeral.
    pub(super) expires: Option<Instant>,
    /// When something last worked in it, or it came to take work.
    pub(super) idle_since: Instant,
    /// When it was paused.
    pub(super) paused_since: Instant,
    /// When it is started again should it have no processes, if it is kept alive.
    pub(super) restart: Option<Instant>,
    /// When its processes were last started.
    started: Instant,
    /// How often it has died since it last lived for [`STEADY`].
    deaths: u32,
    /// What was due and failed is not tried again before this.
    not_before: Option<Instant>,
    failures: u32,
}

/// What a keeper is to do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Pause the box: nothing works in it.
    Pause,
    /// Stop it: it has been paused for long enough.
    Stop,
    /// Start it: it is kept alive, and is stopped.
    Start,
    /// Delete it: it has expired.
    Delete,
}

impl Clock {
    /// A clock that starts now. A box that has been paused for `paused_for` already stays so for that much less.
    pub(super) fn new(
        now: Instant,
        pause_after: Option<Duration>,
        keep_memory_for: Duration,
        paused_for: Duration,
        expires_in: Option<Duration>,
    ) -> Self {
        Self {
            pause_after,
            keep_memory_for,
            expires: expires_in.map(|span| now + span),
            idle_since: now,
            // A machine that has run for less has not kept what was paused before.
            paused_since: now.checked_sub(paused_for).unwrap_or(now),
            restart: None,
            started: now,
            deaths: 0,
            not_before: None,
            failures: 0,
        }
    }

    /// What is due next, and when. `working` says whether something works in the box.
    pub(super) fn next(&self, phase: Phase, working: bool) -> Option<(Instant, Due)> {
        let expiry = self.expires.filter(|_| !phase.is_gone()).map(|at| (at, Due::Delete));
        let rest = match phase {
            Phase::Ready if !working => self.pause_after.map(|span| (self.idle_since + span, Due::Pause)),
            Phase::Paused => Some((self.paused_since + self.keep_memory_for, Due::Stop)),
            Phase::Stopped => self.restart.map(|at| (at, Due::Start)),
            Phase::Creating
            | Phase::Ready
            | Phase::Pausing
            | Phase::Stopping
            | Phase::Resuming { .. }
            | Phase::Saving { .. }
            | Phase::Deleting
            | Phase::Deleted
            | Phase::Failed => None,
        };
        let (at, due) = [expiry, rest].into_iter().flatten().min_by_key(|(at, _)| *at)?;
        Some((self.not_before.map_or(at, |not_before| at.max(not_before)), due))
    }

    /// Its processes were started.
    pub(super) fn started(&mut self, now: Instant) {
        self.started = now;
    }

    /// Its processes have ended unexpectedly. Says how long it takes until they are started again, if that is done without being asked.
    pub(super) fn died(&mut self, now: Instant) -> Option<Duration> {
        if now.saturating_duration_since(self.started) >= STEADY {
            self.deaths = 0;
        }
        let wait = if self.deaths == 0 { Duration::ZERO } else { backoff(self.deaths) };
        self.deaths = self.deaths.saturating_add(1);
        self.restart = self.restart.map(|_| now + wait);
        self.restart.map(|_| wait)
    }

    /// Before when nothing is tried again that has failed.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// What was due could not be done: it is tried again after a while, each time a longer one.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + backoff(self.failures));
    }

    /// Something was done: what failed before counts no longer.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }
}

/// Returns when it is time; never when nothing is due.
pub(super) async fn wait(next: Option<(Instant, Due)>) -> Due {
    match next {
        Some((at, due)) => {
            sleep_until(at).await;
            due
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::lifecycle::{Asleep, Resting};
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn an_idle_box_is_paused_then_stopped_and_a_working_one_is_not() {
        let now = Instant::now();
        let clock = Clock::new(now, Some(HOUR), MINUTE, Duration::ZERO, None);
        assert_eq!(clock.next(Phase::Ready, false), Some((now + HOUR, Due::Pause)));
        assert_eq!(clock.next(Phase::Ready, true), None);
        assert_eq!(clock.next(Phase::Paused, false), Some((now + MINUTE, Due::Stop)));
        assert_eq!(clock.next(Phase::Paused, true), Some((now + MINUTE, Due::Stop)), "what is frozen works not");
        assert_eq!(clock.next(Phase::Stopped, false), None);
        let kept_alive = Clock::new(now, None, MINUTE, Duration::ZERO, None);
        assert_eq!(kept_alive.next(Phase::Ready, false), None);
        let paused_before = Clock::new(now, None, MINUTE, Duration::from_secs(50), None);
        assert_eq!(paused_before.next(Phase::Paused, false), Some((now + Duration::from_secs(10), Due::Stop)));
    }

    #[test]
    fn a_box_that_is_kept_alive_is_started_again_later_and_later_at_most_once_a_minute() {
        let now = Instant::now();
        let mut plain = Clock::new(now, Some(HOUR), MINUTE, Duration::ZERO, None);
        assert_eq!((plain.died(now), plain.next(Phase::Stopped, false)), (None, None));
        let mut clock = Clock::new(now, None, MINUTE, Duration::ZERO, None);
        clock.restart = Some(now);
        assert_eq!(clock.next(Phase::Stopped, false), Some((now, Due::Start)), "found stopped");
        let waits: Vec<u64> = (0..10).filter_map(|_| clock.died(now)).map(|wait| wait.as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(clock.next(Phase::Stopped, false), Some((now + MINUTE, Due::Start)));
        clock.started(now);
        assert_eq!(clock.died(now + STEADY), Some(Duration::ZERO), "it had lived for a while");
    }

    #[test]
    fn a_box_expires_whatever_it_does() {
        let now = Instant::now();
        let clock = Clock::new(now, Some(HOUR), MINUTE, Duration::ZERO, Some(Duration::from_secs(5)));
        for phase in Phase::ALL {
            let expected = (!phase.is_gone()).then_some((now + Duration::from_secs(5), Due::Delete));
            assert_eq!(clock.next(phase, true), expected, "{phase}");
        }
        let long = Clock::new(now, Some(HOUR), MINUTE, Duration::ZERO, Some(2 * HOUR));
        assert_eq!(long.next(Phase::Ready, false), Some((now + HOUR, Due::Pause)));
    }

    #[test]
    fn what_is_being_done_is_not_disturbed() {
        let clock = Clock::new(Instant::now(), Some(MINUTE), MINUTE, Duration::ZERO, None);
        for phase in [
            Phase::Pausing,
            Phase::Stopping,
            Phase::Resuming { from: Asleep::Paused },
            Phase::Saving { from: Resting::Ready },
        ] {
            assert_eq!(clock.next(phase, false), None, "{phase}");
        }
    }

    #[tokio::test]
    async fn what_failed_is_tried_again_later_and_later() {
        let now = Instant::now();
        let mut clock = Clock::new(now, None, Duration::ZERO, Duration::ZERO, None);
        clock.failed(now);
        let first = clock.next(Phase::Paused, false).map(|(at, _)| at).expect("a stop is due");
        clock.failed(now);
        let second = clock.next(Phase::Paused, false).map(|(at, _)| at).expect("a stop is due");
        assert!(now < first && first < second);
        clock.succeeded();
        assert_eq!(clock.next(Phase::Paused, false), Some((now, Due::Stop)));
        assert_eq!(wait(clock.next(Phase::Paused, false)).await, Due::Stop);
    }
}
