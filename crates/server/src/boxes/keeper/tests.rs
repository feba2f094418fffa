//! The keeper on the engine in memory.

use std::collections::BTreeMap;
use std::path::Path;

use boxyard_engine::fake::{Call, FakeEngine};
use boxyard_proto::AccountId;
use boxyard_proto::api::snapshots::SnapshotStatus;
use futures_util::FutureExt;
use tempfile::TempDir;

use super::super::{Boxes, NewBox};
use super::*;
use crate::config::{Config, Flags};
use crate::metrics::Metrics;
use crate::store::{Account, Store, StoreOptions};

struct World {
    _folder: TempDir,
    engine: Arc<FakeEngine>,
    store: Store,
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
        let config = config.expect("the default configuration");
        let engine = FakeEngine::new();
        let metrics = Arc::new(Metrics::new(store.clone()));
        let boxes = Boxes::new(&config, Arc::clone(&engine) as _, store.clone(), metrics);
        Self { _folder: folder, engine, store, boxes, account }
    }

    async fn ready_box(&self) -> Kept {
        let new = NewBox::check(None, Vec::new(), None, None, BTreeMap::new()).expect("all defaults");
        let kept = self.boxes.create(&self.account, new).await.expect("create");
        kept.made(Duration::from_secs(20)).await;
        assert_eq!(kept.phase(), Phase::Ready);
        kept
    }
}

#[tokio::test]
async fn an_engine_that_cannot_pause_leaves_the_box_ready() {
    let world = World::new().await;
    let kept = world.ready_box().await;
    let held = kept.lease().await.expect("a lease");
    kept.want(Wanted::Pause).await.expect("the request is taken");
    // Work that comes meanwhile waits until it is decided.
    let lease = kept.lease().await.expect("a lease");
    assert_eq!(kept.phase(), Phase::Ready);
    assert!(!held.over().is_cancelled() && !lease.over().is_cancelled());
}

#[tokio::test]
async fn a_phase_that_cannot_be_stored_is_not_entered() {
    let world = World::new().await;
    let kept = world.ready_box().await;
    let lease = kept.lease().await.expect("a lease");
    world.store.close().await;
    assert!(matches!(kept.want(Wanted::Delete).await, Err(BoxError::Store(StoreError::Closed))));
    assert_eq!(kept.phase(), Phase::Ready);
    assert!(!lease.over().is_cancelled());
    kept.lease().await.expect("the gate is open again");
    assert_eq!(world.engine.calls(Call::Remove, kept.id()), 0, "store first, act second");
}

#[tokio::test]
async fn no_lease_is_given_once_deletion_has_begun() {
    let world = World::new().await;
    let kept = world.ready_box().await;
    let lease = kept.lease().await.expect("a lease");
    world.engine.hold(Call::Remove, Some("removal"));
    kept.want(Wanted::Delete).await.expect("delete");
    assert!(lease.over().is_cancelled());
    assert!(matches!(kept.lease().await, Err(BoxError::NotFound)));
    assert!(matches!(world.boxes.find(&world.account, kept.id().as_str()), Err(BoxError::NotFound)));
    kept.want(Wanted::Delete).await.expect("asking again changes nothing");
    world.engine.came_to("removal", 1).await;
    assert_eq!(world.engine.calls(Call::Remove, kept.id()), 1);
}

#[tokio::test]
async fn a_failed_removal_is_tried_again() {
    let world = World::new().await;
    let kept = world.ready_box().await;
    world.engine.fail_next(Call::Remove, ErrorKind::Broken);
    let mut states = kept.shared.state.subscribe();
    kept.want(Wanted::Delete).await.expect("delete");
    states.wait_for(|state| state.phase == Phase::Deleted).await.expect("the keeper goes on");
    assert_eq!(world.engine.calls(Call::Remove, kept.id()), 2);
    assert!(world.engine.ids().is_empty());
}

#[tokio::test]
async fn a_paused_box_is_saved_and_stays_paused() {
    let world = World::new().await;
    let kept = world.ready_box().await;
    kept.want(Wanted::Pause).await.expect("pause");
    // Asked for while the box is being paused: its turn comes after that.
    let made = world.boxes.snapshot(&kept, None, Duration::from_secs(20)).await.expect("a snapshot");
    assert_eq!((made.status, kept.phase()), (SnapshotStatus::Ready, Phase::Paused));
    assert_eq!(world.engine.calls(Call::Resume, kept.id()), 0);
}

#[tokio::test]
async fn what_is_wanted_of_a_box_that_is_being_saved_waits_or_is_told_so() {
    let world = World::new().await;
    let kept = world.ready_box().await;
    world.engine.hold(Call::Save, Some("save"));
    let held = kept.lease().await.expect("a lease");
    let saving = tokio::spawn({
        let (boxes, kept) = (world.boxes.clone(), kept.clone());
        async move { boxes.snapshot(&kept, None, Duration::from_secs(20)).await }
    });
    world.engine.came_to("save", 1).await;
    assert!(matches!(kept.want(Wanted::Pause).await, Err(BoxError::Busy)));
    assert!(kept.lease().now_or_never().is_none() && !held.over().is_cancelled());
    world.engine.open("save");
    saving.await.expect("no panic").expect("a snapshot");
    assert!(
        kept.lease().now_or_never().is_some_and(|lease| lease.is_ok()),
        "who is told of the snapshot can go on at once"
    );
    kept.want(Wanted::Pause).await.expect("pause");
}
