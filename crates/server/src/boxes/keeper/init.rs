//! The init command's part of a keeper.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::super::{BoxError, chain, now_ms, startup};
use super::Keeper;

impl Keeper {
    /// Changes the init command. What a box that sleeps is given is run when it wakes; any other runs when the box is next started.
    pub(super) async fn set_init(&mut self, command: String) -> Result<(), BoxError> {
        let phase = self.phase();
        if phase.is_gone() {
            return Err(BoxError::NotFound);
        }
        let due = !command.is_empty() && (!phase.is_awake() || self.init_due);
        let at = now_ms();
        self.yard.store.set_init(self.shared.fixed.id.clone(), command.clone(), due, at).await?;
        self.init_due = due;
        self.shared.state.send_modify(|state| {
            state.init_command = command.into();
            state.updated_at = at;
        });
        Ok(())
    }

    /// Runs the init command if that is due, or follows the one that an earlier server has started.
    pub(super) fn begin_startup(&mut self) {
        let (yard, shared) = (Arc::clone(&self.yard), Arc::clone(&self.shared));
        if shared.state.borrow().init_command.is_empty() {
            return;
        }
        if std::mem::take(&mut self.init_due) {
            // The one before, if it is there, is left to itself.
            self.startup = Some(AbortOnDropHandle::new(tokio::spawn(startup::begin(yard, shared))));
        } else if self.startup.is_none() {
            self.startup = Some(AbortOnDropHandle::new(tokio::spawn(startup::attach(yard, shared))));
        }
    }

    /// Notes that the box's processes have been started anew.
    pub(super) async fn has_started(&mut self) {
        self.shared.oom_kills.store(0, Ordering::Release);
        self.clock.started(Instant::now());
        if self.shared.state.borrow().init_command.is_empty() {
            return;
        }
        self.init_due = true;
        let id = self.shared.fixed.id.clone();
        if let Err(error) = self.yard.store.set_init_due(id.clone(), true).await {
            tracing::error!(box_id = %id, error = chain(&error), "that an init command is due could not be stored");
        }
    }
}
