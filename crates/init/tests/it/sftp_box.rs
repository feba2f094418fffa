//! SFTP sessions in real boxes: whose rights they have, and what they do not show of PID 1, whose memory they are a copy of.

use std::fs;
use std::os::unix::fs::MetadataExt;

use boxyard_proto::wire::{Exec, FailedKind, Pty, PtySize, User};

use crate::support::boxes::TestBox;
use crate::support::client::{Client, command, ok, refused, run, shell};
use crate::support::sftp::{
    DENIED, EXTENDED, FOR_READING, FOR_WRITING, MAKING, MKDIR, NO_SUCH_FILE, OK, OPENDIR, READLINK, REALPATH, REMOVE,
    SETSTAT, Sftp, order, text,
};

const HOME: &str = "/home/user";

fn boxuser(made: &TestBox) -> (Sftp, u32) {
    Sftp::in_box(made.socket(), HOME, User::BOXUSER)
}

#[test]
fn a_session_has_the_rights_of_its_user_and_no_more() {
    let made = TestBox::launched();
    ok(
        made.socket(),
        "chmod 700 /root; echo hush > /root/secret; echo shown > /etc/shown; echo x > /etc/hidden; chmod 600 /etc/hidden",
    );
    let (mut sftp, _) = boxuser(&made);
    assert_eq!(sftp.name(REALPATH, text(".")).expect("where it starts"), HOME.as_bytes());
    assert_eq!(sftp.name(EXTENDED, text("home-directory").text("")).expect("its home"), HOME.as_bytes());
    let mine = sftp.open("mine", FOR_WRITING | FOR_READING | MAKING).expect("open");
    assert_eq!(sftp.write(&mine, 0, b"my own"), OK);
    assert_eq!(ok(made.socket(), "stat -c %u:%g:%a /home/user/mine; cat /home/user/mine"), "1000:1000:644\nmy own");
    let (_, line) = sftp.list(".").into_iter().find(|(name, _)| name == b"mine").expect("listed");
    let line = String::from_utf8(line).expect("text");
    assert!(line.starts_with("-rw-r--r--    1 user     1000            6 "), "names are the box's: {line}");

    assert_eq!(sftp.open("/root/secret", FOR_READING), Err(DENIED));
    assert_eq!(sftp.ask(OPENDIR, text("/root")).status(), DENIED);
    assert_eq!(sftp.open("/etc/hidden", FOR_READING), Err(DENIED));
    assert_eq!(sftp.open("/etc/shown", FOR_WRITING), Err(DENIED));
    assert_eq!(sftp.open("/etc/new", FOR_WRITING | MAKING), Err(DENIED));
    assert_eq!(sftp.ask(REMOVE, text("/etc/shown")).status(), DENIED);
    assert_eq!(sftp.ask(MKDIR, text("/etc/new").word(0)).status(), DENIED);
    let change = |flags: u32| text("/etc/shown").word(flags);
    assert_eq!(sftp.ask(SETSTAT, change(4).word(0o666)).status(), DENIED);
    assert_eq!(sftp.ask(SETSTAT, change(1).long(0)).status(), DENIED);
    assert_eq!(sftp.ask(SETSTAT, text("mine").word(2).word(0).word(0)).status(), DENIED);
    let shown = sftp.open("/etc/shown", FOR_READING).expect("open");
    assert_eq!(sftp.read(&shown, 0, 100).expect("read"), b"shown\n");
    assert_eq!(sftp.finish(), (0, String::new()));
}

#[test]
fn nothing_of_pid_1_is_in_reach() {
    let made = TestBox::launched();
    let (mut sftp, pid) = boxuser(&made);
    // Through the session itself.
    for file in ["maps", "mem", "environ", "pagemap", "auxv", "fd"] {
        assert_eq!(sftp.open(format!("/proc/self/{file}"), FOR_READING), Err(DENIED), "{file}");
        assert_eq!(sftp.open(format!("/proc/{pid}/{file}"), FOR_READING), Err(DENIED), "{file}");
    }
    assert_eq!(sftp.open("/proc/self/mem", FOR_WRITING), Err(DENIED));
    assert_eq!(sftp.open("/proc/self/exe", FOR_READING), Err(NO_SUCH_FILE));
    assert_eq!(sftp.name(READLINK, text("/proc/self/exe")), Err(DENIED));
    // From another process, of the same user or the box's root.
    let look = |pid: u32, user| {
        let script = format!(
            "for f in environ maps mem pagemap; do head -c 1 /proc/{pid}/$f >/dev/null 2>&1 && echo read $f; done; \
             readlink /proc/{pid}/exe; ls /proc/{pid}/fd 2>/dev/null; cat /proc/{pid}/comm; \
             perl -e 'print syscall(101, 16, {pid}, 0, 0) == 0 ? \"traced\" : \"error \" . (0 + $!)'"
        );
        run(made.socket(), Exec { user, ..shell(&script) }).text()
    };
    for user in [User::BOXUSER, User::ROOT] {
        assert_eq!(look(pid, user), format!("sftp-server\nerror {}", libc::EPERM), "{user:?}");
    }
    let mut other = Client::new(made.socket());
    let other_pid = other.start(Exec { user: User::BOXUSER, ..command(&["sleep", "1000"]) });
    let seen = look(other_pid, User::BOXUSER);
    assert!(
        seen.starts_with("read environ\nread maps\n") && seen.ends_with("traced"),
        "others can be looked at: {seen}"
    );
    // Seen from the host: three pipes and nothing else, nobody's capabilities, both filters.
    let of_host = fs::read_to_string(made.cgroup.0.join("job-1/cgroup.procs")).expect("the job's cgroup");
    let process = format!("/proc/{}", of_host.trim());
    let mut held: Vec<_> = fs::read_dir(format!("{process}/fd")).expect("its descriptors").flatten().collect();
    held.sort_by_key(fs::DirEntry::file_name);
    let held: Vec<_> = held.iter().map(|fd| fs::read_link(fd.path()).expect("a descriptor")).collect();
    assert!(held.len() == 3 && held.iter().all(|to| to.to_string_lossy().starts_with("pipe:")), "{held:?}");
    let status = fs::read_to_string(format!("{process}/status")).expect("its status");
    let uid = made.plan.uid_start + 1000;
    for line in [
        &format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"),
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "Seccomp:\t2",
        "Seccomp_filters:\t2",
        "SigBlk:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    // It belongs to the host's root, as its program image does: nobody in the box has any rights over that.
    assert_eq!(fs::metadata(format!("{process}/environ")).expect("stat").uid(), 0);
    assert_eq!(sftp.finish(), (0, String::new()));
}

#[test]
fn a_session_of_roots_has_no_more_than_a_program_of_roots() {
    let made = TestBox::launched();
    let (mut sftp, _) = Sftp::in_box(made.socket(), "/root", User::ROOT);
    for file in ["maps", "mem", "environ"] {
        assert_eq!(sftp.open(format!("/proc/self/{file}"), FOR_READING), Err(DENIED), "{file}");
    }
    let of_host = fs::read_to_string(made.cgroup.0.join("job-1/cgroup.procs")).expect("the job's cgroup");
    let status = fs::read_to_string(format!("/proc/{}/status", of_host.trim())).expect("its status");
    for line in ["CapInh:\t0000000000000000", "CapPrm:\t00000000a80425fb", "CapEff:\t00000000a80425fb"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_eq!(sftp.finish(), (0, String::new()));
}

#[test]
fn a_session_ends_with_its_connection_and_alone() {
    let made = TestBox::launched();
    let (first, _) = boxuser(&made);
    let (mut second, _) = boxuser(&made);
    made.cgroup.leaves().iter().find(|leaf| *leaf == "job-2").expect("each has a cgroup of its own");
    drop(first);
    made.cgroup.wait_until_empty("job-1");
    assert_eq!(second.name(REALPATH, text(".")).expect("the other goes on"), HOME.as_bytes());
    // Who does not speak the protocol is told so on standard error, and the box goes on.
    second.raw(b"GET / HTTP/1.1\r\n\r\n");
    let (code, complaint) = second.finish();
    assert_eq!(code, 1);
    assert!(complaint.starts_with("boxyard: sftp: packet of"), "{complaint}");
    made.cgroup.wait_until_empty("job-2");
    assert_eq!(ok(made.socket(), "echo fine"), "fine");
}

#[test]
fn a_session_that_hangs_can_be_ended() {
    let made = TestBox::launched();
    ok(made.socket(), "mknod -m 666 /tmp/fifo p");
    let (mut sftp, _) = boxuser(&made);
    // Nobody ever writes to it, so this waits, and nothing else does.
    sftp.say(3, text("/tmp/fifo").word(FOR_READING).word(0));
    assert_eq!(ok(made.socket(), "echo others go on"), "others go on");
    drop(sftp);
    made.cgroup.wait_until_empty("job-2");
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let made = TestBox::launched();
    let missing = refused(made.socket(), order("/missing", User::BOXUSER));
    assert_eq!(missing, (FailedKind::NotFound, "folder '/missing' does not exist".into()));
    ok(made.socket(), "chmod 700 /root");
    assert_eq!(refused(made.socket(), order("/root", User::BOXUSER)).0, FailedKind::NotAllowed);
    let pty = Some(Pty { size: PtySize::default(), modes: Vec::new(), variable: None });
    assert_eq!(refused(made.socket(), Exec { pty, ..order(HOME, User::BOXUSER) }).0, FailedKind::Invalid);
    // Without input there is nothing to serve.
    let mut client = Client::new(made.socket());
    client.start(Exec { stdin: false, ..order(HOME, User::BOXUSER) });
    assert_eq!(client.finish().exit.code, 0);
    // A program of the same name is another thing.
    assert_eq!(run(made.socket(), command(&["sftp"])).exit.code, 127);
}
