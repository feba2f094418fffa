//! Lanes: places on the host where a server can be tried without meeting another.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::UnmountFlags;

/// Servers at once at most.
const LANES: u32 = 8;
/// Boxes that a lane has room for: its addresses and its uid ranges.
const BOXES_PER_LANE: u32 = 256;
/// The number of the one lane that has room for more, beside those of tests.
const WIDE: u32 = LANES;
/// Boxes that it has room for.
const BOXES_IN_WIDE: u32 = 512;
/// Uids of one box.
pub const UIDS_PER_BOX: u32 = 65_536;
/// First uid of the first lane: above what a server with the defaults uses, in the same range that systemd leaves alone.
const UIDS_START: u32 = 0x7400_0000;

/// A place for one server, ours for as long as this value lives.
#[derive(Debug)]
pub struct Lane {
    number: u32,
    folder: PathBuf,
    base: PathBuf,
    _lock: File,
}

impl Lane {
    /// Takes a free lane and makes it empty, but for the shared images.
    ///
    /// # Errors
    /// This machine cannot run boxes (the text says what is missing), all lanes are taken, or what an earlier test left there cannot
    /// be removed.
    pub fn take() -> Result<Self> {
        Self::take_one_of(0..LANES)
    }

    /// Takes the one lane that has room for several hundred boxes, and makes it empty.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_wide() -> Result<Self> {
        Self::take_one_of(WIDE..WIDE + 1)
    }

    fn take_one_of(numbers: Range<u32>) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "tests on real boxes must run as root: call `cargo xtask test`, which goes through sudo"
        );
        let base = base();
        fs::create_dir_all(&base).with_context(|| format!("making {}", base.display()))?;
        for number in numbers.clone() {
            let lock = File::create(base.join(format!("lane-{number}.lock")))?;
            if lock.try_lock().is_err() {
                continue;
            }
            let lane = Self { number, folder: base.join(format!("lane-{number}")), base, _lock: lock };
            lane.empty().with_context(|| format!("emptying {}", lane.folder.display()))?;
            fs::create_dir_all(lane.data())?;
            return Ok(lane);
        }
        anyhow::bail!("all {} places for test servers below {} are taken", numbers.len(), base.display())
    }

    /// The folder of all its files, which goes with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where the server's log is.
    pub fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Its number, below 8 unless it is the wide one.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The addresses of its boxes.
    pub fn range(&self) -> String {
        match self.number {
            WIDE => "198.19.124.0/23".to_owned(),
            number => format!("198.19.{}.0/24", 128 + number),
        }
    }

    /// Boxes that it has room for.
    pub fn room(&self) -> u32 {
        if self.number == WIDE { BOXES_IN_WIDE } else { BOXES_PER_LANE }
    }

    /// The first uid of its first box.
    pub fn uids_start(&self) -> u32 {
        // That of the builder of images lies between the others and the wide one.
        let places = if self.number == WIDE { LANES + 1 } else { self.number };
        UIDS_START + places * BOXES_PER_LANE * UIDS_PER_BOX
    }

    /// The tag that the server of this lane has put into the names of all that it makes on the host, once it has run.
    pub fn tag(&self) -> Option<String> {
        tag(&self.data())
    }

    /// Lets the lane's server use the images of all lanes, building the default image if it is not there.
    ///
    /// # Errors
    /// The image cannot be built, or not be shared.
    pub fn share_images(&self, programs: &Path) -> Result<()> {
        let shared = build_image(programs, &self.base, "node")?;
        let own = self.data().join("images");
        fs::create_dir_all(&own)?;
        rustix::fs::chmod(&own, rustix::fs::Mode::RWXU)?;
        rustix::mount::mount_bind(&shared, &own)
            .with_context(|| format!("mounting {} on {}", shared.display(), own.display()))
    }

    /// Unmounts the images and removes the lane's files.
    ///
    /// # Errors
    /// They are in use.
    pub fn empty(&self) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        unmount_below(&self.data(), UnmountFlags::empty())?;
        self.end_leftovers()?;
        // A disk of its own, if it has one. Another lane may still have a copy of it.
        unmount_below(&self.folder, UnmountFlags::DETACH)?;
        fs::remove_dir_all(&self.folder).with_context(|| format!("removing {}", self.folder.display()))
    }

    /// Does to what the lane's killed server has left what a restart of the host does: processes end, and whatever the kernel keeps for
    /// them or for the server is gone. Files stay.
    ///
    /// # Errors
    /// Something stays.
    pub fn restart_host(&self) -> Result<()> {
        self.end_leftovers()?;
        let pool = self.data().join("pool");
        match rustix::mount::unmount(&pool, UnmountFlags::empty()) {
            // There is none.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
            unmounted => unmounted.context("unmounting the pool"),
        }
    }

    /// Ends what a killed test may have left: processes of this lane's uids, their cgroups, the firewall table, the sockets.
    fn end_leftovers(&self) -> Result<()> {
        let footprint = crate::Footprint::of(self)?;
        for pid in &footprint.pids {
            if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                // Gone already is as good.
                let _ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if !footprint.pids.is_empty() {
            crate::until("processes of an earlier test to end", std::time::Duration::from_secs(20), || {
                Ok(crate::Footprint::of(self)?.pids.is_empty().then_some(()))
            })?;
        }
        let Some(tag) = self.tag() else { return Ok(()) };
        for folder in crate::footprint::cgroups(&tag)? {
            remove_cgroup(&folder)?;
        }
        for name in crate::footprint::interfaces(&tag)? {
            quietly("ip", &["link", "delete", &name]);
        }
        let gateway = self.range().split_once(".0/").map(|(network, _)| format!("{network}.1/32"));
        quietly("ip", &["address", "delete", &gateway.unwrap_or_default(), "dev", "lo"]);
        quietly("nft", &["delete", "table", "inet", &format!("boxyard_{tag}")]);
        let run = PathBuf::from(format!("/run/boxyard-{tag}"));
        if run.exists() {
            // A cgroup tree may be mounted there, which must not be taken for files.
            unmount_below(&run, UnmountFlags::empty())?;
            fs::remove_dir_all(&run)?;
        }
        Ok(())
    }
}

/// Where all lanes are: not below `/tmp`, which may lie in memory.
fn base() -> PathBuf {
    std::env::var_os("BOXYARD_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp/boxyard-test"), PathBuf::from)
}

/// Builds the image `name` for all lanes if it is not there, and returns the folder of all images.
///
/// # Errors
/// Building failed.
pub fn build_shared_image(programs: &Path, name: &str) -> Result<PathBuf> {
    build_image(programs, &base(), name)
}

fn build_image(programs: &Path, base: &Path, name: &str) -> Result<PathBuf> {
    let data = base.join("shared");
    fs::create_dir_all(&data)?;
    rustix::fs::chmod(&data, rustix::fs::Mode::RWXU)?;
    // One builder at a time: the data folder has one user at a time, and nobody should build what another builds.
    let lock = File::create(base.join("shared.lock"))?;
    lock.lock().context("waiting for another test to build the image")?;
    let mut build = Command::new(programs.join("boxyard"));
    build.args(["image", "build", name, "--data-dir"]).arg(&data);
    // A place of its own beside those of the lanes, and beside that of a server in use.
    build.env("BOXYARD_NETWORK_RANGE", "198.19.127.0/24");
    build.env("BOXYARD_UIDS_START", (UIDS_START + LANES * BOXES_PER_LANE * UIDS_PER_BOX).to_string());
    let output = build.output().with_context(|| format!("starting {}", programs.join("boxyard").display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "building the image {name} failed ({}): {said}", output.status);
    Ok(data.join("images"))
}

pub(crate) fn tag(data: &Path) -> Option<String> {
    fs::read_to_string(data.join("instance")).ok().map(|text| text.trim().to_owned())
}

/// Unmounts everything below `folder`, the last mounted first.
fn unmount_below(folder: &Path, flags: UnmountFlags) -> Result<()> {
    let below = format!("{}/", folder.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&below));
    for point in points.collect::<Vec<_>>().into_iter().rev() {
        rustix::mount::unmount(point, flags).with_context(|| format!("unmounting {point}"))?;
    }
    Ok(())
}

/// Removes a cgroup and those in it, which must be empty of processes.
fn remove_cgroup(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(folder).with_context(|| format!("removing {}", folder.display()))
}

fn quietly(program: &str, arguments: &[&str]) {
    // What is not there need not be removed; what remains is found by the next look at the footprint.
    let _output = Command::new(program).args(arguments).output();
}
