//! Signals to this process while a session has its input and output.

use std::io;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// What a signal tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// The window of the terminal has another size.
    Resized,
    /// This signal, which would end the process.
    Ending(i32),
    /// The process is to stand still.
    Stop,
    /// It goes on after having stood still.
    Continued,
}

/// Watches from its making on.
pub(super) struct Signals(Vec<(Heard, Signal)>);

impl Signals {
    /// Signals that matter with a terminal in the box, and those that matter while this process's own is `raw`. Those that are not watched
    /// do what they do by default, and so end the session with its connection.
    pub(super) fn watch(raw: bool, terminal: bool) -> Result<Self, Failure> {
        let mut wanted = vec![Number::INT, Number::TERM];
        if terminal {
            wanted.push(Number::WINCH);
        }
        if raw {
            wanted.extend([Number::HUP, Number::QUIT, Number::TSTP, Number::CONT]);
        }
        let watch = |number: Number| -> io::Result<_> {
            let heard = match number {
                Number::WINCH => Heard::Resized,
                Number::TSTP => Heard::Stop,
                Number::CONT => Heard::Continued,
                ending => Heard::Ending(ending.as_raw()),
            };
            Ok((heard, signal(SignalKind::from_raw(number.as_raw()))?))
        };
        let watched = wanted.into_iter().map(watch).collect::<io::Result<_>>();
        watched.map(Self).map_err(|error| Failure::failed("cannot watch for signals", error))
    }

    /// The next of them.
    pub(super) async fn next(&mut self) -> Heard {
        std::future::poll_fn(|cx| {
            let heard = self.0.iter_mut().find_map(|(heard, signal)| signal.poll_recv(cx).is_ready().then_some(*heard));
            heard.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }

    /// The next that would end the process.
    pub(super) async fn ending(&mut self) -> i32 {
        loop {
            match self.next().await {
                Heard::Ending(number) => return number,
                // The terminal is its own still.
                Heard::Stop => super::terminal::stop(),
                Heard::Resized | Heard::Continued => {}
            }
        }
    }
}

/// What the protocol calls it.
pub(super) fn name(number: i32) -> Option<&'static str> {
    match Number::from_named_raw(number)? {
        Number::INT => Some("INT"),
        Number::TERM => Some("TERM"),
        _ => None,
    }
}
