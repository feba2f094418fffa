//! Ways out of containers that have worked somewhere. None must work here, for the box's root either.

use std::fs;

use boxyard_proto::wire::{Exec, ToInit, User};

use crate::support::boxes::TestBox;
use crate::support::client::{command, ok, run, shell};

/// Runs `script` as the box's root; it must fail.
fn denied(made: &TestBox, script: &str) {
    let outcome = run(made.socket(), shell(script));
    assert_ne!(outcome.exit.code, 0, "{script} worked: {}", outcome.text());
}

#[test]
fn the_kernel_cannot_be_told_anything() {
    let made = TestBox::launched();
    // CVE-2025-31133, -52565, -52881: core_pattern and sysrq through paths that were thought to be masked.
    for script in [
        "echo '|/x' > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo x > /proc/sys/kernel/hostname",
        "echo 0 > /sys/kernel/mm/transparent_hugepage/enabled",
        "echo add > /sys/class/net/lo/uevent",
        "echo -1000 > /proc/self/oom_score_adj",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "umount /proc/keys",
        "umount /sys",
        "rm -rf /proc/keys || cat /proc/keys | grep .",
    ] {
        denied(&made, script);
    }
    for masked in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/interrupts",
        "/proc/sched_debug",
        "/proc/latency_stats",
    ] {
        assert_eq!(
            ok(made.socket(), &format!("[ ! -e {masked} ] || wc -c < {masked} | tr -d ' ' | grep -v '^0$'; true")),
            "",
            "{masked}"
        );
    }
    for masked in [
        "/proc/acpi",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/kernel/debug",
        "/sys/kernel/tracing",
        "/sys/devices/virtual/powercap",
    ] {
        assert_eq!(ok(made.socket(), &format!("[ ! -e {masked} ] || ls -A {masked}")), "", "{masked}");
    }
}

#[test]
fn namespaces_mounts_and_devices_are_out_of_reach() {
    let made = TestBox::launched();
    for script in [
        "mount -t tmpfs none /mnt || mount -t tmpfs none /tmp",
        "mount -t proc proc /tmp",
        "mount -t cgroup2 none /tmp",
        "mount --bind / /tmp",
        "unshare -m true",
        "unshare -U true",
        "unshare -r true",
        "unshare -C true",
        "unshare -n true",
        "pivot_root / /tmp",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
        "mknod /dev/shm/null c 1 3",
    ] {
        denied(&made, script);
    }
    // The calls themselves, whatever a tool checks first: number, arguments.
    let calls: &[(&str, i64, &str)] = &[
        ("mount", libc::SYS_mount, "0, 0, 0, 0, 0"),
        ("unshare", libc::SYS_unshare, "0x10000000"),
        ("clone with a namespace", libc::SYS_clone, "0x10000011, 0, 0, 0, 0"),
        ("setns", libc::SYS_setns, "0, 0"),
        ("open_tree", libc::SYS_open_tree, "-100, 0, 1"),
        ("fsopen", libc::SYS_fsopen, "0, 0"),
        ("bpf", libc::SYS_bpf, "0, 0, 0"),
        ("perf_event_open", libc::SYS_perf_event_open, "0, 0, 0, 0, 0"),
        ("keyctl", libc::SYS_keyctl, "0, 0"),
        ("add_key", libc::SYS_add_key, "0, 0, 0, 0, 0"),
        ("io_uring_setup", libc::SYS_io_uring_setup, "1, 0"),
        ("userfaultfd", libc::SYS_userfaultfd, "0"),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, "0, 0, 0"),
        ("init_module", libc::SYS_init_module, "0, 0, 0"),
        ("kexec_load", libc::SYS_kexec_load, "0, 0, 0, 0"),
        ("reboot", libc::SYS_reboot, "0, 0, 0, 0"),
        ("syslog", libc::SYS_syslog, "3, 0, 0"),
        ("vsock", libc::SYS_socket, "40, 1, 0"),
        ("AF_ALG", libc::SYS_socket, "38, 5, 0"),
    ];
    for (name, number, arguments) in calls {
        let errno = call(&made, *number, arguments);
        assert_eq!(errno, libc::EPERM, "{name}");
    }
    // These make C libraries and programs fall back.
    assert_eq!(call(&made, libc::SYS_clone3, "0, 0"), libc::ENOSYS);
    assert_eq!(call(&made, 470, "0"), libc::ENOSYS);
    assert_eq!(call(&made, 0x4000_0000, "0, 0, 0"), libc::ENOSYS, "the x32 face of read");
}

/// The error number of a system call that must fail.
fn call(made: &TestBox, number: i64, arguments: &str) -> i32 {
    let script = format!("$r = syscall({number}, {arguments}); print $r == -1 ? $! + 0 : 'worked'");
    let outcome = run(made.socket(), command(&["perl", "-e", &script]));
    outcome
        .text()
        .parse()
        .unwrap_or_else(|_| panic!("{number}({arguments}): {} {}", outcome.text(), outcome.complaint()))
}

#[test]
fn pid_1_is_closed_to_the_boxs_own_root() {
    let made = TestBox::launched();
    // CVE-2019-5736: the host's program behind /proc/1/exe. CVE-2024-21626: the host's descriptors behind /proc/1/fd.
    for script in [
        "ls /proc/1/fd",
        "ls /proc/1/cwd/",
        "ls /proc/1/root/",
        "readlink /proc/1/exe",
        "echo > /proc/1/exe",
        "head -c 1 /proc/1/mem",
        "head -c 1 /proc/1/maps | grep .",
        "cat /proc/1/environ | grep .",
        "cat /proc/1/auxv | grep -c .",
        "cat /proc/1/syscall",
        "cat /proc/1/stack",
        "readlink /proc/1/ns/mnt",
    ] {
        denied(&made, script);
    }
    let attach = "print syscall(101, 16, 1, 0, 0) == -1 ? $! + 0 : 'worked'";
    #[cfg(target_arch = "x86_64")]
    assert_eq!(run(made.socket(), command(&["perl", "-e", attach])).text(), libc::EPERM.to_string());
    // It cannot be killed or stopped from inside either.
    ok(made.socket(), "kill -KILL 1; kill -STOP 1; kill -TERM 1; kill -SEGV 1; true");
    assert_eq!(ok(made.socket(), "echo still here"), "still here");
}

#[test]
fn a_job_about_to_start_cannot_be_looked_into() {
    let made = TestBox::launched();
    // A watcher that reads the program of every new process as fast as it can, while jobs start.
    let watcher = "perl -e '$| = 1; print \"ready\\n\"; $n = 0; while (1) { for $p (2 .. 200) { $l = readlink(\"/proc/$p/exe\"); \
                   if ($l && $l =~ /boxyard/) { print \"seen $l\\n\"; exit 3 } } }'";
    let mut client = crate::support::client::Client::new(made.socket());
    client.start(shell(watcher));
    client.until("ready\n");
    for _ in 0..50 {
        assert_eq!(run(made.socket(), Exec { user: User::ROOT, ..command(&["true"]) }).exit.code, 0);
    }
    client.say(&ToInit::End { grace_ms: 0 });
    let outcome = client.finish();
    assert_eq!((outcome.text().as_str(), outcome.exit.signal), ("", Some(libc::SIGKILL)));
}

#[test]
fn who_stops_a_job_about_to_start_keeps_nothing_of_pid_1_open() {
    let made = TestBox::launched();
    // Stops every process of its own user's that is about to be made, as early as it may.
    let stopper =
        "$| = 1; print \"ready\\n\"; $p = $$; while (1) { for $q ($p + 1 .. $p + 30) { $p = $q if kill STOP => $q } }";
    let mut client = crate::support::client::Client::new(made.socket());
    client.start(Exec { user: User::BOXUSER, ..command(&["perl", "-e", stopper]) });
    client.until("ready\n");
    let program = fs::canonicalize(crate::support::PROGRAM).expect("the program");
    let mut stopped = 0;
    for number in 2..400 {
        let mut job = crate::support::client::Client::new(made.socket());
        job.say(&ToInit::Exec(Exec { user: User::BOXUSER, ..command(&["sleep", "1000"]) }));
        let leaf = made.cgroup.0.join(format!("job-{number}"));
        let process = loop {
            let listed = fs::read_to_string(leaf.join("cgroup.procs")).unwrap_or_default();
            if let Some(pid) = listed.lines().next() {
                break format!("/proc/{pid}");
            }
        };
        // Until it is stopped or is its program.
        let is_ours = || fs::read_link(format!("{process}/exe")).is_ok_and(|exe| exe == program);
        let is_stopped = || fs::read_to_string(format!("{process}/status")).is_ok_and(|text| text.contains(":\tT"));
        while is_ours() && !is_stopped() {}
        if is_ours() {
            stopped += 1;
            let held: Vec<_> = fs::read_dir(format!("{process}/fd")).expect("its descriptors").flatten().collect();
            let held: Vec<_> = held.iter().map(|fd| fs::read_link(fd.path()).expect("a descriptor")).collect();
            assert!(held.len() <= 4, "its three and what its end of starting is told through: {held:?}");
        }
        fs::write(leaf.join("cgroup.kill"), "1").expect("end the job");
    }
    assert!(stopped > 0, "none was stopped in time");
}

#[test]
fn boxes_do_not_see_each_other() {
    let one = TestBox::launched();
    let two = TestBox::launched();
    let mut client = crate::support::client::Client::new(one.socket());
    client.start(shell("exec -a marker-of-one sleep 1000 || exec sleep 1000"));
    assert_eq!(ok(two.socket(), "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[m]arker'; true"), "0");
    ok(one.socket(), "echo one > /tmp/file; echo one > /dev/shm/file");
    denied(&two, "cat /tmp/file || cat /dev/shm/file");
    let range = |made: &TestBox| ok(made.socket(), "cat /proc/self/uid_map");
    assert_ne!(range(&one), range(&two));
    // Abstract sockets belong to a network namespace.
    let listen = r#"socket(S, 1, 1, 0); bind(S, pack("S a*", 1, "\0boxyard-test")) or die; listen(S, 5); $| = 1; print "ready\n"; sleep 1000"#;
    let mut listener = crate::support::client::Client::new(one.socket());
    listener.start(command(&["perl", "-e", listen]));
    listener.until("ready\n");
    let connect = r#"socket(S, 1, 1, 0); connect(S, pack("S a*", 1, "\0boxyard-test")) and print "connected""#;
    assert_eq!(run(one.socket(), command(&["perl", "-e", connect])).text(), "connected");
    assert_eq!(run(two.socket(), command(&["perl", "-e", connect])).text(), "");
}

#[test]
fn cgroups_of_the_box_cannot_be_reached_from_inside() {
    let made = TestBox::launched();
    assert_eq!(ok(made.socket(), "ls -A /sys/fs/cgroup"), "");
    let owner =
        |name: &str| std::os::unix::fs::MetadataExt::uid(&fs::metadata(made.cgroup.0.join(name)).expect("a file"));
    assert_eq!(owner("cgroup.procs"), made.plan.uid_start);
    assert_eq!(owner("cgroup.max.descendants"), 0, "limits stay the host's");
    assert_eq!(owner("cgroup.freeze"), 0);
}
