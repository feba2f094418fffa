//! An engine in this process, for fast tests of what stands above engines: it isolates nothing and runs no programs.
//!
//! Its boxes speak the protocol of `boxyard-init` over streams in memory and know a few scripted programs, among them `echo`, `printf`,
//! `cat`, `env`, `yes N`, `exit N`, `sleep` (for ever) and `gate NAME` (until the test opens that gate). Interpreters (`sh -c`, `node`,
//! `python3`) take their text as such commands, separated by `;` or lines; a login shell takes lines of input as such. A job outlives its connection as in a real box, so one
//! [`FakeEngine`] that is handed to two servers in turn shows what a restart does.
//!
//! An interpreter that is to be a context's speaks the protocol of its drivers and knows a few words of code, some of which make it lie:
//! see `fake/context.rs`.
//!
//! A job that was started with `spool` holds its output until it is taken, as in a real box.
//!
//! Files are a tree in memory beside the programs, which do not see it; it outlives a stop, and is in no snapshot.
//!
//! A frozen box takes connections and answers none until it goes on; its programs, unlike real ones, go on meanwhile. A stopped one has
//! lost its jobs. What a box has of a disk is the folders in it, which snapshots keep.
//!
//! Tests steer it: calls can be made to fail or to wait, and boxes to vanish.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use boxyard_proto::names::RUNTIMES;
use boxyard_proto::wire::FRAME_MAX;
use boxyard_proto::{BoxId, SnapshotId};
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::archive::{ArchiveBytes, ArchiveLimits, ExportOrder, Exported, Imported};
use crate::{
    Abilities, BoxSpec, DiskRoom, Duplex, Engine, EngineError, ErrorKind, Observed, ObservedState, Resumed, Saved,
    Usage,
};

mod archive;
mod context;
mod files;
mod git;
mod job;
mod programs;
mod serve;
mod sockets;
mod spooled;

pub use files::Lie;

use files::Tree;
use job::Job;

/// Bytes that a connection holds in each direction.
const CONNECTION_BYTES: usize = FRAME_MAX;

/// What every fake snapshot is said to hold.
const SNAPSHOT_BYTES: u64 = 4096;

/// The room there is for disks unless a test says otherwise: a petabyte, all of it free.
const DISK_ROOM: DiskRoom = DiskRoom { bytes: 1 << 50, left: 1 << 50 };

/// The engine. Share it in an `Arc`.
#[derive(Default)]
pub struct FakeEngine {
    state: Mutex<State>,
    gates: Gates,
}

#[derive(Default)]
struct State {
    boxes: HashMap<BoxId, Arc<FakeBox>>,
    /// Boxes that do not run, and whether they are frozen or stopped.
    paused: HashMap<BoxId, ObservedState>,
    /// What was saved: folders.
    snapshots: BTreeMap<SnapshotId, BTreeSet<String>>,
    /// Bytes that archives are filled with.
    filling: usize,
    /// Failures of coming calls, the next first.
    failures: HashMap<Call, Vec<ErrorKind>>,
    /// Gates that calls wait for before they do anything.
    holds: HashMap<Call, String>,
    calls: Vec<(Call, BoxId)>,
    /// What boxes are said to use.
    usages: HashMap<BoxId, Usage>,
    /// What there is said to be for disks, where a test has said it.
    disk_room: Option<DiskRoom>,
    /// How often boxes have run out of memory.
    oom_kills: HashMap<BoxId, u64>,
}

/// A call of the engine that a test can steer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Engine::create`].
    Create,
    /// [`Engine::connect`].
    Connect,
    /// [`Engine::pause`].
    Pause,
    /// [`Engine::stop`].
    Stop,
    /// [`Engine::resume`].
    Resume,
    /// [`Engine::save`].
    Save,
    /// [`Engine::export`].
    Export,
    /// [`Engine::import`], when the archive has been read.
    Import,
    /// [`Engine::remove`].
    Remove,
    /// [`Engine::usage`].
    Usage,
}

/// A box: its jobs, and who must be told when it ends.
struct FakeBox {
    spec: BoxSpec,
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    folders: Mutex<BTreeSet<String>>,
    /// What the files part of `boxyard-init` sees of it.
    tree: Arc<Tree>,
    ended: CancellationToken,
    /// Whether connections are answered.
    awake: watch::Sender<bool>,
    gates: Gates,
    sockets: sockets::Sockets,
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

    /// Says how much room there is for disks from now on.
    pub fn set_disk_room(&self, room: DiskRoom) {
        self.lock().disk_room = Some(room);
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

    /// Makes a box vanish with its disk.
    pub fn lose(&self, id: &BoxId) {
        let mut state = self.lock();
        if let Some(lost) = state.boxes.remove(id) {
            lost.ended.cancel();
        }
        state.paused.remove(id);
    }

    /// Says what a box uses from now on.
    pub fn use_up(&self, id: &BoxId, usage: Usage) {
        self.lock().usages.insert(id.clone(), usage);
    }

    /// Says that the kernel has ended so many processes of a box for want of memory since the box was started.
    pub fn run_out_of_memory(&self, id: &BoxId, kills: u64) {
        self.lock().oom_kills.insert(id.clone(), kills);
    }

    /// Kills a box's first process: its disk is there, its processes are not, and nobody is left to say how they ended.
    pub fn kill(&self, id: &BoxId) {
        let Some(found) = self.lock().boxes.get(id).cloned() else { return };
        self.lock().paused.insert(id.clone(), ObservedState::Stopped);
        found.ended.cancel();
    }

    /// Lets a box stand as after the host was restarted: its disk is there and its processes are not.
    pub fn halt(&self, id: &BoxId) {
        let Some(found) = self.lock().boxes.get(id).cloned() else { return };
        self.lock().paused.insert(id.clone(), ObservedState::Stopped);
        found.ended.cancel();
        lock(&found.jobs).clear();
    }

    /// Freezes a box, or lets it go on, behind the server's back.
    pub fn set_frozen(&self, id: &BoxId, frozen: bool) {
        let Some(found) = self.lock().boxes.get(id).cloned() else { return };
        if frozen {
            self.lock().paused.insert(id.clone(), ObservedState::Frozen);
        } else {
            self.lock().paused.remove(id);
        }
        found.awake.send_replace(!frozen);
    }

    /// What there is of a box, if anything.
    pub fn state(&self, id: &BoxId) -> Option<ObservedState> {
        let state = self.lock();
        state.boxes.contains_key(id).then(|| state.paused.get(id).copied().unwrap_or(ObservedState::Running))
    }

    /// Makes a box that nobody has a record of.
    pub fn plant(&self, spec: BoxSpec) {
        let id = spec.id.clone();
        let planted = self.new_box(spec, None, None);
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

    /// Connects, as a program in the box would, to what listens there at this port or path.
    pub async fn connect_in(&self, id: &BoxId, at: &str) -> Option<DuplexStream> {
        let found = self.lock().boxes.get(id).cloned()?;
        found.sockets.connect(at).await
    }

    /// Lets the files part of `boxyard-init` in a box lie from now on, or no longer.
    pub fn lie_about_files(&self, id: &BoxId, lie: Option<Lie>) {
        if let Some(found) = self.lock().boxes.get(id) {
            found.tree.set_lie(lie);
        }
    }

    /// Calls of this sort so far, for this box.
    pub fn calls(&self, call: Call, id: &BoxId) -> usize {
        self.lock().calls.iter().filter(|made| **made == (call, id.clone())).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn new_box(&self, spec: BoxSpec, folders: Option<BTreeSet<String>>, tree: Option<Arc<Tree>>) -> Arc<FakeBox> {
        let of_image = ["/", "/tmp", "/home/boxuser", "/workspace", "/workspace/home"];
        Arc::new(FakeBox {
            spec,
            jobs: Mutex::default(),
            folders: Mutex::new(folders.unwrap_or_else(|| of_image.into_iter().map(str::to_owned).collect())),
            tree: tree.unwrap_or_default(),
            ended: CancellationToken::new(),
            awake: watch::Sender::new(true),
            gates: self.gates.clone(),
            sockets: sockets::Sockets::default(),
        })
    }

    fn find(&self, id: &BoxId, doing: &str) -> Result<Arc<FakeBox>, EngineError> {
        let found = self.lock().boxes.get(id).cloned();
        found.ok_or_else(|| EngineError::new(ErrorKind::NotFound, doing).about(id))
    }

    /// Starts a stopped box again: the same folders, and nothing that ran.
    fn restart(&self, found: &FakeBox) {
        let folders = lock(&found.folders).clone();
        let id = found.spec.id.clone();
        let started = self.new_box(found.spec.clone(), Some(folders), Some(Arc::clone(&found.tree)));
        let mut state = self.lock();
        state.paused.remove(&id);
        state.boxes.insert(id, started);
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
        Abilities { pause: true, save: true, disk_limit: true }
    }

    fn check_image(&self, name: &str) -> Result<(), Vec<String>> {
        if RUNTIMES.contains(&name) { Ok(()) } else { Err(RUNTIMES.map(str::to_owned).to_vec()) }
    }

    async fn create(&self, spec: &BoxSpec) -> Result<(), EngineError> {
        self.steer(Call::Create, &spec.id).await?;
        let there = self.lock().boxes.get(&spec.id).cloned();
        if let Some(there) = there {
            if self.lock().paused.get(&spec.id) == Some(&ObservedState::Stopped) {
                self.restart(&there);
            }
            return Ok(());
        }
        let folders = match &spec.from {
            Some(from) => {
                let saved = self.lock().snapshots.get(from).cloned();
                Some(
                    saved
                        .ok_or_else(|| EngineError::new(ErrorKind::NotFound, "finding the snapshot").about(&spec.id))?,
                )
            }
            None => None,
        };
        let made = self.new_box(spec.clone(), folders, None);
        self.lock().boxes.entry(spec.id.clone()).or_insert(made);
        Ok(())
    }

    async fn connect(&self, id: &BoxId) -> Result<Box<dyn Duplex>, EngineError> {
        self.steer(Call::Connect, id).await?;
        let found = self.find(id, "connecting to the box")?;
        if self.lock().paused.get(id) == Some(&ObservedState::Stopped) {
            return Err(EngineError::new(ErrorKind::NotFound, "connecting to the box").about(id));
        }
        let (ours, theirs) = tokio::io::duplex(CONNECTION_BYTES);
        let ended = found.ended.clone();
        let (home, mut awake) = (Arc::downgrade(&found), found.awake.subscribe());
        let served = async move {
            // Fails with the box, and then there is nobody to serve.
            if awake.wait_for(|awake| *awake).await.is_ok() {
                serve::serve(home, theirs).await;
            }
        };
        // Ends with the box, or with the connection.
        tokio::spawn(async move { ended.run_until_cancelled(served).await });
        Ok(Box::new(ours))
    }

    async fn ended(&self, id: &BoxId) -> Result<(), EngineError> {
        let ended = {
            let state = self.lock();
            let stopped = state.paused.get(id) == Some(&ObservedState::Stopped);
            state.boxes.get(id).filter(|_| !stopped).map(|found| found.ended.clone())
        };
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
        Ok(())
    }

    async fn pause(&self, id: &BoxId) -> Result<(), EngineError> {
        self.steer(Call::Pause, id).await?;
        let found = self.find(id, "pausing the box")?;
        let mut state = self.lock();
        state.paused.entry(id.clone()).or_insert(ObservedState::Frozen);
        found.awake.send_replace(false);
        Ok(())
    }

    async fn stop(&self, id: &BoxId) -> Result<(), EngineError> {
        self.steer(Call::Stop, id).await?;
        let found = self.find(id, "stopping the box")?;
        self.lock().paused.insert(id.clone(), ObservedState::Stopped);
        found.ended.cancel();
        lock(&found.jobs).clear();
        Ok(())
    }

    async fn resume(&self, id: &BoxId) -> Result<Resumed, EngineError> {
        self.steer(Call::Resume, id).await?;
        let found = self.find(id, "resuming the box")?;
        if self.lock().paused.get(id) == Some(&ObservedState::Stopped) {
            self.restart(&found);
            return Ok(Resumed::Started);
        }
        self.lock().paused.remove(id);
        found.awake.send_replace(true);
        Ok(Resumed::Thawed)
    }

    async fn save(&self, id: &BoxId, into: &SnapshotId) -> Result<Saved, EngineError> {
        self.steer(Call::Save, id).await?;
        let found = self.find(id, "saving the box")?;
        let folders = lock(&found.folders).clone();
        self.lock().snapshots.entry(into.clone()).or_insert(folders);
        Ok(Saved { size_bytes: SNAPSHOT_BYTES })
    }

    async fn save_once(&self, id: &BoxId, into: &SnapshotId) -> Result<Saved, EngineError> {
        self.save(id, into).await
    }

    async fn drop_snapshot(&self, id: &SnapshotId) -> Result<(), EngineError> {
        self.lock().snapshots.remove(id);
        Ok(())
    }

    async fn snapshots(&self) -> Result<Vec<SnapshotId>, EngineError> {
        Ok(self.lock().snapshots.keys().cloned().collect())
    }

    async fn export(&self, id: &SnapshotId, order: &ExportOrder) -> Result<Exported, EngineError> {
        self.pack(id, order).await
    }

    async fn import(
        &self,
        into: &SnapshotId,
        archive: ArchiveBytes,
        limits: &ArchiveLimits,
    ) -> Result<Imported, EngineError> {
        self.unpack(into, archive, limits).await
    }

    async fn remove(&self, id: &BoxId) -> Result<(), EngineError> {
        self.steer(Call::Remove, id).await?;
        self.lose(id);
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<Observed>, EngineError> {
        let state = self.lock();
        let seen = |(id, found): (&BoxId, &Arc<FakeBox>)| Observed {
            id: id.clone(),
            state: state.paused.get(id).copied().unwrap_or(ObservedState::Running),
            limits: Some(found.spec.limits),
        };
        Ok(state.boxes.iter().map(seen).collect())
    }

    async fn disk_room(&self) -> Result<DiskRoom, EngineError> {
        Ok(self.lock().disk_room.unwrap_or(DISK_ROOM))
    }

    async fn usage(&self, id: &BoxId) -> Result<Usage, EngineError> {
        self.steer(Call::Usage, id).await?;
        let found = self.find(id, "asking what a box uses")?;
        if let Some(usage) = self.lock().usages.get(id) {
            return Ok(*usage);
        }
        let pids = u64::try_from(found.running().len()).unwrap_or(u64::MAX).saturating_add(1);
        let oom_kills = self.lock().oom_kills.get(id).copied().unwrap_or_default();
        Ok(Usage { pids, oom_kills, ..Usage::default() })
    }
}

/// What the locks guard is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
