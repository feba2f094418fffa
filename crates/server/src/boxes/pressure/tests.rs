//! Relief on the engine in memory, on a host whose memory the test makes up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use boxyard_engine::ObservedState;
use boxyard_engine::fake::{Call, FakeEngine};
use boxyard_engine::{Engine, ErrorKind};
use boxyard_proto::AccountId;
use tempfile::TempDir;

use super::super::{Boxes, NewBox};
use super::*;
use crate::config::{Config, Flags};
use crate::metrics::Metrics;
use crate::store::{Account, Store, StoreOptions};

const FLOOR: u64 = 1000;

/// A host that is short of memory until so many boxes are stopped.
struct Scripted {
    engine: Arc<FakeEngine>,
    needs: Arc<AtomicUsize>,
}

impl HostMemory for Scripted {
    fn available(&self) -> io::Result<u64> {
        let stopped = |id: &boxyard_proto::BoxId| self.engine.state(id) == Some(ObservedState::Stopped);
        let stopped = self.engine.ids().iter().filter(|id| stopped(id)).count();
        Ok(if stopped >= self.needs.load(Ordering::SeqCst) { FLOOR } else { FLOOR - 1 })
    }
}

struct World {
    _folder: TempDir,
    engine: Arc<FakeEngine>,
    needs: Arc<AtomicUsize>,
    boxes: Boxes,
    account: AccountId,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("test.db"), StoreOptions::default()).await.expect("open a store");
        let account = AccountId::from_entropy(1);
        let row = Account { id: account.clone(), name: "default".into(), created_at: 1 };
        store.insert_account(row).await.expect("add the account");
        let nothing = BTreeMap::new();
        let config = Config::load(&Flags::default(), &nothing, &BTreeMap::new(), Path::new("/bin/boxyard"));
        let config = Config { pause_memory_floor: FLOOR, ..config.expect("the default configuration") };
        let (engine, needs) = (FakeEngine::new(), Arc::new(AtomicUsize::new(0)));
        let host = Box::new(Scripted { engine: Arc::clone(&engine), needs: Arc::clone(&needs) });
        let metrics = Arc::new(Metrics::new(store.clone()));
        let boxes = Boxes::on_host(&config, Arc::clone(&engine) as Arc<dyn Engine>, store, metrics, host);
        boxes.recover().await.expect("nothing to recover");
        Self { _folder: folder, engine, needs, boxes, account }
    }

    async fn ready_box(&self) -> Kept {
        let new = NewBox::check(None, Vec::new(), None, None, BTreeMap::new()).expect("all defaults");
        let kept = self.boxes.create(&self.account, new).await.expect("create");
        kept.made(Duration::from_secs(20)).await;
        kept
    }

    async fn paused_boxes<const N: usize>(&self) -> [Kept; N] {
        let mut paused = Vec::new();
        for _ in 0..N {
            let kept = self.ready_box().await;
            kept.pause().await.expect("pause");
            paused.push(kept);
        }
        paused.try_into().expect("so many")
    }

    fn relieved(&self) -> u64 {
        self.boxes.yard.metrics.relieved.get()
    }
}

async fn stopped(kept: &Kept) {
    let mut states = kept.shared.state.subscribe();
    states.wait_for(|state| state.phase == Phase::Stopped).await.expect("the keeper lives");
}

#[tokio::test]
async fn the_boxes_paused_longest_are_stopped_until_there_is_enough() {
    let world = World::new().await;
    let [first, second, third] = world.paused_boxes().await;
    let running = world.ready_box().await;
    first.resume().await.expect("resume");
    first.pause().await.expect("pause again");
    world.needs.store(2, Ordering::SeqCst);
    world.boxes.yard.relief.relieve(&CancellationToken::new()).await;
    assert_eq!([&first, &second, &third].map(Kept::phase), [Phase::Paused, Phase::Stopped, Phase::Stopped]);
    assert_eq!((running.phase(), world.relieved()), (Phase::Ready, 2));
    let log = world.boxes.logs(&second, 0, 100).await.expect("the log");
    let told = log.iter().filter(|line| line.message.contains("stopped: the host was short of memory")).count();
    assert_eq!(told, 1, "{log:?}");
    second.lease().await.expect("work starts it anew");
}

#[tokio::test]
async fn a_box_that_is_frozen_on_a_host_that_is_short_already_is_stopped_at_once() {
    let world = World::new().await;
    world.needs.store(1, Ordering::SeqCst);
    let [kept] = world.paused_boxes().await;
    stopped(&kept).await;
    assert_eq!(world.relieved(), 1);
}

#[tokio::test]
async fn a_box_that_cannot_be_stopped_does_not_keep_others_from_being_stopped() {
    let world = World::new().await;
    let [first, second] = world.paused_boxes().await;
    world.engine.fail_next(Call::Stop, ErrorKind::Broken);
    world.needs.store(1, Ordering::SeqCst);
    world.boxes.yard.relief.has_frozen();
    stopped(&second).await;
    assert_eq!((first.phase(), world.relieved()), (Phase::Paused, 1));
}

#[tokio::test]
async fn a_box_that_is_resumed_in_time_keeps_what_it_has() {
    let world = World::new().await;
    let [kept] = world.paused_boxes().await;
    let _lease = kept.lease().await.expect("a lease");
    assert!(!kept.relieve().await, "it is not paused any more");
    assert_eq!((kept.phase(), world.engine.calls(Call::Stop, kept.id())), (Phase::Ready, 0));
}
