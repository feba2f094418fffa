//! An engine of its own for each test, with everything it made on the host accounted for at the end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use boxyard_proto::wire::{Exec, User};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::agent::{self, Event};
use crate::images::archive::{Stored, Unpacking};
use crate::images::{BuildProgress, Image, Images, ImagesConfig, Kept, LayerRunner};
use crate::local::{Cidr, ImageSource, LocalConfig, LocalEngine, StorageChoice};
use crate::{BoxSpec, Engine, EngineError, Limits};
use boxyard_proto::BoxId;

pub(super) const LIMITS: Limits = Limits { cpu_millis: 2000, memory_bytes: 256 << 20, pids: 128, disk_bytes: 1 << 30 };

/// An engine with a data folder and a network of its own.
pub(super) struct Yard {
    pub(super) engine: LocalEngine,
    pub(super) config: LocalConfig,
    // Before the folder: it unmounts what is in there.
    _after_failure: AfterFailure,
    data: TempDir,
}

/// Takes a failed test's things from the host, so that they harm neither the next test nor the machine.
struct AfterFailure {
    tag: String,
    data: PathBuf,
}

impl Drop for AfterFailure {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let script = "for g in /sys/fs/cgroup/*/boxyard-$TAG/*/; do echo 1 > $g/cgroup.kill; done
            for n in 1 2 3 4 5 6 7 8 9; do find /sys/fs/cgroup/*/boxyard-$TAG -depth -type d -exec rmdir {} + && break; sleep 0.1; done
            umount -l $DATA/pool
            nft delete table inet boxyard_$TAG
            ip -o addr show label lo:by$TAG | while read a b c d e; do ip addr del $d dev lo; done
            rm -rf /run/boxyard-$TAG";
        let _ = Command::new("sh")
            .args(["-c", script])
            .env("TAG", &self.tag)
            .env("DATA", &self.data)
            .stderr(Stdio::null())
            .status();
    }
}

/// What a command in a box did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Yard {
    pub(super) async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    pub(super) async fn open_with(change: impl FnOnce(&mut LocalConfig)) -> Self {
        let data = tempfile::tempdir_in(target()).unwrap();
        let mut config = LocalConfig::new(data.path().join("data"), init_program(), ImagesConfig::default());
        config.storage = StorageChoice::Dir;
        change(&mut config);
        loop {
            // One of the 512 small ranges in the default one, so that tests can run beside each other.
            let index: u32 = rand::random_range(0..512);
            let first = u32::from_be_bytes([198, 18, 0, 0]) + index * 256;
            config.network_range = Cidr::new(first.into(), 24);
            match open(config.clone()).await {
                Ok(engine) => return Self::of(engine, config, data),
                Err(text) if text.contains("another network range") => {}
                Err(text) => panic!("{text}"),
            }
        }
    }

    /// With a pool of two gigabytes, of which only what is written is on the disk.
    pub(super) async fn with_pool() -> Self {
        Self::with(StorageChoice::Btrfs).await
    }

    /// With this storage.
    pub(super) async fn with(storage: StorageChoice) -> Self {
        Self::open_with(|config| {
            config.storage = storage;
            config.pool_size = Some(2 << 30);
        })
        .await
    }

    /// Like [`open_with`](Self::open_with), with images as a server has them instead of the small Debian.
    pub(super) async fn open_images(change: impl FnOnce(&mut LocalConfig)) -> Self {
        let Self { engine, mut config, data, .. } = Self::open_with(|_| {}).await;
        // The range is known to be free.
        drop(engine);
        change(&mut config);
        let engine = LocalEngine::open(config.clone()).await.map_err(explain).unwrap();
        Self::of(engine, config, data)
    }

    /// Ends the server and starts another on the same data folder.
    pub(super) async fn reopen(self) -> Self {
        self.reopen_with(|_| {}).await
    }

    /// The same with another configuration.
    pub(super) async fn reopen_with(self, change: impl FnOnce(&mut LocalConfig)) -> Self {
        self.reopen_after(async |_, _| {}, change).await
    }

    /// The same, with something done in between.
    pub(super) async fn reopen_after(
        self,
        between: impl AsyncFnOnce(&LocalConfig, &str),
        change: impl FnOnce(&mut LocalConfig),
    ) -> Self {
        let tag = self.tag();
        let Self { engine, mut config, data, .. } = self;
        drop(engine);
        let _after_failure = AfterFailure { tag: tag.clone(), data: config.data_dir.clone() };
        between(&config, &tag).await;
        change(&mut config);
        Self::of(open(config.clone()).await.unwrap(), config, data)
    }

    fn of(engine: LocalEngine, config: LocalConfig, data: TempDir) -> Self {
        let tag = engine.host.instance.tag().to_owned();
        let after_failure = AfterFailure { tag, data: config.data_dir.clone() };
        Self { engine, config, data, _after_failure: after_failure }
    }

    pub(super) async fn make(&self) -> BoxId {
        self.make_limited(LIMITS).await
    }

    pub(super) async fn make_limited(&self, limits: Limits) -> BoxId {
        let spec = spec(limits);
        self.engine.create(&spec).await.map_err(explain).unwrap();
        spec.id
    }

    /// Runs a shell script in the box, as its root.
    pub(super) async fn sh(&self, id: &BoxId, script: &str) -> Done {
        sh(&self.engine, id, script).await.unwrap_or_else(|error| panic!("{script}: {error:?}"))
    }

    /// Waits for the kernel to take the links of dead boxes away.
    pub(super) async fn links_gone(&self) {
        let gone = async {
            while traces(&self.tag())["links"] > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.expect("links go with their boxes");
    }

    pub(super) fn tag(&self) -> String {
        self.engine.host.instance.tag().to_owned()
    }

    /// Removes all boxes, closes the engine and asserts that the host has nothing of it any more.
    pub(super) async fn close(self) {
        for observed in self.engine.observe().await.unwrap() {
            self.engine.remove(&observed.id).await.map_err(explain).unwrap();
        }
        for snapshot in self.engine.snapshots().await.unwrap() {
            self.engine.drop_snapshot(&snapshot).await.map_err(explain).unwrap();
        }
        for storage in self.engine.host.storages.all() {
            assert_eq!(storage.names().unwrap(), [Vec::<String>::new(), Vec::new()]);
        }
        self.links_gone().await;
        let traces = traces(&self.tag());
        assert_eq!(traces, BTreeMap::from([("cgroups", 0), ("links", 0), ("processes", 0), ("sockets", 0)]));
        let tag = self.tag();
        self.engine.close().await.map_err(explain).unwrap();
        assert!(!Path::new(&format!("/run/boxyard-{tag}")).exists());
        let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&tables.stdout).contains(&tag));
        let left = |name: &str| fs::read_dir(self.data.path().join("data").join(name)).unwrap().count();
        assert_eq!((left("boxes"), left("snapshots"), left("trash")), (0, 0, 0));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.data.path().to_str().unwrap()), "{mounts}");
    }
}

pub(super) async fn sh(engine: &LocalEngine, id: &BoxId, script: &str) -> Result<Done, agent::AgentError> {
    let argv = vec!["/bin/sh".into(), "-c".into(), script.into()];
    let exec = Exec::new(format!("{:032x}", rand::random::<u128>()), argv, "/", User::ROOT);
    let mut job = agent::exec(engine, id, exec).await?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match job.next().await? {
            Event::Out(bytes) => out.extend_from_slice(&bytes),
            Event::Err(bytes) => err.extend_from_slice(&bytes),
            Event::Exit(exit) => {
                let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                return Ok(Done { code: exit.code, out: text(out), err: text(err) });
            }
        }
    }
}

pub(super) fn spec(limits: Limits) -> BoxSpec {
    let env = BTreeMap::from([("GREETING".to_owned(), "hello from the spec".to_owned())]);
    BoxSpec { id: BoxId::from_entropy(rand::random()), image: "tree".into(), limits, env, from: None }
}

/// Counts what an instance has on the host, by kind: boxes' groups, links, processes in them, sockets.
pub(super) fn traces(tag: &str) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::from([("cgroups", 0), ("links", 0), ("processes", 0), ("sockets", 0)]);
    let mut count = |kind, number| *counts.entry(kind).or_default() += number;
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
        let base = hierarchy.unwrap().path().join(format!("boxyard-{tag}"));
        for group in
            fs::read_dir(base).into_iter().flatten().filter_map(Result::ok).filter(|group| group.path().is_dir())
        {
            count("cgroups", 1);
            let members = fs::read_to_string(group.path().join("cgroup.procs")).unwrap_or_default();
            count("processes", members.lines().count());
        }
    }
    let prefix = format!("by{tag}-");
    let links = fs::read_dir("/sys/class/net").unwrap();
    count(
        "links",
        links.filter(|link| link.as_ref().unwrap().file_name().to_string_lossy().starts_with(&prefix)).count(),
    );
    let run = fs::read_dir(format!("/run/boxyard-{tag}")).into_iter().flatten();
    count(
        "sockets",
        run.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|ext| ext == "sock")).count(),
    );
    counts
}

/// The error and all that is underneath.
pub(super) fn explain(error: EngineError) -> String {
    let mut text = format!("{:?}: {error}", error.kind);
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

pub(super) async fn open(config: LocalConfig) -> Result<LocalEngine, String> {
    let images = |folder: &Path, config| {
        Ok(Arc::new(Tree { layer: tree(), images: Images::open(folder, config)? }) as Arc<dyn ImageSource>)
    };
    LocalEngine::open_with(config, images).await.map_err(explain)
}

/// The only image: a small Debian. And what came with snapshots.
#[derive(Debug)]
struct Tree {
    layer: PathBuf,
    images: Images,
}

#[async_trait]
impl ImageSource for Tree {
    fn find(&self, name: &str) -> Result<Option<Image>, EngineError> {
        assert_eq!(name, "tree");
        let env = BTreeMap::from([("OF_THE_IMAGE".to_owned(), "yes".to_owned())]);
        Ok(Some(Image { layers: vec![self.layer.clone()], env }))
    }

    async fn ensure(&self, _name: &str, _runner: &dyn LayerRunner) -> Result<Image, EngineError> {
        unreachable!("it is found")
    }

    async fn keep(&self) -> Result<Option<Kept>, EngineError> {
        self.images.keep().await.map(Some)
    }

    async fn take_in(&self, layer: Stored, runtime: &str, unpacking: &Unpacking) -> Result<PathBuf, EngineError> {
        self.images.take_in(layer, runtime, unpacking).await
    }

    fn is_imported(&self, layer: &Path) -> bool {
        self.images.is_imported(layer)
    }

    fn release(&self) -> Result<(), EngineError> {
        self.images.release().map(drop)
    }

    fn progress(&self) -> watch::Receiver<Option<BuildProgress>> {
        watch::channel(None).1
    }
}

fn target() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    fs::canonicalize(target).expect("cargo has made its folder")
}

pub(super) fn init_program() -> PathBuf {
    let program = match std::env::var_os("BOXYARD_INIT") {
        Some(program) => program.into(),
        None => target().join("x86_64-unknown-linux-gnu/debug/boxyard-init"),
    };
    assert!(program.exists(), "{} is missing: cargo build -p boxyard-init", program.display());
    program
}

/// A small Debian tree with Python, from the host's own mirror; made by the first test that wants it.
pub(super) fn tree() -> PathBuf {
    let folder = target().join("test-trees");
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let tree = folder.join("trixie");
    if !tree.exists() {
        let draft = folder.join("trixie.new");
        let _ = fs::remove_dir_all(&draft);
        let packages = "--include=python3-minimal,iproute2,iputils-ping,procps,curl,ca-certificates";
        let made =
            Command::new("mmdebstrap").args(["--quiet", "--variant=minbase", packages, "trixie"]).arg(&draft).status();
        assert!(made.expect("mmdebstrap is installed").success(), "mmdebstrap failed");
        fs::rename(&draft, &tree).unwrap();
    }
    tree
}
