//! This process's own terminal: raw while a session has it, and afterwards as it was, whatever happens.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, OwnedFd};
use std::panic;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Failure;

/// The terminal that is raw, if one is.
static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

struct Taken {
    terminal: OwnedFd,
    /// How it was.
    before: Termios,
}

/// The terminal on standard input is raw for as long as this lives: every key is for the program in the box.
pub(super) struct Raw(());

impl Raw {
    pub(super) fn enter() -> Result<Self, Failure> {
        Self::of(stdio::stdin()).map_err(|error| Failure::failed("cannot make the terminal raw", error))
    }

    fn of(terminal: impl AsFd) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        // What a panic has to say is said before anything is dropped.
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                restore();
                before(info);
            }));
        });
        let before = tcgetattr(&terminal)?;
        *taken() = Some(Taken { terminal: terminal.as_fd().try_clone_to_owned()?, before });
        let raw = Self(());
        try_make_raw()?;
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
        *taken() = None;
    }
}

fn taken() -> MutexGuard<'static, Option<Taken>> {
    // Nothing panics while it is held.
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_make_raw() -> io::Result<()> {
    if let Some(Taken { terminal, before }) = &*taken() {
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
    }
    Ok(())
}

/// Makes the terminal raw again, if a session has it: after having stood still, when a shell has had it in between.
pub(super) fn make_raw() {
    // A terminal that is gone is told of by its end.
    let _ = try_make_raw();
}

/// Makes the terminal what it was.
fn restore() {
    if let Some(Taken { terminal, before }) = &*taken() {
        let _ = tcsetattr(terminal, OptionalActions::Now, before);
    }
}

/// Stands still as who is stopped does, with the terminal as it was; returns when it is to go on.
pub(super) fn stop() {
    restore();
    let _ = kill_process(getpid(), Signal::STOP);
    make_raw();
}

/// Lines and columns of this process's terminal, if it has one.
pub(super) fn size() -> Option<(u32, u32)> {
    let of = |terminal| tcgetwinsize(terminal).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
    let size = of(stdio::stdin()).or_else(|| of(stdio::stdout()))?;
    Some((size.ws_row.into(), size.ws_col.into()))
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether both standard input and standard output are terminals.
pub(crate) fn has_terminal() -> bool {
    stdin_is_terminal() && io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    /// Both sides of a new terminal.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let outer = openpt(flags).expect("a terminal");
        grantpt(&outer).expect("access");
        unlockpt(&outer).expect("unlocked");
        let inner = ioctl_tiocgptpeer(&outer, flags).expect("its other side");
        (outer, inner)
    }

    fn is_raw(terminal: &OwnedFd) -> bool {
        !tcgetattr(terminal).expect("modes").local_modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    // One test, because a process has one terminal that is raw.
    #[test]
    fn a_terminal_is_what_it_was_after_a_session_and_after_a_panic_too() {
        let (_outer, inner) = terminal();
        let raw = Raw::of(&inner).expect("raw");
        assert!(is_raw(&inner));
        drop(raw);
        assert!(!is_raw(&inner));

        // Even before anything is dropped, when the panic is told of.
        let _raw = Raw::of(&inner).expect("raw");
        let panicked = std::thread::spawn(|| panic!("as this test wants it")).join();
        assert!(panicked.is_err() && !is_raw(&inner));

        make_raw();
        assert!(is_raw(&inner), "a session goes on after having stood still");
    }
}
