//! `/dev` of a box: the host's harmless devices, its own terminals, shared memory and message queues.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, major, minor, openat, symlinkat};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::mounts::{Stage, again, attach, folder_spot, make, spot};
use crate::sys;
use crate::trouble::{Doing, Trouble};

/// The devices of a box: name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Terminals of a box at most. The host has some 3000 for all of its boxes.
const TERMINALS: &str = "256";

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Detached mounts of the host's devices. A box's root cannot make devices, and what an image calls `/dev/null` is never used.
#[derive(Debug)]
pub struct Devices(Vec<OwnedFd>);

impl Devices {
    /// Takes them from the host's `/dev`, and makes sure that they are what their names say.
    pub fn open() -> Result<Self, Trouble> {
        let open = |(name, wanted_major, wanted_minor): &(&str, u32, u32)| {
            let flags =
                OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
            let doing = || format!("taking /dev/{name} from the host");
            let device = open_tree(CWD, format!("/dev/{name}"), flags).doing_with(doing)?;
            check(&device, *wanted_major, *wanted_minor).map_err(|message| Trouble::new(doing(), message))?;
            let set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
            sys::mount_setattr(device.as_fd(), set, None).doing_with(doing)?;
            Ok(device)
        };
        Ok(Self(DEVICES.iter().map(open).collect::<Result<_, Trouble>>()?))
    }

    /// `/dev/null`, for use as a mask over files.
    pub fn null(&self) -> &OwnedFd {
        &self.0[0]
    }

    /// Puts `/dev` together and attaches it to the box's root.
    pub fn mount(&self, stage: &Stage, root: &OwnedFd) -> Result<(), Trouble> {
        stage.make_folder("dev", 0o755)?;
        for folder in ["dev/pts", "dev/mqueue", "dev/shm"] {
            stage.make_folder(folder, 0o755)?;
        }
        for (name, _, _) in DEVICES {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            openat(stage.folder(), format!("dev/{name}"), flags, Mode::from_raw_mode(0o666))
                .doing("making mount points for devices")?;
        }
        for (name, target) in LINKS {
            symlinkat(target, stage.folder(), format!("dev/{name}")).doing("making links in /dev")?;
        }
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let dev = again(stage.folder(), "dev").doing("mounting /dev")?;
        // Programs must not be run from /dev itself; from /dev/shm they may, as on any Linux.
        sys::mount_setattr(dev.as_fd(), libc::MOUNT_ATTR_NOEXEC, None).doing("mounting /dev")?;
        attach(&dev, folder_spot(root, "dev").doing("opening /dev in the image")?).doing("attaching /dev")?;
        for ((name, _, _), device) in DEVICES.iter().zip(&self.0) {
            attach(device, spot(&dev, name).doing("opening /dev")?).doing_with(|| format!("attaching /dev/{name}"))?;
        }
        let options = [
            ("newinstance", None),
            ("ptmxmode", Some("0666")),
            ("mode", Some("0620")),
            ("gid", Some("5")),
            ("max", Some(TERMINALS)),
        ];
        let pts = make("devpts", &options, quiet)?;
        attach(&pts, spot(&dev, "pts").doing("opening /dev/pts")?).doing("attaching /dev/pts")?;
        let queues = make("mqueue", &[], quiet | MountAttrFlags::MOUNT_ATTR_NODEV)?;
        attach(&queues, spot(&dev, "mqueue").doing("opening /dev/mqueue")?).doing("attaching /dev/mqueue")?;
        lend(stage, "shm", 0o1777, &spot(&dev, "shm").doing("opening /dev/shm")?)
    }
}

/// Attaches a fresh folder of the stage's file system to `spot`.
pub fn lend(stage: &Stage, name: &str, mode: u32, spot: &OwnedFd) -> Result<(), Trouble> {
    stage.make_folder(name, 0o755)?;
    // The umask is no business of a folder with the sticky bit.
    rustix::fs::chmodat(stage.folder(), name, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())
        .doing_with(|| format!("opening {name} to its users"))?;
    let (uid, gid) = (Some(Uid::ROOT), Some(Gid::ROOT));
    chownat(stage.folder(), name, uid, gid, rustix::fs::AtFlags::empty()).doing_with(|| format!("making {name}"))?;
    let folder = again(stage.folder(), name).doing_with(|| format!("mounting {name}"))?;
    sys::mount_setattr(folder.as_fd(), libc::MOUNT_ATTR_NODEV, None).doing_with(|| format!("mounting {name}"))?;
    attach(folder, spot).doing_with(|| format!("attaching {name}"))
}

/// Points standard input, output and error to the box's `/dev/null`.
pub fn silence(root: &OwnedFd) -> Result<(), Trouble> {
    let null = spot(root, "dev/null").doing("opening the box's /dev/null")?;
    check(&null, 1, 3).map_err(|message| Trouble::new("opening the box's /dev/null", message))?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = openat(root, c"dev/null", flags, Mode::empty()).doing("opening the box's /dev/null")?;
    rustix::stdio::dup2_stdin(&null).doing("letting go of standard input")?;
    rustix::stdio::dup2_stdout(&null).doing("letting go of standard output")?;
    rustix::stdio::dup2_stderr(&null).doing("letting go of standard error")
}

fn check(device: &OwnedFd, wanted_major: u32, wanted_minor: u32) -> Result<(), String> {
    let stat = fstat(device).map_err(|error| error.to_string())?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if is_device && (major(stat.st_rdev), minor(stat.st_rdev)) == (wanted_major, wanted_minor) {
        Ok(())
    } else {
        Err("it is another device".into())
    }
}
