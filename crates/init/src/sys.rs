//! The kernel calls that no safe wrapper covers. All `unsafe` code of Boxyard is in this file.
//!
//! This program has exactly one thread, from its start to its end: that is what makes [`clone3`] without a new stack as harmless as
//! `fork`, and a change of the signal mask or the credentials a change for the whole process.

pub mod disks;

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Turns a kernel call's result into a value or the thread's error number.
fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A descriptor that the kernel has just made for us.
fn owned(result: c_long) -> io::Result<OwnedFd> {
    let raw = RawFd::try_from(check(result)?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel returned this descriptor as the result of a call that makes one, and nobody else has seen the number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What [`clone3`] was in: the old process or the new one.
#[derive(Debug)]
pub enum Forked {
    /// The old process; the new one is this.
    Parent(Child),
    /// The new process.
    Child,
}

/// A child process. It stays a zombie, and its id its own, until it is waited for.
#[derive(Debug)]
pub struct Child {
    /// Its id as its parent sees it.
    pub pid: Pid,
    /// A descriptor for it, readable when it has ended. Only where it was asked for.
    pub pidfd: Option<OwnedFd>,
}

/// `struct clone_args` of `clone3(2)`.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes a child that goes on from here with a copy of everything, in the namespaces of `flags` (`CLONE_NEW…`) and, where one is
/// given, in the cgroup that `cgroup` is the v2 folder of. `pidfd` asks for a descriptor of it.
///
/// # Errors
/// What the kernel says; `EAGAIN` and `ENOMEM` when there is no room for another process.
pub fn clone3(flags: c_int, cgroup: Option<BorrowedFd<'_>>, pidfd: bool) -> io::Result<Forked> {
    let mut pidfd_out: c_int = -1;
    let mut args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()),
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    if pidfd {
        args.flags |= u64::from(libc::CLONE_PIDFD.cast_unsigned());
        args.pidfd = ptr::from_mut(&mut pidfd_out) as u64;
    }
    if let Some(cgroup) = cgroup {
        /// `CLONE_INTO_CGROUP`, which does not fit into an int.
        const INTO_CGROUP: u64 = 0x2_0000_0000;
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the arguments are a valid `clone_args` of the size given. Without CLONE_VM and without a stack the child has its own copy
    // of all memory and goes on from here, as after fork; there is only one thread, so no lock is held by a thread that is missing.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut args), size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    let pid =
        i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    let pidfd = if pidfd { Some(owned(c_long::from(pidfd_out))?) } else { None };
    Ok(Forked::Parent(Child { pid, pidfd }))
}

/// Ends the process at once, without running anything more of it.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit has no precondition; it does not return.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// Texts in the form that `execve` wants: pointers to NUL-terminated strings, ended by a null pointer.
#[derive(Debug)]
pub struct Texts {
    /// Owns what `pointers` points to; the heap memory of a `CString` does not move with it.
    texts: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Texts {
    /// Prepares `texts`.
    pub fn new(texts: Vec<CString>) -> Self {
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { texts, pointers }
    }

    /// The same and one more.
    pub fn and(mut self, text: CString) -> Self {
        self.texts.push(text);
        Self::new(self.texts)
    }
}

/// Becomes the program at `path`. Returns only when that fails. Allocates nothing.
pub fn execve(path: &CStr, argv: &Texts, env: &Texts) -> io::Error {
    // SAFETY: all three are valid, NUL-terminated and, for the lists, null-terminated (see `Texts`); they outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives every signal its default disposition and blocks none: ignored signals are inherited through `exec`, and a server started by
/// `nohup` would hand its deafness on to every program of every box.
pub fn reset_signals() {
    // The kernel's `struct sigaction`, zeroed: SIG_DFL, no flags, empty mask. At most four words on the architectures we know.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the pointer is valid for the kernel's sigaction and the size is that of its signal set. The calls for KILL and STOP
        // fail, as they should. The call is made directly because libc hides signals 32 and 33, which can be inherited as ignored too.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<c_void>(), 8) };
    }
    set_signal_mask(0);
}

/// Makes `SIGPIPE` end the process again, as every program but a Rust one expects, and unblocks all signals. For a child that is about
/// to become another program and whose other dispositions are the defaults already.
pub fn restore_signals_for_exec() {
    let default = [0_u64; 4];
    // SAFETY: as in `reset_signals`.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, libc::SIGPIPE, default.as_ptr(), ptr::null_mut::<c_void>(), 8) };
    set_signal_mask(0);
}

/// Lets writes to closed pipes fail with `EPIPE` instead of ending the process.
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is a valid disposition for SIGPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fn set_signal_mask(mask: u64) {
    // SAFETY: the mask is eight bytes, as the size says; the old one is not asked for.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, ptr::from_ref(&mask), ptr::null_mut::<u64>(), 8)
    };
}

/// Blocks `SIGCHLD` and returns a non-blocking descriptor that is readable when a child has ended. Needs the event loop.
///
/// # Errors
/// No descriptor is free.
pub fn child_signals() -> io::Result<AsyncFd<OwnedFd>> {
    let mask = 1_u64 << (libc::SIGCHLD - 1);
    set_signal_mask(mask);
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the mask is eight bytes, as the size says.
    let signals = owned(unsafe { libc::syscall(libc::SYS_signalfd4, -1, ptr::from_ref(&mask), 8, flags) })?;
    watch(signals, Interest::READABLE)
}

/// Has the event loop watch a non-blocking descriptor.
///
/// # Errors
/// It cannot be watched.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same descriptor for all its life.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Which child.
    pub pid: i32,
    /// Its exit code, or 128 + n when signal n ended it.
    pub code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// CPU time of it and of the children that it waited for, in nanoseconds.
    pub cpu_ns: u64,
    /// The most memory that it, or the largest child it waited for, had resident, in bytes.
    pub memory_peak: u64,
}

/// Takes the next child that has ended, if one has.
///
/// # Errors
/// `ECHILD` when there are no children.
pub fn reap() -> io::Result<Option<Ended>> {
    let mut status: c_int = 0;
    // SAFETY: rusage is plain numbers, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for writes of their types.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    if check(c_long::from(pid))? == 0 {
        return Ok(None);
    }
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    let nanos = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000);
        seconds.saturating_add(u64::try_from(time.tv_usec).unwrap_or(0).saturating_mul(1000))
    };
    Ok(Some(Ended {
        pid,
        code: signal.map_or_else(|| libc::WEXITSTATUS(status), |signal| 128 + signal),
        signal,
        cpu_ns: nanos(usage.ru_utime).saturating_add(nanos(usage.ru_stime)),
        memory_peak: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    }))
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Sets attributes (`MOUNT_ATTR_…`) of the mount `mount`, and maps its owners through the user namespace `userns` where one is given.
///
/// # Errors
/// What the kernel says; `EINVAL` for a file system that cannot be id-mapped.
pub fn mount_setattr(mount: BorrowedFd<'_>, set: u64, userns: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut attr = MountAttr { set, clear: 0, propagation: 0, userns: 0 };
    if let Some(userns) = userns {
        attr.set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns = u64::from(userns.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the path is an empty C string and the attributes are a valid struct of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            ptr::from_mut(&mut attr),
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Puts the process under one more seccomp filter. Needs `CAP_SYS_ADMIN` in its user namespace: `no_new_privs` is not set, because
/// `sudo` must work in a box.
///
/// # Errors
/// The capability is missing, or the filter is none.
pub fn add_seccomp_filter(filter: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program points to `len` instructions that outlive the call; the kernel checks and copies them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, ptr::from_ref(&program)) })?;
    Ok(())
}

/// Leaves the session keyring of whoever started us for a new, empty one. Kernels without keyrings have nothing to leave.
///
/// # Errors
/// The kernel has no room for another keyring.
pub fn join_new_session_keyring() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring.
    match check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<c_char>()) }) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Enters a new cgroup namespace, whose root is the cgroup of this process.
///
/// # Errors
/// The capability is missing, or there is no room.
pub fn unshare_cgroup_namespace() -> io::Result<()> {
    // SAFETY: this flag changes nothing but how paths of cgroups read; descriptors and memory are not touched.
    check(c_long::from(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }))?;
    Ok(())
}

/// Closes every descriptor from 3 on but those in `keep`. For a process that holds nothing else that it will use or drop again.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1);
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX);
}

/// Closes every descriptor from 3 on but `keep`, without allocating. For a child that is about to become another program.
pub fn close_all_but_one(keep: BorrowedFd<'_>) {
    let keep = keep.as_raw_fd().cast_unsigned();
    if keep > 3 {
        close_range(3, keep - 1);
    }
    close_range(keep.max(2) + 1, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: callers promise that nothing of theirs uses the descriptors in the range any more.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Takes over descriptor `raw`, which our starter opened for us. To be called once for each number, before anything else is opened.
///
/// # Errors
/// It is not open.
pub fn inherited(raw: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asking for a descriptor's flags is safe for any number.
    check(c_long::from(unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) }))?;
    // SAFETY: it is open, and by this function's contract nothing else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Sends `signal` to the process `pid`, whatever the number means here: the caller got both from a peer and the kernel checks them.
///
/// # Errors
/// There is no such process or signal, or it is not ours.
pub fn kill(pid: Pid, signal: c_int) -> io::Result<()> {
    // SAFETY: kill touches no memory; `pid` is above 0, so it is one process and never a group.
    check(c_long::from(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) }))?;
    Ok(())
}

/// Sends `signal` to every process of the group `group`, as [`kill`] does to one.
///
/// # Errors
/// There is no such group or signal, or none of its processes is ours.
pub fn kill_group(group: Pid, signal: c_int) -> io::Result<()> {
    let group = group.as_raw_nonzero().get();
    if group == 1 {
        // As -1 it would mean every process that there is.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill touches no memory; the number is below -1, so it is one group.
    check(c_long::from(unsafe { libc::kill(-group, signal) }))?;
    Ok(())
}
