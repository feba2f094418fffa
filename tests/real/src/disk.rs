//! A disk of a server's own, of which copies are taken as a loss of power would leave it.
//!
//! ```text
//!   FOLDER/outer.img   a btrfs: it can copy a file in an instant
//!   FOLDER/outer/disk.img      the disk: a file system in a file, mounted where the server has its data
//!   FOLDER/outer/copy-N.img    a copy of the file at one moment
//! ```
//!
//! A copy has what the file system on the disk had written to it by then, and nothing of what the kernel still held in memory: exactly
//! what is there after a loss of power at that moment, on a disk that keeps its promises.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Bytes that the disk may have; only what is written is there.
const DISK: u64 = 12 << 30;
/// The same for the file system with the copies.
const OUTER: u64 = 24 << 30;

/// What is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// What most hosts have.
    Ext4,
    /// What has subvolumes by itself.
    Btrfs,
}

/// The disk. It goes with the lane that `folder` belongs to.
#[derive(Debug)]
pub struct PowerDisk {
    folder: PathBuf,
    copies: usize,
}

impl PowerDisk {
    /// Makes a disk below `folder` and mounts it at `at`.
    ///
    /// # Errors
    /// This machine has no loop devices or not the programs to make file systems.
    pub fn make(folder: &Path, file_system: FileSystem, at: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("outer"))?;
        fs::create_dir_all(at)?;
        let disk = Self { folder: folder.to_owned(), copies: 0 };
        sparse(&folder.join("outer.img"), OUTER)?;
        run("mkfs.btrfs", &["--quiet", "--metadata", "single"], &[&folder.join("outer.img")])?;
        mount(&folder.join("outer.img"), &disk.outer(), "loop,discard=async")?;
        sparse(&disk.image(), DISK)?;
        match file_system {
            FileSystem::Ext4 => {
                run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=1,lazy_journal_init=1"], &[&disk.image()])?
            }
            FileSystem::Btrfs => run("mkfs.btrfs", &["--quiet"], &[&disk.image()])?,
        }
        mount(&disk.image(), at, "loop")?;
        Ok(disk)
    }

    fn outer(&self) -> PathBuf {
        self.folder.join("outer")
    }

    fn image(&self) -> PathBuf {
        self.outer().join("disk.img")
    }

    /// What is left if the power goes now.
    ///
    /// # Errors
    /// The file cannot be copied.
    pub fn copy(&mut self) -> Result<PathBuf> {
        self.copies += 1;
        let copy = self.outer().join(format!("copy-{}.img", self.copies));
        let (from, into) = (File::open(self.image())?, File::create(&copy)?);
        rustix::fs::ioctl_ficlone(&into, &from).context("copying the disk in an instant")?;
        Ok(copy)
    }
}

/// Mounts a copy; the file system mends itself, as after a loss of power.
pub(crate) fn mount_copy(copy: &Path, at: &Path) -> Result<()> {
    fs::create_dir_all(at)?;
    mount(copy, at, "loop")
}

fn sparse(path: &Path, size: u64) -> Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    file.set_len(size).with_context(|| format!("making {}", path.display()))
}

fn mount(image: &Path, at: &Path, options: &str) -> Result<()> {
    run("mount", &["-o", options], &[image, at])
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> Result<()> {
    let output =
        Command::new(program).args(arguments).args(paths).output().with_context(|| format!("starting {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?} {paths:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
