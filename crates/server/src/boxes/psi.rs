//! The kernel's own word for being short of memory: pressure stall information (PSI).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where the kernel takes triggers and tells of memory.
const FILE: &str = "/proc/pressure/memory";
/// Told once a second at most, when some task has waited for memory for 70 ms of it: milder than what users notice, and far from where the
/// kernel ends processes. Without `CAP_SYS_RESOURCE`, as in a container, the kernel takes spans of two seconds only.
const TRIGGERS: [&str; 2] = ["some 70000 1000000\0", "some 140000 2000000\0"];

/// A trigger of ours in the kernel; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Psi(AsyncFd<OwnedFd>);

impl Psi {
    /// Sets the trigger.
    ///
    /// # Errors
    /// This kernel has no PSI (before Linux 5.2, or switched off), or this process may not set triggers.
    pub(super) fn open() -> io::Result<Self> {
        let [best, other] = TRIGGERS;
        let file = set(best).or_else(|_| set(other))?;
        #[expect(
            deprecated,
            reason = "the new constructor is unsafe for types whose descriptor may change; an OwnedFd's does not"
        )]
        let file = AsyncFd::with_interest(OwnedFd::from(file), Interest::PRIORITY)?;
        Ok(Self(file))
    }

    /// Waits until something on the host has waited for memory for longer than it should. Cancel safe.
    ///
    /// # Errors
    /// The kernel tells no more.
    pub(super) async fn squeezed(&self) -> io::Result<()> {
        let mut told = self.0.ready(Interest::PRIORITY).await?;
        told.clear_ready();
        Ok(())
    }
}

fn set(trigger: &str) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
    let mut file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(FILE)?;
    file.write_all(trigger.as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels without PSI are told apart here, not skipped in silence.
    #[tokio::test]
    async fn a_trigger_is_taken_where_the_kernel_has_them() {
        let opened = Psi::open();
        match std::fs::read_to_string(FILE) {
            Ok(text) if text.starts_with("some ") => drop(opened.expect("the kernel has PSI; run as root")),
            _ => assert!(opened.is_err(), "a trigger without PSI"),
        }
    }
}
