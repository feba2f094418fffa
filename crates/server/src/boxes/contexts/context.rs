//! What everybody but its task holds of a context.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxyard_proto::ContextId;
use boxyard_proto::api::contexts::{ContextData, ContextLanguage, ContextStatus};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::ContextError;
use super::answer::{Finished, Sink};
use crate::boxes::kept::Lease;
use crate::boxes::now_ms;
use crate::boxes::output::Share;

/// Pieces of code that wait for their turn in one context at most.
pub(super) const QUEUE_MAX: usize = 16;
/// Orders beside code that wait at most.
const STEERS_MAX: usize = 4;

/// What never changes about a context.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) id: ContextId,
    pub(super) language: ContextLanguage,
    /// Absolute.
    pub(super) folder: String,
    /// `NAME=value`.
    pub(super) env: Vec<String>,
    /// Milliseconds since 1970.
    pub(super) created_at: i64,
}

/// A context, as long as it is in its box's list.
pub(super) struct Context {
    pub(super) facts: Facts,
    seen: Mutex<Seen>,
    /// How often it was started anew because somebody asked for that. Code that was ordered before is not run.
    restarts: AtomicU64,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) steers: mpsc::Sender<Steer>,
    /// Cancelled when it is to end.
    pub(super) ending: CancellationToken,
    /// Cancelled when its interpreter is gone and its task has ended.
    pub(super) ended: CancellationToken,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    status: ContextStatus,
    cells: u64,
    last_used_at: i64,
}

/// A piece of code to run.
pub(super) struct Order {
    pub(super) code: String,
    pub(super) timeout: Option<Duration>,
    /// What keeps the box running meanwhile.
    pub(super) lease: Lease,
    pub(super) sink: Sink,
    pub(super) reply: oneshot::Sender<Result<Finished, ContextError>>,
    /// The context's restarts when it was ordered.
    pub(super) restarts: u64,
    /// What the code takes of the memory for answers.
    pub(super) share: Share,
}

/// What is asked of a context beside running code.
pub(super) enum Steer {
    /// Interrupts what runs; answers whether something does.
    Interrupt(oneshot::Sender<bool>),
    /// Starts a new interpreter, whatever runs in the old one.
    Restart(Lease, oneshot::Sender<Result<(), ContextError>>),
}

/// The ends of its queues that belong to its task.
pub(super) struct Queues {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) steers: mpsc::Receiver<Steer>,
}

impl Context {
    pub(super) fn new(facts: Facts) -> (Self, Queues) {
        let (orders, order_queue) = mpsc::channel(QUEUE_MAX);
        let (steers, steer_queue) = mpsc::channel(STEERS_MAX);
        let seen = Seen { status: ContextStatus::Idle, cells: 0, last_used_at: facts.created_at };
        let context = Self {
            facts,
            seen: Mutex::new(seen),
            restarts: AtomicU64::new(0),
            orders,
            steers,
            ending: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        (context, Queues { orders: order_queue, steers: steer_queue })
    }

    pub(super) fn data(&self) -> ContextData {
        let seen = *self.seen();
        ContextData {
            id: self.facts.id.clone(),
            language: self.facts.language,
            folder: self.facts.folder.clone(),
            status: seen.status,
            execution_count: seen.cells,
            created_at: self.facts.created_at / 1000,
            last_used_at: seen.last_used_at / 1000,
        }
    }

    /// Notes what it does from now on, and how much code its interpreter has run.
    pub(super) fn is_now(&self, status: ContextStatus, cells: u64) {
        let mut seen = self.seen();
        seen.status = status;
        seen.cells = cells;
        seen.last_used_at = now_ms();
    }

    /// Notes that its interpreter has ended by itself.
    pub(super) fn has_died(&self) {
        self.seen().status = ContextStatus::Ended;
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Acquire)
    }

    pub(super) fn restart(&self) {
        self.restarts.fetch_add(1, Ordering::AcqRel);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // What it guards is whole after every statement.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
