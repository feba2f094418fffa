//! Whole images from a registry of the test's own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;

use super::testing::{Door, Fault, Packed, Registry, TOKEN, tar};
use super::{OciConfig, OciLimits};
use crate::images::failure::with_sources;
use crate::images::{Addition, Image, Images, ImagesConfig, LayerRunner};
use crate::{EngineError, ErrorKind};

/// Keeps the scripts that it is asked to run.
#[derive(Default)]
struct Scripts(Mutex<Vec<String>>);

#[async_trait]
impl LayerRunner for Scripts {
    async fn run(
        &self,
        layers: &[PathBuf],
        upper: &Path,
        script: &str,
        _log: &mut (dyn Write + Send),
    ) -> Result<(), EngineError> {
        assert!(!layers.is_empty());
        fs::write(upper.join("script"), script).unwrap();
        self.0.lock().unwrap().push(script.to_owned());
        Ok(())
    }
}

/// A data folder, and a registry.
struct Place {
    dir: TempDir,
    registry: Registry,
    config: OciConfig,
    runner: Scripts,
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limits = OciLimits { backoff: Duration::from_millis(1), ..OciLimits::default() };
        let config = OciConfig { limits, logins: Some(dir.path().join("config.json")), ..OciConfig::default() };
        Self { dir, registry: Registry::start().await, config, runner: Scripts::default() }
    }

    fn open(&self) -> Images {
        let config = ImagesConfig { oci: self.config.clone(), ..ImagesConfig::default() };
        Images::open(&self.dir.path().join("images"), config).unwrap()
    }

    async fn add(&self, images: &Images, name: &str, reference: &str) -> Result<bool, String> {
        let addition = Addition::oci(name, &self.registry.reference(reference))?;
        images.add(&addition, Some(&self.runner)).await.map_err(|error| with_sources(&error))
    }

    /// Adds `team/tool:TAG`, which must fail; returns why. Nothing of it may stay.
    async fn refusal(&self, tag: &str) -> String {
        let images = self.open();
        let why = self.add(&images, "mine", &format!("team/tool:{tag}")).await.unwrap_err();
        assert!(images.check("mine").unwrap_err().starts_with(&["node".to_owned(), "python".to_owned()]));
        assert_eq!(self.count("added") + self.count("pins") + self.count("building"), 0, "{why}");
        why
    }

    /// Logs in to the registry as docker does.
    fn log_in(&self, user: &str) {
        use ::base64::Engine as _;
        let auth = ::base64::engine::general_purpose::STANDARD.encode(format!("{user}:s3cret"));
        let text = serde_json::json!({"auths": {self.registry.address.to_string(): {"auth": auth}}}).to_string();
        fs::write(self.dir.path().join("config.json"), text).unwrap();
    }

    fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.dir.path().join("images").join(folder)).unwrap().count()
    }

    /// A box's or snapshot's record, as the local engine writes it.
    fn record(&self, path: &str, image: &str, layers: &[PathBuf]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let record = serde_json::json!({"spec": {"image": image, "env": {}}, "slot": 1, "layers": layers});
        fs::write(path, record.to_string()).unwrap();
    }
}

fn read(image: &Image, path: &str) -> Option<String> {
    image.layers.iter().find_map(|layer| fs::read_to_string(layer.join(path)).ok())
}

fn two_layers() -> Vec<(Vec<u8>, Packed)> {
    vec![(tar(&[("etc/", ""), ("etc/base", "base")]), Packed::Gzip), (tar(&[("opt/tool", "tool")]), Packed::Zstd)]
}

#[tokio::test]
async fn an_image_is_pulled_verified_and_shared() {
    let place = Place::new().await;
    let digest = place.registry.image("1", &two_layers(), &["PATH=/opt:/bin", "TOOL=yes", "HOME=/nowhere"]);
    let images = place.open();
    assert_eq!(place.add(&images, "mine", "team/tool:1").await, Ok(true));
    let image = images.find("mine").unwrap().unwrap();
    // Two of the registry's, and one of ours.
    assert_eq!(image.layers.len(), 3);
    assert_eq!(
        (read(&image, "etc/base").as_deref(), read(&image, "opt/tool").as_deref()),
        (Some("base"), Some("tool"))
    );
    assert_eq!(image.env, BTreeMap::from([("PATH".into(), "/opt:/bin".into()), ("TOOL".into(), "yes".into())]));
    assert!(place.runner.0.lock().unwrap()[0].starts_with("#!/bin/sh\n"));
    assert_eq!((place.count("blobs/sha256"), place.count("building")), (0, 0), "downloads go when they are unpacked");
    assert_eq!(*images.progress().borrow(), None);

    // By its digest, with a layer more: only that is fetched.
    let mut more = two_layers();
    more.push((tar(&[("opt/more", "more")]), Packed::Plain));
    let more = place.registry.image("2", &more, &[]);
    let before = place.registry.blob_requests();
    place.add(&images, "other", &format!("team/tool@{more}")).await.unwrap();
    assert_eq!(place.registry.blob_requests() - before, 2, "the configuration and one layer");
    let other = images.find("other").unwrap().unwrap();
    assert_eq!(other.layers[other.layers.len() - 2..], image.layers[1..]);

    // It is there without the registry, and for another process. The list tells all of it.
    let reference = place.registry.reference("team/tool:1");
    let place = Place { registry: Registry::start().await, ..place };
    let later = place.open();
    assert_eq!(later.find("mine").unwrap().unwrap(), image);
    let state = later.list().unwrap().into_iter().find(|state| state.name == "mine").unwrap();
    assert!(state.built && state.added && state.bytes > 0 && state.digest.starts_with("sha256:"));
    assert_eq!((state.source, state.boxes), (reference, 0));
    assert_ne!(digest, more);
}

#[tokio::test]
async fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let mut place = Place::new().await;
    place.config.limits.stall = Duration::from_millis(300);
    let text: String = (0..400_000_u32)
        .map(|number| char::from(b'a' + (number.wrapping_mul(2_654_435_761) >> 27) as u8 % 26))
        .collect();
    place.registry.image("1", &[(tar(&[("big", &text)]), Packed::Plain)], &[]);
    let faults = [
        Fault::BreakAfter(100_000),
        Fault::StallAfter(50_000),
        Fault::Status(503),
        Fault::BreakAfter(0),
        Fault::IgnoreRange,
    ];
    place.registry.with(|inner| inner.faults = faults.into());
    let images = place.open();
    place.add(&images, "mine", "team/tool:1").await.unwrap();
    assert_eq!(read(&images.find("mine").unwrap().unwrap(), "big").unwrap(), text);
    let ranges: Vec<_> = place.registry.with(|inner| {
        inner
            .requests
            .iter()
            .filter(|(path, ..)| path.contains("/blobs/"))
            .skip(1)
            .map(|(_, range, _)| range.clone())
            .collect()
    });
    assert_eq!(ranges.len(), 5);
    assert_eq!(ranges[0], None);
    let from = |range: &Option<String>| {
        range.as_ref().unwrap()["bytes=".len()..].trim_end_matches('-').parse::<u32>().unwrap()
    };
    assert!(from(&ranges[1]) > 0 && from(&ranges[1]) <= 100_000, "{ranges:?}");
    assert!(from(&ranges[2]) >= from(&ranges[1]) && from(&ranges[3]) == from(&ranges[2]), "{ranges:?}");
}

#[tokio::test]
async fn what_a_dead_server_had_is_used_by_the_next() {
    let mut place = Place::new().await;
    place.config.limits.attempts = 1;
    let text = "x".repeat(500_000);
    place.registry.image("1", &[(tar(&[("big", &text)]), Packed::Plain)], &[]);
    place.registry.with(|inner| inner.faults = [Fault::BreakAfter(200_000), Fault::Status(500)].into());
    let images = place.open();
    let why = place.add(&images, "mine", "team/tool:1").await.unwrap_err();
    assert!(why.contains("500"), "{why}");
    assert_eq!(place.count("blobs/sha256"), 1);
    place.add(&place.open(), "mine", "team/tool:1").await.unwrap();
    let last = place.registry.with(|inner| inner.requests.last().cloned()).unwrap();
    assert!(last.1.is_some_and(|range| range != "bytes=0-"), "it went on");
}

#[tokio::test]
async fn retries_have_an_end() {
    let place = Place::new().await;
    place.registry.image("1", &two_layers()[..1], &[]);
    place.registry.with(|inner| inner.faults = [Fault::Status(502); 100].into());
    let why = place.refusal("1").await;
    assert!(why.contains("502"), "{why}");
    assert_eq!(place.registry.with(|inner| inner.faults.len()), 95);
}

#[tokio::test]
async fn what_is_not_what_its_digest_says_is_refused() {
    let place = Place::new().await;
    let digest = place.registry.image("1", &two_layers()[..1], &[]);
    place.registry.with(|inner| inner.faults = [Fault::Garbage].into());
    let why = place.refusal("1").await;
    assert!(why.contains("is not sha256:"), "{why}");
    assert_eq!(place.count("layers"), 0);

    // A manifest, a configuration, and an unpacked layer.
    let manifest = place.registry.with(|inner| inner.manifests[&digest.to_string()].clone());
    place.registry.with(|inner| inner.manifests.insert(digest.to_string(), "{}".into()));
    assert!(place.refusal("1").await.contains("something else than sha256:"));
    place.registry.with(|inner| inner.manifests.insert(digest.to_string(), manifest.clone()));
    let mut value: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let other = super::Digest::of(b"another layer").to_string();
    let config = serde_json::json!({"architecture": super::manifest::architecture(), "os": "linux", "rootfs": {"diff_ids": [other]}}).to_string();
    let config = (config.len(), place.registry.blob(config.into_bytes()));
    value["config"]["digest"] = serde_json::json!(config.1);
    value["config"]["size"] = serde_json::json!(config.0);
    place.registry.manifest("wrong", &value);
    assert!(place.refusal("wrong").await.contains("unpacks to sha256:"));
    value["config"]["size"] = serde_json::json!(config.0 - 1);
    place.registry.manifest("short", &value);
    assert!(place.refusal("short").await.contains("more than"));
    value["config"]["size"] = serde_json::json!(config.0);
    value["layers"][0]["size"] = serde_json::json!(10);
    place.registry.manifest("long", &value);
    assert!(place.refusal("long").await.contains("more than the 10 bytes"));
    place.registry.manifest("huge", &serde_json::json!({"x": "x".repeat(5 << 20)}));
    assert!(place.refusal("huge").await.contains("more than 4194304 bytes"));
    assert!(place.refusal("missing").await.contains("does not have team/tool"));
}

#[tokio::test]
async fn an_image_that_is_larger_than_it_may_be_is_refused_and_leaves_nothing() {
    let mut place = Place::new().await;
    // Little to download, much to unpack.
    place.registry.image("1", &[(tar(&[("zeros", &"0".repeat(1 << 20))]), Packed::Gzip)], &[]);
    let generous = place.config.limits;
    place.config.limits = OciLimits { compressed_bytes: 100, ..generous };
    assert!(place.refusal("1").await.contains("its layers have more than 100 bytes"));
    assert_eq!(place.registry.blob_requests(), 0, "its manifest says enough");
    place.config.limits = OciLimits { unpacked_bytes: 1 << 19, ..generous };
    let why = place.refusal("1").await;
    assert!(why.contains("more than"), "{why}");
    assert_eq!(place.count("layers"), 0);
    place.config.limits = generous;
    assert!(place.add(&place.open(), "mine", "team/tool:1").await.unwrap());
}

#[tokio::test]
async fn private_registries_open_with_the_hosts_logins_only() {
    let place = Place::new().await;
    place.registry.image("1", &two_layers()[..1], &[]);
    place.registry.with(|inner| inner.door = Door::Token(Some("me:s3cret".into())));
    assert!(place.refusal("1").await.contains("docker login"));
    place.log_in("you");
    let why = place.refusal("1").await;
    assert!(why.contains("does not open it") && !why.contains("s3cret"), "{why}");
    fs::write(place.dir.path().join("config.json"), r#"{"credsStore": "touch-owned"}"#).unwrap();
    assert!(place.refusal("1").await.contains("credential helper"));
    for door in [Door::Token(None), Door::Token(Some("me:s3cret".into())), Door::Basic("me:s3cret".into())] {
        place.log_in("me");
        place.registry.with(|inner| inner.door = door.clone());
        let images = place.open();
        place.add(&images, "mine", "team/tool:1").await.unwrap_or_else(|why| panic!("{door:?}: {why}"));
        images.remove("mine").unwrap();
        images.gc().unwrap();
    }
    let scope =
        place.registry.with(|inner| inner.requests.iter().find(|(path, ..)| path.starts_with("/token")).cloned());
    assert!(scope.unwrap().0.contains("service=test&scope=repository%3Ateam%2Ftool%3Apull"));
}

#[tokio::test]
async fn a_redirect_takes_no_secret_along() {
    let place = Place::new().await;
    place.registry.image("1", &two_layers()[..1], &[]);
    place.registry.with(|inner| inner.door = Door::Token(None));
    let elsewhere = Registry::start().await;
    place.registry.with(|inner| {
        inner.redirect = Some(format!("http://{}", elsewhere.address));
        elsewhere.with(|other| other.blobs = inner.blobs.clone());
    });
    let images = place.open();
    place.add(&images, "mine", "team/tool:1").await.unwrap();
    let (asked, came) =
        (place.registry.with(|inner| inner.requests.clone()), elsewhere.with(|inner| inner.requests.clone()));
    assert!(asked.iter().filter(|(path, ..)| path.contains("/blobs/")).all(|(.., authorized)| *authorized));
    assert!(came.len() == 2 && came.iter().all(|(.., authorized)| !authorized), "{came:?}");
    assert!(!TOKEN.is_empty());
}

#[tokio::test]
async fn where_a_registry_redirects_to_cannot_ask_for_its_login() {
    let place = Place::new().await;
    place.registry.image("1", &two_layers()[..1], &[]);
    let elsewhere = Registry::start().await;
    elsewhere.with(|other| other.door = Door::Token(Some("me:s3cret".into())));
    place.log_in("me");
    // It answers 401, and names a token server of its own.
    place.registry.with(|inner| inner.redirect = Some(format!("http://{}/v2/x/blobs", elsewhere.address)));
    let why = place.refusal("1").await;
    let came = elsewhere.with(|inner| inner.requests.clone());
    assert!(!came.is_empty() && came.iter().all(|(.., authorized)| !authorized), "{came:?}");
    assert!(!why.contains("s3cret"), "{why}");
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_when_they_fail() {
    let mut place = Place::new().await;
    place.registry.image("1", &two_layers()[..1], &[]);
    let (empty, closed) = (Registry::start().await, "http://127.0.0.1:1".to_owned());
    place.config.limits.attempts = 1;
    let mirror = |address: &str| format!("http://{address}");
    let mirrors = vec![closed, mirror(&empty.address.to_string()), mirror(&place.registry.address.to_string())];
    place.config.mirrors.insert("registry.invalid".into(), mirrors);
    let images = place.open();
    let addition = Addition::oci("mine", "registry.invalid/team/tool:1").unwrap();
    assert!(images.add(&addition, Some(&place.runner)).await.unwrap());
    assert!(empty.with(|inner| inner.requests.len()) > 0);
}

#[tokio::test]
async fn images_come_and_go_beside_a_server_and_never_under_a_box() {
    let place = Place::new().await;
    place.registry.image("1", &two_layers(), &[]);
    let mut other = two_layers();
    other.push((tar(&[("opt/more", "more")]), Packed::Plain));
    place.registry.image("2", &other, &[]);
    let (server, other) = (place.open(), place.open());
    place.add(&other, "mine", "team/tool:1").await.unwrap();
    place.add(&other, "yours", "team/tool:2").await.unwrap();
    let mine = server.find("mine").unwrap().expect("the server sees what another process has added");
    let yours = server.find("yours").unwrap().unwrap();

    place.record("boxes/calm-owl-00001/box.json", "mine", &mine.layers);
    place.record("snapshots/s1/snapshot.json", "yours", &yours.layers);
    let refusal = |images: &Images, name: &str| with_sources(&images.remove(name).unwrap_err());
    assert!(refusal(&other, "mine").contains("used by box calm-owl-00001"));
    assert!(refusal(&other, "yours").contains("used by snapshot s1"));
    let state = |name: &str| other.list().unwrap().into_iter().find(|state| state.name == name).unwrap();
    assert_eq!((state("mine").boxes, state("yours").snapshots), (1, 1));
    assert_eq!(other.gc().unwrap().layers, 0);

    // Without the snapshot its image can go, and takes only what is its own.
    fs::remove_dir_all(place.dir.path().join("snapshots/s1")).unwrap();
    assert_eq!(other.remove("yours").unwrap().layers, 2);
    assert_eq!(server.find("yours").unwrap_err().kind, ErrorKind::NotFound);
    assert!(mine.layers.iter().all(|layer| layer.exists()) && server.find("mine").unwrap().is_some());

    // What stands on it keeps it too.
    let thin = Addition::recipe("name = 'thin'\nfrom = 'mine'\npackages = ['jq']\nscript = 'true'\n").unwrap();
    assert!(other.add(&thin, Some(&place.runner)).await.unwrap());
    fs::remove_dir_all(place.dir.path().join("boxes")).unwrap();
    assert!(refusal(&other, "mine").contains("used by image thin"));
    other.remove("thin").unwrap();

    // While somebody makes a box, nothing goes; a record that cannot be read could name anything.
    place.record("boxes/bad/box.json", "mine", &[]);
    fs::write(place.dir.path().join("boxes/bad/box.json"), "{").unwrap();
    assert!(with_sources(&other.gc().unwrap_err()).contains("bad/box.json"));
    fs::remove_dir_all(place.dir.path().join("boxes")).unwrap();
    let kept = server.keep().await.unwrap();
    let (give, take) = std::sync::mpsc::channel();
    let remover = std::thread::spawn(move || give.send(other.remove("mine")).unwrap());
    assert!(mine.layers.iter().all(|layer| layer.exists()));
    drop(kept);
    take.recv().unwrap().unwrap();
    remover.join().unwrap();
    assert_eq!((place.count("layers"), place.count("pins"), place.count("building")), (0, 0, 0));
}

#[tokio::test]
async fn a_tag_that_moved_is_followed_when_it_is_added_again() {
    let place = Place::new().await;
    place.registry.image("1", &two_layers()[..1], &[]);
    let images = place.open();
    place.add(&images, "mine", "team/tool:1").await.unwrap();
    let old = images.find("mine").unwrap().unwrap();
    place.registry.image("1", &two_layers(), &[]);
    assert_eq!(images.find("mine").unwrap().unwrap(), old, "nobody asked");
    place.add(&images, "mine", "team/tool:1").await.unwrap();
    let new = images.find("mine").unwrap().unwrap();
    assert_eq!((old.layers.len(), new.layers.len()), (2, 3));
    assert!(old.layers[0].exists(), "boxes may stand on it");
    assert_eq!(images.gc().unwrap().layers, 1);
    assert!(!old.layers[0].exists() && new.layers.iter().all(|layer| layer.exists()));
}

#[tokio::test]
async fn layers_that_come_twice_and_those_that_hide_all_are_understood() {
    let place = Place::new().await;
    let (one, two) = (tar(&[("a", "1")]), tar(&[("b", "2")]));
    let hides = tar(&[(".wh..wh..opq", ""), ("c", "3")]);
    let layers = |list: &[&Vec<u8>]| list.iter().map(|tar| ((*tar).clone(), Packed::Gzip)).collect::<Vec<_>>();
    place.registry.image("twice", &layers(&[&one, &two, &one]), &[]);
    place.registry.image("hides", &layers(&[&one, &hides, &two]), &[]);
    let images = place.open();
    place.add(&images, "twice", "team/tool:twice").await.unwrap();
    place.add(&images, "hides", "team/tool:hides").await.unwrap();
    let twice = images.find("twice").unwrap().unwrap();
    assert_eq!(twice.layers.len(), 3);
    assert!(twice.layers[1].join("a").exists() && twice.layers[2].join("b").exists());
    let hides = images.find("hides").unwrap().unwrap();
    assert_eq!((read(&hides, "a"), read(&hides, "c").as_deref()), (None, Some("3")));
}

#[tokio::test]
async fn names_are_nobody_elses() {
    let place = Place::new().await;
    place.registry.image("1", &two_layers()[..1], &[]);
    let images = place.open();
    for taken in ["node", "python", "default", "node-alpine"] {
        assert!(place.add(&images, taken, "team/tool:1").await.unwrap_err().contains("is taken by"), "{taken}");
    }
    for wrong in ["", "A", "a/b", "../x", "-a", ".a", &"x".repeat(64)] {
        assert!(Addition::oci(wrong, "alpine").is_err(), "{wrong}");
    }
    place.add(&images, "my.own_image-1", "team/tool:1").await.unwrap();
    // Without boxes to build in, what the registry has is fetched and the rest waits.
    let addition = Addition::oci("waits", &place.registry.reference("team/tool:1")).unwrap();
    assert!(
        !Images::add(&images, &Addition::recipe("name = 'w'\nfrom = 'my.own_image-1'\nscript = 'true'").unwrap(), None)
            .await
            .unwrap()
    );
    assert!(images.add(&addition, None).await.unwrap(), "its layers are there already");
    assert!(images.find("w").unwrap().is_none());
}
