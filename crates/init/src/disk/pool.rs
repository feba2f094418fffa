//! The pool: a btrfs in a sparse file, for hosts whose own file system has neither snapshots nor quotas.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use boxyard_proto::disk::{Answer, Quotas};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat, statfs};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::sys;
use crate::trouble::{Doing, Trouble};

/// Tries to get a loop device before others do.
const TRIES: u32 = 32;

/// Space that boxes free is given back to the file's own file system, and a part of all space is kept for metadata.
const OPTIONS: &std::ffi::CStr = c"discard=async,metadata_ratio=8";

/// Room for metadata that is too little. A new file system has 8 MiB and gets more when it needs it; when one box has filled the pool
/// with data by then, no other can make as much as an empty file, and not even removing that box helps.
const METADATA_MIN: u64 = 16 << 20;

/// Bytes that a file system may leave unused of its device without that being worth a change.
const SLACK: u64 = 16 << 20;

/// How long growing waits for what else is being done to the file system, which is as a rule the moving of metadata that began when it
/// was mounted.
const GROW_PATIENCE: Duration = Duration::from_secs(60);

/// The same when it is mounted, for a server that waits to start. What could not be done then is done next time.
const MOUNT_PATIENCE: Duration = Duration::from_secs(5);

/// Mounts the file system in `image` at `at`, and lets it use all of the file.
pub fn mount(image: &Path, at: &Path) -> Result<(), Trouble> {
    let (image, _turn) = take_turn(image)?;
    let device = match find(&image)? {
        Some(device) => device,
        None => attach(&image)?,
    };
    if !is_mounted(at).doing_with(|| format!("examining {}", at.display()))? {
        rustix::mount::mount(&device.0, at, "btrfs", MountFlags::NOATIME | MountFlags::NODEV, Some(OPTIONS))
            .doing_with(|| format!("mounting {} at {}", image.display(), at.display()))?;
    }
    match fill(&image, at, MOUNT_PATIENCE) {
        Err(trouble) if trouble.error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        filled => filled?,
    }
    room_for_metadata(at)
}

/// The file's path without links, and the right to give it a device or let it grow: two at once would each do half of it.
fn take_turn(image: &Path) -> Result<(PathBuf, fs::File), Trouble> {
    let opening = || format!("opening {}", image.display());
    let path = fs::canonicalize(image).doing_with(opening)?;
    let file = fs::File::open(&path).doing_with(opening)?;
    flock(&file, FlockOperation::LockExclusive).doing_with(opening)?;
    Ok((path, file))
}

/// Lets the file system that is mounted at `at` use all of `image`, if it is mounted.
pub fn grow(image: &Path, at: &Path) -> Result<(), Trouble> {
    let (image, _turn) = take_turn(image)?;
    match is_mounted(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).doing("examining the pool"),
        Ok(true) => {}
        Ok(false) | Err(_) => return Ok(()),
    }
    // The device is there as long as the mount is. One that is just going is grown by the next mount.
    match find(&image)? {
        Some(_device) => fill(&image, at, GROW_PATIENCE),
        None => Ok(()),
    }
}

/// Lets the file system use all of its device, which has the size of the file.
fn fill(image: &Path, at: &Path, patience: Duration) -> Result<(), Trouble> {
    let whole = fs::metadata(image).doing("examining the pool")?.len();
    let used = statfs(at).doing("examining the pool")?;
    let used = used.f_blocks.saturating_mul(u64::try_from(used.f_bsize).unwrap_or(1));
    if whole > used.saturating_add(SLACK) {
        let folder = open(at)?;
        let until = Instant::now() + patience;
        while let Err(error) = sys::disks::btrfs_fill_device(folder.as_fd()) {
            let busy = error.raw_os_error() == Some(libc::EINPROGRESS);
            if !busy || !is_idle(&folder, until).doing("growing the pool's file system")? {
                return Err(error).doing("growing the pool's file system");
            }
        }
    }
    Ok(())
}

/// Waits until nothing is being done that others have to wait for, and says whether that is so.
fn is_idle(folder: &std::os::fd::OwnedFd, until: Instant) -> io::Result<bool> {
    let id = uuid(sys::disks::btrfs_id(folder.as_fd())?);
    let path = format!("/sys/fs/btrfs/{id}/exclusive_operation");
    loop {
        let mut file = fs::File::open(&path)?;
        let mut doing = String::new();
        io::Read::read_to_string(&mut file, &mut doing)?;
        if doing.trim() == "none" {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // The kernel tells of every change after it was read.
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        poll(&mut [PollFd::new(&file, PollFlags::PRI | PollFlags::ERR)], Some(&left))?;
    }
}

/// Sees to it that metadata has room of its own.
fn room_for_metadata(at: &Path) -> Result<(), Trouble> {
    let folder = open(at)?;
    let id = uuid(sys::disks::btrfs_id(folder.as_fd()).doing("examining the pool")?);
    let text = fs::read_to_string(format!("/sys/fs/btrfs/{id}/allocation/metadata/total_bytes")).unwrap_or_default();
    if text.trim().parse().is_ok_and(|bytes: u64| bytes < METADATA_MIN) {
        match sys::disks::btrfs_move_metadata(folder.as_fd()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error).doing("making room for the pool's metadata");
            }
            _ => {}
        }
    }
    Ok(())
}

/// The loop device that shows `image` already, opened, so that it stays.
fn find(image: &Path) -> Result<Option<(PathBuf, fs::File)>, Trouble> {
    let Some(device) = attached(image).doing("looking at the loop devices")? else { return Ok(None) };
    let open = fs::OpenOptions::new().read(true).write(true).open(&device);
    let open = open.doing_with(|| format!("opening {}", device.display()))?;
    match sys::disks::loop_grow(open.as_fd()) {
        // Its last user went before it was opened.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
        grown => grown.doing("growing the loop device")?,
    }
    // Nor has it got another file meanwhile.
    let still = attached(image).doing("looking at the loop devices")?;
    Ok((still.as_ref() == Some(&device)).then_some((device, open)))
}

/// Whether a file system of its own is mounted at this folder.
fn is_mounted(at: &Path) -> io::Result<bool> {
    let parent = at.parent().unwrap_or(at);
    Ok(fs::symlink_metadata(at)?.dev() != fs::symlink_metadata(parent)?.dev())
}

/// The loop device that shows `image` already.
fn attached(image: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir("/sys/block")? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with("loop") {
            continue;
        }
        let file = Path::new("/sys/block").join(&name).join("loop/backing_file");
        // A device without a file has no such entry.
        if let Ok(text) = fs::read_to_string(file)
            && text.strip_suffix('\n').is_some_and(|path| Path::new(path) == image)
        {
            return Ok(Some(Path::new("/dev").join(name)));
        }
    }
    Ok(None)
}

/// Gives the file a loop device. It stays while the file returned is open, and then while it is mounted.
fn attach(image: &Path) -> Result<(PathBuf, fs::File), Trouble> {
    let options = || {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        options
    };
    let file = options().open(image).doing_with(|| format!("opening {}", image.display()))?;
    let control =
        options().open("/dev/loop-control").doing("opening /dev/loop-control (is the module 'loop' there?)")?;
    for _ in 0..TRIES {
        let number = sys::disks::loop_find_free(control.as_fd()).doing("finding a free loop device")?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let open = options().open(&device).doing_with(|| format!("opening {}", device.display()))?;
        match sys::disks::loop_attach(open.as_fd(), file.as_fd(), &image.to_string_lossy()) {
            Ok(()) => return Ok((device, open)),
            // Somebody was faster.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error).doing_with(|| format!("attaching the pool to {}", device.display())),
        }
    }
    Err(Trouble::new("finding a free loop device", "others are always faster"))
}

/// Sees to quotas on the file system of `at`.
pub fn quotas(at: &Path, enable: Quotas) -> Result<Answer, Trouble> {
    let folder = open(at)?;
    let id =
        sys::disks::btrfs_id(folder.as_fd()).doing_with(|| format!("examining the file system of {}", at.display()))?;
    let id = uuid(id);
    let state = |name: &str| {
        let text = fs::read_to_string(format!("/sys/fs/btrfs/{id}/qgroups/{name}")).unwrap_or_default();
        text.trim().to_owned()
    };
    if enable != Quotas::Off && state("enabled") != "1" {
        let enabled = match sys::disks::btrfs_enable_quotas(folder.as_fd(), enable == Quotas::Simple) {
            Err(error) if enable == Quotas::Simple && error.raw_os_error() == Some(libc::EINVAL) => {
                sys::disks::btrfs_enable_quotas(folder.as_fd(), false)
            }
            enabled => enabled,
        };
        enabled.doing("switching quotas on")?;
    }
    let on = match (state("enabled").as_str(), state("mode").as_str()) {
        ("1", "squota") => Quotas::Simple,
        ("1", _) => Quotas::Full,
        // Kernels before 6.1 do not say; an own subvolume that is counted does.
        ("", _) => {
            let counted = sys::disks::btrfs_subvolume_id(folder.as_fd())
                .and_then(|id| sys::disks::btrfs_charged(folder.as_fd(), id))
                .doing("looking for quotas")?;
            if counted.is_some() { Quotas::Full } else { Quotas::Off }
        }
        _ => Quotas::Off,
    };
    if enable == Quotas::Simple {
        forget_groups(&folder).doing("removing quota groups of subvolumes that are gone")?;
    }
    if on == Quotas::Full {
        // By default the kernel gives up counting when it frees a large subvolume: quicker, and the end of all limits.
        let threshold = format!("/sys/fs/btrfs/{id}/qgroups/drop_subtree_threshold");
        match fs::write(&threshold, "8") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).doing("setting the quotas up"),
            _ => {}
        }
        if state("inconsistent") == "1" {
            match sys::disks::btrfs_count_again(folder.as_fd()) {
                Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                    return Err(error).doing("counting what subvolumes use");
                }
                _ => {}
            }
        }
    }
    Ok(Answer::Quotas { on, id })
}

/// Removes groups that nobody needs any more. The kernel does so when it frees a subvolume, but with simple quotas not while others hold
/// what that one has written.
fn forget_groups(folder: &std::os::fd::OwnedFd) -> io::Result<()> {
    /// The ids of subvolumes begin here.
    const FIRST: u64 = 256;
    let mut first = FIRST;
    loop {
        let groups = sys::disks::btrfs_groups(folder.as_fd(), first)?;
        let Some((last, _)) = groups.last() else { return Ok(()) };
        first = last + 1;
        for (id, _) in groups.iter().filter(|(_, charged)| *charged == 0) {
            if sys::disks::btrfs_has_subvolume(folder.as_fd(), *id)? {
                continue;
            }
            match sys::disks::btrfs_forget_group(folder.as_fd(), *id) {
                Err(error) if !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT)) => return Err(error),
                _ => {}
            }
        }
    }
}

fn open(folder: &Path) -> Result<std::os::fd::OwnedFd, Trouble> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, folder, flags, Mode::empty()).doing_with(|| format!("opening {}", folder.display()))
}

/// The id in the form in which everybody writes it.
fn uuid(id: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in id.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_as_in_sysfs() {
        let id = [0x3a, 0x5b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 255];
        assert_eq!(uuid(id), "3a5b0001-0203-0405-0607-08090a0b0cff");
    }
}
