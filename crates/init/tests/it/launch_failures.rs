//! Boxes that cannot be made: nothing is left behind, and nothing is written where it should not be.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use boxyard_proto::launch::{File, Launched, Network};

use crate::support::boxes::{TestBox, ip};
use crate::support::{PROGRAM, folder};

fn fails(made: &TestBox) -> (String, String) {
    let failure = made.launch().expect_err("must not be launched");
    assert!(made.cgroup.leaves().is_empty(), "{failure:?} left {:?}", made.cgroup.leaves());
    assert!(!made.plan.socket.exists(), "{failure:?} left its socket");
    failure
}

#[test]
fn a_failed_launch_says_why_and_leaves_nothing() {
    let mut made = TestBox::new();
    made.plan.layers = vec!["/no/such/layer".into()];
    assert_eq!(fails(&made).0, "opening the layer /no/such/layer");

    let mut made = TestBox::new();
    made.plan.layers.clear();
    assert_eq!(fails(&made).0, "reading the plan");

    let mut made = TestBox::new();
    made.plan.work = made.plan.work.join("elsewhere");
    assert_eq!(fails(&made).1, "upper and work must lie in the same folder");

    let mut made = TestBox::new();
    made.plan.uid_start = 0;
    assert_eq!(fails(&made).0, "mapping ids");

    let mut made = TestBox::new();
    made.plan.files = vec![File { path: "../../etc/x".into(), content: String::new(), mode: 0o644 }];
    assert!(fails(&made).0.starts_with("writing ../../etc/x"));

    let mut made = TestBox::new();
    made.plan.cgroups_v1 = vec!["/no/such/cgroup".into()];
    assert_eq!(fails(&made).0, "opening /no/such/cgroup");

    // The inner process fails while the outer is still at work.
    let made = TestBox::new();
    fs::remove_dir(&made.plan.work).expect("remove the work folder");
    assert_eq!(fails(&made).0, "mounting overlay with option workdir");

    let mut made = TestBox::new();
    let netns = made.in_netns("198.18.0.1");
    let network = |interface: &str| {
        let (address, gateway) = ("198.18.7.9".parse().expect("address"), "198.18.0.1".parse().expect("address"));
        Some(Network { interface: interface.into(), address, gateway, mtu: 1500 })
    };
    made.plan.network = network("much-too-long-a-name");
    assert_eq!(fails(&made).0, "reading the plan");
    made.plan.network = network("boxyard-test1");
    made.plan.files = vec![File { path: "/proc/sys/kernel/x".into(), content: String::new(), mode: 0o644 }];
    assert!(fails(&made).0.starts_with("writing /proc/sys/kernel/x"));
    assert!(!ip(&["-n", &netns, "link"]).contains("boxyard-test1"), "the interface is removed at once");
    made.plan.files.clear();
    made.plan.network = network("boxyard-test2");
    made.launch().expect("the same box can be launched when nothing is wrong any more");
    assert!(ip(&["-n", &netns, "link"]).contains("boxyard-test2"));

    // Nor does an earlier life stand in the way, whose interface the kernel may still be taking apart.
    for _ in 0..5 {
        made.end();
        made.launch().expect("launch it again");
    }
}

#[test]
fn images_with_links_in_place_of_folders_are_refused() {
    // CVE-2026-41579 and its kin: /dev in the image leads to a folder of the host.
    for (name, target) in [("dev", "/"), ("dev", "etc"), ("proc", "/etc"), ("sys", "../../../.."), ("run", "/run")] {
        let victim = folder("victim");
        let mut made = TestBox::new();
        let trap = folder("trap");
        let target = if target == "/" { victim.to_string_lossy().into_owned() } else { target.to_owned() };
        symlink(&target, trap.join(name)).expect("set a trap");
        made.plan.layers.insert(0, trap.clone());
        let (doing, _) = fails(&made);
        assert_eq!(doing, format!("opening /{name} in the image"));
        assert_eq!(fs::read_dir(&victim).expect("list").count(), 0, "nothing was made outside");
        fs::remove_dir_all(&trap).expect("clean up");
        fs::remove_dir_all(&victim).expect("clean up");
    }
    // The same, left by an earlier life of the box in its own layer.
    let made = TestBox::new();
    symlink("/etc", made.plan.upper.join("proc")).expect("set a trap");
    assert_eq!(fails(&made).0, "opening /proc in the image");
    // What is no folder at all is no mount point.
    let made = TestBox::new();
    fs::write(made.plan.upper.join("dev"), "a file").expect("set a trap");
    assert_eq!(fails(&made).0, "opening /dev in the image");
}

#[test]
fn plans_that_are_none_are_refused() {
    for plan in [&b"{}"[..], b"not json", b"", &vec![b' '; 1024 * 1024 + 1]] {
        let mut launcher = Command::new(PROGRAM)
            .arg("launch")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the launcher");
        // It may stop reading before the end.
        let _ = launcher.stdin.take().expect("its input").write_all(plan);
        let output = launcher.wait_with_output().expect("wait for the launcher");
        let answer = serde_json::from_slice::<Launched>(&output.stdout).expect("an answer");
        assert!(matches!(answer, Launched::Failed { doing, errno: 0, .. } if doing == "reading the plan"));
    }
}

#[test]
fn a_socket_path_that_holds_something_else_is_left_alone() {
    let made = TestBox::new();
    fs::write(&made.plan.socket, "precious").expect("write a file");
    let (doing, _) = made.launch().expect_err("must not be launched");
    assert!(doing.starts_with("listening at"));
    assert_eq!(fs::read_to_string(&made.plan.socket).ok().as_deref(), Some("precious"));
}
