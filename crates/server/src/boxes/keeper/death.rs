//! Processes of a box that end though nobody has ended them: its PID 1 was killed, or broke, and the kernel ends the others with it.
//!
//! A keeper watches its box for as long as it rests with processes, running or frozen; while a deed is done, the deed's own end tells, and
//! the watch begins anew after it. The engine wakes the keeper; nothing is asked again and again. What is left of the processes is cleared
//! away as when a box is stopped, and then it is as one that was stopped: the next work starts it. A box that is kept alive is started at
//! once, and if it dies again, later and later.

use std::future::pending;
use std::sync::Arc;

use boxyard_engine::EngineError;
use boxyard_proto::api::logs::LogLevel;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::super::halt::Halt;
use super::super::lifecycle::{Phase, Report};
use super::super::{chain, memory};
use super::Keeper;

/// The watch over a box.
pub(super) enum Vigil {
    /// Ends when the box has no processes any more.
    Kept(AbortOnDropHandle<Result<(), EngineError>>),
    /// It has ended, and another would say the same.
    Over,
}

/// Waits for the end of a watch; for ever when there is none.
pub(super) async fn over(vigil: &mut Option<Vigil>) -> Result<(), EngineError> {
    match vigil {
        Some(Vigil::Kept(task)) => {
            task.await.unwrap_or_else(|error| Err(EngineError::broken("watching the box", error)))
        }
        Some(Vigil::Over) | None => pending().await,
    }
}

impl Keeper {
    /// Watches a box that rests with its processes, and no other.
    pub(super) fn keep_vigil(&mut self) {
        if !matches!(self.phase(), Phase::Ready | Phase::Paused) {
            self.vigil = None;
        } else if self.vigil.is_none() {
            let (engine, id) = (Arc::clone(&self.yard.engine), self.shared.fixed.id.clone());
            // What is left of a box that died could not be cleared away: it is tried again later.
            let again = self.clock.not_before();
            self.vigil = Some(Vigil::Kept(AbortOnDropHandle::new(tokio::spawn(async move {
                if let Some(again) = again {
                    sleep_until(again).await;
                }
                engine.ended(&id).await
            }))));
        }
    }

    /// What a watch said.
    pub(super) async fn hear_of_end(&mut self, watched: Result<(), EngineError>) {
        self.vigil = Some(Vigil::Over);
        match watched {
            Ok(()) => self.has_died().await,
            Err(error) => {
                let id = &self.shared.fixed.id;
                tracing::error!(box_id = %id, error = chain(&error), "a box is not watched: its end is noticed at its next use");
            }
        }
    }

    /// Clears up after a box that has no processes though it should.
    pub(super) async fn has_died(&mut self) {
        let (phase, id) = (self.phase(), &self.shared.fixed.id);
        if !matches!(phase, Phase::Ready | Phase::Paused) {
            return;
        }
        let again = self.halt == Halt::Died && phase == Phase::Paused;
        if !again {
            tracing::warn!(box_id = %id, %phase, "the box has died: its first process is gone");
            self.yard.metrics.deaths.inc();
            // Before what counts them is cleared away.
            memory::count(&self.yard, &self.shared).await;
            let wait = self.clock.died(Instant::now());
            let then = match wait {
                None => "the next use of the box starts it anew".to_owned(),
                Some(wait) if wait.is_zero() => "it is started anew".to_owned(),
                Some(wait) => format!("it has died before and is started anew in {} s", wait.as_secs()),
            };
            let text = format!(
                "Box died: its first process ended unexpectedly, and all others with it; its disk is kept, {then}"
            );
            self.log(LogLevel::Error, &text);
        }
        self.halt = Halt::Died;
        self.hear(Report::Died, None).await;
    }

    /// Writes down that the box's processes were ended.
    pub(super) fn tell_of_halt(&self) {
        match self.halt {
            Halt::Paused => self.log(LogLevel::Info, "Box stopped: its processes have ended, its disk is kept"),
            Halt::ShortOfMemory => {
                self.yard.metrics.relieved.inc();
                let text = "Box stopped: the host was short of memory; its processes have ended, its disk is kept";
                self.log(LogLevel::Warn, text);
            }
            // That was told when it was noticed.
            Halt::Died => {}
        }
    }
}
