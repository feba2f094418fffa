//! What an engine asks of `boxyard-init launch`.
//!
//! The engine writes one [`Launch`] as JSON to the launcher's standard input and closes it; the launcher makes the box, leaves PID 1
//! of the box running, writes one [`Launched`] as a line of JSON to its standard output and exits: 0 when the box accepts
//! connections, 1 otherwise. When it fails it has left nothing behind but empty cgroups, which are the engine's to remove.
//!
//! PID 1 is a copy of the launcher: what the box's users see in its command line are the launcher's arguments, so an engine starts it
//! as plain `boxyard-init`, and with an empty environment.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::ids::BoxId;

/// Image layers of a box at most: those of an image of a registry (127), and what recipes put over them.
pub const LAYERS_MAX: usize = 160;

/// Ids in a box's own user namespace: 0 to 65,535.
pub const UIDS_PER_BOX: u32 = 65_536;

/// One box to make. All paths are the host's, absolute, and in folders that no box can change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The box; also its host name.
    pub id: BoxId,
    /// First host uid and gid of the box's range of [`UIDS_PER_BOX`]; uid 0 of the box is this one.
    pub uid_start: u32,
    /// Read-only image layers, the uppermost first. At least one. What lies on disk carries canonical ids (root is 0).
    pub layers: Vec<PathBuf>,
    /// The subvolume that `upper` and `work` are folders of, to be made first. `None` where both are there already.
    #[serde(default)]
    pub disk: Option<Disk>,
    /// Folder of the writable layer's files. Canonical ids.
    pub upper: PathBuf,
    /// Overlay's work folder, in the same folder as `upper`, empty or left by an earlier launch.
    pub work: PathBuf,
    /// Where the listening Unix socket is made; an old one is replaced. At most 100 bytes.
    pub socket: PathBuf,
    /// The box's cgroup in the v2 tree, already made and limited. PID 1 goes into a child `init` of it, every job into a child of
    /// its own; the folder and its `cgroup.procs` are handed over to the box's root.
    pub cgroup: PathBuf,
    /// The box's cgroups in v1 hierarchies, already made and limited. PID 1 is moved into each.
    #[serde(default)]
    pub cgroups_v1: Vec<PathBuf>,
    /// Controllers that the launcher enables for the children of `cgroup`, for example `memory`. Empty where v1 has them all.
    #[serde(default)]
    pub controllers: Vec<String>,
    /// The box's network. `None` leaves it with a loopback interface only.
    pub network: Option<Network>,
    /// Files written inside the box, as its root, before anything else runs there.
    #[serde(default)]
    pub files: Vec<File>,
    /// Base environment of every job, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Open files of one process at most (soft and hard limit).
    pub open_files: u64,
}

/// A point-to-point Ethernet pair between box and host, with IPv4 only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Name of the host's end, at most 15 bytes. The box's end is `eth0`.
    pub interface: String,
    /// The box's address. The host gets a route of 32 bits to it over `interface`.
    pub address: Ipv4Addr,
    /// The host's address as the box sees it: its default route and its name server.
    pub gateway: Ipv4Addr,
    /// Largest packet in bytes on both ends.
    pub mtu: u32,
}

/// A small file for the box, for example `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Absolute path inside the box, resolved there and never followed outside; missing folders are made.
    pub path: PathBuf,
    /// Its whole content.
    pub content: String,
    /// Its permission bits.
    pub mode: u32,
}

/// The launcher's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Launched {
    /// The box accepts connections on its socket.
    Ready {
        /// PID 1 of the box in the host's PID namespace.
        pid: u32,
    },
    /// The box could not be made.
    Failed {
        /// What was being done, for example "mounting the overlay".
        doing: String,
        /// What the kernel said.
        error: String,
        /// The kernel's error number, 0 when it was not the kernel.
        errno: i32,
    },
}
