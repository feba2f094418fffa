//! Names: making, removing, renaming and resolving them.

use std::ffi::OsStr;
use std::fs::canonicalize;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, CWD, Mode, RenameFlags};
use rustix::io::Errno;

use super::accounts::Accounts;
use super::attributes::Attributes;
use super::files::Done;
use super::status::{self, Refusal};
use crate::guard::Guard;

/// Makes a folder.
pub fn make_folder(path: &[u8], attributes: &Attributes) -> Done {
    Ok(rustix::fs::mkdir(path, Mode::from_raw_mode(attributes.mode().unwrap_or(0o777)))?)
}

/// Renames, unless `to` exists (draft-ietf-secsh-filexfer-02, section 6.5).
pub fn rename(from: &[u8], to: &[u8]) -> Done {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not on every file system in one step. A name made between these two is replaced.
        Err(Errno::INVAL | Errno::NOSYS) => match rustix::fs::lstat(to) {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(Errno::NOENT) => replace(from, to),
            Err(error) => Err(error.into()),
        },
        renamed => Ok(renamed?),
    }
}

/// Renames, in place of what `to` may be: `posix-rename@openssh.com`.
pub fn replace(from: &[u8], to: &[u8]) -> Done {
    Ok(rustix::fs::rename(from, to)?)
}

/// Gives a file one more name. A link gets it itself, not what it leads to.
pub fn link(from: &[u8], to: &[u8]) -> Done {
    Ok(rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty())?)
}

/// Where a link leads.
pub fn read_link(guard: &Guard, path: &[u8]) -> Result<Vec<u8>, Refusal> {
    Ok(guard.tell(rustix::fs::readlink(path, Vec::new())?.into_bytes())?)
}

/// The absolute path of `path` without links. Its last part need not exist, as with OpenSSH: clients ask before they make it.
pub fn resolve(guard: &Guard, path: &[u8]) -> Result<Vec<u8>, Refusal> {
    let path = if path.is_empty() { b"." } else { path };
    let real = |path: &[u8]| canonicalize(OsStr::from_bytes(path)).map(|path| path.into_os_string().into_vec());
    let resolved = match real(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some((parent, name)) = split(path) else { return Err(error.into()) };
            let mut resolved = real(parent)?;
            if resolved != b"/" {
                resolved.push(b'/');
            }
            resolved.extend_from_slice(name);
            resolved
        }
        resolved => resolved?,
    };
    Ok(guard.tell(resolved)?)
}

/// A path's folder and its last part, unless that is no name.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|&byte| byte != b'/')? + 1;
    let path = &path[..end];
    let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) => (&b"/"[..], &path[1..]),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b"."[..], path),
    };
    (name != b"." && name != b"..").then_some((parent, name))
}

/// As [`resolve`], after `~` and `~user` at the start have become homes: `expand-path@openssh.com`.
pub fn expand(guard: &Guard, accounts: &Accounts, path: &[u8]) -> Result<Vec<u8>, Refusal> {
    let Some(rest) = path.strip_prefix(b"~") else { return resolve(guard, path) };
    let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    let (user, rest) = rest.split_at(end);
    resolve(guard, &[home(accounts, user)?, rest].concat())
}

/// The home folder of the user of this name: `home-directory`.
pub fn home<'a>(accounts: &'a Accounts, user: &[u8]) -> Result<&'a [u8], Refusal> {
    accounts.home(user).ok_or_else(|| Refusal::new(status::NO_SUCH_FILE, "No such user"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_before_its_last_name() {
        let parts = |path: &'static str| split(path.as_bytes());
        assert_eq!(parts("/a/b"), Some((&b"/a"[..], &b"b"[..])));
        assert_eq!(parts("/a//b//"), Some((&b"/a/"[..], &b"b"[..])));
        assert_eq!(parts("/a"), Some((&b"/"[..], &b"a"[..])));
        assert_eq!(parts("a"), Some((&b"."[..], &b"a"[..])));
        for none in ["", "/", "//", "a/..", "a/.", ".."] {
            assert_eq!(parts(none), None, "{none}");
        }
    }
}
