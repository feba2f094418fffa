//! The layers on disk. A layer is made in a folder of its own and moved to its place when it is whole, so that whatever is found under
//! `layers/` is complete.
//!
//! ```text
//! images/  layers/<key>/{fs/, layer.json}   building/<key>.<pid>-<n>/   logs/<key>.log   locks/<key>
//!          added/<name>.toml   pins/<name>.json   blobs/sha256/<digest>{,.part}   in-use   stamp
//! ```
//! Whoever relies on layers that no record names yet, as a box in the making does, holds `in-use` shared; whoever removes layers holds it
//! alone. `stamp` is another file after each change of what exists, so that other processes notice.
//! The top folder is root's alone: programs with set-user-id bits inside layers are out of reach for the host's users.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// What is noted beside a finished layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub key: String,
    pub parent: Option<String>,
    /// The recipe that first asked for it.
    pub recipe: String,
    /// Bytes that it takes on disk.
    pub bytes: u64,
    /// When it was finished, in milliseconds since 1970.
    pub built_at_ms: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// Where downloads lie.
const BLOBS: &str = "blobs/sha256";

/// Which `stamp` there is: differs after every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp(u64, i64, i64);

/// The folder of all layers.
#[derive(Debug)]
pub(super) struct Layers {
    root: PathBuf,
}

impl Layers {
    /// Opens the folder, makes it where it is missing, and removes what interrupted builds have left.
    pub fn open(root: &Path) -> Result<Self, EngineError> {
        let broken =
            |error: io::Error| EngineError::broken(format!("opening the image folder {}", root.display()), error);
        for folder in ["", "layers", "building", "logs", "locks", "added", "pins", "blobs", BLOBS] {
            let path = root.join(folder);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(broken)?;
            fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(broken)?;
        }
        let layers = Self { root: root.canonicalize().map_err(broken)? };
        layers.sweep().map_err(broken)?;
        Ok(layers)
    }

    /// The tree of a finished layer.
    pub fn fs(&self, key: &str) -> PathBuf {
        self.root.join("layers").join(key).join("fs")
    }

    /// What is known of a layer; nothing if it has not been built.
    pub fn note(&self, key: &str) -> Option<Note> {
        let text = fs::read(self.root.join("layers").join(key).join("layer.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub fn log_path(&self, key: &str) -> PathBuf {
        self.root.join("logs").join(format!("{key}.log"))
    }

    /// Waits until nobody else, in whatever process, builds this layer. Blocks; the lock ends with the file.
    pub fn lock(&self, key: &str) -> io::Result<File> {
        let file = self.lock_file(key)?;
        file.lock()?;
        Ok(file)
    }

    fn lock_file(&self, key: &str) -> io::Result<File> {
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.root.join("locks").join(key))
    }

    /// Recipes that were added.
    pub fn added(&self) -> PathBuf {
        self.root.join("added")
    }

    /// What references of registries stood for, by the names of recipes.
    pub fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    /// Downloads.
    pub fn blobs(&self) -> PathBuf {
        self.root.join(BLOBS)
    }

    /// The data folder that the images are in.
    pub fn data(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    /// Keeps every layer where it is while the file is there. Fails with [`io::ErrorKind::WouldBlock`] while layers are being removed,
    /// unless `wait` says to block until that is over, which takes moments.
    pub fn keep(&self, wait: bool) -> io::Result<File> {
        let file = self.in_use()?;
        if wait {
            file.lock_shared()?;
            return Ok(file);
        }
        match file.try_lock_shared() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits until nobody relies on layers by holding [`keep`](Self::keep), and lets nobody begin while the file is there. Blocks.
    pub fn alone(&self) -> io::Result<File> {
        let file = self.in_use()?;
        file.lock()?;
        Ok(file)
    }

    fn in_use(&self) -> io::Result<File> {
        let path = self.root.join("in-use");
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
    }

    /// Which stamp there is now. Cheap.
    pub fn stamp(&self) -> Stamp {
        let stat = fs::metadata(self.root.join("stamp"));
        stat.map_or_else(|_| Stamp::default(), |stat| Stamp(stat.ino(), stat.ctime(), stat.ctime_nsec()))
    }

    /// Lets everybody know that something has changed, after it has.
    pub fn touch(&self) -> io::Result<()> {
        self.write(&self.root.join("stamp"), b"")
    }

    /// Writes a file wholly or not at all.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // Beside its place, under a name that no recipe or pin can have.
        let draft = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    }

    /// The keys of all layers that are there.
    pub fn keys(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.root.join("layers"))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Takes a layer away: at once for everybody, its files when the value is dropped. The caller holds [`alone`](Self::alone).
    pub fn withdraw(&self, key: &str) -> io::Result<Building> {
        let building = self.start(key)?;
        fs::rename(self.root.join("layers").join(key), building.dir.join("layer"))?;
        Ok(building)
    }

    /// Begins a layer. The caller holds its lock.
    pub fn start(&self, key: &str) -> io::Result<Building> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = self.root.join("building").join(format!("{key}.{}-{number}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&dir)?;
        let building = Building { dir, target: self.root.join("layers").join(key) };
        make_folder(&building.upper())?;
        Ok(building)
    }

    /// Removes builds that nobody works on any more. What cannot be removed is left for the next start: it is in nobody's way.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("building"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let key = name.split('.').next().unwrap_or_default();
            let file = self.lock_file(key)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            tracing::info!(path = %path.display(), "removing an interrupted image build");
            if let Err(error) = remove(&path) {
                tracing::warn!(path = %path.display(), %error, "an interrupted image build could not be removed");
            }
        }
        Ok(())
    }
}

/// A layer in the making. Dropped before it is finished, it is removed.
#[derive(Debug)]
pub(super) struct Building {
    dir: PathBuf,
    target: PathBuf,
}

impl Building {
    /// Where its tree grows. The folder around it is free for the builder's use.
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// Puts the layer into its place, for good: nothing of it is lost when the machine stops the moment after. Returns its size.
    pub fn finish(self, note: impl FnOnce(u64) -> Note) -> io::Result<Note> {
        let layer = self.dir.join("layer");
        fs::create_dir(&layer)?;
        let tree = layer.join("fs");
        fs::rename(self.upper(), &tree)?;
        fs::set_permissions(&tree, Permissions::from_mode(0o755))?;
        let note = note(size(&tree)?);
        fs::write(layer.join("layer.json"), serde_json::to_vec_pretty(&note)?)?;
        rustix::fs::syncfs(File::open(&layer)?)?;
        fs::rename(&layer, &self.target)?;
        if let Some(layers) = self.target.parent() {
            File::open(layers)?.sync_all()?;
        }
        Ok(note)
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "a build folder could not be removed");
        }
    }
}

/// Makes a folder that others may look into, whatever the umask.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Removes a folder and all below it, mounts that a killed builder left behind first: never anything that is mounted there.
fn remove(path: &Path) -> io::Result<()> {
    let table = fs::read("/proc/self/mountinfo")?;
    for mount in mounts_below(&table, path).into_iter().rev() {
        unmount(&mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The mount points at or below `path`, in the order in which they were mounted.
fn mounts_below(table: &[u8], path: &Path) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points
        .map(|point| PathBuf::from(std::ffi::OsString::from_vec(unescape(point))))
        .filter(|point| point.starts_with(path))
        .collect()
}

/// The kernel writes blanks and backslashes of paths as `\040`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Bytes that a tree takes on disk; files with several names count once.
fn size(root: &Path) -> io::Result<u64> {
    let mut seen = std::collections::HashSet::new();
    let mut folders = vec![root.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                folders.push(entry.path());
            }
            if meta.is_dir() || meta.nlink() == 1 || seen.insert(meta.ino()) {
                bytes += meta.blocks() * 512;
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_mounts_below_a_folder_with_blanks() {
        let table = b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /data/a\\040b/proc rw - proc proc rw\n3 1 0:6 / /data/a\\040bc rw - tmpfs t rw\n";
        assert_eq!(mounts_below(table, Path::new("/data/a b")), [PathBuf::from("/data/a b/proc")]);
    }

    #[test]
    fn interrupted_builds_are_swept_and_those_under_way_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let layers = Layers::open(dir.path()).unwrap();
        for key in ["dead", "live"] {
            let building = layers.start(key).unwrap();
            fs::write(building.upper().join("file"), "half").unwrap();
            std::mem::forget(building);
        }
        let lock = layers.lock("live").unwrap();
        let left = |layers: &Layers| -> Vec<String> {
            let entries = fs::read_dir(layers.root.join("building")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy()[..4].to_owned()).collect()
        };
        assert_eq!(left(&Layers::open(dir.path()).unwrap()), ["live"]);
        drop(lock);
        assert!(left(&Layers::open(dir.path()).unwrap()).is_empty());
        assert!(layers.note("dead").is_none());
    }

    #[test]
    fn a_mount_left_in_a_build_is_detached_and_what_it_shows_is_kept() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("precious"), "").unwrap();
        let layers = Layers::open(dir.path()).unwrap();
        let building = layers.start("dead").unwrap();
        let point = building.upper().join("proc");
        make_folder(&point).unwrap();
        rustix::mount::mount_bind(outside.path(), &point).expect("this test needs root");
        drop(building);
        assert!(outside.path().join("precious").exists());
        assert!(fs::read_dir(dir.path().join("building")).unwrap().next().is_none());
    }

    #[test]
    fn a_dropped_build_leaves_nothing_and_a_finished_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let layers = Layers::open(dir.path()).unwrap();
        drop(layers.start("one").unwrap());
        let building = layers.start("one").unwrap();
        fs::write(building.upper().join("file"), vec![1; 5000]).unwrap();
        let made =
            |bytes| Note { key: "one".into(), parent: None, recipe: "r".into(), bytes, built_at_ms: 1, took_ms: 2 };
        let note = building.finish(made).unwrap();
        assert!(note.bytes >= 5000);
        assert_eq!(layers.note("one"), Some(note));
        assert!(layers.fs("one").join("file").exists());
        assert!(fs::read_dir(dir.path().join("building")).unwrap().next().is_none());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(dir.path()), mode(&layers.fs("one"))), (0o700, 0o755));
    }
}
