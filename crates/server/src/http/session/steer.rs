//! Sizes, signals and the end: what a client wants of its program beside input. Signals go over connections of their own, because the
//! program's may be full of input that it does not read.

use std::time::Duration;

use boxyard_engine::agent::JobControl;
use boxyard_proto::wire::{PtySize, Scope};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::start;
use crate::boxes::{Boxes, Kept};

/// Signals that may wait to be sent.
const SIGNALS: usize = 16;
/// Between TERM and KILL, when the client does not say.
const GRACE: Duration = Duration::from_secs(5);
/// The same at most.
const GRACE_MAX: Duration = Duration::from_hours(24);
const KILL: i32 = 9;
const TERM: i32 = 15;
const CONT: i32 = 18;

/// Where a client's wishes go.
#[derive(Debug)]
pub(super) struct Steering {
    size: watch::Sender<Option<PtySize>>,
    signals: mpsc::Sender<i32>,
    grace: watch::Sender<Option<Duration>>,
}

/// The other end.
#[derive(Debug)]
pub(super) struct Orders {
    size: watch::Receiver<Option<PtySize>>,
    signals: mpsc::Receiver<i32>,
    grace: watch::Receiver<Option<Duration>>,
}

impl Steering {
    pub(super) fn new() -> (Self, Orders) {
        let ((size, sizes), (grace, graces)) = (watch::channel(None), watch::channel(None));
        let (signal, signals) = mpsc::channel(SIGNALS);
        (Self { size, signals: signal, grace }, Orders { size: sizes, signals, grace: graces })
    }

    pub(super) fn resize(&mut self, rows: u32, cols: u32) {
        self.size.send_replace(Some(start::size(Some(rows), Some(cols))));
    }

    pub(super) fn signal(&mut self, name: &str) {
        if let Some(signal) = number(name) {
            // Whoever sends more than can be delivered gets what was delivered.
            let _ = self.signals.try_send(signal);
        }
    }

    pub(super) fn terminate(&mut self, grace_ms: Option<u64>) {
        let grace = grace_ms.map_or(GRACE, Duration::from_millis).min(GRACE_MAX);
        self.grace.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(grace);
            is_first
        });
    }
}

impl Orders {
    /// Does what the client wants. Never returns: the end of a program is heard of elsewhere.
    pub(super) async fn follow(mut self, boxes: &Boxes, kept: &Kept, name: &str, control: &JobControl) {
        let send = async |signal| {
            if let Err(error) = boxes.signal_session(kept, name, signal, Scope::All).await {
                tracing::debug!(signal, %error, "a signal was not delivered");
            }
        };
        let sizes = async {
            while self.size.changed().await.is_ok() {
                let size = *self.size.borrow_and_update();
                if let Some(size) = size {
                    // A terminal that is lost is told of elsewhere.
                    let _ = control.resize(size).await;
                }
            }
        };
        let signals = async {
            while let Some(signal) = self.signals.recv().await {
                send(signal).await;
            }
        };
        let terminate = async {
            let grace = self.grace.wait_for(Option::is_some).await.ok().and_then(|grace| *grace);
            if let Some(grace) = grace {
                send(TERM).await;
                // A stopped process hears of it only when it goes on.
                send(CONT).await;
                sleep(grace).await;
                send(KILL).await;
            }
        };
        tokio::join!(sizes, signals, terminate);
        std::future::pending().await
    }
}

/// The number of a signal by its name, with or without `SIG`.
fn number(name: &str) -> Option<i32> {
    Some(match name.strip_prefix("SIG").unwrap_or(name) {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ABRT" => 6,
        "KILL" => KILL,
        "USR1" => 10,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => TERM,
        "CONT" => CONT,
        "STOP" => 19,
        "TSTP" => 20,
        "WINCH" => 28,
        _ => return None,
    })
}
