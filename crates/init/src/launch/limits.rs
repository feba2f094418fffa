//! What a box's processes may do and take, beyond the cgroup: capabilities, resource limits, keyring, dumps.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};
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

/// The limits that only the host's root may raise. Set by the launcher for itself, inherited by the box.
pub fn raise() -> Result<(), Trouble> {
    let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Nofile, both(OPEN_FILES_OF_PID_1)).doing("setting the limit of open files")?;
    setrlimit(Resource::Core, both(0)).doing("forbidding core dumps")?;
    let endless = Rlimit { current: None, maximum: None };
    for resource in [Resource::Cpu, Resource::Fsize, Resource::Data, Resource::Rss, Resource::As, Resource::Nproc] {
        setrlimit(resource, endless).doing("lifting the launcher's own limits")?;
    }
    setrlimit(Resource::Stack, Rlimit { current: Some(8 << 20), maximum: None }).doing("setting the stack's limit")
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
