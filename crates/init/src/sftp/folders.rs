//! Listing folders.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::accounts::Accounts;
use super::answers::Answers;
use super::attributes::Attributes;
use super::files::Done;
use super::handles::{Handles, Open};
use super::longname::longname;
use super::status::Refusal;
use crate::guard::Guard;

/// Names in an answer at most, as with OpenSSH.
const BATCH: u32 = 100;

/// Opens a folder to be listed.
pub fn open(guard: &Guard, path: &[u8]) -> Result<Open, Refusal> {
    let fd = guard.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    Ok(Open::Folder(Box::new(Dir::new(fd)?)))
}

/// Tells the next names of a folder. Those that vanish meanwhile are left out.
pub fn list(handles: &mut Handles, accounts: &Accounts, id: u32, handle: &[u8], to: &mut Answers) -> Done {
    let Open::Folder(folder) = handles.get(handle)? else { return Err(Errno::NOTDIR.into()) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    to.names(id, BATCH, || {
        while let Some(entry) = folder.read() {
            let entry = entry?;
            let name = entry.file_name();
            if let Ok(stat) = rustix::fs::statat(folder.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
                let name = name.to_bytes();
                return Ok(Some((name.to_vec(), longname(name, &stat, accounts, now), Attributes::from(&stat))));
            }
        }
        Ok(None)
    })
}
