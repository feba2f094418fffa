//! Output of a job that has been read and that nobody has said to be safe yet, so that it can be sent again.
//!
//! One ring of bytes for each job, which grows as it must and is given back when it is empty, and beside it the pieces that it is made
//! of: whose bytes they are. Bytes are counted from the job's start. What is sent to a connection is sent out of the ring, so a byte is
//! copied no more often than without it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::rc::Rc;

use boxyard_proto::wire::{self, HEADER_LEN, HELD_MAX, Kind};

use super::connection::Connection;
use super::output::{READ_SIZE, Scratch};

/// Bytes that a job may hold whatever others hold: more than twice [`wire::TAKEN_EVERY`], so that it never waits for good.
const SHARE: usize = 64 * 1024;

/// Bytes that the rings of all jobs have together; beyond that each job has only [`SHARE`].
const ALL_MAX: usize = 64 * 1024 * 1024;

/// The smallest ring.
const RING_MIN: usize = 4 * 1024;

/// Rings up to this size are kept when they are empty.
const RING_KEPT: usize = 4 * 1024;

/// Rings from this size on are read into directly; for a smaller one a read tells first how much there is.
const RING_DIRECT: usize = READ_SIZE;

/// Pieces that are held at most: a job that alternates between its outputs byte by byte must not take memory for that.
const PIECES_MAX: usize = 4096;

/// The memory that rings are made of.
#[derive(Debug, Default)]
pub struct Stock {
    /// Bytes in use.
    used: Cell<usize>,
    /// One ring that nobody uses now.
    spare: RefCell<Vec<u8>>,
}

impl Stock {
    /// A ring of at least `size` bytes.
    fn lend(&self, size: usize) -> Vec<u8> {
        let mut spare = self.spare.borrow_mut();
        let ring = if size > RING_KEPT && spare.len() >= size { std::mem::take(&mut *spare) } else { vec![0; size] };
        self.used.set(self.used.get() + ring.len());
        ring
    }

    /// A ring of `size` bytes and no more.
    fn lend_exactly(&self, size: usize) -> Vec<u8> {
        self.used.set(self.used.get() + size);
        vec![0; size]
    }

    fn take_back(&self, ring: Vec<u8>) {
        self.used.set(self.used.get() - ring.len());
        let mut spare = self.spare.borrow_mut();
        if ring.len() > spare.len().max(RING_KEPT) {
            *spare = ring;
        }
    }
}

/// What is held of one job.
#[derive(Debug)]
pub struct Held {
    stock: Rc<Stock>,
    ring: Vec<u8>,
    /// Where in the ring the first byte is.
    head: usize,
    length: usize,
    pieces: VecDeque<Piece>,
    /// The number of the first byte.
    start: u64,
    /// The oldest bytes make room for new ones.
    overwrites: bool,
    /// Whoever has the job's connection does not say what is safe: what has been sent is.
    trusting: bool,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    kind: Kind,
    length: usize,
}

/// How far one connection has got.
#[derive(Debug, Default)]
pub struct Sending {
    /// The next byte that is to be sent.
    next: u64,
    /// Where the frame under way ends.
    frame_end: u64,
    header: [u8; HEADER_LEN],
    /// Bytes of the header that are still to be sent.
    header_left: usize,
}

impl Sending {
    /// Beginning with byte number `from`.
    pub fn new(from: u64) -> Self {
        Self { next: from, frame_end: from, ..Self::default() }
    }

    /// Whether a frame is under way, so that nothing else may be sent.
    pub fn is_amid(&self) -> bool {
        self.next < self.frame_end || self.header_left > 0
    }
}

impl Held {
    /// Nothing yet.
    pub fn new(stock: Rc<Stock>) -> Self {
        Self {
            stock,
            ring: Vec::new(),
            head: 0,
            length: 0,
            pieces: VecDeque::new(),
            start: 0,
            overwrites: false,
            trusting: false,
        }
    }

    /// The number of the byte after the last one.
    pub fn end(&self) -> u64 {
        self.start + self.length as u64
    }

    /// How many bytes are held.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Somebody follows the job from byte `from` on; without one, from now on and without saying what is safe. Returns the number of the
    /// first byte that there is for it.
    pub fn follow(&mut self, from: Option<u64>) -> u64 {
        self.overwrites = false;
        self.trusting = from.is_none();
        from.map_or_else(|| self.end(), |from| from.clamp(self.start, self.end()))
    }

    /// Whether whoever follows has what it has read, without saying so.
    pub fn is_trusted(&self) -> bool {
        self.trusting
    }

    /// From now on the oldest bytes make room for new ones.
    pub fn overwrite(&mut self) {
        self.overwrites = true;
    }

    /// Whether nothing more can be read until something is taken.
    pub fn is_full(&self) -> bool {
        !self.overwrites && (self.length >= self.limit() || self.pieces.len() >= PIECES_MAX)
    }

    /// Bytes that it may hold now.
    fn limit(&self) -> usize {
        let others = self.stock.used.get() - self.ring.len();
        if others + HELD_MAX <= ALL_MAX { HELD_MAX } else { self.ring.len().clamp(SHARE, HELD_MAX) }
    }

    /// Appends what one `read` gives. Returns how much that was.
    pub fn fill(
        &mut self,
        kind: Kind,
        scratch: &Scratch,
        mut read: impl FnMut(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (free, limit) = (self.ring.len() - self.length, self.limit());
        let has_room = free >= READ_SIZE || free > 0 && self.ring.len() >= limit;
        let got = if self.ring.len() >= RING_DIRECT && has_room && !self.overwrites {
            let (first, second) = self.free(READ_SIZE);
            read(&mut [IoSliceMut::new(first), IoSliceMut::new(second)])?
        } else {
            let wanted = if self.overwrites { limit } else { limit.saturating_sub(self.length) };
            if wanted == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            scratch.with(wanted.min(READ_SIZE), |buffer| {
                let got = read(&mut [IoSliceMut::new(buffer)])?;
                self.copy_in(&buffer[..got]);
                Ok::<_, io::Error>(got)
            })?
        };
        if got > 0 {
            self.length += got;
            match self.pieces.back_mut() {
                Some(last) if last.kind == kind => last.length += got,
                Some(_) | None => self.pieces.push_back(Piece { kind, length: got }),
            }
        }
        Ok(got)
    }

    /// The free part of the ring, at most `most` bytes of it.
    fn free(&mut self, most: usize) -> (&mut [u8], &mut [u8]) {
        let most = most.min(self.ring.len() - self.length);
        let begin = (self.head + self.length) % self.ring.len();
        let first = most.min(self.ring.len() - begin);
        let (front, back) = self.ring.split_at_mut(begin);
        (&mut back[..first], &mut front[..most - first])
    }

    /// Puts bytes behind those that are there, without counting them yet.
    fn copy_in(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.overwrites {
            let room = self.limit().max(bytes.len()) - bytes.len();
            self.drop_first(self.length.saturating_sub(room));
            while self.pieces.len() >= PIECES_MAX {
                let oldest = self.pieces.front().map_or(0, |piece| piece.length);
                self.drop_first(oldest);
            }
        }
        let needed = self.length + bytes.len();
        if needed > self.ring.len() {
            let ring = self.stock.lend(needed.next_power_of_two().max(RING_MIN));
            self.move_into(ring);
        }
        let (first, second) = self.free(bytes.len());
        let (front, back) = bytes.split_at(first.len());
        first.copy_from_slice(front);
        second.copy_from_slice(back);
    }

    fn move_into(&mut self, mut ring: Vec<u8>) {
        let (first, second) = self.slices(0, self.length);
        ring[..first.len()].copy_from_slice(first);
        ring[first.len()..first.len() + second.len()].copy_from_slice(second);
        self.head = 0;
        self.stock.take_back(std::mem::replace(&mut self.ring, ring));
    }

    /// `length` bytes from the `at`th on.
    fn slices(&self, at: usize, length: usize) -> (&[u8], &[u8]) {
        if length == 0 {
            return (&[], &[]);
        }
        let begin = (self.head + at) % self.ring.len();
        let first = length.min(self.ring.len() - begin);
        (&self.ring[begin..begin + first], &self.ring[..length - first])
    }

    /// Forgets everything before byte `upto`, which must have been sent.
    pub fn take(&mut self, upto: u64, sending: &Sending) {
        let upto = upto.min(sending.next).max(self.start);
        self.drop_first(usize::try_from(upto - self.start).unwrap_or(usize::MAX).min(self.length));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.drop_first(self.length);
    }

    fn drop_first(&mut self, count: usize) {
        let mut left = count;
        while left > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let dropped = left.min(piece.length);
            piece.length -= dropped;
            left -= dropped;
            if piece.length == 0 {
                self.pieces.pop_front();
            }
        }
        self.start += count as u64;
        self.length -= count;
        if self.length > 0 {
            self.head = (self.head + count) % self.ring.len();
        } else {
            self.head = 0;
            if self.ring.len() > RING_KEPT {
                self.stock.take_back(std::mem::take(&mut self.ring));
            }
            if self.pieces.capacity() > PIECES_MAX / 16 {
                self.pieces = VecDeque::new();
            }
        }
    }

    /// Gives back what is not needed to hold what there is: nothing more will come.
    pub fn close(&mut self) {
        if self.length < self.ring.len() {
            let ring = self.stock.lend_exactly(self.length);
            self.move_into(ring);
        }
        self.pieces.shrink_to_fit();
    }

    /// Whether there is something that `sending` has not sent yet.
    pub fn has_more(&self, sending: &Sending) -> bool {
        sending.header_left > 0 || sending.next < self.end()
    }

    /// Sends what there is, as far as the other side takes it. Between frames, messages that wait go first.
    ///
    /// # Errors
    /// The connection is gone, or what it was to get is.
    pub fn send(&mut self, sending: &mut Sending, connection: &mut Connection) -> io::Result<()> {
        loop {
            if !sending.is_amid() {
                connection.flush()?;
                if connection.is_pending() || sending.next >= self.end() {
                    break;
                }
                self.begin_frame(sending)?;
            }
            let at = sending.next.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
            let at = at.ok_or(io::ErrorKind::ConnectionAborted)?;
            let left = usize::try_from(sending.frame_end - sending.next).unwrap_or(usize::MAX);
            let (first, second) = self.slices(at, left);
            let header = &sending.header[HEADER_LEN - sending.header_left..];
            let sent = connection.write(&[IoSlice::new(header), IoSlice::new(first), IoSlice::new(second)])?;
            if sent == 0 {
                break;
            }
            let of_header = sent.min(sending.header_left);
            sending.header_left -= of_header;
            sending.next += (sent - of_header) as u64;
        }
        if self.trusting {
            self.take(u64::MAX, sending);
        }
        Ok(())
    }

    fn begin_frame(&self, sending: &mut Sending) -> io::Result<()> {
        let mut end = self.start;
        for piece in &self.pieces {
            end += piece.length as u64;
            if end > sending.next {
                let length = usize::try_from(end - sending.next).unwrap_or(usize::MAX).min(wire::FRAME_MAX);
                sending.frame_end = sending.next + length as u64;
                sending.header = wire::header(piece.kind, length);
                sending.header_left = HEADER_LEN;
                return Ok(());
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stock.take_back(std::mem::take(&mut self.ring));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(held: &mut Held, kind: Kind, bytes: &[u8]) -> usize {
        let mut left = bytes;
        let read = |buffers: &mut [IoSliceMut<'_>]| {
            let before = left.len();
            for buffer in buffers {
                let count = left.len().min(buffer.len());
                buffer[..count].copy_from_slice(&left[..count]);
                left = &left[count..];
            }
            Ok(before - left.len())
        };
        held.fill(kind, &Scratch::new(), read).expect("it reads")
    }

    fn content(held: &Held) -> Vec<u8> {
        let (first, second) = held.slices(0, held.length);
        [first, second].concat()
    }

    fn sent(next: u64) -> Sending {
        Sending::new(next)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_ring_holds_what_was_put_in_and_not_taken(
            steps in prop::collection::vec((1_usize..400_000, 0_usize..700_000, any::<bool>()), 1..30),
            overwrites: bool,
        ) {
            let mut held = Held::new(Rc::default());
            let pattern: Vec<u8> = (0..500_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let (mut model, mut start) = (Vec::new(), 0_usize);
            if overwrites {
                held.overwrite();
            }
            for (length, taken, err) in steps {
                if !held.is_full() {
                    let bytes = &pattern[model.len() % 90_000..][..length];
                    let kind = if err { Kind::Err } else { Kind::Out };
                    let got = put(&mut held, kind, bytes);
                    prop_assert!(got > 0);
                    model.extend_from_slice(&bytes[..got]);
                }
                let begin = usize::try_from(held.start).expect("small");
                prop_assert!(overwrites || begin == start);
                prop_assert!(held.length() <= HELD_MAX);
                prop_assert_eq!(held.pieces.iter().map(|piece| piece.length).sum::<usize>(), held.length());
                prop_assert!(content(&held) == model[begin..]);
                prop_assert_eq!(held.end(), model.len() as u64);
                start = (begin + taken).min(model.len());
                held.take(start as u64, &sent(held.end()));
            }
            held.close();
            prop_assert!(content(&held) == model[start..]);
            prop_assert_eq!(held.ring.len(), held.length());
        }
    }

    #[test]
    fn only_what_was_sent_is_taken() {
        let mut held = Held::new(Rc::default());
        put(&mut held, Kind::Out, b"0123456789");
        held.take(u64::MAX, &sent(4));
        assert_eq!((held.start, content(&held).as_slice()), (4, &b"456789"[..]));
        held.take(2, &sent(4));
        assert_eq!(held.start, 4, "what is gone does not come back");
    }

    #[test]
    fn jobs_that_hold_much_leave_each_other_a_share_and_memory_is_given_back() {
        let stock = Rc::new(Stock::default());
        let much = vec![b'x'; 2 * HELD_MAX];
        let mut all: Vec<Held> = (0..200).map(|_| Held::new(Rc::clone(&stock))).collect();
        for held in &mut all {
            while !held.is_full() {
                put(held, Kind::Out, &much);
            }
            assert!(held.length() >= 2 * wire::TAKEN_EVERY);
        }
        assert!(stock.used.get() <= ALL_MAX + 200 * SHARE, "{}", stock.used.get());
        drop(all);
        assert_eq!(stock.used.get(), 0);
        assert!(stock.spare.borrow().len() <= HELD_MAX);
    }

    #[test]
    fn bytes_that_alternate_between_both_outputs_are_bounded_too() {
        let mut held = Held::new(Rc::default());
        let mut count = 0;
        while !held.is_full() {
            put(&mut held, if count % 2 == 0 { Kind::Out } else { Kind::Err }, b"x");
            count += 1;
        }
        assert_eq!(count, PIECES_MAX);
        held.overwrite();
        put(&mut held, Kind::Out, b"y");
        assert!(held.pieces.len() <= PIECES_MAX && held.start > 0);
    }
}
