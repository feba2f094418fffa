//! The part of a file that has come, beside where it shall be.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use boxyard_proto::api::files::FileStat;

use super::granted;

/// How such files end.
const ENDING: &str = ".boxyard-part";

/// A file that is not whole. It stays when a copy breaks off: the next copy of the same version of the file goes on with it.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Part {
    /// What there is of this version of the file that shall be at `to`, if nothing then an empty one. Parts of other versions are removed.
    pub(super) fn open(to: &Path, version: &str) -> io::Result<Self> {
        let folder = match to.parent() {
            Some(folder) if folder != Path::new("") => folder,
            Some(_) | None => Path::new("."),
        };
        let name = to.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy().into_owned();
        if to.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // What the server says is a version goes into the name as digits and letters only.
        let version: String =
            version.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(80).collect();
        let name: String = name.chars().take(60).collect();
        let own = format!(".{name}.{version}{ENDING}");
        for entry in fs::read_dir(folder)? {
            let found = entry?.file_name().to_string_lossy().into_owned();
            if found != own && found.starts_with(&format!(".{name}.")) && found.ends_with(ENDING) {
                fs::remove_file(folder.join(found))?;
            }
        }
        let path = folder.join(own);
        // Somebody else may have put something of that name into a folder that all write to: a FIFO is not waited for either.
        let plain = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let plain = i32::try_from(plain.bits()).unwrap_or(0);
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(plain).open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.nlink() != 1 || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other(format!("{} is in the way", super::shown(&path))));
        }
        let length = file.seek(SeekFrom::End(0))?;
        Ok(Self { path, file, length })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Begins from the first byte.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.length = self.file.seek(SeekFrom::Start(0))?;
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// It is of no use.
    pub(super) fn forget(self) {
        // What stays is overwritten or removed the next time.
        let _ = fs::remove_file(self.path);
    }

    /// It is whole: it gets its name, permission bits and time.
    pub(super) fn finish(self, to: &Path, stat: &FileStat) -> io::Result<()> {
        let mode = granted(u32::from_str_radix(&stat.mode, 8).unwrap_or(0o644));
        self.file.set_permissions(Permissions::from_mode(mode))?;
        if let Ok(time) = stat.mod_time.parse::<jiff::Timestamp>() {
            self.file.set_times(FileTimes::new().set_modified(SystemTime::from(time)))?;
        }
        fs::rename(self.path, to)
    }
}
