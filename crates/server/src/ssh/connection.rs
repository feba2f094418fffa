//! What all channels of one login share.
//!
//! A connection holds a lease of its box, so the box resumes at the login and stays awake; when the box ends or is paused all channels
//! are told why and closed. Every task of a connection ends when its client is gone or [`Connection`] is dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use boxyard_proto::api::logs::LogLevel;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent_forward::AgentForward;
use super::auth::Login;
use super::flow::{Backlogs, Flow};
use super::forward;
use super::forward_log::ForwardLog;
use super::listeners::Listeners;
use super::request::{Asked, Requests, Unstarted};
use super::session;
use super::share::{ClosedFirst, Of};
use super::{Link, Shared};
use crate::boxes::{Kept, Program};
use crate::metrics::SshChannel;

/// Channels that the client opens and we refuse, and that it has not been told of yet.
const REFUSALS_MAX: usize = 1024;
/// How long channels may take to tell their clients that the box is gone.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long a client may take to be told why its connection ends, and then to end it.
const GOODBYE: Duration = Duration::from_secs(2);

/// A connection that has logged in. Dropping it ends everything that it has begun.
#[derive(Debug)]
pub(super) struct Connection {
    common: Arc<Common>,
    requests: Unstarted<ChannelId>,
    listeners: Listeners,
}

/// What the tasks of a connection share.
pub(super) struct Common {
    pub(super) kept: Kept,
    pub(super) shared: Arc<Shared>,
    pub(super) handle: Handle,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) flow: Arc<Flow>,
    pub(super) log: ForwardLog,
    pub(super) agent: AgentForward,
    /// Why there is no more work in this box, once there is none.
    pub(super) farewell: watch::Sender<Option<Arc<str>>>,
    /// A permit for each channel that may be open.
    slots: Arc<Semaphore>,
    slots_max: usize,
    /// A permit for each refusal that may wait.
    refusals: Arc<Semaphore>,
    /// Session channels so far.
    sessions: watch::Sender<usize>,
    closed_first: ClosedFirst,
    /// Cancelled when the client is gone.
    gone: CancellationToken,
    /// Cancelling it ends the connection.
    end: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Common").field("id", self.kept.id()).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A socket in the box that a client wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// `direct-tcpip`: host and port as seen from the box.
    Tcp(String, u32),
    /// `direct-streamlocal@openssh.com`: a path in the box.
    Unix(String),
}

/// The right to have a channel open.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Begins when the login has been let in.
    pub(super) fn begin(login: Login, link: Link, handle: Handle, shared: Arc<Shared>) -> Self {
        let slots_max = usize::try_from(shared.limits.ssh_channels_per_connection).unwrap_or(usize::MAX);
        let slots_max = slots_max.min(Semaphore::MAX_PERMITS);
        let gone = link.gone.child_token();
        let share = shared.shares.of(Of::Account(login.kept.account().clone()));
        let in_box = shared.shares.of(Of::Box(login.kept.id().clone()));
        let backlogs = Backlogs::new(&shared.metrics.ssh_backlog, Arc::clone(&share), in_box);
        let common = Arc::new(Common {
            kept: login.kept,
            handle,
            peer: link.peer,
            local: link.local,
            flow: Flow::new(backlogs, link.pace),
            log: ForwardLog::default(),
            agent: AgentForward::default(),
            farewell: watch::Sender::new(None),
            slots: Arc::new(Semaphore::new(slots_max)),
            slots_max,
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            sessions: watch::Sender::new(0),
            closed_first: ClosedFirst::new(share),
            gone: gone.clone(),
            end: link.gone.clone(),
            tasks: TaskTracker::new(),
            shared,
        });
        let watching = Arc::clone(&common);
        // Ends with the connection. Not one of the tracked tasks, because it waits for those.
        tokio::spawn(async move {
            gone.run_until_cancelled(watch_box(watching)).await;
            link.gone.cancel();
        });
        Self { listeners: Listeners::new(Arc::clone(&common)), common, requests: Unstarted::new() }
    }

    /// A session channel was asked for. Returns at once; a task of its own does the rest.
    pub(super) async fn open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle) {
        let Some(slot) = self.common.slot() else {
            return self.refuse(channel, reply, ChannelOpenFailure::ResourceShortage).await;
        };
        let (requests, asked) = Requests::new();
        self.requests.insert(channel.id(), requests);
        self.common.sessions.send_modify(|sessions| *sessions += 1);
        reply.accept().await;
        self.common.spawn(session::serve(Arc::clone(&self.common), channel, asked, slot));
    }

    /// A connection to a socket in the box was asked for. Returns at once.
    pub(super) async fn open_direct(&mut self, channel: Channel<Msg>, target: Target, reply: ChannelOpenHandle) {
        match self.common.slot() {
            Some(slot) => self.common.spawn(forward::direct(Arc::clone(&self.common), channel, target, reply, slot)),
            None => self.refuse(channel, reply, ChannelOpenFailure::ResourceShortage).await,
        }
    }

    /// A channel was asked for that there cannot be.
    pub(super) async fn refuse(&self, channel: Channel<Msg>, reply: ChannelOpenHandle, why: ChannelOpenFailure) {
        let Ok(permit) = Arc::clone(&self.common.refusals).try_acquire_owned() else {
            tracing::info!(peer = %self.common.peer, "an SSH client asks for channels and does not want to hear the answers");
            return self.common.end.cancel();
        };
        let common = Arc::clone(&self.common);
        self.common.spawn(async move {
            common.refuse(channel.id(), reply, why).await;
            drop(permit);
        });
        // Whoever asks for many at once is told before more are taken in.
        tokio::task::yield_now().await;
    }

    /// A terminal was asked for; says whether there will be one.
    pub(super) fn pty(&mut self, channel: ChannelId, term: &str, size: [u32; 4], modes: &[(Pty, u32)]) -> bool {
        self.requests.get_mut(&channel).is_some_and(|requests| requests.pty(term, size, modes))
    }

    /// A variable was sent; says whether it is passed on.
    pub(super) fn env(&mut self, channel: ChannelId, name: &str, value: &str) -> bool {
        self.requests.get_mut(&channel).is_some_and(|requests| requests.env(name, value))
    }

    /// An SSH agent was offered.
    pub(super) fn agent(&mut self, channel: ChannelId) -> bool {
        self.requests.get_mut(&channel).is_some_and(Requests::agent)
    }

    /// A shell was asked for; says whether it is tried.
    pub(super) fn shell(&mut self, channel: ChannelId) -> bool {
        self.start(channel, Asked::Program(Program::Shell))
    }

    /// A command was asked for; says whether it is tried.
    pub(super) fn command(&mut self, channel: ChannelId, line: &[u8]) -> bool {
        self.start(channel, Asked::command(line))
    }

    /// A subsystem was asked for; says whether it is tried.
    pub(super) fn subsystem(&mut self, channel: ChannelId, name: &str) -> bool {
        name == "sftp" && self.start(channel, Asked::Program(Program::Sftp))
    }

    /// One program per channel: whoever asks again is refused, and so is what belongs before the start.
    fn start(&mut self, channel: ChannelId, asked: Asked) -> bool {
        self.requests.remove(&channel).is_some_and(|requests| requests.start(asked))
    }

    /// The client has closed a channel.
    pub(super) fn closed(&mut self, channel: ChannelId) {
        self.requests.remove(&channel);
    }

    /// Listening on a TCP address in the box was asked for; `port` 0 means any, and is set to what it got.
    pub(super) async fn forward_tcp(&mut self, address: &str, port: &mut u32) -> bool {
        self.listeners.add_tcp(address, port).await
    }

    /// Listening on a TCP address is no longer wanted.
    pub(super) async fn cancel_tcp(&mut self, address: &str, port: u32) -> bool {
        self.listeners.remove_tcp(address, port)
    }

    /// Listening on a Unix socket in the box was asked for.
    pub(super) async fn forward_unix(&mut self, path: &str) -> bool {
        self.listeners.add_unix(path).await
    }

    /// Listening on a Unix socket is no longer wanted.
    pub(super) async fn cancel_unix(&mut self, path: &str) -> bool {
        self.listeners.remove_unix(path)
    }

    /// A channel has been granted `granted` bytes; returns the window that the next channel to run low shall get (see `flow.rs`).
    pub(super) fn next_window(&mut self, _: ChannelId, granted: u32) -> u32 {
        self.common.flow.next_window(granted)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.common.gone.cancel();
    }
}

impl Common {
    /// Runs a task until the client is gone at the latest.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let gone = self.gone.clone();
        self.tasks.spawn(async move { gone.run_until_cancelled(task).await });
    }

    /// Does something in a callback, which the connection waits for, until the client is gone at the latest.
    pub(super) async fn until_gone<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.gone.run_until_cancelled(work).await
    }

    /// Tells the client that it cannot have a channel, as soon as `russh` takes messages. It keeps answers like this, with all that it
    /// knows of the channel, in a queue without bound, which it does not look at in the middle of a key exchange; and the client can
    /// make that last and go on asking.
    pub(super) async fn refuse(&self, channel: ChannelId, reply: ChannelOpenHandle, why: ChannelOpenFailure) {
        // A message that does nothing, since there is no such channel, has its place in the queue that has a bound.
        let _ = self.handle.xon_xoff_request(channel, false).await;
        reply.reject(why).await;
    }

    /// The right to a channel that the client opens.
    fn slot(&self) -> Option<Slot> {
        (self.closed_first.has_room() && self.flow.has_room()).then(|| self.take_slot()).flatten()
    }

    /// The right to a channel that something in the box opens. A quarter of all is left to the client, and half of what may be used up.
    pub(super) fn slot_for_box(&self) -> Option<Slot> {
        let has_room = self.closed_first.has_room_for_box() && self.slots.available_permits() > self.slots_max / 4;
        has_room.then(|| self.slot()).flatten()
    }

    fn take_slot(&self) -> Option<Slot> {
        Arc::clone(&self.slots).try_acquire_owned().ok().map(|permit| Slot { _permit: permit })
    }

    /// Counts an open channel until the value is dropped.
    pub(super) fn count(&self, kind: &'static str) -> Counted {
        let gauge = self.shared.metrics.ssh_channels.get_or_create(&SshChannel { kind }).clone();
        gauge.inc();
        Counted(gauge)
    }

    /// Counts a channel that we close before its client does.
    pub(super) fn closes_first(&self) {
        self.closed_first.add();
    }

    /// Why there is no more work in this box; waits for that.
    pub(super) async fn over(&self) -> Arc<str> {
        let mut farewell = self.farewell.subscribe();
        let text = farewell.wait_for(Option::is_some).await.ok().and_then(|text| text.clone());
        match text {
            Some(text) => text,
            // The sender lives as long as `self`.
            None => std::future::pending().await,
        }
    }

    /// Writes a line about a forward into the box's log, if there have not been too many.
    pub(super) fn log_forward(&self, what: std::fmt::Arguments<'_>) {
        if let Some(line) = self.log.line(what, self.peer.ip().to_canonical()) {
            self.shared.boxes.log(self.kept.id(), LogLevel::Info, line);
        }
    }
}

/// An open channel in the metrics.
#[derive(Debug)]
pub(super) struct Counted(prometheus_client::metrics::gauge::Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Keeps the box awake. When it ends or is paused, says so on every channel and asks the client to end the connection. When this returns
/// it has had its time.
async fn watch_box(common: Arc<Common>) {
    let text = match common.kept.lease().await {
        Err(error) => error.to_string(),
        Ok(lease) => {
            let (phase, halt) = tokio::select! {
                biased;
                () = lease.over().cancelled() => (common.kept.phase(), None),
                unready = common.kept.unready() => unready,
            };
            common.kept.farewell(phase, halt)
        }
    };
    let text: Arc<str> = text.into();
    common.farewell.send_replace(Some(Arc::clone(&text)));
    let told = async {
        // A client that has only just logged in is about to open the channel on which it can be told.
        let mut sessions = common.sessions.subscribe();
        let _ = sessions.wait_for(|sessions| *sessions > 0).await;
        common.tasks.close();
        common.tasks.wait().await;
    };
    // Whoever does not read what it is told must not keep the connection open.
    let _ = timeout(FAREWELL, told).await;
    let goodbye = common.handle.disconnect(Disconnect::ByApplication, text.to_string(), String::new());
    // `russh` takes no message while it writes to a client that does not read, or waits for one in the middle of a key exchange.
    let _ = timeout(GOODBYE, goodbye).await;
    sleep(GOODBYE).await;
}
