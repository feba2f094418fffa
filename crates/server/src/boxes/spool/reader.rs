//! The output of one run: what is kept of it, and reading that.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::Room;
use super::ring::{Cursor, Ring};
use crate::boxes::output::Stream;

/// Bytes that a reader gets at once at most.
const PIECE: usize = 128 * 1024;

/// Which of a run's outputs somebody wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Streams {
    /// Standard output and standard error, in the order in which they came.
    #[default]
    Both,
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Streams {
    fn has(self, stream: Stream) -> bool {
        match self {
            Self::Both => true,
            Self::Out => stream == Stream::Out,
            Self::Err => stream == Stream::Err,
        }
    }
}

/// The output of one run.
#[derive(Debug)]
pub(in crate::boxes) struct Spool {
    pub(super) room: Arc<Room>,
    pub(super) path: PathBuf,
    state: Mutex<State>,
    /// Tells readers how far it is.
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    end: u64,
    over: bool,
}

#[derive(Debug)]
pub(super) struct State {
    /// The number of the first byte that is kept.
    pub(super) start: u64,
    /// What is not in the file yet, and the number of its first byte.
    pub(super) tail: Tail,
    pub(super) file: Option<Arc<File>>,
    pub(super) ring: Ring,
    /// How long the file may be.
    pub(super) reserved: u64,
}

/// The newest bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) pieces: Vec<(Stream, u32)>,
}

impl Tail {
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match self.pieces.last_mut() {
            Some((last, so_far)) if *last == stream => *so_far += length,
            Some(_) | None => self.pieces.push((stream, length)),
        }
    }

    /// Bytes from number `from` on, at most so many of them, of these streams; and the number of the byte after them.
    fn read(&self, from: u64, streams: Streams) -> (Vec<u8>, u64) {
        let (mut at, mut read) = (self.start, Vec::new());
        let mut rest = self.bytes.as_slice();
        for (stream, length) in &self.pieces {
            let (piece, behind) = rest.split_at((*length as usize).min(rest.len()));
            let skipped = usize::try_from(from.saturating_sub(at)).unwrap_or(usize::MAX).min(piece.len());
            if streams.has(*stream) {
                read.extend_from_slice(&piece[skipped..]);
            }
            at += piece.len() as u64;
            rest = behind;
        }
        (read, at)
    }
}

impl Spool {
    pub(super) fn new(room: Arc<Room>, path: PathBuf) -> Arc<Self> {
        let ring = Ring::new(room.shape);
        let state = State { start: 0, tail: Tail::default(), file: None, ring, reserved: 0 };
        Self::of_state(room, path, state, false)
    }

    /// One that is over and takes no file.
    pub(super) fn short(room: &Arc<Room>, tail: Tail) -> Arc<Self> {
        let ring = Ring::new(room.shape);
        let state = State { start: tail.start, tail, file: None, ring, reserved: 0 };
        Self::of_state(Arc::clone(room), PathBuf::new(), state, true)
    }

    /// What is in a file, to be written on or not.
    pub(super) fn of_file(
        room: Arc<Room>,
        path: PathBuf,
        file: File,
        ring: Ring,
        length: u64,
        writing: bool,
    ) -> Arc<Self> {
        let (start, end) = (ring.start().unwrap_or(0), ring.end().unwrap_or(0));
        if writing {
            room.count(length);
        }
        let tail = Tail { start: end, ..Tail::default() };
        let state = State { start, tail, file: Some(Arc::new(file)), ring, reserved: length };
        Self::of_state(room, path, state, !writing)
    }

    fn of_state(room: Arc<Room>, path: PathBuf, state: State, over: bool) -> Arc<Self> {
        let progress = watch::Sender::new(Progress { end: state.tail.end(), over });
        Arc::new(Self { room, path, state: Mutex::new(state), progress })
    }

    /// What the lock guards is whole after every statement, so a panic elsewhere does not spoil it.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells readers how far it is.
    pub(in crate::boxes) fn publish(&self, over: bool) {
        let end = self.lock().tail.end();
        self.progress.send_replace(Progress { end, over });
    }

    /// How many bytes of the output are in a file, where the end of this server does them no harm, or are given up.
    pub(in crate::boxes) fn safe(&self) -> u64 {
        self.lock().tail.start
    }

    /// The number of the first byte that is kept, and of the byte after the last one.
    pub(in crate::boxes) fn range(&self) -> (u64, u64) {
        let state = self.lock();
        (state.start, state.tail.end())
    }

    /// Reads from byte `from` on, or from the first one after it that is kept. With `follow`, until the run is over; otherwise, up to what
    /// is there now.
    pub(in crate::boxes) fn read(
        self: &Arc<Self>,
        from: u64,
        streams: Streams,
        follow: bool,
        leaving: CancellationToken,
    ) -> Reader {
        let (start, end) = self.range();
        let next = if follow { from.max(start) } else { from.clamp(start, end) };
        let upto = if follow { u64::MAX } else { end };
        let progress = self.progress.subscribe();
        Reader { spool: Arc::clone(self), next, upto, streams, cursor: None, buffer: Vec::new(), progress, leaving }
    }
}

/// Why a reader gets no more although there is more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// What it was to read next has been dropped: it was too slow.
    #[error("the output was dropped before it was read")]
    Lapped,
    /// The file cannot be read.
    #[error("the kept output cannot be read")]
    Broken,
    /// The server is shutting down; the next one goes on.
    #[error("the server is shutting down")]
    Leaving,
}

/// Reads a run's output.
#[derive(Debug)]
pub struct Reader {
    spool: Arc<Spool>,
    /// The number of the next byte.
    next: u64,
    upto: u64,
    streams: Streams,
    cursor: Option<Cursor>,
    buffer: Vec<u8>,
    progress: watch::Receiver<Progress>,
    leaving: CancellationToken,
}

/// What there is at some byte.
enum Found {
    Bytes(Vec<u8>, u64),
    /// In the file.
    Filed(Cursor, Arc<File>, super::ring::Shape),
    Nothing,
    Lost,
}

impl Reader {
    /// The number of the next byte, of both streams together.
    pub fn next_byte(&self) -> u64 {
        self.next
    }

    /// How many bytes are left, of both streams together, where it does not follow.
    pub fn left(&self) -> u64 {
        self.upto.saturating_sub(self.next)
    }

    /// The next bytes, never empty; `None` at the end.
    ///
    /// # Errors
    /// There is more, and it cannot be had, at least not here.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        loop {
            if self.next >= self.upto {
                return Ok(None);
            }
            // Marked as seen before it is looked at, so that nothing is waited for that has happened.
            let seen = *self.progress.borrow_and_update();
            match self.look() {
                Found::Lost => return Err(Cut::Lapped),
                Found::Bytes(mut bytes, after) => {
                    if after > self.upto && self.streams == Streams::Both {
                        bytes.truncate(usize::try_from(self.upto - self.next).unwrap_or(usize::MAX));
                    }
                    self.next = after;
                    if !bytes.is_empty() {
                        return Ok(Some(bytes.into()));
                    }
                }
                Found::Filed(cursor, file, shape) => {
                    let bytes = self.read_file(cursor, file, shape).await?;
                    if !bytes.is_empty() {
                        return Ok(Some(bytes.into()));
                    }
                }
                Found::Nothing if seen.over => return Ok(None),
                Found::Nothing => tokio::select! {
                    biased;
                    changed = self.progress.changed() => if changed.is_err() {
                        return Ok(None);
                    },
                    () = self.leaving.cancelled() => return Err(Cut::Leaving),
                },
            }
        }
    }

    fn look(&self) -> Found {
        let state = self.spool.lock();
        if self.next < state.start {
            return Found::Lost;
        }
        if self.next >= state.tail.start {
            let (bytes, after) = state.tail.read(self.next, self.streams);
            return if after > self.next { Found::Bytes(bytes, after) } else { Found::Nothing };
        }
        match (state.ring.find(self.next), &state.file) {
            (Some(slot), Some(file)) => {
                let cursor = self.cursor.filter(|cursor| cursor.next() <= self.next);
                let cursor = cursor.and_then(|mut cursor| cursor.renew(slot).then_some(cursor));
                Found::Filed(cursor.unwrap_or_else(|| Cursor::new(slot)), Arc::clone(file), state.ring.shape())
            }
            _ => Found::Lost,
        }
    }

    async fn read_file(
        &mut self,
        mut cursor: Cursor,
        file: Arc<File>,
        shape: super::ring::Shape,
    ) -> Result<Vec<u8>, Cut> {
        let (from, streams) = (self.next, self.streams);
        let mut buffer = std::mem::take(&mut self.buffer);
        let reading = spawn_blocking(move || {
            buffer.resize(PIECE, 0);
            let read = cursor.read(&file, shape, from, |stream| streams.has(stream), &mut buffer);
            (read, cursor, buffer)
        });
        let (read, cursor, buffer) = reading.await.map_err(|_| Cut::Broken)?;
        self.buffer = buffer;
        if !self.spool.lock().ring.still_has(cursor.slot()) {
            // It was written over while it was read.
            return Err(Cut::Lapped);
        }
        let mut bytes = read.map_err(|error: io::Error| {
            tracing::warn!(path = %self.spool.path.display(), %error, "a kept output cannot be read");
            Cut::Broken
        })?;
        let after = cursor.next();
        if after > self.upto && streams == Streams::Both {
            let over = usize::try_from(after - self.upto).unwrap_or(usize::MAX);
            bytes.truncate(bytes.len().saturating_sub(over));
        }
        self.next = after.max(self.next);
        self.cursor = Some(cursor);
        Ok(bytes)
    }
}
