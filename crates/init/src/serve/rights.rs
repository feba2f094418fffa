//! Acting as a job's user for the time of a few system calls.
//!
//! What a socket's other side learns of who made it (`SO_PEERCRED`) is the *effective* user, not the one for file systems, so it is
//! the effective one that changes; the kernel takes away all effective capabilities with it. Our real and saved ids stay, so nobody
//! gains a hold on this process meanwhile: signals and traces are checked against those.

use std::io;
use std::time::Duration;

use boxyard_proto::launch::UIDS_PER_BOX;
use boxyard_proto::wire::{FailedKind, User};
use rustix::fs::{Gid, Mode, Uid};
use rustix::process::DumpableBehavior;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::exec::Refusal;
use crate::sys;

/// Tries to get our rights back. Only a lack of memory in the box can make one fail, which the kernel is busy ending.
const TRIES: usize = 1000;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Refuses users that no box has.
///
/// # Errors
/// The user or group is not one of a box.
pub fn check(user: User) -> Result<(), Refusal> {
    if user.uid >= UIDS_PER_BOX || user.gid >= UIDS_PER_BOX {
        return Err(Refusal::new(FailedKind::Invalid, "there is no such user"));
    }
    Ok(())
}

/// Does `deed` with the rights of `user` and no other groups, and with our own again afterwards. There is one thread, and `deed` must
/// not wait for anything.
///
/// # Errors
/// The rights could not be taken on (`deed` is not done then), or what `deed` fails with.
pub fn acting_as<T>(user: User, deed: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = (rustix::process::geteuid(), rustix::process::getegid());
    if own == (Uid::from_raw(user.uid), Gid::from_raw(user.gid)) {
        return deed();
    }
    let _own = Own::set_aside(user)?;
    deed()
}

/// Does `deed` with files made for the owner only, as far as `mask` leaves them.
pub fn with_umask<T>(mask: u32, deed: impl FnOnce() -> T) -> T {
    struct Former(Mode);
    impl Drop for Former {
        fn drop(&mut self) {
            rustix::process::umask(self.0);
        }
    }
    let _former = Former(rustix::process::umask(Mode::from_raw_mode(mask)));
    deed()
}

/// Our own rights while we act with others. Dropping it takes them back.
struct Own {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Own {
    fn set_aside(user: User) -> io::Result<Self> {
        let own = Self {
            uid: rustix::process::geteuid(),
            gid: rustix::process::getegid(),
            groups: rustix::process::getgroups()?,
        };
        // From here on a failure drops `own`, which takes back what was done.
        if !own.groups.is_empty() {
            set_thread_groups(&[])?;
        }
        set_thread_res_gid(None, Gid::from_raw(user.gid), None)?;
        set_thread_res_uid(None, Uid::from_raw(user.uid), None)?;
        Ok(own)
    }

    fn take_back(&self) -> io::Result<()> {
        // The user first: it brings the capabilities back that the rest needs.
        set_thread_res_uid(None, self.uid, None)?;
        set_thread_res_gid(None, self.gid, None)?;
        if !self.groups.is_empty() {
            set_thread_groups(&self.groups)?;
        }
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            if self.take_back().is_ok() {
                // A change of user resets it to what the host's administrator has set.
                let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "nothing may run with these rights, and memory says to nobody when it is back"
            )]
            std::thread::sleep(PAUSE);
        }
        // To go on with somebody else's rights would be to serve everybody with them.
        sys::exit_now(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rights_are_the_users_and_then_ours_again() {
        let ids = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("our own status");
            let lines = status.lines().filter(|line| {
                ["Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:"].iter().any(|name| line.starts_with(name))
            });
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let before = ids();
        let within = acting_as(User::BOXUSER, || Ok(ids())).expect("tests need root");
        assert_eq!(within[0].split_whitespace().collect::<Vec<_>>(), ["Uid:", "0", "1000", "0", "1000"]);
        assert_eq!(within[1].split_whitespace().collect::<Vec<_>>(), ["Gid:", "0", "1000", "0", "1000"]);
        assert!(within.iter().any(|line| line.trim_end() == "Groups:"), "{within:?}");
        assert!(within.iter().any(|line| line == "CapEff:\t0000000000000000"), "{within:?}");
        assert_eq!(ids(), before);
        let failed = acting_as(User::BOXUSER, || Err::<(), _>(io::Error::other("no")));
        assert_eq!(failed.expect_err("a failure").to_string(), "no");
        assert_eq!(ids(), before);
    }
}
