//! The box's root, seen from inside: overlay, and putting mounts on it.
//!
//! The image is not trusted, and neither is a writable layer that an earlier life of the box left: either may hold a symbolic link
//! where a folder should be. So every mount point is opened first, through no link, and then mounted on by descriptor (CVE-2025-31133,
//! CVE-2025-52565, CVE-2026-41579).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use super::layers::Layers;
use crate::trouble::{Doing, Trouble};

/// Where on the stage the writable folder and the box's root are attached. Layers are attached at their numbers.
const WRITABLE: &str = "w";
const ROOT: &str = "r";

/// Layers whose option string fits into the 255 bytes that the kernel takes. More of them are named one by one, which kernels since 6.8
/// understand.
const LISTED_MAX: usize = 64;

/// Mounts a file system of our own and returns it, not yet attached anywhere.
pub fn make(kind: &str, options: &[(&str, Option<&str>)], attributes: MountAttrFlags) -> Result<OwnedFd, Trouble> {
    let doing = || format!("mounting {kind}");
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).doing_with(doing)?;
    fsconfig_set_string(&context, "source", kind).doing_with(doing)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, *key, *value),
            None => fsconfig_set_flag(&context, *key),
        }
        .doing_with(|| format!("mounting {kind} with option {key}"))?;
    }
    fsconfig_create(&context).doing_with(doing)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).doing_with(doing)
}

/// Attaches `mount` to `spot`, both by descriptor.
pub fn attach(mount: impl AsFd, spot: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", spot, c"", flags)
}

/// Opens the mount point at `path` below `root`, through no link of any kind.
pub fn spot(root: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags, Mode::empty(), resolve)
}

/// Opens the folder `name` in `root` as a mount point, and makes it when there is none.
pub fn folder_spot(root: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = || openat2(root.as_fd(), name, flags, Mode::empty(), resolve);
    match open() {
        Err(Errno::NOENT) => {
            mkdirat(root.as_fd(), name, Mode::from_raw_mode(0o755))?;
            open()
        }
        opened => opened,
    }
}

/// A further mount of what is at `path` below `mount` (at the mount itself for an empty path), not yet attached.
pub fn again(mount: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount, path, flags)
}

/// A tmpfs on which the box's root is put together. The one file system also lends its folders to the box as
/// `/dev`, `/dev/shm` and `/run`. Nothing of the host can be seen any more after [`Stage::enter`].
#[derive(Debug)]
pub struct Stage(OwnedFd);

impl Stage {
    /// Cuts the mount namespace off from the host's and sets the stage up.
    pub fn new() -> Result<Self, Trouble> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change(c"/", private).doing("cutting mounts off from the host's")?;
        let stage = make("tmpfs", &[("mode", Some("0755"))], MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        // Over a folder that every host has and that is not needed by name any more. Not over the root itself, where detaching the
        // host's mounts would detach the stage and leave them.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cover = openat(CWD, c"/dev", flags, Mode::empty()).doing("opening the host's /dev")?;
        attach(&stage, cover).doing("attaching the stage")?;
        Ok(Self(stage))
    }

    /// The stage's own folder.
    pub fn folder(&self) -> &OwnedFd {
        &self.0
    }

    /// Makes the folder `name` on the stage.
    pub fn make_folder(&self, name: &str, mode: u32) -> Result<(), Trouble> {
        mkdirat(&self.0, name, Mode::from_raw_mode(mode)).doing_with(|| format!("making {name} on the stage"))
    }

    /// Mounts overlay over the layers and returns the box's root, attached to the stage.
    pub fn overlay(&self, layers: &Layers) -> Result<OwnedFd, Trouble> {
        let put = |mount: &OwnedFd, name: &str| {
            self.make_folder(name, 0o700)?;
            let spot = spot(&self.0, name).doing("opening the stage")?;
            attach(mount, spot).doing("attaching a layer")
        };
        for (number, layer) in layers.lower.iter().enumerate() {
            put(layer, &number.to_string())?;
        }
        put(&layers.writable, WRITABLE)?;
        // Option values are short, and every kernel since 5.11 takes one `lowerdir`, because paths are relative to the stage.
        fchdir(&self.0).doing("entering the stage")?;
        let numbers: Vec<_> = (0..layers.lower.len()).map(|number| number.to_string()).collect();
        let listed = numbers.join(":");
        let lower: Vec<(&str, &str)> = match numbers.len() {
            ..=LISTED_MAX => vec![("lowerdir", &listed)],
            _ => numbers.iter().map(|number| ("lowerdir+", number.as_str())).collect(),
        };
        let upper = format!("{WRITABLE}/{}", layers.upper);
        let work = format!("{WRITABLE}/{}", layers.work);
        let mut options = vec![("userxattr", None), ("xino", Some("off"))];
        options.extend(lower.into_iter().map(|(key, value)| (key, Some(value))));
        options.extend([("upperdir", Some(upper.as_str())), ("workdir", Some(work.as_str()))]);
        let root = make("overlay", &options, MountAttrFlags::empty())?;
        put(&root, ROOT)?;
        Ok(root)
    }

    /// Makes `root` the root of everything, and drops the stage and the host's mounts.
    pub fn enter(self, root: &OwnedFd) -> Result<(), Trouble> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let old = openat(CWD, c"/", flags, Mode::empty()).doing("opening the host's root")?;
        fchdir(root).doing("entering the box's root")?;
        pivot_root(c".", c".").doing("changing the root")?;
        // The old root now lies over the new one; "." is made to mean it, whatever it means at the moment.
        fchdir(&old).doing("going back to the host's root")?;
        unmount(c".", UnmountFlags::DETACH).doing("detaching the host's mounts")?;
        chdir(c"/").doing("entering the box's root")
    }
}
