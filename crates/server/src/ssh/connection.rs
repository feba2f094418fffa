//! What all channels of one login share.
//!
//! A connection holds a lease of its box, so the box resumes at the login and stays awake; when the box ends or is paused all channels
//! are told why and closed. Every task of a connection ends when its client is gone or [`Connection`] is dropped.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use boxyard_proto::api::logs::LogLevel;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent_forward::AgentForward;
use super::auth::Login;
use super::flow::{Backlogs, Flow};
use super::forward;
use super::forward_log::ForwardLog;
use super::listeners::Listeners;
use super::request::{Asked, Requests};
use super::session;
use super::{Link, Shared};
use crate::boxes::lifecycle::Phase;
use crate::boxes::{Kept, Program};
use crate::metrics::SshChannel;

/// Channels that we closed before their client did, in one connection's life. `russh` keeps about 3 KiB of each until the connection ends
/// (a CHANNEL_CLOSE that answers ours does not reach its table), so a connection that has used this up must be made anew.
const CLOSED_FIRST_MAX: u32 = 20_000;
/// How long channels may take to tell their clients that the box is gone.
const FAREWELL: Duration = Duration::from_secs(3);

/// A connection that has logged in. Dropping it ends everything that it has begun.
#[derive(Debug)]
pub(super) struct Connection {
    common: Arc<Common>,
    /// Session channels that have not been told yet what to run.
    requests: HashMap<ChannelId, Requests>,
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
    /// Session channels so far.
    sessions: watch::Sender<usize>,
    closed_first: AtomicU32,
    /// Cancelled when the client is gone.
    gone: CancellationToken,
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
        let common = Arc::new(Common {
            kept: login.kept,
            handle,
            peer: link.peer,
            local: link.local,
            flow: Flow::new(Backlogs::new(&shared.metrics.ssh_backlog), link.pace),
            log: ForwardLog::default(),
            agent: AgentForward::default(),
            farewell: watch::Sender::new(None),
            slots: Arc::new(Semaphore::new(slots_max)),
            slots_max,
            sessions: watch::Sender::new(0),
            closed_first: AtomicU32::new(0),
            gone: gone.clone(),
            tasks: TaskTracker::new(),
            shared,
        });
        let watching = Arc::clone(&common);
        // Ends with the connection. Not one of the tracked tasks, because it waits for those.
        tokio::spawn(async move { gone.run_until_cancelled(watch_box(watching)).await });
        Self { listeners: Listeners::new(Arc::clone(&common)), common, requests: HashMap::new() }
    }

    /// A session channel was asked for. Returns at once; a task of its own does the rest.
    pub(super) async fn open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle) {
        let Some(slot) = self.common.slot() else {
            return reply.reject(ChannelOpenFailure::ResourceShortage).await;
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
            None => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
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

    /// The right to a channel that the client opens.
    fn slot(&self) -> Option<Slot> {
        let fresh = self.closed_first.load(Ordering::Relaxed) < CLOSED_FIRST_MAX;
        (fresh && self.flow.has_room()).then(|| self.take_slot()).flatten()
    }

    /// The right to a channel that something in the box opens. A quarter of all is left to the client.
    pub(super) fn slot_for_box(&self) -> Option<Slot> {
        (self.slots.available_permits() > self.slots_max / 4).then(|| self.slot()).flatten()
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
        self.closed_first.fetch_add(1, Ordering::Relaxed);
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

/// Keeps the box awake. When it ends or is paused, says so on every channel and ends the connection.
async fn watch_box(common: Arc<Common>) {
    let text = match common.kept.lease().await {
        Err(error) => error.to_string(),
        Ok(lease) => {
            let phase = tokio::select! {
                biased;
                () = lease.over().cancelled() => common.kept.phase(),
                phase = common.kept.unready() => phase,
            };
            farewell(&common.kept, phase)
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
    let _ = common.handle.disconnect(Disconnect::ByApplication, text.to_string(), String::new()).await;
}

fn farewell(kept: &Kept, phase: Phase) -> String {
    let id = kept.id();
    match phase {
        Phase::Deleting | Phase::Deleted => format!("box {id} was deleted"),
        Phase::Pausing
        | Phase::Paused
        | Phase::Stopping
        | Phase::Stopped
        | Phase::Resuming { .. }
        | Phase::Saving { .. } => format!("box {id} was paused"),
        Phase::Failed | Phase::Creating | Phase::Ready => match kept.failure() {
            Some(error) => format!("box {id} was lost: {error}"),
            None => format!("box {id} was lost"),
        },
    }
}
