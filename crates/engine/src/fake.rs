//! An engine in this process, for fast tests of what stands above engines: it isolates nothing and runs no programs.
//!
//! Its boxes speak the protocol of `boxyard-init` over streams in memory and know a few scripted programs, among them `echo`, `printf`,
//! `cat`, `env`, `yes N`, `exit N`, `sleep` (for ever) and `gate NAME` (until the test opens that gate). Interpreters (`sh -c`, `node`,
//! `python3`) take their text as such commands, separated by `;` or lines. A job outlives its connection as in a real box, so one
//! [`FakeEngine`] that is handed to two servers in turn shows what a restart does.
//!
//! Tests steer it: calls can be made to fail or to wait, and boxes to vanish.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use boxyard_proto::names::RUNTIMES;
use boxyard_proto::wire::FRAME_MAX;
use boxyard_proto::{BoxId, SnapshotId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Abilities, BoxSpec, Duplex, Engine, EngineError, ErrorKind, Observed, ObservedState, Saved, Usage};

mod job;
mod programs;
mod serve;

use job::Job;

/// Bytes that a connection holds in each direction.
const CONNECTION_BYTES: usize = FRAME_MAX;

/// The engine. Share it in an `Arc`.
#[derive(Default)]
pub struct FakeEngine {
    state: Mutex<State>,
    gates: Gates,
}

#[derive(Default)]
struct State {
    boxes: HashMap<BoxId, Arc<FakeBox>>,
    /// Failures of coming calls, the next first.
    failures: HashMap<Call, Vec<ErrorKind>>,
    /// Gates that calls wait for before they do anything.
    holds: HashMap<Call, String>,
    calls: Vec<(Call, BoxId)>,
}

/// A call of the engine that a test can steer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Engine::create`].
    Create,
    /// [`Engine::connect`].
    Connect,
    /// [`Engine::remove`].
    Remove,
}

/// A box: its jobs, and who must be told when it ends.
struct FakeBox {
    spec: BoxSpec,
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    folders: Mutex<BTreeSet<String>>,
    ended: CancellationToken,
    gates: Gates,
}

impl Drop for FakeBox {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// Named gates, closed until a test opens them; then open for good.
#[derive(Clone)]
struct Gates(Arc<watch::Sender<Passed>>);

#[derive(Default)]
struct Passed {
    open: BTreeSet<String>,
    /// How many have come to each gate.
    came: HashMap<String, usize>,
}

impl Default for Gates {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Passed::default())))
    }
}

impl Gates {
    async fn pass(&self, name: &str) {
        self.0.send_modify(|passed| *passed.came.entry(name.to_owned()).or_default() += 1);
        // The sender lives as long as this value does.
        let _ = self.0.subscribe().wait_for(|passed| passed.open.contains(name)).await;
    }
}

impl FakeEngine {
    /// An engine without boxes.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Lets the next call of this sort fail; several add up.
    pub fn fail_next(&self, call: Call, kind: ErrorKind) {
        self.lock().failures.entry(call).or_default().push(kind);
    }

    /// Lets all later calls of this sort wait at a gate, or no longer.
    pub fn hold(&self, call: Call, gate: Option<&str>) {
        let mut state = self.lock();
        match gate {
            Some(gate) => state.holds.insert(call, gate.to_owned()),
            None => state.holds.remove(&call),
        };
    }

    /// Opens a gate for all who wait at it and all who will come.
    pub fn open(&self, gate: &str) {
        self.gates.0.send_modify(|passed| {
            passed.open.insert(gate.to_owned());
        });
    }

    /// Waits until `count` calls or programs have come to a gate.
    pub async fn came_to(&self, gate: &str, count: usize) {
        let came = |passed: &Passed| passed.came.get(gate).is_some_and(|came| *came >= count);
        let _ = self.gates.0.subscribe().wait_for(came).await;
    }

    /// Makes a box vanish, as when its processes are killed from outside.
    pub fn lose(&self, id: &BoxId) {
        self.lock().boxes.remove(id);
    }

    /// Makes a box that nobody has a record of.
    pub fn plant(&self, spec: BoxSpec) {
        let id = spec.id.clone();
        let planted = self.new_box(spec);
        self.lock().boxes.insert(id, planted);
    }

    /// The boxes that exist.
    pub fn ids(&self) -> Vec<BoxId> {
        let mut ids: Vec<BoxId> = self.lock().boxes.keys().cloned().collect();
        ids.sort();
        ids
    }

    /// How a box was asked for.
    pub fn spec(&self, id: &BoxId) -> Option<BoxSpec> {
        self.lock().boxes.get(id).map(|found| found.spec.clone())
    }

    /// Names of the jobs of a box that have not ended.
    pub fn jobs(&self, id: &BoxId) -> Vec<String> {
        let Some(found) = self.lock().boxes.get(id).cloned() else { return Vec::new() };
        found.running()
    }

    /// Waits until a box has no running jobs.
    pub async fn idle(&self, id: &BoxId) {
        let Some(found) = self.lock().boxes.get(id).cloned() else { return };
        let jobs: Vec<Arc<Job>> = lock(&found.jobs).values().cloned().collect();
        for job in jobs {
            job.ended().await;
        }
    }

    /// Calls of this sort so far, for this box.
    pub fn calls(&self, call: Call, id: &BoxId) -> usize {
        self.lock().calls.iter().filter(|made| **made == (call, id.clone())).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn new_box(&self, spec: BoxSpec) -> Arc<FakeBox> {
        let folders = ["/", "/tmp", "/home/boxuser", "/workspace", "/workspace/home"];
        Arc::new(FakeBox {
            spec,
            jobs: Mutex::default(),
            folders: Mutex::new(folders.into_iter().map(str::to_owned).collect()),
            ended: CancellationToken::new(),
            gates: self.gates.clone(),
        })
    }

    async fn steer(&self, call: Call, id: &BoxId) -> Result<(), EngineError> {
        let (failure, hold) = {
            let mut state = self.lock();
            state.calls.push((call, id.clone()));
            let failure = state.failures.get_mut(&call).filter(|left| !left.is_empty()).map(|left| left.remove(0));
            (failure, state.holds.get(&call).cloned())
        };
        if let Some(gate) = hold {
            self.gates.pass(&gate).await;
        }
        match failure {
            Some(kind) => Err(EngineError::new(kind, format!("pretending to {call:?}").to_lowercase()).about(id)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for FakeEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeEngine").field("boxes", &self.ids()).finish_non_exhaustive()
    }
}

impl FakeBox {
    fn running(&self) -> Vec<String> {
        let jobs = lock(&self.jobs);
        let mut names: Vec<String> =
            jobs.iter().filter(|(_, job)| !job.has_ended()).map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn check_image(&self, name: &str) -> Result<(), Vec<String>> {
        if RUNTIMES.contains(&name) { Ok(()) } else { Err(RUNTIMES.map(str::to_owned).to_vec()) }
    }

    async fn create(&self, spec: &BoxSpec) -> Result<(), EngineError> {
        self.steer(Call::Create, &spec.id).await?;
        let made = self.new_box(spec.clone());
        self.lock().boxes.entry(spec.id.clone()).or_insert(made);
        Ok(())
    }

    async fn connect(&self, id: &BoxId) -> Result<Box<dyn Duplex>, EngineError> {
        self.steer(Call::Connect, id).await?;
        let found = self.lock().boxes.get(id).cloned();
        let found = found.ok_or_else(|| EngineError::new(ErrorKind::NotFound, "connecting to the box").about(id))?;
        let (ours, theirs) = tokio::io::duplex(CONNECTION_BYTES);
        let ended = found.ended.clone();
        let served = serve::serve(Arc::downgrade(&found), theirs);
        // Ends with the box, or with the connection.
        tokio::spawn(async move { ended.run_until_cancelled(served).await });
        Ok(Box::new(ours))
    }

    async fn pause(&self, id: &BoxId) -> Result<(), EngineError> {
        Err(EngineError::new(ErrorKind::Unsupported, "pausing a box").about(id))
    }

    async fn resume(&self, id: &BoxId) -> Result<(), EngineError> {
        Err(EngineError::new(ErrorKind::Unsupported, "resuming a box").about(id))
    }

    async fn save(&self, id: &BoxId, _into: &SnapshotId) -> Result<Saved, EngineError> {
        Err(EngineError::new(ErrorKind::Unsupported, "saving a box").about(id))
    }

    async fn remove(&self, id: &BoxId) -> Result<(), EngineError> {
        self.steer(Call::Remove, id).await?;
        self.lock().boxes.remove(id);
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<Observed>, EngineError> {
        let seen = self.ids().into_iter().map(|id| Observed { id, state: ObservedState::Running });
        Ok(seen.collect())
    }

    async fn usage(&self, id: &BoxId) -> Result<Usage, EngineError> {
        let found = self.lock().boxes.get(id).cloned();
        let found = found.ok_or_else(|| EngineError::new(ErrorKind::NotFound, "asking what a box uses").about(id))?;
        let pids = u64::try_from(found.running().len()).unwrap_or(u64::MAX).saturating_add(1);
        Ok(Usage { cpu_ns: 0, memory_bytes: 0, pids })
    }
}

/// What the locks guard is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
