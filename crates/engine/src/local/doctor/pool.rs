//! Whether the pool of boxes' disks is whole, well and has room.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use boxyard_proto::disk::{Answer, Order, Quotas};
use rustix::fs::{StatVfsMountFlags, statvfs};

use super::super::record::Record;
use super::super::storage::{Kind, Space, Superblock, is_mounted};
use super::{LocalConfig, Verdict, disks, gib, wrong};

/// A pool with less than one of so many parts free should grow.
const FULL: u64 = 10;

/// Bytes that a file system may leave unused of its file without that being worth a word.
const SLACK: u64 = 16 << 20;

/// What is found of the pool whose file is `image`.
pub(super) fn check(config: &LocalConfig, image: &Path) -> [(&'static str, Verdict); 4] {
    // What is mounted where is told by the folders themselves, not by links to them.
    let at = fs::canonicalize(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone()).join("pool");
    // What else is asked of it depends on this.
    let mounted = is_mounted(&at).unwrap_or(false);
    [
        ("pool's file", file(image, &at, mounted)),
        ("room for the pool", host_room(image)),
        ("room in the pool", if mounted { room(&at) } else { Ok(()) }),
        ("pool's health", if mounted { health(config, &at) } else { Ok(()) }),
    ]
}

/// Boxes whose disks lay in a pool that is not there.
pub(super) fn missing(data: &Path, image: &Path) -> Verdict {
    let folders = fs::read_dir(data.join("boxes")).into_iter().flatten().filter_map(Result::ok);
    let in_pool = |path: &Path| matches!(Record::read(path), Ok(Some(record)) if record.storage == Kind::Pool);
    match folders.filter(|folder| in_pool(&folder.path())).count() {
        0 => Ok(()),
        count => wrong(
            format!("{} is not there, and {count} boxes have their disks in it", image.display()),
            "put it back, from a backup for example; without it they can only be deleted",
        ),
    }
}

/// Whether the file has all that the file system in it relies on.
fn file(image: &Path, at: &Path, mounted: bool) -> Verdict {
    let (length, superblock) = match fs::metadata(image).and_then(|file| Ok((file.len(), Superblock::read(image)?))) {
        Ok(found) => found,
        Err(error) => return wrong(format!("{}: {error}", image.display()), "make it root's alone"),
    };
    let Some(superblock) = superblock else {
        return wrong(
            format!("{} holds no btrfs", image.display()),
            "put it back from a backup; the server does not start with it, for boxes may lie in it",
        );
    };
    if superblock.is_cut(length) {
        let bytes = superblock.bytes;
        return wrong(
            format!("{} was cut: it has {length} of the {bytes} bytes that its file system relies on", image.display()),
            format!(
                "stop the server and its boxes, put it back from a backup, or let it have its length again with truncate -s {bytes} {} \
                 and look what is lost with btrfs check",
                image.display()
            ),
        );
    }
    if mounted && Space::of(at).is_ok_and(|space| space.bytes.saturating_add(SLACK) < length) {
        return wrong(
            format!("the pool does not use all of {}: its growing was broken off", image.display()),
            format!("boxyard doctor --grow-pool {length}, or start the server again"),
        );
    }
    Ok(())
}

/// A pool must be able to grow to its size where its file lies.
fn host_room(image: &Path) -> Verdict {
    let Ok((file, host)) = fs::metadata(image).and_then(|file| Ok((file, Space::of(image)?))) else {
        return wrong(format!("{} cannot be examined", image.display()), "make it root's alone");
    };
    let missing = file.len().saturating_sub(file.blocks().saturating_mul(512));
    if missing > host.free && host.free < file.len() / FULL {
        return wrong(
            format!(
                "{} may still grow by {:.1} GiB, and {:.1} GiB are free there",
                image.display(),
                gib(missing),
                gib(host.free)
            ),
            "make room: when the pool cannot grow, boxes' writes fail and their disks become read-only",
        );
    }
    Ok(())
}

fn room(at: &Path) -> Verdict {
    match Space::of(at) {
        Ok(space) if space.free < space.bytes / FULL => wrong(
            format!("{:.1} of the pool's {:.1} GiB are left for boxes", gib(space.free), gib(space.bytes)),
            "remove boxes or snapshots, or let it grow: boxyard doctor --grow-pool SIZE, or set storage.pool_size to more and start \
             the server again",
        ),
        Ok(_) => Ok(()),
        Err(error) => wrong(format!("{}: {error}", at.display()), "look at dmesg"),
    }
}

/// Whether it can be written to, has lost anything, and limits what boxes write.
fn health(config: &LocalConfig, at: &Path) -> Verdict {
    if statvfs(at).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY)) {
        return wrong(
            format!("the kernel has made {} read-only after an error", at.display()),
            "make room on the disk under it, look at dmesg, stop the boxes and unmount it; the server mounts it again",
        );
    }
    let order = Order::Quotas { at: at.to_owned(), enable: Quotas::Off };
    // What keeps the program from answering is told where the program is looked at.
    let Ok(Answer::Quotas { on, id }) = disks::ask(&config.init, &order) else { return Ok(()) };
    let errors = fs::read_to_string(format!("/sys/fs/btrfs/{id}/devinfo/1/error_stats")).unwrap_or_default();
    if let Some(errors) = told(&errors) {
        return wrong(
            format!("the pool has had errors: {errors}"),
            format!(
                "look at dmesg and at the disk under it; btrfs scrub start -B {0} finds what is damaged, and btrfs device stats -z {0} \
                 begins to count anew",
                at.display()
            ),
        );
    }
    if on == Quotas::Off {
        return wrong(
            "quotas are off in the pool, so boxes' disks are not limited",
            "start the server again: it switches them on",
        );
    }
    let counts = |name: &str| fs::read_to_string(format!("/sys/fs/btrfs/{id}/qgroups/{name}")).unwrap_or_default();
    if on == Quotas::Full && counts("inconsistent").trim() == "1" {
        return wrong(
            "what boxes' disks hold is being counted anew; until that has ended limits are not exact",
            "wait",
        );
    }
    Ok(())
}

/// The counts that are not 0, in the kernel's words: `write_errs 2`.
fn told(stats: &str) -> Option<String> {
    let bad: Vec<&str> =
        stats.lines().filter(|line| line.split(' ').nth(1).is_some_and(|count| count != "0")).collect();
    (!bad.is_empty()).then(|| bad.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_the_kernels_words() {
        let stats = "write_errs 0\nread_errs 0\nflush_errs 0\ncorruption_errs 0\ngeneration_errs 0\n";
        assert_eq!((told(stats), told("")), (None, None));
        let stats = stats.replace("write_errs 0", "write_errs 12").replace("flush_errs 0", "flush_errs 1");
        assert_eq!(told(&stats).as_deref(), Some("write_errs 12, flush_errs 1"));
    }
}
