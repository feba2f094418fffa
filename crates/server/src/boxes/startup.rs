//! The init command of a box: run once whenever the box is started, in the background.
//!
//! It is a job like any other, but it is no work: it takes no lease, so that a box whose init command serves something for ever is idle
//! when nobody works in it. Its job is kept when the server leaves, and the next server attaches to it by its name. What it writes goes
//! to the box's log, a bounded part of it.

use std::sync::Arc;

use boxyard_engine::agent::{self, AgentError, Event, Job};
use boxyard_engine::fail;
use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_proto::wire::{self, Exit, FailedKind, OnClose, User};

use super::kept::Shared;
use super::order::WORKSPACE;
use super::work::ENVIRONMENT;
use super::{Yard, chain, memory, now_ms};
use crate::store::LogRow;

/// Name of its job in the box.
const JOB: &str = "startup";
/// Lines of its output that one start writes into the box's log at most.
const LINES_MAX: usize = 500;
/// Bytes of its output that one start writes into the box's log at most.
const BYTES_MAX: usize = 64 * 1024;
/// Bytes of one line of the log; a longer line becomes several.
const LINE_BYTES_MAX: usize = 1024;

/// Runs the init command that the box has now, to its end.
pub(super) async fn begin(yard: Arc<Yard>, shared: Arc<Shared>) {
    let command = shared.state.borrow().init_command.to_string();
    let exec = wire::Exec {
        env: ENVIRONMENT.iter().map(|&variable| variable.to_owned()).collect(),
        on_close: OnClose::Keep,
        ..wire::Exec::new(JOB, vec!["/bin/bash".into(), "-c".into(), command], WORKSPACE, User::BOXUSER)
    };
    let id = &shared.fixed.id;
    let started = {
        let _awake = shared.awake().await;
        agent::exec(yard.engine.as_ref(), id, exec).await
    };
    fail::point("init command: begun");
    // From here on it is not run again, whatever became of it: a server that ends before this line leaves it to the next one.
    if let Err(error) = yard.store.set_init_due(id.clone(), false).await {
        tracing::error!(box_id = %id, error = chain(&error), "that an init command was started could not be stored");
    }
    let log = Log::new(&yard, &shared);
    match started {
        Ok(job) => {
            log.say(LogLevel::Info, "Init command started".into());
            follow(job, log).await;
        }
        Err(AgentError::Refused { kind: FailedKind::Invalid, .. }) => {
            log.say(LogLevel::Warn, "Init command not run: the one of this box's last start still runs".into());
            attach(yard, Arc::clone(&shared)).await;
        }
        Err(error) => log.say(LogLevel::Error, format!("Init command could not be started: {error}")),
    }
}

/// Follows an init command that an earlier server has started, if it is still there.
pub(super) async fn attach(yard: Arc<Yard>, shared: Arc<Shared>) {
    let job = {
        let _awake = shared.awake().await;
        agent::attach(yard.engine.as_ref(), &shared.fixed.id, JOB.into(), None).await
    };
    // Most have ended long ago, and their boxes have forgotten them.
    if let Ok(job) = job {
        follow(job, Log::new(&yard, &shared)).await;
    }
}

async fn follow(mut job: Job, mut log: Log<'_>) {
    loop {
        match job.next().await {
            Ok(Event::Out(bytes)) => log.take(LogLevel::Info, &bytes),
            Ok(Event::Err(bytes)) => log.take(LogLevel::Warn, &bytes),
            Ok(Event::Exit(exit)) => return log.end(exit),
            // The box was stopped or deleted, which its log says by itself.
            Err(_) => return log.flush(),
        }
    }
}

/// Writes output into a box's log, line by line.
struct Log<'a> {
    yard: &'a Arc<Yard>,
    shared: &'a Arc<Shared>,
    /// What has come of a line that is not complete.
    line: Vec<u8>,
    level: LogLevel,
    lines: usize,
    bytes: usize,
}

impl<'a> Log<'a> {
    fn new(yard: &'a Arc<Yard>, shared: &'a Arc<Shared>) -> Self {
        Self { yard, shared, line: Vec::new(), level: LogLevel::Info, lines: 0, bytes: 0 }
    }

    fn say(&self, level: LogLevel, message: String) {
        let entry = LogRow { at: now_ms(), level, source: LogSource::User, message };
        self.yard.store.append_log_queued(self.shared.fixed.id.clone(), entry);
    }

    fn is_full(&self) -> bool {
        self.lines >= LINES_MAX || self.bytes >= BYTES_MAX
    }

    fn take(&mut self, level: LogLevel, bytes: &[u8]) {
        if level != self.level {
            self.flush();
            self.level = level;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LINE_BYTES_MAX) {
                if self.is_full() {
                    return;
                }
                self.line.extend_from_slice(part);
                if self.line.ends_with(b"\n") || self.line.len() >= LINE_BYTES_MAX {
                    self.flush();
                }
            }
        }
    }

    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).replace('\0', "\u{fffd}");
        if text.is_empty() || self.is_full() {
            return;
        }
        self.lines += 1;
        self.bytes += line.len();
        self.say(self.level, format!("init: {text}"));
        if self.is_full() {
            self.say(LogLevel::Warn, "init: what it writes from here on is not kept".into());
        }
    }

    fn end(mut self, exit: Exit) {
        self.flush();
        self.shared.worked(i64::try_from(exit.cpu_ns).unwrap_or(i64::MAX));
        let level = if exit.code == 0 { LogLevel::Info } else { LogLevel::Warn };
        self.say(level, format!("Init command ended with exit code {}", exit.code));
        memory::look(self.yard, self.shared, exit);
    }
}
