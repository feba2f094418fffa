//! What a client asks for on a session channel before a program runs.
//!
//! These requests are answered in `russh`'s callbacks and nowhere else: it remembers for each channel only whether the *last* request
//! wants a reply, so the answer to one must be given before the next is read.

use std::collections::HashMap;
use std::hash::Hash;

use boxyard_proto::wire::{Pty, PtySize};
use tokio::sync::oneshot;

use super::environment::{self, Variables};
use crate::boxes::Program;

/// Bytes of a command line. Linux takes no longer argument.
const COMMAND_MAX: usize = 128 * 1024 - 1;
/// Modes of a terminal. The RFC knows fewer.
const MODES_MAX: usize = 256;

/// What a program is to run with, and the program.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) asked: Asked,
    pub(super) variables: Variables,
    pub(super) terminal: Option<Terminal>,
    /// Whether the client's SSH agent is to be reached.
    pub(super) agent: bool,
}

/// A terminal and its type.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) term: String,
    pub(super) pty: Pty,
}

/// What is to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// This.
    Program(Program),
    /// Something that cannot be run, and why.
    Impossible(&'static str),
}

impl Asked {
    /// A command line as it came.
    pub(super) fn command(line: &[u8]) -> Self {
        match str::from_utf8(line) {
            _ if line.len() > COMMAND_MAX => {
                Self::Impossible("the command is too long; send it on standard input to 'sh'")
            }
            _ if line.contains(&0) => Self::Impossible("the command contains a NUL byte"),
            Ok(line) => Self::Program(Program::Command(line.to_owned())),
            Err(_) => Self::Impossible("the command is not UTF-8; send it on standard input to 'sh'"),
        }
    }
}

/// The requests on one channel so far.
#[derive(Debug)]
pub(super) struct Requests {
    variables: Variables,
    terminal: Option<Terminal>,
    agent: bool,
    start: oneshot::Sender<Order>,
}

impl Requests {
    /// None yet. The other end hears of the start.
    pub(super) fn new() -> (Self, oneshot::Receiver<Order>) {
        let (start, started) = oneshot::channel();
        (Self { variables: Variables::default(), terminal: None, agent: false, start }, started)
    }

    /// Takes a request for a terminal, once. The size is columns, rows, width and height.
    pub(super) fn pty(&mut self, term: &str, size: [u32; 4], modes: &[(russh::Pty, u32)]) -> bool {
        if self.terminal.is_some() {
            return false;
        }
        let known = modes.iter().filter(|(code, _)| *code != russh::Pty::TTY_OP_END).take(MODES_MAX);
        let modes = known.map(|&(code, value)| (code as u8, value)).collect();
        let pty = Pty { size: size_of(size), modes, variable: Some("SSH_TTY".into()) };
        self.terminal = Some(Terminal { term: environment::term(term).to_owned(), pty });
        true
    }

    pub(super) fn env(&mut self, name: &str, value: &str) -> bool {
        self.variables.accept(name, value)
    }

    pub(super) fn agent(&mut self) -> bool {
        self.agent = true;
        true
    }

    /// Has the channel's task start it. Says whether there is still one.
    pub(super) fn start(self, asked: Asked) -> bool {
        let Self { variables, terminal, agent, start } = self;
        start.send(Order { asked, variables, terminal, agent }).is_ok()
    }
}

/// Channels that have not been told yet what to run.
///
/// A channel whose task has ended may stay in here for a while: its client is not bound to close it in a way that we are told of (it may
/// claim to have refused to open it). What its requests hold is freed when the next channel comes, so there are never more of them than
/// there may be channels, and one.
#[derive(Debug)]
pub(super) struct Unstarted<K>(HashMap<K, Requests>);

impl<K: Eq + Hash> Unstarted<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    pub(super) fn insert(&mut self, channel: K, requests: Requests) {
        self.0.retain(|_, requests| !requests.start.is_closed());
        self.0.insert(channel, requests);
    }

    pub(super) fn get_mut(&mut self, channel: &K) -> Option<&mut Requests> {
        self.0.get_mut(channel)
    }

    pub(super) fn remove(&mut self, channel: &K) -> Option<Requests> {
        self.0.remove(channel)
    }
}

/// A terminal's size from columns, rows, width and height; what no terminal has is cut off.
pub(super) fn size_of(size: [u32; 4]) -> PtySize {
    let [columns, rows, width, height] = size.map(|side| u16::try_from(side).unwrap_or(u16::MAX));
    PtySize { columns, rows, width, height }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_given_once_and_with_what_makes_sense_of_its_shape() {
        let (mut requests, mut started) = Requests::new();
        let modes = [(russh::Pty::VINTR, 3), (russh::Pty::TTY_OP_END, 0), (russh::Pty::ECHO, 1)];
        assert!(requests.pty("xterm", [80, 24, 100_000, 0], &modes));
        assert!(!requests.pty("vt100", [1, 1, 1, 1], &[]));
        assert!(requests.env("LANG", "C") && !requests.env("PATH", "/"));
        assert!(requests.start(Asked::command(b"true")));
        let order = started.try_recv().expect("an order");
        let terminal = order.terminal.expect("a terminal");
        assert_eq!((terminal.term.as_str(), terminal.pty.modes), ("xterm", vec![(1, 3), (53, 1)]));
        assert_eq!(terminal.pty.size, PtySize { columns: 80, rows: 24, width: u16::MAX, height: 0 });
        assert!(!order.agent);
    }

    #[test]
    fn channels_that_end_unseen_before_they_start_anything_leave_nothing_behind() {
        let mut unstarted = Unstarted::new();
        let (requests, _live) = Requests::new();
        unstarted.insert(0, requests);
        for channel in 1..1000 {
            let (mut requests, task) = Requests::new();
            assert!(requests.env("LC_ALL", &"x".repeat(4096)));
            unstarted.insert(channel, requests);
            drop(task);
        }
        assert_eq!(unstarted.0.len(), 2, "one lives, and one has only just ended");
        assert!(unstarted.get_mut(&0).is_some());
    }

    #[test]
    fn what_no_shell_can_take_is_refused_with_a_reason() {
        assert_eq!(Asked::command("echo ü".as_bytes()), Asked::Program(Program::Command("echo ü".into())));
        assert!(matches!(Asked::command(b"a\0b"), Asked::Impossible(why) if why.contains("NUL")));
        assert!(matches!(Asked::command(b"\xff"), Asked::Impossible(why) if why.contains("UTF-8")));
        assert!(matches!(Asked::command(&vec![b'x'; COMMAND_MAX + 1]), Asked::Impossible(why) if why.contains("long")));
        assert!(matches!(Asked::command(&vec![b'x'; COMMAND_MAX]), Asked::Program(_)));
    }
}
