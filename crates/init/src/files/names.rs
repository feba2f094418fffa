//! Making folders, and renaming.

use boxyard_proto::files::PathText;
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, renameat, statat};
use rustix::io::Errno;

use super::jail::{Jail, Spot, kind};
use super::path::Path;
use super::refusal::Refusal;
use super::walk::{Last, Missing};

/// Makes a folder, and with `parents` those above it.
pub fn make_folder(jail: &Jail, path: &PathText, parents: bool) -> Result<(), Refusal> {
    let path = Path::try_from(path)?;
    let missing = if parents { Missing::Make } else { Missing::Fail };
    let is_there = |refusal: Refusal| {
        let there = jail.open(&path, OFlags::PATH | OFlags::DIRECTORY);
        if there.is_err() {
            Err(refusal)
        } else if parents {
            Ok(())
        } else {
            Err(Errno::EXIST.into())
        }
    };
    let spot = match jail.spot(&path, Last::Keep, missing) {
        Ok(spot) => spot,
        // A root, or what `..` leads to.
        Err(refusal) => return is_there(refusal),
    };
    match mkdirat(&spot.folder, spot.name.as_slice(), Mode::from_raw_mode(0o777)) {
        Err(Errno::EXIST) => is_there(Errno::EXIST.into()),
        made => Ok(made?),
    }
}

/// Renames.
pub fn rename(jail: &Jail, from: &PathText, to: &PathText) -> Result<(), Refusal> {
    let spot = |path: &PathText| jail.spot(&Path::try_from(path)?, Last::Keep, Missing::Fail);
    let (from, to) = (spot(from)?, spot(to)?);
    if from.is_of_folder || to.is_of_folder {
        from.must_be_folder()?;
    }
    match renameat(&from.folder, from.name.as_slice(), &to.folder, to.name.as_slice()) {
        Err(Errno::INVAL) => Err(Refusal::invalid("a folder cannot be moved into itself")),
        // The kernel says both.
        Err(Errno::EXIST) => Err(Errno::NOTEMPTY.into()),
        renamed => Ok(renamed?),
    }
}

impl Spot {
    /// Refuses where there is something else than a folder.
    pub fn must_be_folder(&self) -> Result<(), Refusal> {
        let stat = statat(&self.folder, self.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind(&stat).is_dir() { Ok(()) } else { Err(Errno::NOTDIR.into()) }
    }
}
