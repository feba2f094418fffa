//! What a box's processes may do and take, beyond the cgroup: capabilities, resource limits, keyring, dumps.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::sys;
use crate::trouble::{Doing, Trouble};

/// The capabilities that processes in a box can ever have, in the box's own user namespace: Docker's default set.
pub const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What PID 1 keeps for itself: the above to start jobs as any user, and `SYS_ADMIN` to put each under its last seccomp filter without
/// `no_new_privs`, and into its cgroup namespace.
const OF_PID_1: CapabilitySet = CAPABILITIES.union(CapabilitySet::SYS_ADMIN);

/// Open files of PID 1: each job has a connection and three pipes.
const OPEN_FILES_OF_PID_1: u64 = 16_384;

/// Sets the limits that a box inherits: its own, not the launcher's. A job gets `open_files`, which PID 1 could not raise later.
pub fn set(open_files: u64) -> Result<(), Trouble> {
    limit(Resource::Nofile, Some(OPEN_FILES_OF_PID_1), Some(open_files.max(OPEN_FILES_OF_PID_1)))?;
    limit(Resource::Core, Some(0), Some(0))?;
    limit(Resource::Stack, Some(8 << 20), None)?;
    for resource in [Resource::Cpu, Resource::Fsize, Resource::Data, Resource::Rss, Resource::As, Resource::Nproc] {
        limit(resource, None, None)?;
    }
    Ok(())
}

/// How many files a job may have open: `wanted`, or what the launcher was allowed to give.
pub fn open_files(wanted: u64) -> u64 {
    getrlimit(Resource::Nofile).maximum.map_or(wanted, |allowed| wanted.min(allowed))
}

/// Sets a limit, as far as a launcher may that is root without `CAP_SYS_RESOURCE` (in a container, for instance).
fn limit(resource: Resource, current: Option<u64>, maximum: Option<u64>) -> Result<(), Trouble> {
    let result = match setrlimit(resource, Rlimit { current, maximum }) {
        Err(Errno::PERM) => {
            let allowed = getrlimit(resource).maximum;
            let lower = |wanted: Option<u64>| match (wanted, allowed) {
                (Some(wanted), Some(allowed)) => Some(wanted.min(allowed)),
                (wanted, None) => wanted,
                (None, allowed) => allowed,
            };
            setrlimit(resource, Rlimit { current: lower(current), maximum: lower(maximum) })
        }
        result => result,
    };
    result.doing_with(|| format!("setting the limit {resource:?}"))
}

/// Hides PID 1 from the box's own root: it cannot be traced, and `/proc/1` shows neither its descriptors nor its program, which is a
/// file of the host's.
pub fn hide() -> Result<(), Trouble> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing("making PID 1 undumpable")
}

/// Gives up what PID 1 does not need any more, and takes from all jobs for good what no job shall have.
pub fn lower() -> Result<(), Trouble> {
    // The bounding set limits what an `exec` gives, so PID 1, which never does one, keeps what it has.
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if CAPABILITIES.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel knows no more.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error).doing("lowering the capability bounding set"),
        }
    }
    sys::join_new_session_keyring().doing("leaving the host's keyring")?;
    // Already empty unless the launcher's starter meddled; a box must not depend on that.
    rustix::thread::clear_ambient_capability_set().doing("clearing ambient capabilities")?;
    let sets = CapabilitySets { effective: OF_PID_1, permitted: OF_PID_1, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).doing("lowering the capabilities of PID 1")
}

/// Gives up, in a process of a box that will not `exec`, the capabilities that `exec` would take from it. One that is not root's any
/// more has none left, and that stays so.
pub fn drop_what_exec_would() -> Result<(), Errno> {
    let CapabilitySets { effective, permitted, .. } = rustix::thread::capabilities(None)?;
    let sets = CapabilitySets {
        effective: effective.intersection(CAPABILITIES),
        permitted: permitted.intersection(CAPABILITIES),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)
}
