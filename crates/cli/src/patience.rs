//! Waiting for a server that is away.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::failure::Failure;

/// How long a server is waited for: as long as one takes to be started anew.
const WHOLE: Duration = Duration::from_secs(60);
/// The pause before the first try; each is twice as long as the one before.
const FIRST: Duration = Duration::from_millis(250);
/// A pause at most.
const LONGEST: Duration = Duration::from_secs(4);

/// How long a server that was heard of is still waited for, and how often it is tried.
#[derive(Debug)]
pub(crate) struct Patience {
    ends: Instant,
    pause: Duration,
}

impl Patience {
    /// All of it.
    pub(crate) fn new() -> Self {
        Self { ends: Instant::now() + WHOLE, pause: FIRST }
    }

    /// The server was there. Unless it also `did` something, it may be one that breaks off again and again.
    pub(crate) fn renew(&mut self, did: bool) {
        self.ends = Instant::now() + WHOLE;
        if did {
            self.pause = FIRST;
        }
    }

    /// Waits until the next try.
    ///
    /// # Errors
    /// It has come to its end: gives the `failure` back.
    pub(crate) async fn wait(&mut self, failure: Failure) -> Result<(), Failure> {
        if Instant::now() >= self.ends {
            return Err(failure);
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_is_tried_more_and_more_seldom_and_then_no_more() {
        let mut patience = Patience::new();
        let began = Instant::now();
        let mut tries = 0;
        while patience.wait(Failure::plain("away")).await.is_ok() {
            tries += 1;
        }
        assert!(tries < 25 && began.elapsed() >= WHOLE && began.elapsed() < WHOLE + LONGEST, "{tries}");
        patience.renew(true);
        assert!(patience.wait(Failure::plain("away")).await.is_ok());
    }
}
