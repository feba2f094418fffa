//! Calls of btrfs's and of loop devices'.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::check;

/// The argument of btrfs's calls: 4096 bytes, of which each uses its own part.
type Page = [u64; 512];

/// The number of a call of btrfs's. `way` is 1 for what the kernel reads, 2 for what it writes, 3 for both.
const fn btrfs_call(way: u64, number: u64, size: u64) -> u64 {
    assert!(size <= size_of::<Page>() as u64);
    way << 30 | size << 16 | 0x94 << 8 | number
}

/// A new page with `name` at byte `at`, ended by a zero.
fn page_with_name(name: &str, at: usize) -> io::Result<Box<Page>> {
    let mut page = Box::new([0; 512]);
    if name.len() > 255 || name.contains(['/', '\0']) {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (index, byte) in name.bytes().enumerate() {
        let place = at + index;
        page[place / 8] |= u64::from(byte) << (place % 8 * 8);
    }
    Ok(page)
}

/// Makes one of the calls of [`btrfs_call`] on `fd`. Pointers in the page must be valid for what the call does with them.
fn btrfs(fd: BorrowedFd<'_>, call: u64, page: &mut Page) -> io::Result<()> {
    btrfs_told(fd, call, page).map(drop)
}

/// The same, with the kernel's result: where it is not 0 nothing was done, though that is no error.
fn btrfs_told(fd: BorrowedFd<'_>, call: u64, page: &mut Page) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes as many bytes as the call's number says, at most a page, and callers in this file see to
    // what pointers it contains.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), call, ptr::from_mut(page)) })
}

/// Makes the subvolume `name` in the folder `parent`, empty or as a copy of the subvolume `from`. An empty one is limited to `limit`
/// bytes from its first moment on if one is given; a copy has the limit of what it is a copy of.
///
/// # Errors
/// What the kernel says: `EEXIST`, `ENOSPC`, `ENOTTY` where this is no btrfs.
pub fn btrfs_make(
    parent: BorrowedFd<'_>,
    name: &str,
    from: Option<BorrowedFd<'_>>,
    read_only: bool,
    limit: Option<u64>,
) -> io::Result<()> {
    const CREATE: u64 = btrfs_call(1, 24, 4096);
    const SNAPSHOT: u64 = btrfs_call(1, 23, 4096);
    const READ_ONLY: u64 = 1 << 1;
    const INHERIT: u64 = 1 << 2;
    // `struct btrfs_ioctl_vol_args_v2`: fd, transid, flags, size and address of what is inherited, two unused, the name.
    let mut page = page_with_name(name, 56)?;
    // `struct btrfs_qgroup_inherit`: flags (limits are set), three counts, then which limits, bytes referred to, and three others.
    let inherit: [u64; 9] = [1, 0, 0, 0, 1, limit.unwrap_or_default(), 0, 0, 0];
    if read_only {
        page[2] |= READ_ONLY;
    }
    if limit.is_some() {
        page[2] |= INHERIT;
        page[3] = size_of_val(&inherit) as u64;
        // The kernel reads it during the call, which `inherit` outlives.
        page[4] = inherit.as_ptr() as u64;
    }
    if let Some(from) = from {
        page[0] = u64::from(from.as_raw_fd().cast_unsigned());
    }
    btrfs(parent, if from.is_some() { SNAPSHOT } else { CREATE }, &mut page)
}

/// Removes the subvolume `name` in the folder `parent`.
///
/// # Errors
/// What the kernel says; `ENOENT` when there is none.
pub fn btrfs_destroy(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut page = page_with_name(name, 8)?;
    btrfs(parent, const { btrfs_call(1, 15, 4096) }, &mut page)
}

/// Has the kernel free the subvolumes that have been removed by now, and waits until it has.
///
/// # Errors
/// What the kernel says; `ENOTTY` where one cannot wait for it, before Linux 6.13.
pub fn btrfs_free_removed(folder: BorrowedFd<'_>) -> io::Result<()> {
    const QUEUED: u64 = 1;
    let mut page = Box::new([0; 512]);
    // Writes all out, without which it may not begin for half a minute.
    btrfs(folder, const { btrfs_call(0, 8, 0) }, &mut page)?;
    // `struct btrfs_ioctl_subvol_wait`: one subvolume, then how to wait and a count.
    page[1] = QUEUED;
    match btrfs(folder, const { btrfs_call(1, 65, 16) }, &mut page) {
        // There is none.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        waited => waited,
    }
}

/// Limits the subvolume with this id to `limit` bytes. `folder` is in another subvolume: the kernel charges the one that it is called on
/// for what it is about to write, and refuses the call where that one holds more than it may already.
///
/// # Errors
/// What the kernel says; `ENOTCONN` where quotas are off.
pub fn btrfs_limit(folder: BorrowedFd<'_>, subvolume: u64, limit: u64) -> io::Result<()> {
    // `struct btrfs_ioctl_qgroup_limit_args`: the subvolume, which limits, bytes referred to.
    let mut page = Box::new([0; 512]);
    (page[0], page[1], page[2]) = (subvolume, 1, limit);
    btrfs(folder, const { btrfs_call(2, 43, 48) }, &mut page)
}

/// Switches quotas on for the file system of `folder`, simple or full ones.
///
/// # Errors
/// What the kernel says; `EINVAL` when it has no simple ones. That quotas are on already is none.
pub fn btrfs_enable_quotas(folder: BorrowedFd<'_>, simple: bool) -> io::Result<()> {
    let mut page = Box::new([0; 512]);
    page[0] = if simple { 4 } else { 1 };
    btrfs(folder, const { btrfs_call(3, 40, 16) }, &mut page)
}

/// Begins to count what subvolumes use anew. In the background; until it has ended, limits hold only for what is written meanwhile.
///
/// # Errors
/// What the kernel says; `EINPROGRESS` when it is being done.
pub fn btrfs_count_again(folder: BorrowedFd<'_>) -> io::Result<()> {
    btrfs(folder, const { btrfs_call(1, 44, 64) }, &mut Box::new([0; 512]))
}

/// The id of the subvolume that `folder` is in.
///
/// # Errors
/// What the kernel says.
pub fn btrfs_subvolume_id(folder: BorrowedFd<'_>) -> io::Result<u64> {
    let mut page = Box::new([0; 512]);
    // Of the root folder, whose number is always this; the answer takes the place of the first word.
    page[1] = 256;
    btrfs(folder, const { btrfs_call(3, 18, 4096) }, &mut page)?;
    Ok(page[0])
}

/// Bytes that the subvolume with this id is charged for; `None` where it is not counted.
///
/// # Errors
/// What the kernel says.
pub fn btrfs_charged(folder: BorrowedFd<'_>, subvolume: u64) -> io::Result<Option<u64>> {
    const QUOTA_TREE: u64 = 8;
    const INFO: u64 = 242;
    let mut page = Box::new([0; 512]);
    // `struct btrfs_ioctl_search_args`: the tree; the least and the largest number, offset and generation; two types; how many.
    page[..9].copy_from_slice(&[QUOTA_TREE, 0, 0, subvolume, subvolume, 0, u64::MAX, INFO | INFO << 32, 1]);
    match btrfs(folder, const { btrfs_call(3, 17, 4096) }, &mut page) {
        // Without quotas there is no such tree.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        searched => searched?,
    }
    // Thirteen words of question, four of the item's header, its generation, and then the bytes.
    Ok((page[8] & 0xFFFF_FFFF == 1).then_some(page[18]))
}

/// Some of the quota groups that subvolumes have or had, from the one with the id `first` on, with the bytes that each is charged for. None:
/// there are no more.
///
/// # Errors
/// What the kernel says.
pub fn btrfs_groups(folder: BorrowedFd<'_>, first: u64) -> io::Result<Vec<(u64, u64)>> {
    const QUOTA_TREE: u64 = 8;
    const INFO: u64 = 242;
    /// The first level: groups of single subvolumes.
    const LAST: u64 = (1 << 48) - 1;
    /// Words of an answer: an item's header, and the item.
    const WORDS: usize = 4 + 5;
    let mut page = Box::new([0; 512]);
    page[..9].copy_from_slice(&[QUOTA_TREE, 0, 0, first, LAST, 0, u64::MAX, INFO | INFO << 32, u64::from(u32::MAX)]);
    match btrfs(folder, const { btrfs_call(3, 17, 4096) }, &mut page) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        searched => searched?,
    }
    let count = usize::try_from(page[8] & 0xFFFF_FFFF).unwrap_or(0);
    Ok(page[13..].chunks_exact(WORDS).take(count).map(|item| (item[2], item[5])).collect())
}

/// Whether there is a subvolume with this id, removed ones included that the kernel has not freed yet.
///
/// # Errors
/// What the kernel says.
pub fn btrfs_has_subvolume(folder: BorrowedFd<'_>, id: u64) -> io::Result<bool> {
    const ROOT_TREE: u64 = 1;
    const ROOT: u64 = 132;
    let mut page = Box::new([0; 512]);
    page[..9].copy_from_slice(&[ROOT_TREE, id, id, 0, u64::MAX, 0, u64::MAX, ROOT | ROOT << 32, 1]);
    btrfs(folder, const { btrfs_call(3, 17, 4096) }, &mut page)?;
    Ok(page[8] & 0xFFFF_FFFF == 1)
}

/// Removes the quota group of a subvolume that is gone.
///
/// # Errors
/// What the kernel says; `EBUSY` when it is needed.
pub fn btrfs_forget_group(folder: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let mut page = Box::new([0; 512]);
    // `struct btrfs_ioctl_qgroup_create_args`: 0 to remove it, and its id.
    page[1] = id;
    btrfs(folder, const { btrfs_call(1, 42, 16) }, &mut page)
}

/// Where a file system's list of items is gone on with: the number of a file, the type of an item of it, and that item's offset.
pub type Place = (u64, u32, u64);

/// What [`btrfs_add_up`] came by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Files, folders, links and so on.
    pub files: u64,
    /// Bytes of what is in them.
    pub bytes: u64,
    /// Bytes of what is known of them: inodes, names, attributes.
    pub known: u64,
}

/// Goes on adding up what the files of `folder`'s subvolume hold, from `first` on. Returns what it came by, and where to go on, or `None`
/// when that was all.
///
/// # Errors
/// What the kernel says.
pub fn btrfs_add_up(folder: BorrowedFd<'_>, first: Place) -> io::Result<(Sum, Option<Place>)> {
    const CALL: u64 = btrfs_call(3, 17, 112);
    const INODE: u32 = 1;
    /// Where in a file its bytes lie: the last that there is of a file, and as much as it is fragmented.
    const EXTENT: u32 = 108;
    /// Bytes of the question, of an item's header here and on the disk, and before what we want of an item.
    const QUESTION: usize = 112;
    const HEADER: usize = 32;
    const HEADER_ON_DISK: u64 = 25;
    const BEFORE_NBYTES: usize = 24;
    const ANSWER: usize = 256 * 1024;
    // `struct btrfs_ioctl_search_args_v2`: this subvolume's tree; the least and the largest number, offset and generation; two types,
    // which only count where the numbers are equal; how many; and, after four unused ones, the bytes of the answer.
    let types = u64::from(first.1) | u64::from(u32::MAX) << 32;
    let question =
        [0, first.0, u64::MAX, first.2, u64::MAX, 0, u64::MAX, types, u64::from(u32::MAX), 0, 0, 0, 0, ANSWER as u64];
    let mut text = vec![0_u8; QUESTION + ANSWER];
    for (word, bytes) in question.iter().zip(text.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    // SAFETY: the kernel reads the question and writes as many bytes after it as the question says, which are there.
    check(unsafe { libc::syscall(libc::SYS_ioctl, folder.as_raw_fd(), CALL, text.as_mut_ptr()) })?;
    let u64_at = |at: usize| text.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes);
    let u32_at = |at: usize| text.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let (mut sum, mut last, mut at) = (Sum::default(), None, QUESTION);
    for _ in 0..u32_at(64) {
        // Generation, number, offset; type and length. In an inode: generation twice, size, and the bytes on the disk.
        let (kind, length) = (u32_at(at + 24), u32_at(at + 28));
        last = Some((u64_at(at + 8), kind, u64_at(at + 16)));
        if kind == INODE {
            sum.files += 1;
            sum.bytes = sum.bytes.saturating_add(u64_at(at + HEADER + BEFORE_NBYTES));
        }
        if kind < EXTENT {
            sum.known = sum.known.saturating_add(u64::from(length) + HEADER_ON_DISK);
        }
        at += HEADER + usize::try_from(length).unwrap_or(ANSWER);
    }
    // Of a file whose names and attributes are known the rest is of no interest. An answer that leads back would never end.
    let next = last.and_then(|(number, kind, offset)| match offset.checked_add(1) {
        Some(offset) if kind < EXTENT => Some((number, kind, offset)),
        _ if kind < EXTENT => Some((number, kind + 1, 0)),
        _ => Some((number.checked_add(1)?, 0, 0)),
    });
    Ok((sum, next.filter(|next| *next > first)))
}

/// The id of the file system of `folder`.
///
/// # Errors
/// What the kernel says; `ENOTTY` where this is no btrfs.
pub fn btrfs_id(folder: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    let mut page = Box::new([0; 512]);
    btrfs(folder, const { btrfs_call(2, 31, 1024) }, &mut page)?;
    let mut id = [0; 16];
    id[..8].copy_from_slice(&page[2].to_ne_bytes());
    id[8..].copy_from_slice(&page[3].to_ne_bytes());
    Ok(id)
}

/// Lets the file system of `folder`, which has one device, use all of it.
///
/// # Errors
/// What the kernel says; `EINPROGRESS` while it is moving metadata or the like.
pub fn btrfs_fill_device(folder: BorrowedFd<'_>) -> io::Result<()> {
    let mut page = page_with_name("max", 8)?;
    match btrfs_told(folder, const { btrfs_call(1, 3, 4096) }, &mut page)? {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EINPROGRESS)),
    }
}

/// Moves all metadata of the file system of `folder` to new places on the device, which are as large as the kernel sees fit for a
/// device of its size.
///
/// # Errors
/// What the kernel says; `EINPROGRESS` when something like it is being done.
pub fn btrfs_move_metadata(folder: BorrowedFd<'_>) -> io::Result<()> {
    const METADATA: u64 = 1 << 2;
    let mut page = Box::new([0; 512]);
    page[0] = METADATA;
    btrfs(folder, const { btrfs_call(3, 32, 1024) }, &mut page)
}

/// The number of a loop device that is free at this moment. `control` is `/dev/loop-control`.
///
/// # Errors
/// What the kernel says.
pub fn loop_find_free(control: BorrowedFd<'_>) -> io::Result<u32> {
    const GET_FREE: c_int = 0x4C82;
    // SAFETY: this call has no argument.
    let number = check(unsafe { libc::syscall(libc::SYS_ioctl, control.as_raw_fd(), GET_FREE, 0) })?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Makes the loop device show `file`, past the page cache where the file system can, until its last user closes it.
///
/// # Errors
/// What the kernel says; `EBUSY` when the device has another file.
pub fn loop_attach(device: BorrowedFd<'_>, file: BorrowedFd<'_>, file_name: &str) -> io::Result<()> {
    const CONFIGURE: c_int = 0x4C0A;
    const AUTOCLEAR: u64 = 4;
    const DIRECT_IO: u64 = 16;
    // `struct loop_config`: descriptor and block size, `struct loop_info64`, eight reserved words. In the info are six words, the
    // encryption's key size with the flags beside it, then two names and a key.
    let mut config = [0_u64; 38];
    config[0] = u64::from(file.as_raw_fd().cast_unsigned());
    config[7] = (AUTOCLEAR | DIRECT_IO) << 32;
    for (index, byte) in file_name.bytes().take(63).enumerate() {
        config[8 + index / 8] |= u64::from(byte) << (index % 8 * 8);
    }
    // SAFETY: the argument is as large as a `loop_config`, which the kernel only reads.
    check(unsafe { libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), CONFIGURE, config.as_ptr()) })?;
    Ok(())
}

/// Lets the loop device see that its file has grown.
///
/// # Errors
/// What the kernel says.
pub fn loop_grow(device: BorrowedFd<'_>) -> io::Result<()> {
    const SET_CAPACITY: c_int = 0x4C07;
    // SAFETY: this call has no argument.
    check(unsafe { libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), SET_CAPACITY, 0) })?;
    Ok(())
}
