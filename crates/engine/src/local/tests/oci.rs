//! Real boxes from images of a registry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use boxyard_proto::{BoxId, SnapshotId};

use super::yard::{LIMITS, Yard, explain};
use crate::images::testing::{Packed, Registry, tar};
use crate::images::{Addition, Images, OciConfig, OciLimits};
use crate::{BoxSpec, Engine};

/// A layer with this host's shell, the programs named and the libraries that they need: no passwd, no home, no bash.
fn small_system(programs: &[&str]) -> Vec<u8> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut builder = ::tar::Builder::new(Vec::new());
    for name in programs {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", name]).output().unwrap();
        let program = std::fs::canonicalize(String::from_utf8(found.stdout).unwrap().trim()).unwrap();
        builder.append_path_with_name(&program, format!("bin/{name}")).unwrap();
        let needs = Command::new("ldd").arg(&program).output().unwrap();
        let needs = String::from_utf8(needs.stdout).unwrap();
        files.extend(needs.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    files.sort();
    files.dedup();
    for file in files {
        let real = std::fs::canonicalize(&file).unwrap();
        builder.append_path_with_name(real, file.strip_prefix("/").unwrap()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An engine whose images come from a registry of the test's.
async fn yard() -> Yard {
    Yard::open_images(|config| {
        config.images.oci = OciConfig {
            limits: OciLimits { backoff: Duration::from_millis(1), ..OciLimits::default() },
            ..OciConfig::default()
        };
    })
    .await
}

async fn make(yard: &Yard, image: &str) -> BoxId {
    let spec = BoxSpec {
        id: BoxId::from_entropy(rand::random()),
        image: image.into(),
        limits: LIMITS,
        env: BTreeMap::new(),
        from: None,
    };
    yard.engine.create(&spec).await.map_err(explain).unwrap();
    spec.id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_starts_from_an_image_that_knows_nothing_of_boxes() {
    let yard = yard().await;
    let registry = Registry::start().await;
    let system = small_system(&["sh", "ls", "cat", "id", "mkdir", "chmod", "chown", "mv", "rm", "ln", "stat", "env"]);
    let base = tar(&[
        ("etc/", ""),
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n"),
        ("etc/gone", "x"),
        ("etc/kept", "x"),
        ("opaque/", ""),
        ("opaque/old", "x"),
        ("changed", "old"),
    ]);
    let upper = tar(&[
        ("etc/.wh.gone", ""),
        ("opaque/", ""),
        ("opaque/.wh..wh..opq", ""),
        ("opaque/new", "x"),
        ("changed", "new"),
        ("usr/local/share/ca-certificates/", ""),
    ]);
    let layers = [(system, Packed::Gzip), (base, Packed::Gzip), (upper, Packed::Zstd)];
    registry.image("1", &layers, &["TOOL=of the image", "PATH=/bin:/opt"]);
    let addition = Addition::oci("tool", &registry.reference("team/tool:1")).unwrap();
    yard.engine.add_image(&addition).await.map_err(explain).unwrap();

    let id = make(&yard, "tool").await;
    let sh = async |script: &str| {
        let done = yard.sh(&id, script).await;
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{script}: {done:?}");
        done.out
    };
    assert_eq!(sh("true; echo $TOOL $PATH").await, "of the image /bin:/opt\n");
    assert_eq!(sh("ls /opaque /etc/gone /etc/kept 2>&1 | cat").await.matches("No such file").count(), 1);
    assert_eq!(sh("ls -A /opaque; cat /changed").await, "new\nnew");
    // What a whiteout hides can be made again.
    assert_eq!(
        sh("echo again > /etc/gone; rm -r /opaque; mkdir /opaque; ls -A /opaque; cat /etc/gone").await,
        "again\n"
    );
    // Whoever works in boxes is there, before the image's own name for the same id, and has a place and a shell.
    let passwd = sh("cat /etc/passwd").await;
    let names: Vec<&str> = passwd.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["root", "boxuser", "node"]);
    assert_eq!(
        sh("stat -c '%a %u' /workspace /workspace/home /home/boxuser /tmp").await,
        "711 0\n755 1000\n700 1000\n1777 0\n"
    );
    assert_eq!(
        sh("/bin/bash -c 'echo run by $0 $1' one two; cat /etc/sudoers.d/boxuser | { read -r line; echo \"$line\"; }")
            .await,
        "run by one two\nboxuser ALL=(ALL:ALL) NOPASSWD: ALL\n"
    );

    // Its layers stay as long as it is there.
    let images = Images::open(&yard.config.data_dir.join("images"), yard.config.images.clone()).unwrap();
    let why = explain(images.remove("tool").unwrap_err());
    assert!(why.contains(&format!("used by box {id}")), "{why}");
    assert_eq!(yard.engine.check_image("tool"), Ok(()));
    // So they do while it is frozen, stopped, or only saved.
    let snapshot = SnapshotId::from_entropy(rand::random());
    yard.engine.pause(&id).await.map_err(explain).unwrap();
    assert!(explain(images.remove("tool").unwrap_err()).contains(&format!("used by box {id}")));
    yard.engine.stop(&id).await.map_err(explain).unwrap();
    assert!(explain(images.remove("tool").unwrap_err()).contains(&format!("used by box {id}")));
    yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
    yard.engine.remove(&id).await.map_err(explain).unwrap();
    assert!(explain(images.remove("tool").unwrap_err()).contains(&format!("used by snapshot {snapshot}")));
    assert_eq!(images.gc().unwrap().layers, 0);
    let copy = BoxSpec {
        id: BoxId::from_entropy(rand::random()),
        image: "tool".into(),
        limits: LIMITS,
        env: BTreeMap::new(),
        from: Some(snapshot.clone()),
    };
    yard.engine.create(&copy).await.map_err(explain).unwrap();
    assert_eq!(yard.sh(&copy.id, "cat /etc/gone").await.out, "again\n");
    yard.engine.drop_snapshot(&snapshot).await.map_err(explain).unwrap();
    assert!(explain(images.remove("tool").unwrap_err()).contains(&format!("used by box {}", copy.id)));
    yard.engine.remove(&copy.id).await.map_err(explain).unwrap();
    assert!(images.remove("tool").unwrap().layers == 4);
    assert!(yard.engine.check_image("tool").unwrap_err().contains(&"node".to_owned()));
    drop(images);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_stands_on_as_many_layers_as_an_image_may_have() {
    let yard = yard().await;
    let registry = Registry::start().await;
    let programs = ["sh", "ls", "cat", "mkdir", "chmod", "chown", "mv", "rm", "ln"];
    let mut layers = vec![(small_system(&programs), Packed::Gzip)];
    for number in 1..127 {
        layers.push((tar(&[(&format!("layers/{number}"), "x"), ("last", &number.to_string())]), Packed::Plain));
    }
    registry.image("many", &layers, &[]);
    let addition = Addition::oci("many", &registry.reference("team/tool:many")).unwrap();
    yard.engine.add_image(&addition).await.map_err(explain).unwrap();
    let id = make(&yard, "many").await;
    let done = yard.sh(&id, "set -- /layers/*; echo $#; cat /last").await;
    assert_eq!((done.code, done.out.as_str()), (0, "126\n126"), "{done:?}");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_shell_says_so() {
    let yard = yard().await;
    let registry = Registry::start().await;
    registry.image("none", &[(tar(&[("app", "x")]), Packed::Gzip)], &[]);
    let addition = Addition::oci("none", &registry.reference("team/tool:none")).unwrap();
    let why = explain(yard.engine.add_image(&addition).await.unwrap_err());
    assert!(why.contains("preparing the image for boxes") && why.contains("/bin/sh"), "{why}");
    assert!(yard.engine.check_image("none").is_err(), "it was not added");
    let left =
        |folder: &str| std::fs::read_dir(Path::new(&yard.config.data_dir).join("images").join(folder)).unwrap().count();
    assert_eq!((left("added"), left("building")), (0, 0));
    yard.close().await;
}
