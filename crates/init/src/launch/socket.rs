//! The socket that an engine reaches the box by. It lies outside the box's file system; PID 1 inherits its listening end.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, statat, unlinkat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::namespaces::open_folder;
use crate::trouble::{Doing, Trouble};

/// Connections that may wait for PID 1 to take them.
const WAITING: i32 = 128;

/// The file of a listening socket. Dropping it removes it again.
#[derive(Debug)]
pub struct SocketFile {
    folder: OwnedFd,
    path: PathBuf,
}

impl SocketFile {
    /// Listens at `path`, for the host's root only. A socket that an earlier life of the box left there is replaced; anything else that
    /// is there stays, and is an error.
    pub fn listen(path: &Path) -> Result<(OwnedFd, Self), Trouble> {
        let doing = || format!("listening at {}", path.display());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Trouble::new(doing(), "the path names no file"));
        };
        let folder = open_folder(parent)?;
        if let Ok(stat) = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
            && FileType::from_raw_mode(stat.st_mode) == FileType::Socket
        {
            unlinkat(&folder, name, AtFlags::empty()).doing_with(doing)?;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).doing_with(doing)?;
        let address = SocketAddrUnix::new(path).doing_with(doing)?;
        // The mode is set by the umask in the same step, so that there is no moment in which others could connect.
        let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = bind(&listener, &address);
        rustix::process::umask(umask);
        bound.doing_with(doing)?;
        let file = Self { folder, path: path.to_owned() };
        listen(&listener, WAITING).doing_with(doing)?;
        Ok((listener, file))
    }

    /// Leaves the file where it is: the box runs.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(name) = self.path.file_name() {
            // Somebody who removed it before us has done our work.
            let _ = unlinkat(&self.folder, name, AtFlags::empty());
        }
    }
}
