//! Telling a box's owner that the kernel has ended something in it for want of memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_proto::wire::Exit;
use tokio::time::timeout;

use super::kept::Shared;
use super::{Yard, now_ms};
use crate::store::LogRow;

/// What the kernel ends a process with.
const KILL: i32 = 9;
/// What a shell reports of a child that ended so.
const KILL_CODE: i32 = 128 + KILL;
/// How long the engine may take to say how often it happened.
const DEADLINE: Duration = Duration::from_secs(10);
/// The same for a box that has died, which waits to be cleared away meanwhile.
const DEATH_DEADLINE: Duration = Duration::from_secs(2);

/// Writes a line into the box's log, soon, if something in it was ended for want of memory since this was last asked. Asks the engine
/// only where `exit` looks like that.
pub(super) fn look(yard: &Arc<Yard>, shared: &Arc<Shared>, exit: Exit) {
    if exit.signal != Some(KILL) && exit.code != KILL_CODE {
        return;
    }
    let (yard, shared) = (Arc::clone(yard), Arc::clone(shared));
    // Whoever waits for the end need not wait for this. Ends with the engine's answer, or by its deadline.
    yard.clone().tasks.spawn(async move {
        if let Ok(Ok(usage)) = timeout(DEADLINE, yard.engine.usage(&shared.fixed.id)).await {
            note(&yard, &shared, usage.oom_kills);
        }
    });
}

/// As [`look`], of a box that has died; returns when it is known, or soon.
pub(super) async fn count(yard: &Yard, shared: &Shared) {
    if let Ok(Ok(usage)) = timeout(DEATH_DEADLINE, yard.engine.usage(&shared.fixed.id)).await {
        note(yard, shared, usage.oom_kills);
    }
}

fn note(yard: &Yard, shared: &Shared, kills: u64) {
    let before = shared.oom_kills.fetch_max(kills, Ordering::AcqRel);
    if kills <= before {
        return;
    }
    let fixed = &shared.fixed;
    let megabytes = fixed.spec.limits.memory_bytes / 1_000_000;
    let message = format!(
        "Out of memory: {} of the box's processes ended by the kernel, {kills} since the box was started; it may use {megabytes} MB",
        kills - before,
    );
    let entry = LogRow { at: now_ms(), level: LogLevel::Error, source: LogSource::System, message };
    yard.store.append_log_queued(fixed.id.clone(), entry);
}
