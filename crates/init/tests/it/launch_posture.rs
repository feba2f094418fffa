//! What a box looks like from inside.

use std::fs;
use std::os::unix::fs::MetadataExt;

use boxyard_proto::launch::{File, Network};
use boxyard_proto::wire::{Exec, FailedKind, ToInit, User};

use crate::support::boxes::{TestBox, ip};
use crate::support::client::{Client, command, ok, refused, run, shell};

#[test]
fn a_box_is_a_computer_of_its_own() {
    let made = TestBox::new();
    let pid = made.launch().expect("launch a box");
    let s = made.socket();
    assert_eq!(ok(s, "hostname"), made.plan.id.as_str());
    assert_eq!(ok(s, "id -u; echo $BASE"), "0\nfrom the plan");
    let map = ok(s, "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '");
    let line = format!("0 {} 65536", made.plan.uid_start);
    assert_eq!(map.lines().map(str::trim).collect::<Vec<_>>(), [line.as_str(), line.as_str()]);
    // PID 1, the shell and what it runs.
    assert_eq!(
        ok(s, "for p in /proc/[0-9]*; do cat $p/comm 2>/dev/null; done | grep -v -e sh -e cat -e grep"),
        "boxyard-init"
    );
    assert_eq!(ok(s, "cat /proc/self/cgroup | grep -c -v ':/$'; true"), "0", "a job sees its own cgroup as the root");
    for namespace in ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let inside = ok(s, &format!("readlink /proc/self/ns/{namespace}"));
        let host = fs::read_link(format!("/proc/self/ns/{namespace}")).expect("a namespace");
        assert_ne!(inside, host.to_string_lossy(), "{namespace}");
    }
    // From outside, all of it is in the box's range, PID 1 included.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("PID 1 is a process of the host");
    assert!(status.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}", made.plan.uid_start)), "{status}");
}

#[test]
fn a_box_has_dockers_capabilities_and_a_filter() {
    let made = TestBox::launched();
    let status = ok(made.socket(), "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status");
    let expected = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
                    CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2";
    assert_eq!(status, expected);
    let user = Exec { user: User::BOXUSER, ..shell("grep -E '^Cap(Prm|Bnd)' /proc/self/status; setuid-id -u; id -u") };
    let outcome = run(made.socket(), user);
    assert_eq!(
        outcome.text(),
        "CapPrm:\t0000000000000000\nCapBnd:\t00000000a80425fb\n0\n1000",
        "setuid works from a layer"
    );
    let limits = ok(made.socket(), "ulimit -n; ulimit -Hn; ulimit -c; umask");
    assert_eq!(limits, "1000\n1000\n0\n0022");
}

#[test]
fn nothing_of_the_hosts_mounts_is_left() {
    let made = TestBox::launched();
    let mounts = ok(made.socket(), "cat /proc/self/mountinfo");
    let kinds: Vec<_> = mounts
        .lines()
        .filter_map(|line| Some((line.split(' ').nth(4)?, line.split(" - ").nth(1)?.split(' ').next()?)))
        .collect();
    assert_eq!(kinds.iter().filter(|(place, _)| *place == "/").collect::<Vec<_>>(), [&("/", "overlay")]);
    for (place, kind) in &kinds {
        assert!(
            ["overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "devtmpfs"].contains(kind),
            "{place} is {kind}"
        );
        let of_host = *kind == "devtmpfs";
        assert!(!of_host || place.starts_with("/dev/") || place.starts_with("/proc/"), "{place} is {kind}");
    }
    let folder = made.plan.upper.parent().expect("a folder").to_string_lossy().into_owned();
    assert!(!mounts.contains(&folder), "no path of the host is told: {mounts}");
    assert_eq!(
        ok(made.socket(), "ls /dev | tr '\\n' ' '"),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    assert_eq!(
        ok(
            made.socket(),
            "echo x > /dev/null; head -c 2 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; touch /dev/shm/x /run/x /tmp/x"
        ),
        "2\n3"
    );
}

#[test]
fn a_program_inherits_nothing_but_its_three_descriptors() {
    let made = TestBox::launched();
    let listed = ok(made.socket(), "ls -l /proc/self/fd | tail -n +2 | tr -s ' ' | cut -d ' ' -f 9-");
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines[0], "0 -> /dev/null");
    assert!(lines[1].starts_with("1 -> pipe:") && lines[2].starts_with("2 -> pipe:"), "{listed}");
    assert!(lines.len() == 4 && lines[3].starts_with("3 -> /proc/"), "3 is the listing itself: {listed}");
    let env = ok(made.socket(), "env | cut -d = -f 1");
    assert!(!env.contains("SECRET_OF_THE_HOST"), "{env}");
    // PID 1 itself holds its listener, the box's cgroup, its event loop, its place among who goes first without memory, and nothing of
    // the host's file systems.
    let init = fs::read_dir(format!("/proc/{}/fd", made_pid(&made))).expect("descriptors of PID 1");
    let held: Vec<_> = init
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .map(|to| to.to_string_lossy().into_owned())
        .collect();
    for to in &held {
        // The cgroup is the root of a mount of its own; the next test looks at it.
        let own = ["/dev/null", "/", "/proc/1/oom_score_adj"].contains(&to.as_str());
        let known = own || to.starts_with("socket:") || to.starts_with("anon_inode:");
        assert!(known, "PID 1 holds {to}; all: {held:?}");
    }
}

#[test]
fn no_folder_that_pid_1_holds_leads_up_to_the_hosts_root() {
    use std::os::unix::fs::MetadataExt;
    let made = TestBox::launched();
    let held = format!("/proc/{}/fd", made_pid(&made));
    let mut folders = 0;
    for entry in fs::read_dir(&held).expect("list PID 1's descriptors") {
        let path = entry.expect("list PID 1's descriptors").path();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            folders += 1;
            let place =
                |path: &std::path::Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).expect("stat");
            assert_eq!(place(&path.join("../../..")), place(&path), "{}", path.display());
        }
    }
    assert_eq!(folders, 1, "its cgroup");
}

#[test]
fn files_lie_on_disk_with_canonical_owners() {
    let mut made = TestBox::new();
    std::os::unix::fs::symlink("/etc/passwd", made.plan.upper.join("planted")).expect("plant a link");
    made.plan.files = vec![
        File { path: "/etc/resolv.conf".into(), content: "nameserver 192.0.2.1\n".into(), mode: 0o644 },
        File { path: "/planted".into(), content: "replaced".into(), mode: 0o600 },
        File { path: "/run/secrets/deep".into(), content: "in a mount".into(), mode: 0o400 },
    ];
    made.launch().expect("launch a box");
    let s = made.socket();
    assert_eq!(
        ok(s, "cat /etc/resolv.conf /planted /run/secrets/deep; grep -c . /etc/passwd"),
        "nameserver 192.0.2.1\nreplacedin a mount2"
    );
    let user =
        Exec { user: User::BOXUSER, folder: "/home/user".into(), ..shell("touch mine && stat -c %u:%g mine . /") };
    assert_eq!(run(s, user).text(), "1000:1000\n1000:1000\n0:0");
    let mine = fs::metadata(made.plan.upper.join("home/user/mine")).expect("on disk");
    assert_eq!((mine.uid(), mine.gid()), (1000, 1000));
    assert_eq!(fs::metadata(made.plan.upper.join("etc/resolv.conf")).expect("on disk").uid(), 0);

    // The disk outlives the box: a second life sees the first one's files, and replaces its socket.
    made.end();
    assert!(s.exists());
    made.launch().expect("launch it again");
    assert_eq!(ok(s, "ls /home/user"), "mine");
}

#[test]
fn the_network_leads_to_the_gateway_and_cannot_be_changed() {
    let mut made = TestBox::new();
    let netns = made.in_netns("198.18.0.1");
    made.plan.network = Some(Network {
        interface: "boxyard-test0".into(),
        address: "198.18.7.9".parse().expect("an address"),
        gateway: "198.18.0.1".parse().expect("an address"),
        mtu: 1400,
    });
    made.launch().expect("launch a box");
    let s = made.socket();
    assert_eq!(ok(s, "ip -o -4 address show eth0 | tr -s ' ' | cut -d ' ' -f 4"), "198.18.7.9/32");
    assert_eq!(
        ok(s, "cat /sys/class/net/eth0/mtu; ip -6 address show eth0; ip -6 -o address show lo | grep -c ::1"),
        "1400\n1"
    );
    // An echo request over an unprivileged socket, as an ordinary user.
    let ping = r#"socket(S, 2, 2, 1) or die "socket: $!"; $p = pack("C2n3", 8, 0, 0, 0, 1);
        send(S, $p, 0, pack("S n a4 x8", 2, 0, pack("C4", 198, 18, 0, 1))) or die "send: $!";
        $SIG{ALRM} = sub { die "no answer" }; alarm 20; recv(S, $r, 100, 0) // die "recv: $!"; print unpack("C", $r), "\n""#;
    let outcome = run(s, Exec { user: User::BOXUSER, ..command(&["perl", "-e", ping]) });
    assert_eq!(outcome.text(), "0", "an echo reply is type 0: {}", outcome.complaint());
    for change in [
        "address add 198.18.7.10/32 dev eth0",
        "route add 10.0.0.0/8 dev eth0",
        "link set eth0 down",
        "link add x type dummy",
        "netns add x",
    ] {
        let outcome = run(s, shell(&format!("ip {change}")));
        assert_ne!(outcome.exit.code, 0, "ip {change}");
    }
    let low = r#"socket(S, 2, 1, 6); bind(S, pack("S n a4 x8", 2, 80, "\0\0\0\0")) or die "bind: $!"; print "bound""#;
    assert_eq!(run(s, Exec { user: User::BOXUSER, ..command(&["perl", "-e", low]) }).text(), "bound");

    let host = ip(&["-n", &netns, "-o", "address", "show", "dev", "boxyard-test0"]);
    assert_eq!(host, "", "the host's end has no address of any kind");
    assert!(ip(&["-n", &netns, "route"]).contains("198.18.7.9 dev boxyard-test0"));
    made.end();
}

#[test]
fn limits_of_v1_cgroups_hold() {
    let mut made = TestBox::new();
    let Some(pids) = made.in_v1("pids") else { return pids_on_v2(&made) };
    made.in_v1("memory").expect("memory is where pids is");
    made.launch().expect("launch a box");
    ok(made.socket(), "true");
    fs::write(pids.join("pids.max"), "1").expect("limit processes");
    assert_eq!(refused(made.socket(), command(&["true"])).0, FailedKind::Exhausted);
    fs::write(pids.join("pids.max"), "max").expect("lift the limit");
    ok(made.socket(), "true");
}

fn pids_on_v2(made: &TestBox) {
    made.launch().expect("launch a box");
    fs::write(made.cgroup.0.join("pids.max"), "1").expect("limit processes");
    assert_eq!(refused(made.socket(), command(&["true"])).0, FailedKind::Exhausted);
}

#[test]
fn a_job_in_a_box_ends_with_all_its_tree() {
    let made = TestBox::launched();
    let mut client = Client::new(made.socket());
    let exec = Exec {
        user: User::BOXUSER,
        ..shell("setsid sh -c 'trap : TERM; echo ready; while :; do sleep 1000 & wait; done' & wait")
    };
    client.start(exec);
    client.until("ready\n");
    client.say(&ToInit::End { grace_ms: 50 });
    client.finish();
    made.cgroup.wait_until_empty("job-1");
    // Its processes are waited for: none is left, dead or alive.
    assert_eq!(ok(made.socket(), "cat /proc/[0-9]*/comm | grep -c sleep; true"), "0");
}

fn made_pid(made: &TestBox) -> String {
    fs::read_to_string(made.cgroup.0.join("init/cgroup.procs")).expect("PID 1's cgroup").trim().to_owned()
}
