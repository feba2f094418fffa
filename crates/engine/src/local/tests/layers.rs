//! Throw-away boxes that make image layers.

use std::fs;
use std::time::Duration;

use super::yard::{Yard, explain, traces, tree};
use crate::Engine;
use crate::images::LayerRunner;

#[tokio::test(flavor = "multi_thread")]
async fn a_script_fills_a_layer_and_its_box_is_gone() {
    let yard = Yard::open().await;
    let place = tempfile::tempdir_in(yard.config.data_dir.join("images")).unwrap();
    let (upper, mut log) = (place.path().join("layer"), Vec::new());
    fs::create_dir(&upper).unwrap();
    let script = "set -e; id -u; echo made > /made; rm /etc/debian_version; getent hosts localhost; echo problem >&2";
    yard.engine.run(&[tree()], &upper, script, &mut log).await.map_err(explain).unwrap();
    let text = String::from_utf8(log).unwrap();
    assert!(text.starts_with("0\n") && text.contains("problem\n"), "{text}");
    assert_eq!(fs::read_to_string(upper.join("made")).unwrap(), "made\n");
    assert_eq!(yard.engine.observe().await.unwrap(), []);
    yard.links_gone().await;
    assert!(traces(&yard.tag()).values().all(|count| *count == 0));
    let names: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["layer"], "no work folder is left");
    drop(place);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_fails_is_an_error() {
    let yard = Yard::open().await;
    let place = tempfile::tempdir_in(yard.config.data_dir.join("images")).unwrap();
    let upper = place.path().join("layer");
    fs::create_dir(&upper).unwrap();
    let error = yard.engine.run(&[tree()], &upper, "echo no >&2; exit 9", &mut Vec::new()).await.unwrap_err();
    assert!(explain(error).contains("it exited with 9"));
    drop(place);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_broken_off_leaves_nothing() {
    let yard = Yard::open().await;
    let place = tempfile::tempdir_in(yard.config.data_dir.join("images")).unwrap();
    let upper = place.path().join("layer");
    fs::create_dir(&upper).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut log = writer;
    let layers = [tree()];
    let run = yard.engine.run(&layers, &upper, "echo started; sleep 1000", &mut log);
    // Until the script says that it has started.
    let heard = tokio::task::spawn_blocking(move || std::io::Read::read(&mut reader, &mut [0; 64]).unwrap());
    tokio::select! {
        ended = run => panic!("{:?}", ended.map_err(explain)),
        heard = heard => assert!(heard.unwrap() > 0),
    }
    // Closing waits for the clean-up.
    drop(place);
    yard.engine.tasks.close();
    tokio::time::timeout(Duration::from_secs(20), yard.engine.tasks.wait()).await.expect("the clean-up ends");
    yard.close().await;
}
