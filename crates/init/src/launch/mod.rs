//! `boxyard-init launch`: makes a box from outside and leaves its PID 1 running.
//!
//! Two processes work at the same time, the launcher on the host and the box's first process, which becomes PID 1 of the box:
//!
//! ```text
//!  launcher (host's root)                      first process (all namespaces new)
//!    socket, cgroup leaf, detached mounts
//!    clone3 ──────────────────────────────────▶ waits
//!    map ids ─────────────────────────────────▶ becomes the box's root, sets the stage
//!    id-map the layers ───────────────────────▶ overlay, /proc, /sys, /dev
//!    network interfaces ──────────────────────▶ addresses, masks, pivot_root, files
//!    v1 cgroups (a 5 ms wait in the kernel) ──▶ closes everything, seccomp, serves
//!    answers the engine ◀────────────────────── ready
//! ```
//!
//! When either fails, the launcher ends the child, with which everything inside the namespaces dies, and takes back what it made
//! outside: the network interface, the socket and the cgroup leaf.

mod cgroups;
mod devices;
mod files;
mod handshake;
mod inside;
mod kernel;
mod layers;
pub mod limits;
mod mounts;
mod namespaces;
mod netlink;
mod network;
pub mod seccomp;
mod socket;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use boxyard_proto::launch::{Launch, Launched};

use self::cgroups::{BoxCgroup, V1Cgroups};
use self::devices::Devices;
use self::handshake::{Deed, Handshake, Outside, failed};
use self::inside::Kit;
use self::layers::Layers;
use self::namespaces::{NAMESPACES, Proc};
use self::socket::SocketFile;
use crate::disk;
use crate::sys::{self, Child, Forked};
use crate::trouble::{Doing, Trouble};

/// Bytes of a plan at most.
const PLAN_MAX: u64 = 1024 * 1024;

/// Reads a [`Launch`] from standard input, makes the box and writes a [`Launched`] to standard output.
pub fn run() -> ExitCode {
    let launched = match read_plan().and_then(launch) {
        Ok(pid) => Launched::Ready { pid },
        Err(trouble) => failed(&trouble),
    };
    let code = if matches!(launched, Launched::Ready { .. }) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let mut line = serde_json::to_vec(&launched).unwrap_or_default();
    line.push(b'\n');
    // An engine that does not listen any more finds out about the box by its cgroup.
    let _ = std::io::stdout().write_all(&line);
    code
}

fn read_plan() -> Result<Launch, Trouble> {
    let mut text = Vec::new();
    std::io::stdin().take(PLAN_MAX + 1).read_to_end(&mut text).doing("reading the plan")?;
    if text.len() as u64 > PLAN_MAX {
        return Err(Trouble::new("reading the plan", "it is longer than 1 MiB"));
    }
    serde_json::from_slice(&text).map_err(|error| Trouble::new("reading the plan", error.to_string()))
}

/// What the server's manager set to protect the server is not meant for boxes.
fn forget_oom_score(proc: &Proc) -> Result<(), Trouble> {
    match proc.write(&format!("{}/oom_score_adj", std::process::id()), "0") {
        // Only lowering it takes a capability that a launcher in a container may lack; then the box goes first, as the launcher would.
        Err(trouble) if trouble.error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Makes the box; returns its PID 1 as the host sees it.
fn launch(plan: Launch) -> Result<u32, Trouble> {
    let proc = Proc::open()?;
    forget_oom_score(&proc)?;
    // Nor is the priority that the server gives itself; where it has less than usual, that stays.
    if rustix::process::getpriority_process(None).is_ok_and(|niceness| niceness < 0) {
        rustix::process::setpriority_process(None, 0).doing("giving up the server's priority")?;
    }
    sys::reset_signals();
    sys::ignore_broken_pipes();
    limits::set(plan.open_files)?;
    let filter = seccomp::for_box();
    let disk = plan.disk.as_ref().map(disk::make).transpose()?;
    let layers = Layers::open(&plan)?;
    let devices = Devices::open()?;
    let v1 = V1Cgroups::open(&plan.cgroups_v1)?;
    let cgroup = BoxCgroup::open(&plan)?;
    let (listener, socket) = SocketFile::listen(&plan.socket)?;
    let handshake = Handshake::new()?;
    let kit = Kit { listener, cgroup: cgroup.folder()?, layers, devices, filter };

    namespaces::act_as(plan.uid_start)?;
    let forked = sys::clone3(NAMESPACES, Some(cgroup.leaf().as_fd()), true).doing("starting the box's first process");
    let child = match forked? {
        Forked::Child => {
            // What the launcher would take back is not this process's to take.
            socket.keep();
            cgroup.keep();
            inside::run(plan, kit, handshake)
        }
        Forked::Parent(child) => child,
    };
    if let Err(trouble) = namespaces::act_as(0) {
        namespaces::end(&child);
        return Err(trouble);
    }
    let outside = handshake.outside();
    let attended = attend(&plan, &proc, &child, &kit.layers, &v1, &outside).map_err(|trouble| {
        // When the child is dead already, its last words say more than what we failed at for its sake.
        outside.last_words().unwrap_or(trouble)
    });
    let limited = || disk.as_ref().map_or(Ok(()), disk::Made::finish);
    match attended.and_then(|()| outside.wait()).and_then(|()| limited()) {
        Ok(()) => {
            socket.keep();
            cgroup.keep();
            Ok(child.pid.as_raw_nonzero().get().cast_unsigned())
        }
        Err(trouble) => {
            namespaces::end(&child);
            if let Some(network) = &plan.network {
                network::remove(network);
            }
            Err(trouble)
        }
    }
}

/// Does for the child what only the host's root can do, in the order that lets the child wait least.
fn attend(
    plan: &Launch,
    proc: &Proc,
    child: &Child,
    layers: &Layers,
    v1: &V1Cgroups,
    outside: &Outside,
) -> Result<(), Trouble> {
    let pid = child.pid.as_raw_nonzero().get();
    namespaces::map_ids(proc, child, plan.uid_start)?;
    outside.tell(Deed::IdsMapped)?;
    let userns = proc.user_namespace(pid)?;
    layers.map(userns.as_fd())?;
    outside.tell(Deed::LayersMapped)?;
    if let Some(network) = &plan.network {
        network::make(network, child)?;
    }
    outside.tell(Deed::NetworkMade)?;
    v1.enter(pid)?;
    outside.tell(Deed::Confined)
}
