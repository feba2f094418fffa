//! Permission bits.

use std::os::fd::{AsFd, OwnedFd};

use boxyard_proto::files::PathText;
use rustix::fs::{Mode, OFlags, chmod, fchmod, fstat, openat};
use rustix::io::Errno;

use super::jail::{Jail, kind};
use super::path::Path;
use super::refusal::Refusal;
use super::tree::{Step, Tree};
use crate::guard::by_descriptor;

/// The permission bits `mode`, if they are some.
pub fn mode(mode: u32) -> Result<Mode, Refusal> {
    if mode <= 0o7777 {
        Ok(Mode::from_raw_mode(mode))
    } else {
        Err(Refusal::invalid("the mode is not one of 0 to 0o7777"))
    }
}

/// Sets permission bits of what is at `path`, and of all that is below it.
pub fn change(jail: &Jail, path: &PathText, wanted: u32, recursive: bool) -> Result<(), Refusal> {
    let wanted = mode(wanted)?;
    let place = jail.open(&Path::try_from(path)?, OFlags::PATH)?;
    if recursive && kind(&fstat(&place)?).is_dir() {
        change_all(&place, wanted)
    } else {
        Ok(chmod(by_descriptor(&place), wanted)?)
    }
}

/// Goes on where one cannot be changed, as chmod(1) does.
fn change_all(top: &OwnedFd, wanted: Mode) -> Result<(), Refusal> {
    // With bits that let us into folders they come first, because they may be missing; with others last, because we must get in.
    let first = wanted.contains(Mode::RUSR | Mode::XUSR);
    let mut failed = None;
    let mut note = |changed: Result<(), Errno>| {
        if let Err(error) = changed {
            failed.get_or_insert(error);
        }
    };
    if first {
        chmod(by_descriptor(top), wanted)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut tree = Tree::new(rustix::fs::open(by_descriptor(top), flags, Mode::empty())?)?;
    while let Some(step) = tree.step()? {
        match step {
            Step::Entry { stat, .. } if kind(&stat).is_symlink() => {}
            Step::Entry { name, stat } if kind(&stat).is_dir() => {
                if first {
                    note(change_in(&tree, &name, wanted));
                }
                note(tree.enter(&name));
            }
            Step::Entry { name, .. } => note(change_in(&tree, &name, wanted)),
            Step::End if first => {}
            Step::End => note(fchmod(tree.folder(), wanted)),
        }
    }
    if !first {
        note(chmod(by_descriptor(top), wanted));
    }
    match failed {
        None if tree.truncated => Err(Refusal::invalid("the folder is too deep or too large; a part has been changed")),
        None => Ok(()),
        Some(error) => Err(Refusal::from(error).after("the rest has been changed")),
    }
}

/// Changes `name` in the folder that we are in, unless it has become a link.
fn change_in(tree: &Tree, name: &[u8], wanted: Mode) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(tree.folder(), name, flags, Mode::empty())?;
    if kind(&fstat(place.as_fd())?).is_symlink() { Ok(()) } else { chmod(by_descriptor(&place), wanted) }
}
