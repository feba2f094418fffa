//! The box's layers, seen from the host: detached, id-mapped mounts of the image's folders and of the box's own.
//!
//! What lies on disk carries canonical ids (root is 0), so boxes with different id ranges share layers. The mounts are made and mapped
//! here, where the host's root may, and attached inside, where overlay has to be mounted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use boxyard_proto::launch::{LAYERS_MAX, Launch};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::sys;
use crate::trouble::{Doing, Trouble};

/// Detached mounts of everything that overlay is made of.
#[derive(Debug)]
pub struct Layers {
    /// Image layers, the uppermost first.
    pub lower: Vec<OwnedFd>,
    /// The folder that both writable folders are in: overlay wants them on one mount.
    pub writable: OwnedFd,
    /// Name of the upper folder in it.
    pub upper: String,
    /// Name of the work folder in it.
    pub work: String,
}

impl Layers {
    /// Makes the mounts, which nobody sees until they are attached.
    pub fn open(plan: &Launch) -> Result<Self, Trouble> {
        if plan.layers.is_empty() || plan.layers.len() > LAYERS_MAX {
            return Err(Trouble::new("reading the plan", format!("a box has 1 to {LAYERS_MAX} layers")));
        }
        let parent = plan.upper.parent().filter(|parent| plan.work.parent() == Some(parent));
        let Some(parent) = parent else {
            return Err(Trouble::new("reading the plan", "upper and work must lie in the same folder"));
        };
        Ok(Self {
            lower: plan.layers.iter().map(|layer| detached(layer)).collect::<Result<_, _>>()?,
            writable: detached(parent)?,
            upper: name(&plan.upper)?,
            work: name(&plan.work)?,
        })
    }

    /// Maps the owners of all files through the box's user namespace.
    pub fn map(&self, userns: BorrowedFd<'_>) -> Result<(), Trouble> {
        // Not nosuid: sudo comes from a layer. Its bit counts inside the box only, whose user namespace the mounts belong to.
        for layer in &self.lower {
            let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV;
            sys::mount_setattr(layer.as_fd(), set, Some(userns)).doing("mapping the owners of an image layer")?;
        }
        sys::mount_setattr(self.writable.as_fd(), libc::MOUNT_ATTR_NODEV, Some(userns))
            .doing("mapping the owners of the writable layer")
    }
}

fn detached(folder: &Path) -> Result<OwnedFd, Trouble> {
    open_tree(CWD, folder, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .doing_with(|| format!("opening the layer {}", folder.display()))
}

/// The last part of `path`, if it needs no escaping in an option of overlay's.
fn name(path: &Path) -> Result<String, Trouble> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if name.len() <= 100 && name.bytes().all(plain) => Ok(name.to_owned()),
        Some(_) | None => Err(Trouble::new("reading the plan", "upper and work must have plain names")),
    }
}
