//! The files that hold a box's limits, in both versions.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::Limits;

/// Microseconds over which CPU time is counted out; the kernel's own default in both versions.
const CPU_PERIOD_US: u64 = 100_000;

/// A controller that limits boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Memory,
    Pids,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    /// The kernel's name for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    /// Limits the v1 group `dir`.
    pub(super) fn limit_v1(self, dir: &Path, limits: &Limits) -> io::Result<()> {
        match self {
            Self::Cpu => set(&dir.join("cpu.cfs_quota_us"), &quota(limits).to_string()),
            Self::Memory => {
                let bytes = limits.memory_bytes.to_string();
                set(&dir.join("memory.limit_in_bytes"), &bytes)?;
                // The sum of memory and swap; the kernel has it where it accounts swap, and elsewhere swapping is just kept away.
                if !set_if_there(&dir.join("memory.memsw.limit_in_bytes"), &bytes)? {
                    set_if_there(&dir.join("memory.swappiness"), "0")?;
                }
                Ok(())
            }
            Self::Pids => set(&dir.join("pids.max"), &limits.pids.to_string()),
        }
    }

    /// Limits the v2 group `dir`. `memory.oom.group` stays unset: a box out of memory loses the process that is at fault, not all.
    pub(super) fn limit_v2(self, dir: &Path, limits: &Limits) -> io::Result<()> {
        match self {
            Self::Cpu => set(&dir.join("cpu.max"), &format!("{} {CPU_PERIOD_US}", quota(limits))),
            Self::Memory => {
                set(&dir.join("memory.max"), &limits.memory_bytes.to_string())?;
                set_if_there(&dir.join("memory.swap.max"), "0")?;
                Ok(())
            }
            Self::Pids => set(&dir.join("pids.max"), &limits.pids.to_string()),
        }
    }
}

/// What all boxes together weigh beside other programs of the host, in ordinary programs for each CPU. With the kernel's default, the weight
/// of one program, a box that takes all CPU time it can get would use up what all boxes have, and each would wait for the host's own.
const WEIGHT_PER_CPU: u64 = 4;

/// Gives the v1 group of all boxes its weight on a host with so many CPUs. A program weighs 1024.
pub(super) fn weigh_v1(dir: &Path, cpus: u64) -> io::Result<()> {
    set(&dir.join("cpu.shares"), &(1024 * WEIGHT_PER_CPU * cpus).min(262_144).to_string())
}

/// Gives the v2 group of all boxes its weight on a host with so many CPUs. A program weighs 100.
pub(super) fn weigh_v2(dir: &Path, cpus: u64) -> io::Result<()> {
    set(&dir.join("cpu.weight"), &(100 * WEIGHT_PER_CPU * cpus).min(10_000).to_string())
}

/// CPUs that this process may use.
pub(super) fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// Microseconds of CPU per period; the kernel refuses less than 1000.
fn quota(limits: &Limits) -> u64 {
    (u64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000).max(1000)
}

/// Writes `value` into the kernel's file `path`, which must be there.
pub(super) fn set(path: &Path, value: &str) -> io::Result<()> {
    let write = || OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes());
    write().map_err(|error| io::Error::new(error.kind(), format!("writing '{value}' to {}: {error}", path.display())))
}

/// The same for a file that not every kernel has; false when this one has not.
pub(super) fn set_if_there(path: &Path, value: &str) -> io::Result<bool> {
    match set(path, value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The number in the kernel's file `path`, or behind `key` in a file of several lines.
pub(super) fn number(path: &Path, key: Option<&str>) -> io::Result<u64> {
    let mut text = String::new();
    File::open(path)?.take(64 * 1024).read_to_string(&mut text)?;
    let found = match key {
        None => text.trim().parse().ok(),
        Some(key) => text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()),
    };
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no number in {}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIMITS: Limits = Limits { cpu_millis: 1500, memory_bytes: 64 << 20, pids: 100, disk_bytes: 0 };

    /// A folder with empty files of these names, as the kernel would have made.
    fn group(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(dir.path().join(file), "").unwrap();
        }
        dir
    }

    fn all(limit: fn(Controller, &Path, &Limits) -> io::Result<()>, dir: &Path) -> io::Result<()> {
        Controller::ALL.into_iter().try_for_each(|controller| limit(controller, dir, &LIMITS))
    }

    #[test]
    fn v2_limits_go_into_their_files() {
        let dir = group(&["cpu.max", "memory.max", "memory.swap.max", "pids.max", "memory.oom.group"]);
        all(Controller::limit_v2, dir.path()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("pids.max"), "100");
        assert_eq!(read("memory.oom.group"), "");
    }

    #[test]
    fn v1_limits_go_into_their_files_with_and_without_swap_accounting() {
        let dir = group(&["cpu.cfs_quota_us", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "pids.max"]);
        all(Controller::limit_v1, dir.path()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("cpu.cfs_quota_us"), "150000");
        assert_eq!(read("memory.limit_in_bytes"), "67108864");
        assert_eq!(read("memory.memsw.limit_in_bytes"), "67108864");
        let plain = group(&["cpu.cfs_quota_us", "memory.limit_in_bytes", "memory.swappiness", "pids.max"]);
        all(Controller::limit_v1, plain.path()).unwrap();
        assert_eq!(fs::read_to_string(plain.path().join("memory.swappiness")).unwrap(), "0");
    }

    #[test]
    fn all_boxes_weigh_as_much_as_the_hosts_cpus_up_to_what_the_kernel_takes() {
        let dir = group(&["cpu.shares", "cpu.weight"]);
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        for (cpus, shares, weight) in [(1, "4096", "400"), (2, "8192", "800"), (512, "262144", "10000")] {
            weigh_v1(dir.path(), cpus).unwrap();
            weigh_v2(dir.path(), cpus).unwrap();
            assert_eq!((read("cpu.shares").as_str(), read("cpu.weight").as_str()), (shares, weight));
        }
        assert!(cpus() > 0);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = all(Controller::limit_v2, group(&["cpu.max"]).path()).unwrap_err();
        assert!(error.to_string().contains("memory.max"), "{error}");
    }
}
