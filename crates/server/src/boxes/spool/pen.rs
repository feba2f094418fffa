//! Writing a run's output down.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use boxyard_proto::wire::TAKEN_EVERY;
use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::reader::{Spool, Tail};
use super::ring::{Ring, Stretch};
use super::{STEP, remove_file, short};
use crate::boxes::output::Stream;
use crate::store::OutputRow;

/// Bytes that are kept in memory before they are written: as many as `boxyard-init` surely holds.
const TAIL_MAX: usize = TAKEN_EVERY;
/// Changes between the streams in them at most.
const PIECES_MAX: usize = 1024;
/// Bytes of an output at most that takes no file.
const SHORT_MAX: usize = 4 * 1024;

/// The one who writes a spool.
#[derive(Debug)]
pub(in crate::boxes) struct Pen {
    spool: Arc<Spool>,
    /// It could not be written, which has been said.
    failed: bool,
}

impl Pen {
    pub(super) fn new(spool: Arc<Spool>) -> Self {
        Self { spool, failed: false }
    }

    /// What is written.
    pub(in crate::boxes) fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// See [`Spool::safe`].
    pub(in crate::boxes) fn safe(&self) -> u64 {
        self.spool.safe()
    }

    /// How many bytes there are.
    pub(in crate::boxes) fn end(&self) -> u64 {
        self.spool.lock().tail.end()
    }

    /// Appends bytes. Says whether more is [safe](Self::safe) than before.
    pub(in crate::boxes) async fn append(&mut self, stream: Stream, bytes: Bytes) -> bool {
        let tail = {
            let mut state = self.spool.lock();
            if state.tail.bytes.len() + bytes.len() <= TAIL_MAX && state.tail.pieces.len() < PIECES_MAX {
                state.tail.push(stream, &bytes);
                drop(state);
                self.spool.publish(false);
                return false;
            }
            // Readers go on to find it where it is until it is in the file.
            state.tail.clone()
        };
        self.write(tail, Some((stream, bytes))).await;
        self.spool.publish(false);
        true
    }

    /// What comes next has number `at`: what is missing before it is lost, and nothing before a gap is kept.
    pub(in crate::boxes) fn skip_to(&mut self, at: u64) {
        let mut state = self.spool.lock();
        state.start = at;
        state.ring.clear();
        state.tail = Tail { start: at, ..Tail::default() };
        drop(state);
        self.spool.publish(false);
    }

    /// Nothing more comes. Returns what the run's record is to say of it; readers are still to be told that it is over.
    pub(in crate::boxes) async fn finish(mut self) -> OutputRow {
        let (tail, in_file) = {
            let state = self.spool.lock();
            (state.tail.clone(), state.file.is_some())
        };
        let end = i64::try_from(tail.end()).ok();
        if in_file || tail.bytes.len() > SHORT_MAX {
            if !tail.bytes.is_empty() {
                self.write(tail, None).await;
            }
            return OutputRow { end, held: self.settle().await, short: None };
        }
        if tail.bytes.is_empty() {
            return OutputRow { end, held: 0, short: None };
        }
        let short = short::encode(&tail);
        self.spool.room.count(short.len() as u64);
        OutputRow { end, held: i64::try_from(short.len()).unwrap_or(i64::MAX), short: Some(short) }
    }

    /// Nothing of it is to be kept.
    pub(in crate::boxes) async fn discard(self) {
        let reserved = std::mem::take(&mut self.spool.lock().reserved);
        if reserved > 0 {
            let spool = Arc::clone(&self.spool);
            // A panic there leaves a file that the next start removes.
            let _ = spawn_blocking(move || remove_file(&spool.path)).await;
            self.spool.room.release(reserved);
        }
    }

    /// Writes the tail, and what comes behind it, to the file.
    async fn write(&mut self, tail: Tail, more: Option<(Stream, Bytes)>) {
        let end = tail.end() + more.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64);
        let spool = Arc::clone(&self.spool);
        let written = spawn_blocking(move || {
            let mut rest = Bytes::from(tail.bytes);
            let pieces = tail.pieces.into_iter().map(|(stream, length)| {
                let length = (length as usize).min(rest.len());
                (stream, rest.split_to(length))
            });
            write(&spool, tail.start, pieces.chain(more))
        });
        let written = written.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let mut state = self.spool.lock();
        if let Err(error) = written {
            // The program goes on, and whoever follows it; what was there is not kept, which readers are told.
            state.ring.clear();
            state.start = end;
            if !std::mem::replace(&mut self.failed, true) {
                tracing::warn!(path = %self.spool.path.display(), %error, "an output cannot be kept");
            }
        }
        state.tail.start = end;
        state.tail.bytes.clear();
        state.tail.pieces.clear();
    }

    /// Gives back what the file could have grown by. Returns its length.
    async fn settle(&self) -> i64 {
        let file = self.spool.lock().file.clone();
        let Some(file) = file else { return 0 };
        let length = spawn_blocking(move || file.metadata().map(|metadata| metadata.len())).await;
        let mut state = self.spool.lock();
        let length = length.ok().and_then(Result::ok).unwrap_or(state.reserved).min(state.reserved);
        self.spool.room.release(state.reserved - length);
        state.reserved = length;
        i64::try_from(length).unwrap_or(i64::MAX)
    }
}

/// Writes pieces, the first byte of which has number `at`, where they belong.
fn write(spool: &Spool, mut at: u64, pieces: impl Iterator<Item = (Stream, Bytes)>) -> io::Result<()> {
    let (mut plan, mut reserved, file) = {
        let state = spool.lock();
        (state.ring.clone(), state.reserved, state.file.clone())
    };
    let mut reach = |upto: u64| {
        let missing = upto.saturating_sub(reserved).next_multiple_of(STEP);
        let wanted = if missing > 0 && spool.room.reserve(missing) { missing } else { 0 };
        reserved += wanted;
        reserved
    };
    if file.is_none() && reach(STEP) < STEP {
        return Err(io::Error::other("there is no room for it"));
    }
    let file = match file {
        Some(file) => Ok(file),
        None => create(&spool.path, &plan),
    };
    let done = file.and_then(|file| {
        spool.lock().file.get_or_insert_with(|| Arc::clone(&file));
        let mut stretch = Stretch::default();
        for (stream, mut bytes) in pieces {
            while !bytes.is_empty() {
                let place = plan.place(at, bytes.len(), &mut reach);
                let place = place.ok_or_else(|| io::Error::other("there is no room for it"))?;
                if !stretch.takes(place.position) {
                    flush(&mut stretch, &file, spool, &plan)?;
                }
                let piece = bytes.split_to(place.room);
                plan.wrote(piece.len());
                let length = piece.len() as u64;
                stretch.add(place.position, stream, at, piece);
                at += length;
            }
        }
        flush(&mut stretch, &file, spool, &plan)
    });
    spool.lock().reserved = reserved;
    done
}

/// Writes what is planned. Readers are told before something is written over, and after something is there.
fn flush(stretch: &mut Stretch, file: &File, spool: &Spool, plan: &Ring) -> io::Result<()> {
    {
        let mut state = spool.lock();
        state.ring.give_up_for(plan);
        state.start = plan.start().unwrap_or(state.start).max(state.start);
    }
    stretch.write(file)?;
    spool.lock().ring = plan.clone();
    Ok(())
}

fn create(path: &Path, ring: &Ring) -> io::Result<Arc<File>> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all_at(&ring.head(), 0)?;
    Ok(Arc::new(file))
}
