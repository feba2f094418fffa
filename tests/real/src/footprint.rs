//! What there is on the host because of one server, found without asking the server.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::lane::{Lane, UIDS_PER_BOX};

/// Everything of one lane that can be left over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Processes that run with a uid of the lane.
    pub pids: Vec<i32>,
    /// Uid ranges, numbered from 0, in which processes run: one a box.
    pub uid_ranges: BTreeSet<u32>,
    /// Boxes that have a cgroup in any hierarchy.
    pub cgroups: BTreeSet<String>,
    /// Boxes that have a folder in the data folder.
    pub folders: BTreeSet<String>,
    /// Boxes that have a socket.
    pub sockets: BTreeSet<String>,
    /// The host's ends of network links.
    pub interfaces: BTreeSet<String>,
    /// Routes to addresses of the lane, its gateway left out.
    pub routes: BTreeSet<String>,
    /// Mounts below the lane's data folder, the shared images and the boxes' pool left out.
    pub mounts: Vec<String>,
    /// Launchers that have not become a box yet.
    pub launchers: Vec<i32>,
}

impl Footprint {
    /// Looks at the host.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn of(lane: &Lane) -> Result<Self> {
        let (start, end) = (lane.uids_start(), lane.uids_start() + lane.room() * UIDS_PER_BOX);
        let mut found = Self { mounts: mounts(&lane.data())?, routes: routes(lane)?, ..Self::default() };
        for (pid, status) in processes()? {
            // It has ended, and the host's first process, whose child it has become, takes notice when it likes.
            if status.contains("\nState:\tZ") {
                continue;
            }
            let uid =
                status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
            let Some(uid) = uid.filter(|uid: &u32| (start..end).contains(uid)) else { continue };
            found.pids.push(pid);
            found.uid_ranges.insert((uid - start) / UIDS_PER_BOX);
        }
        found.folders = names(&lane.data().join("boxes"), "")?;
        if let Some(tag) = lane.tag() {
            for folder in cgroups(&tag)? {
                found.cgroups.extend(names(&folder, "")?.into_iter().filter(|name| looks_like_box(name)));
            }
            found.sockets = names(Path::new(&format!("/run/boxyard-{tag}")), ".sock")?;
            found.sockets.retain(|name| looks_like_box(name));
            found.interfaces = interfaces(&tag)?;
        }
        Ok(found)
    }

    /// Says what is not as it must be when exactly these boxes are there and ready; empty when all is.
    pub fn differences(&self, boxes: &BTreeSet<String>) -> Vec<String> {
        self.differences_from(boxes, boxes)
    }

    /// Says what is not as it must be when exactly these boxes are there and of them exactly `awake` have processes, frozen ones
    /// included; empty when all is.
    pub fn differences_from(&self, all: &BTreeSet<String>, awake: &BTreeSet<String>) -> Vec<String> {
        let mut wrong = Vec::new();
        let boxes = awake;
        for (what, found, boxes) in
            [("cgroup", &self.cgroups, awake), ("folder", &self.folders, all), ("socket", &self.sockets, awake)]
        {
            let orphans: Vec<_> = found.difference(boxes).collect();
            let missing: Vec<_> = boxes.difference(found).collect();
            if !orphans.is_empty() {
                wrong.push(format!("{} × {what} of no box, {:?} for one", orphans.len(), orphans[0]));
            }
            if !missing.is_empty() {
                wrong.push(format!("{} × box without {what}, {:?} for one", missing.len(), missing[0]));
            }
        }
        for (what, count) in [
            ("uid ranges with processes", self.uid_ranges.len()),
            ("network interfaces", self.interfaces.len()),
            ("routes", self.routes.len()),
        ] {
            if count != boxes.len() {
                wrong.push(format!("{count} {what} for {} boxes", boxes.len()));
            }
        }
        if !self.mounts.is_empty() {
            wrong.push(format!("mounts on the host: {:?}", self.mounts));
        }
        wrong
    }
}

/// Whether a name has the form of a box id: two words and five digits.
fn looks_like_box(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    matches!(parts.as_slice(), [first, second, number]
        if !first.is_empty() && !second.is_empty() && number.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The pids of all processes, with what `/proc/PID/status` says.
fn processes() -> Result<Vec<(i32, String)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse() else { continue };
        // A process may end between the two looks.
        if let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
            all.push((pid, status));
        }
    }
    Ok(all)
}

/// The names in a folder, without `suffix`; none when there is no folder.
fn names(folder: &Path, suffix: &str) -> Result<BTreeSet<String>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(BTreeSet::new()) };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(suffix) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// The folders named `boxyard-TAG` in all cgroup hierarchies, two levels deep.
///
/// # Errors
/// The mounts cannot be read.
pub fn cgroups(tag: &str) -> Result<Vec<PathBuf>> {
    let wanted = format!("boxyard-{tag}");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found = Vec::new();
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let Some(mount) = line.split(' ').nth(4).map(PathBuf::from) else { continue };
        for parent in std::iter::once(mount.clone()).chain(subfolders(&mount)) {
            let folder = parent.join(&wanted);
            if folder.is_dir() && !found.contains(&folder) {
                found.push(folder);
            }
        }
    }
    Ok(found)
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The host's ends of the links of the instance `tag`.
pub(crate) fn interfaces(tag: &str) -> Result<BTreeSet<String>> {
    let all = names(Path::new("/sys/class/net"), "")?;
    Ok(all.into_iter().filter(|name| name.starts_with(&format!("by{tag}-"))).collect())
}

fn routes(lane: &Lane) -> Result<BTreeSet<String>> {
    let output =
        Command::new("ip").args(["-4", "route", "show", "root", &lane.range()]).output().context("starting ip")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter(|line| line.contains(" dev by")).map(str::to_owned).collect())
}

fn mounts(data: &Path) -> Result<Vec<String>> {
    let below = format!("{}/", data.display());
    // Both are there for as long as the data folder is.
    let lasting = ["images", "pool"].map(|name| data.join(name).to_string_lossy().into_owned());
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points
        .filter(|point| point.starts_with(&below) && !lasting.iter().any(|lasting| lasting == point))
        .map(str::to_owned)
        .collect())
}
