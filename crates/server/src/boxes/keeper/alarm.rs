//! What a keeper does by itself when it is time; see [`clock`](super::super::clock).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use boxyard_proto::api::logs::LogLevel;
use tokio::time::Instant;

use super::super::clock::Due;
use super::super::halt::Halt;
use super::super::lifecycle::Wanted;
use super::super::{BoxError, chain};
use super::Keeper;

impl Keeper {
    /// Notes that the box begins to be idle now if something has worked in it; says whether something has.
    pub(super) fn has_worked(&mut self) -> bool {
        let ended = self.shared.ended.load(Ordering::Acquire);
        let worked = ended != self.ended;
        if worked {
            self.ended = ended;
            self.clock.idle_since = Instant::now();
        }
        worked
    }

    /// Does by itself what is due.
    pub(super) async fn come(&mut self, due: Due) {
        let wanted = match due {
            Due::Pause => {
                // Between the last look and this one somebody may have come. Once the gate is closed, nobody does.
                if self.has_worked() || !self.shared.gate.close_if_unused() {
                    return;
                }
                Wanted::Pause
            }
            Due::Stop => {
                self.halt = Halt::Paused;
                Wanted::Stop
            }
            Due::Start => Wanted::Work,
            Due::Delete => Wanted::Delete,
        };
        match self.want(wanted).await {
            Ok(()) if due == Due::Delete => self.log(LogLevel::Info, "Box has expired"),
            Ok(()) if due == Due::Pause => self.log(LogLevel::Info, "Box is paused: nothing worked in it for a while"),
            Ok(()) => {}
            Err(BoxError::Full(full)) if due == Due::Start => {
                tracing::warn!(box_id = %self.shared.fixed.id, %full, "a box that is kept alive waits for memory");
                let (relief, limits) = (Arc::clone(&self.yard.relief), self.shared.fixed.spec.limits);
                // Not waited for: other keepers do it.
                self.yard.tasks.spawn(async move { relief.make_room(full, limits).await });
                self.clock.failed(Instant::now());
            }
            Err(error) => {
                tracing::error!(box_id = %self.shared.fixed.id, ?due, error = chain(&error), "what was due was not done");
                self.clock.failed(Instant::now());
            }
        }
    }
}
