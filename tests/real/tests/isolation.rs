//! What a box's root must not see, reach or do. Every attempt here runs as root of a box.

#![forbid(unsafe_code)]

use std::fs;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::Server;

#[test]
fn root_of_a_box_sees_no_process_of_another_box_or_of_the_host() -> Result<()> {
    let server = Server::start()?;
    let (own, other) = (server.create()?, server.create()?);
    server.sh(&other, "nohup sleep 98765 > /dev/null 2>&1 &")?;
    ensure!(server.sh(&other, "pgrep -f '^sleep 9876[5]' | wc -l")? == "1");
    ensure!(server.sh(&own, "sudo pgrep -f '^sleep 9876[5]' | wc -l")? == "0", "another box's process is seen");
    ensure!(server.sh(&own, "sudo cat /proc/[0-9]*/cmdline | tr '\\0' ' '")?.contains("boxyard-init"), "PID 1 is ours");
    let pids: u32 = server.sh(&own, "sudo ls /proc | grep -c '^[0-9]'")?.parse()?;
    ensure!(pids < 20, "{pids} processes in a box where nothing runs");
    // A process of the host by its number, from outside, is nobody inside.
    let mine = std::process::id();
    ensure!(server.exec(&own, &format!("sudo kill -0 {mine}"))?.code != 0 || mine < 100);
    Ok(())
}

#[test]
fn root_of_a_box_sees_no_file_of_another_box_or_of_the_host() -> Result<()> {
    let server = Server::start()?;
    let (own, other) = (server.create()?, server.create()?);
    let marker = "isolation-marker-5d1f";
    server.sh(&other, &format!("touch {marker} /tmp/{marker}; sudo touch /root/{marker} /{marker}"))?;
    fs::write(server.lane().data().join(marker), "host")?;
    ensure!(
        server.sh(&own, &format!("sudo find / -name '{marker}' 2> /dev/null; true"))?.is_empty(),
        "a foreign file is seen"
    );
    // PID 1 is the server's program; not even the box's root looks into it.
    for secret in ["root", "cwd", "fd", "exe", "mem", "environ"] {
        let look = server.exec(&own, &format!("sudo ls -L /proc/1/{secret}/ || sudo head -c 1 /proc/1/{secret}"))?;
        ensure!(look.code != 0 || look.out.is_empty(), "/proc/1/{secret} of the box is open: {}", look.out);
    }
    let mounts = server.sh(&own, "cat /proc/self/mountinfo")?;
    let data = server.lane().data().to_string_lossy().into_owned();
    let tell_tale: Vec<&str> =
        mounts.lines().filter(|line| line.contains(&data) && !line.contains(" - overlay ")).collect();
    ensure!(tell_tale.is_empty(), "host folders are mounted in the box: {tell_tale:?}");
    Ok(())
}

#[test]
fn no_two_boxes_share_a_uid_and_root_is_nobody_on_the_host() -> Result<()> {
    let server = Server::start()?;
    let (own, other) = (server.create()?, server.create()?);
    let range = |id: &str| -> Result<(u64, u64)> {
        let map = server.sh(id, "cat /proc/self/uid_map")?;
        ensure!(map.lines().count() == 1, "more than one range: {map}");
        let fields: Vec<u64> = map.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [0, start, 65536] = fields[..] else { anyhow::bail!("uid_map is {map}") };
        ensure!(server.sh(id, "cat /proc/self/gid_map")? == map, "groups and users differ");
        Ok((start, start + 65536))
    };
    let (mine, theirs) = (range(&own)?, range(&other)?);
    ensure!(mine.1 <= theirs.0 || theirs.1 <= mine.0, "the ranges {mine:?} and {theirs:?} overlap");
    ensure!(mine.0 >= 65536 && theirs.0 >= 65536, "a range holds uids of the host");
    Ok(())
}

#[test]
fn root_of_a_box_has_no_power_over_the_kernel() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    for attempt in [
        "mount -t tmpfs none /mnt",
        "mount -t proc none /mnt",
        "mount --bind / /mnt",
        "mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk",
        "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg",
        "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
        "dd if=/proc/kcore bs=1 count=1 2> /dev/null | grep -q .",
        "echo c > /proc/sysrq-trigger",
        "echo '|/tmp/x' > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/kernel/panic",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo 1 > /sys/kernel/profiling",
        "touch /sys/x",
        "dmesg",
        "hostname evil",
        "unshare --net true",
        "unshare --user --map-root-user true",
        "unshare --mount true",
        "nsenter --target 1 --mount --net true && unshare --mount true",
        "ip link add by0 type dummy",
        "ip address add 198.51.100.77/32 dev eth0",
        "ip route replace default dev lo",
        "date --set @0",
        "swapoff -a && swapon /nonexistent",
        "insmod /nonexistent.ko || modprobe dummy",
        "chroot /proc/1/root mount -t tmpfs none /mnt",
    ] {
        let output = server.exec(&id, &format!("sudo bash -c {}", quoted(attempt)))?;
        ensure!(output.code != 0, "root of a box could `{attempt}`: {}{}", output.out, output.err);
    }
    let status = server.sh(&id, "sudo cat /proc/self/status")?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).context("no such line");
    let bounding = u64::from_str_radix(field("CapBnd:")?, 16)?;
    // Docker's default set.
    ensure!(bounding & !0xa80425fb == 0, "capabilities beyond Docker's default: {bounding:#x}");
    ensure!(field("Seccomp:")? == "2", "no seccomp filter");
    ensure!(server.sh(&id, "hostname")? == id);
    Ok(())
}

#[test]
#[cfg(target_arch = "x86_64")]
fn system_calls_that_boxes_do_not_need_are_closed_to_root() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    for (name, number) in [
        ("bpf", 321),
        ("perf_event_open", 298),
        ("userfaultfd", 323),
        ("io_uring_setup", 425),
        ("add_key", 248),
        ("keyctl", 250),
        ("open_by_handle_at", 304),
        ("mount_setattr", 442),
        ("pivot_root", 155),
        ("init_module", 175),
        ("kexec_load", 246),
        ("settimeofday", 164),
    ] {
        let call = format!(
            "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall({number}, 0, 0, 0, 0, 0), ctypes.get_errno())"
        );
        let said = server.sh(&id, &format!("sudo python3 -c '{call}'"))?;
        // EPERM or ENOSYS: refused before the kernel looked at the arguments, which are nonsense.
        ensure!(said == "-1 1" || said == "-1 38", "{name} by root of a box gave {said}");
    }
    Ok(())
}

#[test]
fn nothing_of_the_server_is_open_inside() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    // What every process has open at its start: the three standard ones, and the folder that ls itself reads.
    let open = server.sh(&id, "ls -l /proc/self/fd | grep -v '^total' | awk '{print $9, $11}'")?;
    for line in open.lines() {
        let number = line.split(' ').next().unwrap_or_default().parse::<u32>()?;
        ensure!(number <= 2 || line.contains("/proc/"), "a descriptor came with the process: {line}");
    }
    let environment = server.sh(&id, "env; sudo env")?;
    for secret in [server.client().key.as_str(), "BOXYARD_", "SSH_AUTH", "SUDO_ASKPASS"] {
        ensure!(!environment.contains(secret), "the environment of a box has {secret}");
    }
    let sockets = server.sh(&id, "sudo cat /proc/1/net/unix | awk '{print $8}' | sort -u")?;
    ensure!(!sockets.contains("docker") && !sockets.contains("dbus"), "sockets of the host: {sockets}");
    Ok(())
}

/// The text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
