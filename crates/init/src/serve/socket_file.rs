//! The files of listening Unix sockets: made with the rights of their user, and removed only if they are still the ones we made.

use std::io;
use std::os::fd::OwnedFd;

use boxyard_proto::wire::User;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, bind};
use rustix::rand::{GetRandomFlags, getrandom};

use super::rights;

/// Takes everything but reading and writing from everybody but the owner, as OpenSSH's `StreamLocalBindMask` does.
const MASK: u32 = 0o177;

/// Tries to find a folder's name that nobody has.
const TRIES: usize = 16;

/// What names are made of. 64 characters, so that each has the same chance.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+";

/// The socket's file. Dropping it removes it.
#[derive(Debug)]
pub struct SocketFile {
    /// Where it is, whatever becomes of the names that led there.
    folder: OwnedFd,
    name: String,
    made: Place,
    user: User,
    /// Removed after it.
    _own_folder: Option<OwnFolder>,
}

/// What tells a file from every other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    device: u64,
    inode: u64,
}

impl From<&Stat> for Place {
    fn from(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

impl SocketFile {
    /// Binds `socket` to `path`, whose address is `to`. Nothing may be there yet. To be called with the rights of `user`.
    ///
    /// # Errors
    /// What the kernel says; `EADDRINUSE` when there is something, be it a link that leads nowhere.
    pub fn bind(socket: &OwnedFd, path: &str, to: &SocketAddrUnix, user: User) -> io::Result<Self> {
        let (folder, name) = path.rsplit_once('/').ok_or(Errno::INVAL)?;
        let folder = open_folder(if folder.is_empty() { "/" } else { folder }, OFlags::empty())?;
        Self::bind_in(socket, folder, name.to_owned(), to, user)
    }

    fn bind_in(socket: &OwnedFd, folder: OwnedFd, name: String, to: &SocketAddrUnix, user: User) -> io::Result<Self> {
        rights::with_umask(MASK, || bind(socket, to))?;
        // Whoever may change the folder can have put something else there since; then it is his to keep, and not a place to listen.
        let stat = statat(&folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket || stat.st_uid != user.uid {
            return Err(Errno::ADDRINUSE.into());
        }
        Ok(Self { folder, name, made: Place::from(&stat), user, _own_folder: None })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // What cannot be removed is left to its owner.
        let _ = rights::acting_as(self.user, || {
            let stat = statat(&self.folder, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            if Place::from(&stat) == self.made {
                unlinkat(&self.folder, self.name.as_str(), AtFlags::empty())?;
            }
            Ok(())
        });
    }
}

/// A fresh folder in `/tmp` that only its user can enter. Dropping it removes it, if it is empty.
#[derive(Debug)]
pub struct OwnFolder {
    folder: OwnedFd,
    path: String,
    made: Place,
    user: User,
}

impl OwnFolder {
    /// Makes one. To be called with the rights of `user`.
    ///
    /// # Errors
    /// What the kernel says, or somebody is at it while we are.
    pub fn make(user: User) -> io::Result<Self> {
        for _ in 0..TRIES {
            let mut random = [0; 10];
            getrandom(&mut random, GetRandomFlags::empty())?;
            let letters = random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 64)]));
            let path = format!("/tmp/ssh-{}", letters.collect::<String>());
            // Follows no link: whatever is there, it is not ours.
            match mkdirat(CWD, path.as_str(), Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(error.into()),
            }
            let folder = open_folder(&path, OFlags::NOFOLLOW)?;
            let stat = fstat(&folder)?;
            if stat.st_uid != user.uid
                || Mode::from_raw_mode(stat.st_mode) & (Mode::RWXU | Mode::RWXG | Mode::RWXO) != Mode::RWXU
            {
                return Err(Errno::PERM.into());
            }
            return Ok(Self { folder, path, made: Place::from(&stat), user });
        }
        Err(Errno::EXIST.into())
    }

    /// Binds `socket` to the file `name` in it. Returns that file, which removes the folder as well, and its path. To be called with the
    /// rights of the folder's user.
    ///
    /// # Errors
    /// As [`SocketFile::bind`], or the folder is somewhere else by now.
    pub fn bind(self, socket: &OwnedFd, name: &str) -> io::Result<(SocketFile, String)> {
        let path = format!("{}/{name}", self.path);
        let folder = rustix::io::fcntl_dupfd_cloexec(&self.folder, 0)?;
        let mut file =
            SocketFile::bind_in(socket, folder, name.to_owned(), &SocketAddrUnix::new(path.as_str())?, self.user)?;
        file._own_folder = Some(self);
        Ok((file, path))
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        let _ = rights::acting_as(self.user, || {
            let stat = statat(CWD, self.path.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            if Place::from(&stat) == self.made {
                unlinkat(CWD, self.path.as_str(), AtFlags::REMOVEDIR)?;
            }
            Ok(())
        });
    }
}

fn open_folder(path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | flags;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}
