//! Which cgroup hierarchies this host has, from `/proc/self/mountinfo`.
//!
//! Hosts come in three kinds: v2 only (most), v1 only, and hybrid (v1 controllers beside a v2 tree that has few or none). The answer is
//! therefore per controller and never one switch for all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where hierarchies are mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Mounts {
    /// The v2 tree.
    pub(super) v2: Option<PathBuf>,
    /// The v1 hierarchy of each controller, for example `memory`.
    pub(super) v1: BTreeMap<String, PathBuf>,
}

impl Mounts {
    /// Reads the text of `/proc/self/mountinfo`. Lines that it does not understand are of no interest.
    pub(super) fn parse(mountinfo: &str) -> Self {
        let mut mounts = Self::default();
        for line in mountinfo.lines() {
            let Some((fields, rest)) = line.split_once(" - ") else { continue };
            let Some(point) = fields.split(' ').nth(4).map(unescape) else { continue };
            let mut rest = rest.split(' ');
            match (rest.next(), rest.nth(1)) {
                // Not one that another instance has for itself: it may go at any time.
                (Some("cgroup2"), _) if !is_an_instances(&point) => {
                    mounts.v2.get_or_insert(point);
                }
                (Some("cgroup"), Some(options)) => {
                    for option in options.split(',') {
                        mounts.v1.entry(option.to_owned()).or_insert_with(|| point.clone());
                    }
                }
                _ => {}
            }
        }
        mounts
    }
}

fn is_an_instances(point: &Path) -> bool {
    point.to_string_lossy().starts_with("/run/boxyard-")
}

/// Undoes the kernel's `\040` for a space and the like.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_has_v1_controllers_and_a_v2_tree() {
        let mounts = Mounts::parse(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(mounts.v2, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounts.v1.get("cpu"), Some(&"/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(mounts.v1.get("cpuacct"), mounts.v1.get("cpu"));
        assert_eq!(mounts.v1.get("memory"), Some(&"/sys/fs/cgroup/memory".into()));
        assert_eq!(mounts.v1.get("pids"), None);
    }

    #[test]
    fn a_v2_host_and_one_without_anything() {
        let mounts = Mounts::parse("30 23 0:26 / /odd\\040place rw - cgroup2 cgroup2 rw\nnonsense\n");
        assert_eq!(mounts, Mounts { v2: Some("/odd place".into()), v1: BTreeMap::new() });
        assert_eq!(Mounts::parse(""), Mounts::default());
        assert_eq!(Mounts::parse("30 23 0:26 / /run/boxyard-ab12/cgroup2 rw - cgroup2 boxyard rw"), Mounts::default());
    }
}
