//! Whole builds, with programs in the place of mmdebstrap and of boxes that only pretend.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::sync::Notify;

use super::*;
use crate::ErrorKind;

/// Counts what it is asked to run, and does the little that tests look for.
#[derive(Default)]
struct Counting {
    runs: AtomicUsize,
    /// While this is set, scripts fail.
    failing: std::sync::atomic::AtomicBool,
    /// When set, a run says that it has begun and never ends.
    stuck: Option<Notify>,
}

#[async_trait]
impl LayerRunner for Counting {
    async fn run(
        &self,
        layers: &[PathBuf],
        upper: &Path,
        script: &str,
        log: &mut (dyn Write + Send),
    ) -> Result<(), EngineError> {
        assert!(
            layers.last().is_some_and(|base| base.join("etc/debian_version").exists()),
            "the lowest layer comes last"
        );
        self.runs.fetch_add(1, Ordering::SeqCst);
        if let Some(stuck) = &self.stuck {
            stuck.notify_one();
            std::future::pending::<()>().await;
        }
        fs::write(upper.join("script"), script).unwrap();
        writeln!(log, "working hard").unwrap();
        if self.failing.load(Ordering::SeqCst) {
            writeln!(log, "E: no such package").unwrap();
            return Err(EngineError::new(ErrorKind::Exhausted, "running the script"));
        }
        Ok(())
    }
}

/// A host with a mirror, a certificate and an mmdebstrap of ours.
struct TestHost {
    dir: TempDir,
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

impl TestHost {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["apt", "ca", "bin", "recipes"] {
            fs::create_dir(host.dir.path().join(folder)).unwrap();
        }
        host.write("apt/sources.list", "deb http://mirror.test/debian bookworm main\n");
        host.write("ca/our.crt", CERTIFICATE);
        host.installer("mkdir -p $target/etc/apt; echo 13 > $target/etc/debian_version; echo installed >> $0.count");
        host.write(
            "recipes/a.toml",
            "name = 'base'\naliases = ['ground']\nsuite = 'trixie'\npackages = ['jq']\nscript = 'true'\nenv = { A = \"it's\" }\n",
        );
        host.write("recipes/b.toml", "name = 'thin'\nfrom = 'ground'\npackages = ['tree']\nenv = { B = '2' }\n");
        host
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.dir.path().join(path), text).unwrap();
    }

    fn installer(&self, script: &str) {
        let path = self.dir.path().join("bin/mmdebstrap");
        fs::write(&path, format!("#!/bin/bash\nset -e\ntarget=${{@: -2:1}}\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn installs(&self) -> usize {
        fs::read_to_string(self.dir.path().join("bin/mmdebstrap.count")).map_or(0, |text| text.lines().count())
    }

    fn open_with(&self, trust_host_cas: bool) -> Images {
        let config = ImagesConfig {
            trust_host_cas,
            recipes_dir: Some(self.dir.path().join("recipes")),
            ..ImagesConfig::default()
        };
        let mut path = vec![self.dir.path().join("bin")];
        path.extend(search_path());
        let host = Host { etc_apt: self.dir.path().join("apt"), certificates: self.dir.path().join("ca"), path };
        Images::open_on(&self.dir.path().join("images"), &config, host).unwrap()
    }

    fn open(&self) -> Images {
        self.open_with(true)
    }

    fn keys(&self, images: &Images, name: &str) -> Vec<String> {
        let recipes = images.recipes().unwrap();
        images
            .planned(&recipes, recipes.get(name).unwrap())
            .unwrap()
            .unwrap()
            .0
            .into_iter()
            .map(|layer| layer.key)
            .collect()
    }

    fn building(&self) -> usize {
        fs::read_dir(self.dir.path().join("images/building")).unwrap().count()
    }
}

#[tokio::test]
async fn an_image_is_built_once_and_found_ever_after() {
    let host = TestHost::new();
    let (images, runner) = (host.open(), Counting::default());
    assert_eq!(images.find("thin").unwrap(), None);
    assert!(!images.list().unwrap().iter().any(|image| image.built));

    let thin = images.ensure("thin", &runner).await.unwrap();
    // Debian, certificates and script of the base; packages of the thin one.
    assert_eq!((thin.layers.len(), host.installs(), runner.runs.load(Ordering::SeqCst)), (4, 1, 3));
    assert!(thin.layers[3].join("etc/debian_version").exists());
    assert!(thin.layers[2].join("usr/local/share/ca-certificates").exists());
    assert_eq!((thin.env["A"].as_str(), thin.env["B"].as_str()), ("it's", "2"));
    assert_eq!(thin.env["SSL_CERT_FILE"], "/etc/ssl/certs/ca-certificates.crt");
    let script = fs::read_to_string(thin.layers[0].join("script")).unwrap();
    assert!(script.contains("export A='it'\\''s'\n") && script.contains("-- tree\n"), "{script}");

    // The base came with it, under each of its names, in this process and in the next.
    let base = images.find("ground").unwrap().unwrap();
    assert_eq!(base.layers, thin.layers[1..]);
    assert!(!base.env.contains_key("B"));
    let images = host.open();
    assert_eq!(images.find("thin").unwrap().unwrap(), thin);
    assert_eq!(images.ensure("thin", &runner).await.unwrap(), thin);
    assert_eq!((host.installs(), runner.runs.load(Ordering::SeqCst)), (1, 3));
    let state = images.list().unwrap().into_iter().find(|image| image.name == "base").unwrap();
    assert!(state.built && state.bytes > 0 && state.digest.starts_with("sha256:"));
    assert_eq!(state.aliases, ["ground"]);
    assert_eq!(host.building(), 0);
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_build() {
    let host = TestHost::new();
    // Two as two processes would be: they share nothing but the disk.
    let (here, there, runner) = (host.open(), host.open(), Counting::default());
    let asks = (0..20)
        .map(|n| (if n % 2 == 0 { &here } else { &there }).ensure(if n % 3 == 0 { "base" } else { "thin" }, &runner));
    for image in futures_util::future::join_all(asks).await {
        image.unwrap();
    }
    assert_eq!((host.installs(), runner.runs.load(Ordering::SeqCst)), (1, 3));
    assert_eq!(*here.progress().borrow(), None);
}

#[tokio::test]
async fn a_failure_tells_the_log_and_the_next_try_goes_on_from_there() {
    let host = TestHost::new();
    let (images, runner) = (host.open_with(false), Counting::default());
    runner.failing.store(true, Ordering::SeqCst);
    let error = images.ensure("base", &runner).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.to_string().contains("step 2 of 2"), "{error}");
    let told = error.source.unwrap().to_string();
    let log = host.dir.path().join(format!("images/logs/{}.log", host.keys(&images, "base")[1]));
    assert!(told.contains(log.to_str().unwrap()) && told.ends_with("working hard\n  E: no such package"), "{told}");
    assert!(fs::read_to_string(log).unwrap().contains("no such package"));
    assert_eq!((host.building(), images.find("base").unwrap()), (0, None));

    runner.failing.store(false, Ordering::SeqCst);
    images.ensure("base", &runner).await.unwrap();
    assert_eq!(host.installs(), 1, "what was finished before the failure is not built again");
}

#[tokio::test]
async fn a_failed_installer_is_reported_with_what_to_do() {
    let host = TestHost::new();
    host.installer("echo 'GPG error: NO_PUBKEY 762F67A0B2C39DE4' >&2; touch $target/half; exit 3");
    let error = host.open().ensure("base", &Counting::default()).await.unwrap_err();
    let told = error.source.unwrap().to_string();
    assert!(told.contains("exit status: 3") && told.contains("debian-archive-keyring is too old"), "{told}");
    assert_eq!(host.building(), 0);
}

#[tokio::test]
async fn a_build_that_is_dropped_leaves_nothing_and_blocks_nobody() {
    let host = TestHost::new();
    let images = host.open();
    let stuck = Counting { stuck: Some(Notify::new()), ..Counting::default() };
    tokio::select! {
        _ = images.ensure("base", &stuck) => panic!("it never ends"),
        () = stuck.stuck.as_ref().unwrap().notified() => {}
    }
    assert_eq!((host.building(), images.progress().borrow().clone()), (0, None));
    images.ensure("base", &Counting::default()).await.unwrap();
    assert_eq!(host.installs(), 1);
}

#[test]
fn keys_change_when_what_goes_in_changes_and_only_then() {
    let host = TestHost::new();
    let keys = |host: &TestHost| host.keys(&host.open(), "thin");
    let before = keys(&host);
    let differing = |host: &TestHost| keys(host).iter().zip(&before).filter(|(now, then)| now != then).count();

    // Comments, aliases, the order and repetition of packages, the names of certificates, other recipes: nothing of it goes in.
    host.write(
        "recipes/b.toml",
        "# thin\nname = 'thin'\nfrom = 'base'\npackages = ['tree', 'tree']\nenv = { B = '2' }\naliases = ['x']\n",
    );
    host.write("recipes/c.toml", "name = 'other'\nsuite = 'forky'\n");
    fs::rename(host.dir.path().join("ca/our.crt"), host.dir.path().join("ca/renamed.crt")).unwrap();
    assert_eq!(keys(&host), before);

    let undo = |path: &str, changed: &str, expected: usize| {
        let kept = fs::read_to_string(host.dir.path().join(path)).unwrap();
        host.write(path, changed);
        assert_eq!(differing(&host), expected, "{path}: {changed}");
        host.write(path, &kept);
        assert_eq!(differing(&host), 0);
    };
    let base = |rest: &str| format!("name = 'base'\naliases = ['ground']\n{rest}");
    undo("recipes/b.toml", "name = 'thin'\nfrom = 'base'\npackages = ['less']\nenv = { B = '2' }\n", 1);
    undo("recipes/b.toml", "name = 'thin'\nfrom = 'base'\npackages = ['tree']\nenv = { B = '3' }\n", 1);
    undo("recipes/a.toml", &base("suite = 'trixie'\npackages = ['jq']\nscript = 'false'\nenv = { A = \"it's\" }\n"), 2);
    undo(
        "recipes/a.toml",
        &base("suite = 'trixie'\npackages = ['jq', 'git']\nscript = 'true'\nenv = { A = \"it's\" }\n"),
        4,
    );
    undo("recipes/a.toml", &base("suite = 'forky'\npackages = ['jq']\nscript = 'true'\nenv = { A = \"it's\" }\n"), 4);
    undo("ca/renamed.crt", &CERTIFICATE.replace("MA", "MB"), 3);
    undo("apt/sources.list", "deb http://other.test/debian bookworm main\n", 4);
    // The mirror's password is not the mirror.
    undo("apt/sources.list", "deb http://me:secret@mirror.test/debian bookworm main\n", 0);
    let distinct: BTreeSet<_> = before.iter().collect();
    assert_eq!(distinct.len(), 4);
}

#[test]
fn names_without_a_recipe_are_not_found() {
    let host = TestHost::new();
    let images = host.open();
    for (name, told) in [("node-apline", "python-alpine, ruby"), ("../../etc", "base, default, golang, golang-alpine")]
    {
        let error = images.find(name).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.to_string().contains(told), "{error}");
    }
    assert_eq!(images.recipes().unwrap().get("python").unwrap().name, "node");
    for name in ["node", "default", "golang", "ruby", "rust"] {
        assert_eq!(images.find(name).unwrap(), None);
    }
}

#[test]
fn a_host_without_a_mirror_opens_and_says_so_when_it_matters() {
    let host = TestHost::new();
    host.write("apt/sources.list", "");
    let images = host.open();
    assert!(with_sources(&images.find("base").unwrap_err()).contains("component `main`"));
    assert!(!images.list().unwrap()[0].built);
}

#[tokio::test]
async fn layers_of_images_that_cannot_be_planned_are_not_freed() {
    let host = TestHost::new();
    let thin = host.open().ensure("thin", &Counting::default()).await.unwrap();
    host.write("recipes/b.toml", "name = 'thin'\nfrom = 'ground'\n");
    let sources = fs::read_to_string(host.dir.path().join("apt/sources.list")).unwrap();
    host.write("apt/sources.list", "");
    assert_eq!(host.open().gc().unwrap().layers, 0);
    // With a mirror again, what the recipe does not ask for any more goes, and nothing else.
    host.write("apt/sources.list", &sources);
    assert_eq!(host.open().gc().unwrap().layers, 1);
    assert!(!thin.layers[0].exists() && thin.layers[1..].iter().all(|layer| layer.exists()));
    assert_eq!(host.open().find("thin").unwrap().unwrap().layers, thin.layers[1..]);
}
