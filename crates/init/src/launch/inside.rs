//! The first process of a box, from its birth to the moment when it serves.
//!
//! It goes on in the launcher's own program image and never runs a file of the host's inside the box (CVE-2019-5736).

use std::os::fd::{AsFd, OwnedFd};

use boxyard_proto::launch::{Launch, Launched};
use rustix::fs::{Gid, Mode, Uid};

use super::devices::{self, Devices};
use super::handshake::{self, Deed, Handshake, Inside};
use super::kernel::Kernel;
use super::layers::Layers;
use super::mounts::{Stage, folder_spot};
use super::{files, limits, namespaces, network};
use crate::serve::oom::Score;
use crate::serve::{self, Jobs};
use crate::sys;
use crate::trouble::{Doing, Trouble};

/// What the launcher has opened for the box.
#[derive(Debug)]
pub struct Kit {
    /// The socket that connections come in on, listening.
    pub listener: OwnedFd,
    /// The box's v2 cgroup.
    pub cgroup: OwnedFd,
    /// What overlay is made of.
    pub layers: Layers,
    /// The host's harmless devices.
    pub devices: Devices,
    /// What the box may call.
    pub filter: Vec<libc::sock_filter>,
}

/// Makes the box around this process and serves until the box ends.
pub fn run(plan: Launch, kit: Kit, handshake: Handshake) -> ! {
    let handshake = handshake.inside();
    let score = become_box(&plan, &kit, &handshake).unwrap_or_else(|trouble| {
        handshake.fail(&trouble);
        namespaces::give_up();
    });
    let Kit { listener, cgroup, layers, devices, filter } = kit;
    drop((layers, devices));
    let up = handshake.into_up();
    // Everything else that was open belongs to the host or to the making of the box (CVE-2024-21626).
    sys::close_all_but(&[listener.as_fd(), cgroup.as_fd(), score.as_fd(), up.as_fd()]);
    let started = sys::add_seccomp_filter(&filter).doing("installing the seccomp filter").and_then(|()| {
        drop(filter);
        namespaces::die_with_launcher(false)
    });
    if let Err(trouble) = started {
        handshake::say(&up, &handshake::failed(&trouble));
        namespaces::give_up();
    }
    let jobs = Jobs::in_box(plan.env, cgroup, score, limits::open_files(plan.open_files));
    let failed = serve::run(listener, jobs, || {
        handshake::say(&up, &Launched::Ready { pid: 1 });
        drop(up);
    });
    // Only before the box was ready can there be anybody to hear it.
    let _ = failed;
    namespaces::give_up();
}

fn become_box(plan: &Launch, kit: &Kit, launcher: &Inside) -> Result<Score, Trouble> {
    namespaces::die_with_launcher(true)?;
    launcher.wait(Deed::IdsMapped)?;
    become_root()?;
    // A change of user has cleared it.
    namespaces::die_with_launcher(true)?;
    limits::hide()?;
    rustix::system::sethostname(plan.id.as_str().as_bytes()).doing("naming the box")?;
    rustix::thread::set_name(c"boxyard-init").doing("naming PID 1")?;

    let stage = Stage::new()?;
    launcher.wait(Deed::LayersMapped)?;
    let root = stage.overlay(&kit.layers)?;
    let kernel = Kernel::mount(&root)?;
    let score = Score::open(kernel.proc())?;
    kit.devices.mount(&stage, &root)?;
    devices::lend(&stage, "run", 0o755, &folder_spot(&root, "run").doing("opening /run in the image")?)?;
    launcher.wait(Deed::NetworkMade)?;
    network::configure(plan.network.as_ref(), &kernel)?;
    kernel.mask(&stage, &root, kit.devices.null())?;
    stage.enter(&root)?;

    for file in &plan.files {
        files::write(&root, file)?;
    }
    devices::silence(&root)?;
    limits::lower()?;
    // From here on the box can be frozen, ended and accounted for as a whole.
    launcher.wait(Deed::Confined)?;
    Ok(score)
}

fn become_root() -> Result<(), Trouble> {
    rustix::thread::set_thread_groups(&[]).doing("leaving the host's groups")?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).doing("becoming the box's root")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).doing("becoming the box's root")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}
