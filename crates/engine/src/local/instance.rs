//! One instance of the engine on this host: its folders, its tag and its locks.
//!
//! ```text
//!   <data>/            0700
//!     lock             held while a server uses the folder
//!     instance         the tag
//!     boxes/<id>/      box.json, and upper/, work/ where they do not lie elsewhere (see `storage`)
//!     snapshots/<id>/  snapshot.json, and upper/ likewise
//!     images/          the image store
//!     trash/           folders that are being deleted
//!   /run/boxyard-<tag>/  0700
//!     lock             held too: a copied data folder must not share a tag
//!     <id>.sock
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxyard_proto::BoxId;

use crate::fail;

/// How long a server that is ending may keep its folder, or a child that it has just started: in tries and the time between two.
const LOCK_TRIES: (u32, Duration) = (40, Duration::from_millis(25));

/// Tries to find a tag that nobody on this host has.
const TAG_TRIES: usize = 100;

/// One instance's place on this host.
#[derive(Debug)]
pub(super) struct Instance {
    data: PathBuf,
    run: PathBuf,
    tag: String,
    _locks: [File; 2],
}

impl Instance {
    /// Makes or takes over the data folder.
    ///
    /// # Errors
    /// Another server uses it, or it belongs to somebody else.
    pub(super) async fn open(data: &Path) -> io::Result<Self> {
        own_folder(data)?;
        let data = fs::canonicalize(data)?;
        let lock = lock(&data).await?;
        for name in ["boxes", "images", "snapshots", "trash"] {
            own_folder(&data.join(name))?;
        }
        let tag = tag(&data)?;
        let run = run_folder(&tag);
        own_folder(&run)?;
        let run_lock = self::lock(&run).await?;
        Ok(Self { data, run, tag, _locks: [lock, run_lock] })
    }

    /// Four hexadecimal digits in the name of everything that this instance makes on the host.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// Where boxes' folders are.
    pub(super) fn boxes(&self) -> PathBuf {
        self.data.join("boxes")
    }

    /// The folder of one box.
    pub(super) fn of(&self, id: &BoxId) -> PathBuf {
        self.data.join("boxes").join(id.as_str())
    }

    /// Where snapshots' records are.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.data.join("snapshots")
    }

    /// The folder of all.
    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// Where folders wait for their deletion. On one file system with the boxes.
    pub(super) fn trash(&self) -> PathBuf {
        self.data.join("trash")
    }

    /// Where images are.
    pub(super) fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// What is gone after a restart of the host.
    pub(super) fn run(&self) -> &Path {
        &self.run
    }

    /// Removes the folder of what is gone after a restart of the host.
    pub(super) fn remove_run(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.run)
    }

    /// Where a box listens. Short: a socket's path has 107 bytes at most.
    pub(super) fn socket(&self, id: &BoxId) -> PathBuf {
        self.run.join(format!("{id}.sock"))
    }
}

/// Makes a folder that is root's alone, or makes it so.
fn own_folder(path: &Path) -> io::Result<()> {
    let about = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(about)?;
    let metadata = fs::symlink_metadata(path).map_err(about)?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(about(io::Error::other("not a folder of the user that the server runs as")));
    }
    if metadata.mode() & 0o777 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(about)?;
    }
    Ok(())
}

async fn lock(folder: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(folder.join("lock"))?;
    let (tries, pause) = LOCK_TRIES;
    for _ in 0..tries {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(pause).await,
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    let text = format!("{} is in use by another server", folder.display());
    Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
}

fn run_folder(tag: &str) -> PathBuf {
    PathBuf::from(format!("/run/boxyard-{tag}"))
}

fn tag(data: &Path) -> io::Result<String> {
    let file = data.join("instance");
    match fs::read_to_string(&file) {
        Ok(text) => {
            let tag = text.trim();
            if tag.len() == 4 && tag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                return Ok(tag.to_owned());
            }
            return Err(io::Error::other(format!("{} does not hold four hexadecimal digits", file.display())));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let tags = std::iter::repeat_with(|| format!("{:04x}", rand::random::<u16>())).take(TAG_TRIES);
    let Some(tag) = tags.into_iter().find(|tag| !run_folder(tag).exists()) else {
        return Err(io::Error::other("every tag that was tried is taken"));
    };
    let draft = data.join("instance.new");
    fs::write(&draft, format!("{tag}\n"))?;
    File::open(&draft)?.sync_all()?;
    fs::rename(&draft, &file)?;
    fail::point("open: tag chosen");
    Ok(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_data_folder_has_one_server_and_one_tag() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let instance = Instance::open(&data).await.unwrap();
        let (tag, run) = (instance.tag().to_owned(), instance.run().to_owned());
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
        let error = Instance::open(&data).await.unwrap_err();
        assert!(error.to_string().contains("in use by another server"), "{error}");
        let copy = dir.path().join("copy");
        fs::create_dir(&copy).unwrap();
        fs::copy(data.join("instance"), copy.join("instance")).unwrap();
        let error = Instance::open(&copy).await.unwrap_err();
        assert!(error.to_string().contains(&tag), "{error}");
        drop(instance);
        assert_eq!(Instance::open(&data).await.unwrap().tag(), tag);
        assert!(instance_socket_fits(&run));
        fs::remove_dir_all(run).unwrap();
    }

    fn instance_socket_fits(run: &Path) -> bool {
        run.join(format!("{}.sock", "x".repeat(40))).as_os_str().len() <= 100
    }
}
