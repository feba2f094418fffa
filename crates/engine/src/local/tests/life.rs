//! Making, using, finding again and removing boxes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use boxyard_proto::BoxId;
use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::yard::{LIMITS, Yard, explain, sh, spec, traces};
use crate::{Engine, ErrorKind, Observed, ObservedState};

#[tokio::test(flavor = "multi_thread")]
async fn a_box_is_made_used_and_removed() {
    let yard = Yard::open().await;
    let id = yard.make().await;
    let done = yard
        .sh(&id, "echo $GREETING $OF_THE_IMAGE $PATH; hostname; cat /etc/hostname; id -u; echo oops >&2; exit 3")
        .await;
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(done.out, format!("hello from the spec yes {path}\n{id}\n{id}\n0\n"));
    assert_eq!((done.err.as_str(), done.code), ("oops\n", 3));

    let observed = yard.engine.observe().await.unwrap();
    assert_eq!(observed.iter().map(|one| (&one.id, one.state)).collect::<Vec<_>>(), [(&id, ObservedState::Running)]);
    let usage = yard.engine.usage(&id).await.unwrap();
    assert!(usage.cpu_ns > 0 && usage.memory_bytes > 0 && usage.pids > 0, "{usage:?}");

    yard.engine.remove(&id).await.map_err(explain).unwrap();
    assert_eq!(yard.engine.observe().await.unwrap(), []);
    assert_eq!(yard.engine.connect(&id).await.err().map(|error| error.kind), Some(ErrorKind::NotFound));
    assert_eq!(yard.engine.usage(&id).await.unwrap_err().kind, ErrorKind::NotFound);
    yard.engine.remove(&id).await.map_err(explain).expect("removing again is fine");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_again_changes_nothing_that_runs() {
    let yard = Yard::open().await;
    let spec = spec(LIMITS);
    yard.engine.create(&spec).await.map_err(explain).unwrap();
    yard.sh(&spec.id, "echo precious > /root/file; sleep 1000 > /dev/null 2>&1 &").await;
    yard.engine.create(&spec).await.map_err(explain).unwrap();
    let done = yard.sh(&spec.id, "cat /root/file; pgrep -c sleep").await;
    assert_eq!(done.out, "precious\n1\n");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boxes_go_on_without_their_server_and_are_found_by_the_next() {
    let yard = Yard::open().await;
    let running = yard.make().await;
    yard.sh(&running, "echo still here > /root/file").await;
    let stopped = spec(LIMITS);
    yard.engine.create(&stopped).await.map_err(explain).unwrap();
    yard.sh(&stopped.id, "echo kept > /root/file").await;
    yard.engine.host.cgroups.clear(&stopped.id).await.unwrap();

    let yard = yard.reopen().await;
    let mut observed = yard.engine.observe().await.unwrap();
    observed.sort_by_key(|one| one.state == ObservedState::Stopped);
    let states: Vec<_> = observed.iter().map(|one| (&one.id, one.state)).collect();
    assert_eq!(states, [(&running, ObservedState::Running), (&stopped.id, ObservedState::Stopped)]);
    assert_eq!(yard.sh(&running, "cat /root/file").await.out, "still here\n");
    let resolved =
        yard.sh(&running, "getent hosts localhost; ping -c 1 -W 2 $(sed 's/nameserver //' /etc/resolv.conf)").await;
    assert_eq!(resolved.code, 0, "the network is there too: {resolved:?}");

    // A new box gets another slot than those two.
    let third = yard.make().await;
    assert_eq!(yard.sh(&third, "echo ok").await.out, "ok\n");
    yard.engine.create(&stopped).await.map_err(explain).unwrap();
    assert_eq!(yard.sh(&stopped.id, "cat /root/file").await.out, "kept\n", "its disk is kept");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_whose_init_died_is_stopped_and_starts_again_with_its_disk() {
    let yard = Yard::open().await;
    let spec = spec(LIMITS);
    yard.engine.create(&spec).await.map_err(explain).unwrap();
    yard.sh(&spec.id, "echo kept > /root/file").await;
    yard.engine.host.cgroups.kill_now(&spec.id).unwrap();
    yard.engine.host.cgroups.emptied(&spec.id).await.unwrap();
    yard.engine.create(&spec).await.map_err(explain).unwrap();
    assert_eq!(yard.sh(&spec.id, "cat /root/file").await.out, "kept\n");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_boxes_at_once() {
    let yard = Yard::open().await;
    let specs: Vec<_> = (0..20).map(|_| spec(LIMITS)).collect();
    let engine = &yard.engine;
    let made = join_all(specs.iter().map(|spec| async move {
        engine.create(spec).await.map_err(explain)?;
        let done = sh(engine, &spec.id, "hostname").await.map_err(|error| format!("{error:?}"))?;
        Ok::<_, String>(done.out.trim() == spec.id.as_str())
    }));
    for made in made.await {
        assert_eq!(made, Ok(true));
    }
    assert_eq!(traces(&yard.tag())["sockets"], 20);
    let removed = join_all(specs.iter().map(|spec| engine.remove(&spec.id)));
    for removed in removed.await {
        removed.map_err(explain).unwrap();
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_broken_off_is_finished_by_the_next_or_removed() {
    let yard = Yard::open().await;
    // Deadlines spread over the time that a create takes, so that it is broken off in every phase.
    for micros in (0..12_000).step_by(400) {
        let spec = spec(LIMITS);
        let _ = tokio::time::timeout(Duration::from_micros(micros), yard.engine.create(&spec)).await;
        if micros % 800 == 0 {
            yard.engine.create(&spec).await.map_err(explain).unwrap();
            assert_eq!(yard.sh(&spec.id, "echo ok").await.out, "ok\n");
        }
        yard.engine.remove(&spec.id).await.map_err(explain).unwrap();
        yard.links_gone().await;
        let counts = traces(&yard.tag());
        assert!(counts.values().all(|count| *count == 0), "{micros}: {counts:?}");
    }
    assert_eq!(yard.engine.observe().await.unwrap(), []);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_any_kind_are_seen_and_removed() {
    let yard = Yard::open().await;
    let host = &yard.engine.host;
    let ids: Vec<BoxId> = (0..3).map(|_| BoxId::from_entropy(rand::random())).collect();
    fs::create_dir(host.instance.of(&ids[0])).unwrap();
    host.cgroups.make(&ids[1], &LIMITS).unwrap();
    fs::write(host.instance.socket(&ids[2]), "").unwrap();
    let observed = yard.engine.observe().await.unwrap();
    assert_eq!(observed.len(), 3);
    assert!(observed.iter().all(|one| ids.contains(&one.id) && one.state == ObservedState::Partial), "{observed:?}");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_boxes_than_there_are_slots() {
    let yard = Yard::open_with(|config| config.boxes_max = 2).await;
    let first = yard.make().await;
    yard.make().await;
    let late = spec(LIMITS);
    assert_eq!(yard.engine.create(&late).await.unwrap_err().kind, ErrorKind::Exhausted);
    yard.engine.remove(&first).await.map_err(explain).unwrap();
    // The very slot that was just given back, with its address and its link's name.
    yard.engine.create(&late).await.map_err(explain).unwrap();
    assert_eq!(yard.sh(&late.id, "echo ok").await.out, "ok\n");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_layer_or_program_is_an_error_that_leaves_nothing_running() {
    let yard = Yard::open_with(|config| config.init = "/nonexistent/boxyard-init".into()).await;
    let error = yard.engine.create(&spec(LIMITS)).await.unwrap_err();
    assert!(explain(error).contains("starting /nonexistent/boxyard-init failed"));
    yard.close().await;
    let yard = Yard::open_with(|config| config.init = "/bin/false".into()).await;
    let error = yard.engine.create(&spec(LIMITS)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Broken);
    let mut set = JoinSet::new();
    set.spawn(async move { yard.close().await });
    set.join_next().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_that_is_killed_in_the_middle_leaves_nothing_running() {
    let scripts = tempfile::tempdir().unwrap();
    let init = super::yard::init_program();
    // One server for every moment of death; the later ones let some boxes be finished.
    for millis in 0..10 {
        let killer = scripts.path().join(format!("init-{millis}"));
        let text = format!(
            "#!/bin/sh\nexec 3<&0\n{} launch <&3 &\nsleep 0.{millis:03}\nkill -9 $!\nwait $!\n",
            init.display()
        );
        fs::write(&killer, text).unwrap();
        fs::set_permissions(&killer, fs::Permissions::from_mode(0o700)).unwrap();
        let yard = Yard::open_with(|config| config.init = killer).await;
        let spec = spec(LIMITS);
        let made = yard.engine.create(&spec).await;
        assert_eq!(yard.engine.host.cgroups.is_populated(&spec.id).unwrap(), made.is_ok(), "{made:?}");
        let state = if made.is_ok() { ObservedState::Running } else { ObservedState::Stopped };
        assert_eq!(
            yard.engine.observe().await.unwrap(),
            [Observed { id: spec.id.clone(), state, limits: Some(spec.limits) }]
        );
        yard.engine.remove(&spec.id).await.map_err(explain).unwrap();
        yard.close().await;
    }
}
