//! OpenSSH's own client against the SFTP server, without any SSH between them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{PROGRAM, folder};

/// A local and a remote folder.
#[derive(Debug)]
struct Place {
    all: PathBuf,
    local: PathBuf,
    remote: PathBuf,
}

impl Place {
    fn new() -> Self {
        let all = folder("sftp");
        let (local, remote) = (all.join("local"), all.join("remote"));
        fs::create_dir(&local).and_then(|()| fs::create_dir(&remote)).expect("make folders");
        Self { all, local, remote }
    }

    /// Runs the client's commands in both folders; returns what it said and whether all of them succeeded.
    fn run(&self, commands: &str) -> (String, bool) {
        let batch = self.all.join("batch");
        fs::write(&batch, format!("lcd {}\n{commands}\n", self.local.display())).expect("write the batch");
        let output = Command::new("sftp")
            .args(["-q", "-b"])
            .arg(&batch)
            .arg("-D")
            .arg(format!("{PROGRAM} sftp"))
            .current_dir(&self.remote)
            .stdin(Stdio::null())
            .output()
            .expect("run OpenSSH's sftp: the package openssh-client must be installed");
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&said).into_owned(), output.status.success())
    }

    fn ok(&self, commands: &str) -> String {
        let (said, success) = self.run(commands);
        assert!(success, "{said}");
        said
    }

    fn fails(&self, command: &str, with: &str) {
        let (said, success) = self.run(command);
        assert!(!success && said.contains(with), "{command}: '{with}' was expected: {said}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.all);
    }
}

/// Bytes that do not compress or repeat.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn same(one: &Path, other: &Path) -> bool {
    let read = |path| fs::read(path).expect("read a file");
    read(one) == read(other)
}

#[test]
fn large_files_arrive_whole_and_go_on_where_they_broke_off() {
    let place = Place::new();
    let (local, remote, back) = (place.local.join("big"), place.remote.join("big"), place.local.join("back"));
    let content = noise(50_000_003);
    fs::write(&local, &content).expect("write");
    place.ok("put big\nget big back");
    assert!(same(&local, &remote) && same(&local, &back));
    for half in [&remote, &back] {
        fs::OpenOptions::new().write(true).open(half).and_then(|file| file.set_len(20_000_001)).expect("cut");
    }
    place.ok("reput big");
    assert!(same(&local, &remote));
    place.ok("reget big back");
    assert!(same(&local, &back));
    // One request at a time, and more of them than there is room for answers.
    fs::remove_file(&back).and_then(|()| fs::remove_file(&remote)).expect("remove");
    let run = |options: [&str; 4], command: &str| {
        let batch = place.all.join("batch");
        fs::write(&batch, command).expect("write the batch");
        let mut sftp = Command::new("sftp");
        sftp.args(options).arg("-qb").arg(&batch).arg("-D").arg(format!("{PROGRAM} sftp"));
        assert!(sftp.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("run sftp").success(), "{command}");
    };
    run(["-R", "1", "-B", "200000"], &format!("put {} {}", local.display(), remote.display()));
    run(["-R", "1000", "-B", "1000000"], &format!("get {} {}", remote.display(), back.display()));
    assert!(same(&local, &remote) && same(&local, &back));
}

#[test]
fn a_folder_of_thousands_is_listed_whole() {
    let place = Place::new();
    for number in 0..5000 {
        fs::write(place.remote.join(format!("file-{number:04}")), "x").expect("write");
    }
    let listed = place.ok("ls -la");
    for number in [0, 1, 99, 100, 101, 4998, 4999] {
        assert!(listed.contains(&format!("file-{number:04}\n")), "{number}");
    }
    let lines = listed.lines().filter(|line| line.contains("file-")).count();
    assert_eq!(lines, 5000);
    assert_eq!(place.ok("get file-*").lines().filter(|line| line.contains("Fetching")).count(), 0, "quiet");
    assert_eq!(fs::read_dir(&place.local).expect("list").count(), 5000);
}

#[test]
fn files_are_renamed_linked_copied_and_changed() {
    let place = Place::new();
    fs::write(place.local.join("one"), "1").expect("write");
    fs::write(place.remote.join("two"), "2").expect("write");
    place.ok("put one\nrename one three\nln three hard\nln -s three soft\nchmod 640 hard\ncp two copy\nchown 7 copy\nchgrp 8 copy");
    let stat = |name: &str| fs::metadata(place.remote.join(name)).expect("stat");
    assert_eq!((stat("three").ino(), stat("three").mode() & 0o7777), (stat("hard").ino(), 0o640));
    assert_eq!(fs::read_link(place.remote.join("soft")).expect("a link"), Path::new("three"));
    assert_eq!((stat("copy").uid(), stat("copy").gid()), (7, 8));
    assert!(same(&place.remote.join("two"), &place.remote.join("copy")));
    // OpenSSH's client replaces, as its extension allows, unless it is told to keep to the draft.
    place.ok("rename copy three");
    assert!(same(&place.remote.join("two"), &place.remote.join("three")));
    place.fails("rename -l hard three", "Failure");
    place.ok("mkdir d\nmkdir d/e\nput one d/e\nrename d f\nls -l f/e");
    place.fails("rmdir f", "Failure");
    place.fails("mkdir f", "Failure");
    place.fails("rm none", "No such file");
    place.fails("cd none", "No such file");
    place.fails("get none", "not found");
    place.ok("rm f/e/one\nrmdir f/e\nrmdir f");
    assert!(!place.remote.join("f").exists());
    assert!(place.ok("df").contains("%Capacity"));
    assert!(place.ok("cd ..\ncd remote\npwd").contains(&place.remote.display().to_string()));
}

#[test]
fn whole_trees_go_there_and_back_with_times_and_modes() {
    let place = Place::new();
    let tree = place.local.join("tree/with a space/deep");
    fs::create_dir_all(&tree).expect("make folders");
    fs::write(tree.join("script"), "#!/bin/sh").expect("write");
    fs::set_permissions(tree.join("script"), fs::Permissions::from_mode(0o751)).expect("chmod");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let file = fs::File::open(tree.join("script")).expect("open");
    file.set_modified(old).expect("set the time");
    place.ok("put -rp tree\nget -rp tree again");
    for path in [place.remote.join("tree"), place.local.join("again")] {
        let script = fs::metadata(path.join("with a space/deep/script")).expect("stat");
        assert_eq!((script.mode() & 0o7777, script.mtime()), (0o751, 1_000_000_000), "{}", path.display());
    }
    // Without being told a mode the umask counts.
    fs::write(place.local.join("plain"), "x").expect("write");
    place.ok("put plain");
    assert_eq!(fs::metadata(place.remote.join("plain")).expect("stat").mode() & 0o777, 0o644);
}
