//! A small image made of the host's own programs and the libraries that they need.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

const PROGRAMS: [&str; 39] = [
    "awk",
    "bash",
    "cat",
    "chmod",
    "chown",
    "cut",
    "dd",
    "env",
    "getent",
    "grep",
    "head",
    "hostname",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mknod",
    "mkfifo",
    "mount",
    "perl",
    "pivot_root",
    "ps",
    "readlink",
    "rm",
    "setsid",
    "sh",
    "sleep",
    "stat",
    "stty",
    "tail",
    "touch",
    "tr",
    "true",
    "tty",
    "umount",
    "unshare",
    "wc",
];

/// The image's folder; made once for all tests.
pub fn image() -> PathBuf {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let image = place.join("image-3");
    let lock = fs::File::create(place.join("image.lock")).expect("make a lock");
    flock(&lock, FlockOperation::LockExclusive).expect("lock the image");
    if !image.join(".made").exists() {
        let _ = fs::remove_dir_all(&image);
        make(&image);
        fs::write(image.join(".made"), "").expect("finish the image");
    }
    image
}

fn make(image: &Path) {
    for folder in ["dev", "etc", "home/user", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64"] {
        fs::create_dir_all(image.join(folder)).expect("make a folder of the image");
    }
    for (name, target) in [("bin", "usr/bin"), ("sbin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        symlink(target, image.join(name)).expect("make a link of the image");
    }
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS {
        let from = ["/bin", "/sbin"].map(|folder| Path::new(folder).join(program));
        let from = from.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("the host lacks {program}"));
        fs::copy(from, image.join("usr/bin").join(program)).expect("copy a program");
        let listed = Command::new("ldd").arg(from).output().expect("run ldd").stdout;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        libraries.extend(listed.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    }
    for library in libraries {
        let to = image.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a folder")).expect("make a folder of the image");
        fs::copy(&library, to).expect("copy a library");
    }
    fs::write(image.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        .expect("passwd");
    let setuid = image.join("usr/bin/setuid-id");
    fs::copy("/usr/bin/id", &setuid).expect("copy id");
    fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).expect("set the setuid bit");
    fs::set_permissions(image.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("open /tmp");
    std::os::unix::fs::chown(image.join("home/user"), Some(1000), Some(1000)).expect("give the home away");
}
