//! Contexts: interpreters that go on in a box between the pieces of code that they run, so that variables live as in a notebook.
//!
//! [`context`] is what everybody holds of one, [`course`] its task, [`interpreter`] the job in the box, [`frames`] what that says,
//! [`driver`] the programs that run there, [`answer`] where it goes, [`list`] those of a box. Contexts are not stored: they end with their box's processes and
//! with the server, and those that have ended are remembered for a while so that whoever asks is told why.

use std::sync::Arc;
use std::time::Duration;

use boxyard_proto::ContextId;
use boxyard_proto::api::contexts::{ContextData, ContextLanguage};
use boxyard_proto::api::logs::{LogLevel, LogSource};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::kept::{Kept, Lease};
use super::order::{self, InvalidOrder};
use super::{BoxError, Boxes, Yard, now_ms};
use crate::config::Config;
use crate::store::LogRow;

mod answer;
mod context;
mod course;
mod driver;
mod error;
mod frames;
mod interpreter;
mod list;

pub use answer::{Finished, Part};
pub use error::ContextError;
pub use frames::{Shown, Value};
pub(super) use list::Contexts;

use answer::Sink;
use context::{Context, Facts, Order, Steer};
use course::{Course, Now};
use interpreter::Interpreter;
use list::{Berth, Counted};

/// Contexts of one box whatever is configured: each takes one of the connections that `boxyard-init` has beside those of leases.
const PER_BOX_MAX: usize = 16;
/// How long the end of an interpreter is waited for when its context is deleted.
const DELETE_DEADLINE: Duration = Duration::from_secs(3);

/// What all contexts are bound by.
#[derive(Debug, Clone, Copy)]
pub(super) struct ContextLimits {
    /// See [`Config::contexts`].
    per_box: usize,
    idle: Duration,
    output_cap: usize,
    results_cap: usize,
}

impl ContextLimits {
    pub(super) fn new(config: &Config) -> Self {
        let limits = &config.contexts;
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            per_box: usize::try_from(limits.per_box).unwrap_or(usize::MAX).min(PER_BOX_MAX),
            idle: limits.idle,
            output_cap: size(limits.output_cap),
            results_cap: size(limits.results_cap),
        }
    }
}

/// A context to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextOrder {
    language: ContextLanguage,
    folder: String,
    env: Vec<String>,
}

impl ContextOrder {
    /// Checks what is asked for. `env` are `NAME=value`, checked by the door.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn new(language: &str, folder: Option<&str>, env: Vec<String>) -> Result<Self, InvalidOrder> {
        let language = match language {
            "python" => ContextLanguage::Python,
            "js" => ContextLanguage::Js,
            _ => return Err(InvalidOrder("language must be python or js".into())),
        };
        Ok(Self { language, folder: order::folder_of(folder)?, env })
    }
}

/// A piece of code for a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextCode {
    code: String,
    timeout: Option<Duration>,
}

impl ContextCode {
    /// Checks what is asked for. A timeout of 0 is none.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn new(code: String, timeout_ms: Option<u64>) -> Result<Self, InvalidOrder> {
        order::check_code(&code)?;
        Ok(Self { code, timeout: order::timeout_of(timeout_ms)? })
    }
}

/// What is to be heard of code that is under way: `None` when the context has ended without a word, with the server.
pub type CodeReply = oneshot::Receiver<Result<Finished, ContextError>>;

impl Boxes {
    /// Makes a context and returns when it takes code. When this is dropped before, nothing is left of it.
    ///
    /// # Errors
    /// The box takes no work, has enough contexts, or has nothing that runs the language.
    pub async fn open_context(&self, kept: &Kept, order: ContextOrder) -> Result<ContextData, ContextError> {
        let (yard, contexts) = (&self.yard, &kept.shared.contexts);
        let _berth = Berth::take(contexts, yard.contexts.per_box)?;
        let lease = kept.lease().await?;
        let facts = Facts {
            id: ContextId::from_entropy(rand::random()),
            language: order.language,
            folder: order.folder,
            env: order.env,
            created_at: now_ms(),
        };
        let interpreter = Interpreter::start(yard, kept, &facts).await;
        let interpreter = interpreter.map_err(|error| ContextError::of_start(error, &facts))?;
        // Before the interpreter's first word the box's processes may have ended once, and it is in the new ones.
        let halts = kept.halts();
        let (context, queues) = Context::new(facts);
        let context = Arc::new(context);
        contexts.lock().live.push(Arc::clone(&context));
        let data = context.data();
        let language = data.language.as_str();
        yard.say(kept, LogLevel::Info, format!("Context {} ({language}) started", data.id));
        let course = Course {
            yard: Arc::clone(yard),
            kept: kept.clone(),
            queues,
            now: Now::Live(Box::new(interpreter)),
            halts,
            counted: Counted::new(&yard.metrics.contexts),
            context: Arc::clone(&context),
        };
        yard.tasks.spawn(course.run(context.ended.clone().drop_guard()));
        drop(lease);
        Ok(data)
    }

    /// The contexts of a box, the oldest first.
    pub fn contexts(&self, kept: &Kept) -> Vec<ContextData> {
        kept.shared.contexts.lock().live.iter().map(|context| context.data()).collect()
    }

    /// One context.
    ///
    /// # Errors
    /// There is none, or none any more.
    pub fn context(&self, kept: &Kept, id: &str) -> Result<ContextData, ContextError> {
        Ok(kept.shared.contexts.find(id)?.data())
    }

    /// Ends a context and what runs in it, and returns when that is gone. In a frozen box it goes when the box goes on.
    ///
    /// # Errors
    /// As [`context`](Self::context).
    pub async fn delete_context(&self, kept: &Kept, id: &str) -> Result<(), ContextError> {
        let context = kept.shared.contexts.find(id)?;
        kept.shared.contexts.end(&context.facts.id, "it was deleted");
        context.ending.cancel();
        // Overdue or not, its task sees to it.
        let _ = timeout(DELETE_DEADLINE, context.ended.cancelled()).await;
        Ok(())
    }

    /// Gives a context a new interpreter, whatever runs in the old one, and returns when it takes code. Code that waits is not run.
    ///
    /// # Errors
    /// As [`context`](Self::context); the box takes no work; the interpreter cannot be started.
    pub async fn restart_context(&self, kept: &Kept, id: &str) -> Result<ContextData, ContextError> {
        let context = kept.shared.contexts.find(id)?;
        let lease = kept.lease().await?;
        context.restart();
        let (answer, answered) = oneshot::channel();
        let steered = self.steer(kept, &context, Steer::Restart(lease, answer));
        steered.await?;
        answered.await.unwrap_or(Err(ContextError::Box(BoxError::Leaving)))?;
        Ok(context.data())
    }

    /// Interrupts the code that runs in a context, if any does; says whether. It goes on when it catches that.
    ///
    /// # Errors
    /// As [`context`](Self::context).
    pub async fn interrupt_context(&self, kept: &Kept, id: &str) -> Result<bool, ContextError> {
        let context = kept.shared.contexts.find(id)?;
        let (answer, answered) = oneshot::channel();
        self.steer(kept, &context, Steer::Interrupt(answer)).await?;
        Ok(answered.await.unwrap_or(false))
    }

    async fn steer(&self, kept: &Kept, context: &Context, steer: Steer) -> Result<(), ContextError> {
        let sent = context.steers.send(steer).await;
        // It has ended meanwhile.
        sent.map_err(|_| gone(kept, context))
    }

    /// Has a context run a piece of code, and hold what comes of it. When nobody waits for the answer any more the code goes on, unless it
    /// has yet to begin.
    ///
    /// # Errors
    /// As [`context`](Self::context); the box takes no work; too much code waits.
    pub async fn run_in_context(&self, kept: &Kept, id: &str, code: ContextCode) -> Result<CodeReply, ContextError> {
        let limits = &self.yard.contexts;
        let output = self.yard.outputs.output_up_to(limits.output_cap);
        self.order(kept, id, code, Sink::hold(output, limits.results_cap)).await
    }

    /// The same, and passes on what comes of it.
    ///
    /// # Errors
    /// As [`run_in_context`](Self::run_in_context).
    pub async fn stream_in_context(
        &self,
        kept: &Kept,
        id: &str,
        code: ContextCode,
    ) -> Result<(CodeReply, mpsc::Receiver<Part>), ContextError> {
        let (sink, parts) = Sink::pipe(&self.yard.outputs, self.yard.contexts.results_cap);
        Ok((self.order(kept, id, code, sink).await?, parts))
    }

    async fn order(&self, kept: &Kept, id: &str, code: ContextCode, sink: Sink) -> Result<CodeReply, ContextError> {
        let context = kept.shared.contexts.find(id)?;
        let restarts = context.restarts();
        let lease: Lease = kept.lease().await?;
        let (reply, replied) = oneshot::channel();
        let ContextCode { code, timeout } = code;
        // A client that has left does not take back the code that it sent.
        let mut room = self.yard.outputs.output();
        if !room.hold_elsewhere(code.len()) {
            return Err(ContextError::QueueFull);
        }
        let share = room.share;
        let sent = context.orders.try_send(Order { code, timeout, lease, sink, reply, restarts, share });
        match sent {
            Ok(()) => Ok(replied),
            Err(TrySendError::Full(_)) => Err(ContextError::QueueFull),
            Err(TrySendError::Closed(_)) => Err(gone(kept, &context)),
        }
    }
}

/// What to say of a context that has ended while something was asked of it.
fn gone(kept: &Kept, context: &Context) -> ContextError {
    match kept.shared.contexts.find(context.facts.id.as_str()) {
        Err(error) => error,
        Ok(_) => ContextError::NotFound,
    }
}

impl Yard {
    /// Writes a line into a box's log, soon.
    fn say(&self, kept: &Kept, level: LogLevel, message: String) {
        let entry = LogRow { at: now_ms(), level, source: LogSource::System, message };
        self.store.append_log_queued(kept.id().clone(), entry);
    }
}
