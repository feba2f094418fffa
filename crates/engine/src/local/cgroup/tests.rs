//! On the real hierarchies of this machine, as root, with groups of a tag of their own.

use std::process::{Child, Command};

use super::*;

const LIMITS: Limits = Limits { cpu_millis: 500, memory_bytes: 32 << 20, pids: 20, disk_bytes: 0 };

/// Groups under a tag of their own, removed at the end.
struct Scene {
    cgroups: Cgroups,
    children: Vec<Child>,
}

impl Scene {
    fn new() -> Self {
        Self::on(&Mounts::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap()), Path::new("/nonexistent"))
    }

    fn on(mounts: &Mounts, own_mount: &Path) -> Self {
        let tag = format!("{:04x}", rand::random::<u16>());
        let cgroups = Cgroups::open_on(mounts, &tag, own_mount).expect("run as root on a host with cgroups");
        Self { cgroups, children: Vec::new() }
    }

    /// A process that waits for ever, in the groups `dirs`.
    fn sleeper(&mut self, dirs: &[&Path]) {
        let child = Command::new("sleep").arg("infinity").spawn().unwrap();
        for dir in dirs {
            fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        self.children.push(child);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let removed = self.cgroups.remove_folders();
        if !std::thread::panicking() {
            removed.expect("nothing is left");
        }
    }
}

#[tokio::test]
async fn a_box_dies_whole_however_deep_its_groups_are() {
    let mut scene = Scene::new();
    let id = BoxId::from_entropy(1);
    let group = scene.cgroups.make(&id, &LIMITS).unwrap();
    assert!(!scene.cgroups.is_populated(&id).unwrap());
    let deep = group.v2.join("job/of/a box's root");
    fs::create_dir_all(&deep).unwrap();
    let mut places: Vec<&Path> = group.v1.iter().map(PathBuf::as_path).collect();
    scene.sleeper(&[deep.as_path()]);
    places.push(&group.v2);
    scene.sleeper(&places);

    assert!(scene.cgroups.is_populated(&id).unwrap());
    assert!(scene.cgroups.names().unwrap().contains(id.as_str()));
    let usage = scene.cgroups.usage(&id).unwrap().unwrap();
    assert!(usage.pids >= 1, "{usage:?}");

    scene.cgroups.clear(&id).await.unwrap();
    assert!(!group.v2.exists());
    assert!(group.v1.iter().all(|dir| !dir.exists()));
    for child in &mut scene.children {
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }
    scene.cgroups.clear(&id).await.expect("clearing again is fine");
    assert_eq!(scene.cgroups.usage(&id).unwrap(), None);
    assert_eq!(scene.cgroups.names().unwrap(), BTreeSet::new());
}

#[tokio::test]
async fn a_process_that_never_reached_the_v2_group_dies_too() {
    let mut scene = Scene::new();
    let id = BoxId::from_entropy(2);
    let group = scene.cgroups.make(&id, &LIMITS).unwrap();
    for dir in &group.v1 {
        scene.sleeper(&[dir.as_path()]);
    }
    scene.cgroups.clear(&id).await.unwrap();
    assert!(group.v1.iter().all(|dir| !dir.exists()));
}

#[tokio::test]
async fn where_no_v2_tree_is_mounted_one_is_for_us_alone() {
    let mut mounts = Mounts::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap());
    mounts.v2 = None;
    let point = tempfile::tempdir().unwrap();
    let mut scene = Scene::on(&mounts, point.path());
    let id = BoxId::from_entropy(4);
    let group = scene.cgroups.make(&id, &LIMITS).unwrap();
    assert!(group.v2.starts_with(point.path()));
    scene.sleeper(&[group.v2.as_path()]);
    scene.cgroups.clear(&id).await.unwrap();
    assert!(!group.v2.exists());
    drop(scene);
    assert_eq!(fs::read_dir(point.path()).unwrap().count(), 0, "unmounted");
}

#[test]
fn making_twice_sets_the_new_limits() {
    let scene = Scene::new();
    let id = BoxId::from_entropy(3);
    scene.cgroups.make(&id, &LIMITS).unwrap();
    let group = scene.cgroups.make(&id, &Limits { pids: 7, ..LIMITS }).unwrap();
    let holder = group.v1.iter().chain([&group.v2]).map(|dir| dir.join("pids.max")).find(|file| file.exists());
    assert_eq!(fs::read_to_string(holder.unwrap()).unwrap().trim(), "7");
    for dir in group.v1.iter().chain([&group.v2]) {
        fs::remove_dir(dir).unwrap();
    }
}

#[test]
fn controllers_are_looked_for_one_by_one() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpuset cpu pids\n").unwrap();
    let mounts = |v1: &[&str]| Mounts {
        v2: Some(root.path().to_owned()),
        v1: v1.iter().map(|name| ((*name).to_owned(), PathBuf::from("/v1").join(name))).collect(),
    };
    let hybrid = Cgroups::at(root.path(), &mounts(&["memory"]), "ab12").unwrap();
    assert_eq!(hybrid.in_v2(), "+cpu +pids");
    assert_eq!(hybrid.v1, [(Controller::Memory, PathBuf::from("/v1/memory/boxyard-ab12"))]);
    let error = Cgroups::at(root.path(), &mounts(&[]), "ab12").unwrap_err();
    assert!(error.to_string().contains("'memory' is not available"), "{error}");
    fs::write(root.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    let v2 = Cgroups::at(root.path(), &mounts(&[]), "ab12").unwrap();
    assert_eq!((v2.in_v2().as_str(), v2.v1.len()), ("+cpu +memory +pids", 0));
}
