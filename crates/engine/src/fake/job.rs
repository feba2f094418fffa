//! A job of a pretended box: a program, and whatever connection it has now.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use boxyard_proto::wire::{Exit, Kind, OnClose, PtySize};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::lock;
use super::spooled::Spooled;

/// Pieces of output that may wait for the connection.
const OUTPUT_PIECES: usize = 16;

/// What a job's connection has to tell.
#[derive(Debug)]
pub(super) enum Said {
    Bytes(Kind, Bytes),
    Exit(Exit),
}

/// A job. Its program runs in a task that ends with the box.
pub(super) struct Job {
    /// Where output goes: the connection there is now, if there is one.
    connection: Mutex<Option<mpsc::Sender<Said>>>,
    exit: watch::Sender<Option<Exit>>,
    /// TERM, or another signal that ends programs.
    pub(super) term: CancellationToken,
    /// Whether INT does not end the program, but is told here.
    pub(super) catches_interrupts: AtomicBool,
    pub(super) interrupted: Notify,
    /// The last signal's number.
    signal: AtomicI32,
    /// The size of its terminal.
    pub(super) size: watch::Sender<PtySize>,
    /// KILL, or the end of the box.
    pub(super) kill: CancellationToken,
    pub(super) on_close: OnClose,
    /// Its output, where that is held until it is taken.
    pub(super) spooled: Option<Spooled>,
}

impl Job {
    pub(super) fn new(on_close: OnClose, spool: bool, kill: CancellationToken) -> Arc<Self> {
        let term = CancellationToken::new();
        Arc::new(Self {
            connection: Mutex::new(None),
            exit: watch::Sender::new(None),
            term,
            catches_interrupts: AtomicBool::new(false),
            interrupted: Notify::new(),
            signal: AtomicI32::new(15),
            size: watch::Sender::new(PtySize::default()),
            kill,
            on_close,
            spooled: spool.then(Spooled::new),
        })
    }

    /// Sends a signal, which ends the program whatever it is, unless that catches it.
    pub(super) fn signal(&self, signal: i32) {
        if signal == 2 && self.catches_interrupts.load(Ordering::Relaxed) {
            self.interrupted.notify_one();
            return;
        }
        self.signal.store(signal, Ordering::Relaxed);
        if signal == 9 { self.kill.cancel() } else { self.term.cancel() }
    }

    /// The signal that ended it before its time.
    pub(super) fn ended_by(&self) -> i32 {
        self.signal.load(Ordering::Relaxed)
    }

    /// Makes a connection the one that output goes to; the earlier one ends.
    pub(super) fn connect(&self) -> mpsc::Receiver<Said> {
        let (tell, told) = mpsc::channel(OUTPUT_PIECES);
        *lock(&self.connection) = Some(tell);
        told
    }

    /// Output, which is dropped while there is no connection.
    pub(super) async fn say(&self, kind: Kind, bytes: Bytes) {
        if let Some(spooled) = &self.spooled {
            return spooled.say(kind, bytes).await;
        }
        let connection = lock(&self.connection).clone();
        if let Some(connection) = connection
            && connection.send(Said::Bytes(kind, bytes)).await.is_err()
        {
            self.forget(&connection);
        }
    }

    /// Whether there is a connection to say anything to.
    pub(super) fn is_followed(&self) -> bool {
        lock(&self.connection).is_some()
    }

    pub(super) async fn finish(&self, exit: Exit) {
        if let Some(spooled) = &self.spooled {
            spooled.finish(exit);
        }
        self.exit.send_replace(Some(exit));
        let connection = lock(&self.connection).clone();
        if let Some(connection) = connection {
            // Without a connection the end is held for whoever attaches.
            let _ = connection.send(Said::Exit(exit)).await;
        }
    }

    fn forget(&self, gone: &mpsc::Sender<Said>) {
        let mut connection = lock(&self.connection);
        if connection.as_ref().is_some_and(|current| current.same_channel(gone)) {
            *connection = None;
        }
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.exit().is_some() || self.kill.is_cancelled()
    }

    pub(super) async fn ended(&self) {
        let mut exit = self.exit.subscribe();
        tokio::select! {
            // The sender lives as long as the job does.
            _ = exit.wait_for(Option::is_some) => {}
            () = self.kill.cancelled() => {}
        }
    }
}
