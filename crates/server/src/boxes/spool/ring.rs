//! The file that a run's output is kept in: a ring of slots, of which the oldest is written over when all are full.
//!
//! ```text
//!   magic(8) slot size(4) slots(4) │ slot 0: record, record, … │ slot 1: … │ …
//!   record: crc32(4) of all that follows │ stream and length(4) │ number of its first byte in the output(8) │ bytes
//! ```
//! Numbers are little endian. The same pages of the file are written again and again, so a run that writes for ever costs its copying and
//! no disk. Where a slot's records end is where one is broken or does not follow the one before it; so what a killed server, or a power
//! cut, has left is found by reading. Kept is what hangs together with the newest byte.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use crate::boxes::output::Stream;

const MAGIC: &[u8; 8] = b"BYSPOOL1";
/// Bytes before the first slot.
const HEAD: u64 = 16;
/// Bytes before a record's own.
const RECORD: usize = 16;
/// Bytes of a slot at least.
const SLOT_MIN: u64 = 64 * 1024;
/// Bytes of a slot at most.
const SLOT_MAX: u64 = 64 * 1024 * 1024;
/// What is left at the end of a slot is left empty when it is less.
const REST_MIN: usize = 256;
/// Slots that a file is meant to have.
const SLOTS: u64 = 16;
/// The bit that says standard error.
const ERR: u32 = 1 << 31;

/// How large a file is at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    slot: u32,
    slots: u32,
}

impl Shape {
    /// For about `keep` bytes.
    pub(super) fn of(keep: u64) -> Self {
        let slot = (keep / SLOTS).clamp(SLOT_MIN, SLOT_MAX);
        let slots = (keep / slot).clamp(2, 1024);
        Self { slot: u32::try_from(slot).unwrap_or(u32::MAX), slots: u32::try_from(slots).unwrap_or(u32::MAX) }
    }

    fn position(self, slot: u32) -> u64 {
        HEAD + u64::from(slot) * u64::from(self.slot)
    }

    fn head(self) -> [u8; 16] {
        let mut head = [0; 16];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&self.slot.to_le_bytes());
        head[12..].copy_from_slice(&self.slots.to_le_bytes());
        head
    }

    fn read(head: [u8; 16]) -> Option<Self> {
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let shape = Self { slot: number(8), slots: number(12) };
        let sane = (SLOT_MIN..=SLOT_MAX).contains(&u64::from(shape.slot)) && (2..=1024).contains(&shape.slots);
        (head[..8] == *MAGIC && sane).then_some(shape)
    }
}

/// A slot that holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    number: u32,
    /// The number of its first byte.
    start: u64,
    /// The number of the byte after its last one.
    end: u64,
    /// Bytes of the slot that records fill.
    used: u32,
    /// Nothing more is put into it.
    closed: bool,
}

/// What is where in a file.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    shape: Shape,
    /// The oldest first; what they hold hangs together.
    slots: VecDeque<Slot>,
}

/// Where a record goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// In the file.
    pub(super) position: u64,
    /// Bytes of output that fit there.
    pub(super) room: usize,
}

impl Ring {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, slots: VecDeque::new() }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// What a new file begins with.
    pub(super) fn head(&self) -> [u8; 16] {
        self.shape.head()
    }

    /// The number of the first byte that it holds, if it holds any.
    pub(super) fn start(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.start)
    }

    /// The number of the byte after the last one, if it holds any.
    pub(super) fn end(&self) -> Option<u64> {
        self.slots.back().map(|slot| slot.end)
    }

    /// Forgets what `plan` is about to write over.
    pub(super) fn give_up_for(&mut self, plan: &Self) {
        self.slots.retain(|slot| plan.still_has(slot));
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
    }

    /// The place for the bytes from number `at` on, which follow those that are there. `reach` makes the file as long as it is asked for
    /// where that is allowed, and says how long it may be. Where it may not, or when all slots are full, the oldest ones make room.
    /// `None`: there is no room at all.
    pub(super) fn place(&mut self, at: u64, wanted: usize, mut reach: impl FnMut(u64) -> u64) -> Option<Place> {
        let least = wanted.min(REST_MIN);
        let mut room_in = |shape: Shape, slot: &Slot| {
            let position = shape.position(slot.number) + u64::from(slot.used);
            let wanted = wanted.min((shape.slot - slot.used) as usize - RECORD);
            let reached = reach(position + (RECORD + wanted) as u64).saturating_sub(position + RECORD as u64);
            Place { position, room: wanted.min(usize::try_from(reached).unwrap_or(usize::MAX)) }
        };
        if let Some(last) = self.slots.back_mut()
            && !last.closed
        {
            if (self.shape.slot - last.used) as usize >= RECORD + REST_MIN {
                let place = room_in(self.shape, last);
                if place.room >= least {
                    return Some(place);
                }
            }
            last.closed = true;
        }
        let fresh = |number| Slot { number, start: at, end: at, used: 0, closed: false };
        let free = (0..self.shape.slots).find(|number| self.slots.iter().all(|slot| slot.number != *number));
        if let Some(free) = free.map(fresh) {
            let place = room_in(self.shape, &free);
            if place.room >= least {
                self.slots.push_back(free);
                return Some(place);
            }
        }
        let oldest = fresh(self.slots.pop_front()?.number);
        let place = room_in(self.shape, &oldest);
        self.slots.push_back(oldest);
        (place.room >= least).then_some(place)
    }

    /// Notes that `length` bytes were written to the place that was given last.
    pub(super) fn wrote(&mut self, length: usize) {
        if let Some(last) = self.slots.back_mut() {
            last.used += u32::try_from(RECORD + length).unwrap_or(u32::MAX);
            last.end += length as u64;
        }
    }

    /// The slot with byte number `at`.
    pub(super) fn find(&self, at: u64) -> Option<Slot> {
        self.slots.iter().find(|slot| (slot.start..slot.end).contains(&at)).copied()
    }

    /// Whether a slot still holds what it held.
    pub(super) fn still_has(&self, slot: &Slot) -> bool {
        self.slots.iter().any(|other| other.number == slot.number && other.start == slot.start)
    }

    /// Reads what an earlier server left in a file.
    ///
    /// # Errors
    /// The file cannot be read, or is none of ours (`InvalidData`).
    pub(super) fn scan(file: &File) -> io::Result<Self> {
        let mut head = [0; 16];
        file.read_exact_at(&mut head, 0)?;
        let shape = Shape::read(head).ok_or(io::ErrorKind::InvalidData)?;
        let length = file.metadata()?.len();
        let mut found = Vec::new();
        let mut buffer = Vec::new();
        for number in 0..shape.slots {
            let position = shape.position(number);
            if position >= length {
                break;
            }
            let size = u64::from(shape.slot).min(length - position);
            buffer.resize(usize::try_from(size).unwrap_or(0), 0);
            file.read_exact_at(&mut buffer, position)?;
            found.extend(scan_slot(number, &buffer));
        }
        found.sort_unstable_by_key(|slot| slot.start);
        // What hangs together with the newest.
        let mut slots = VecDeque::new();
        while let Some(slot) = found.pop() {
            if slots.front().is_some_and(|next: &Slot| next.start != slot.end) {
                break;
            }
            slots.push_front(slot);
        }
        Ok(Self { shape, slots })
    }
}

fn scan_slot(number: u32, bytes: &[u8]) -> Option<Slot> {
    let mut slot: Option<Slot> = None;
    let mut rest = bytes;
    while let Some(record) = Record::read(rest)
        && slot.is_none_or(|slot| slot.end == record.start)
        && let Some(payload) = rest.get(RECORD..RECORD + record.length)
        && checksum(&rest[4..RECORD], payload) == record.checksum
    {
        let slot = slot.get_or_insert(Slot { number, start: record.start, end: record.start, used: 0, closed: false });
        slot.end += record.length as u64;
        slot.used += u32::try_from(RECORD + record.length).unwrap_or(u32::MAX);
        rest = &rest[RECORD + record.length..];
    }
    slot
}

struct Record {
    checksum: u32,
    stream: Stream,
    length: usize,
    start: u64,
}

impl Record {
    /// Reads a record's head; `None` where there is none.
    fn read(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<RECORD>()?;
        let (checksum, rest) = head.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let start = u64::from_le_bytes(*rest.first_chunk::<8>()?);
        let length = u32::from_le_bytes(*length);
        let stream = if length & ERR == 0 { Stream::Out } else { Stream::Err };
        let length = (length & !ERR) as usize;
        (length > 0 && start < u64::MAX / 2).then_some(Self {
            checksum: u32::from_le_bytes(*checksum),
            stream,
            length,
            start,
        })
    }
}

/// The head of a record of these bytes.
pub(super) fn record(stream: Stream, start: u64, bytes: &[u8]) -> [u8; RECORD] {
    let mut head = [0; RECORD];
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX) | if stream == Stream::Err { ERR } else { 0 };
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head[8..].copy_from_slice(&start.to_le_bytes());
    let checksum = checksum(&head[4..], bytes);
    head[..4].copy_from_slice(&checksum.to_le_bytes());
    head
}

fn checksum(head: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(bytes);
    hasher.finalize()
}

/// Records that go to one stretch of the file, in one write.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    position: u64,
    length: usize,
    parts: Vec<([u8; RECORD], Bytes)>,
}

/// Records of one write at most: half of what the kernel takes, as each has two parts.
const PARTS_MAX: usize = 512;

impl Stretch {
    /// Whether a record at this position can be added.
    pub(super) fn takes(&self, position: u64) -> bool {
        self.parts.is_empty() || position == self.position + self.length as u64 && self.parts.len() < PARTS_MAX
    }

    pub(super) fn add(&mut self, position: u64, stream: Stream, start: u64, bytes: Bytes) {
        if self.parts.is_empty() {
            self.position = position;
        }
        self.length += RECORD + bytes.len();
        self.parts.push((record(stream, start, &bytes), bytes));
    }

    /// Writes them and forgets them.
    pub(super) fn write(&mut self, file: &File) -> io::Result<()> {
        let slices = self.parts.iter().flat_map(|(head, bytes)| [IoSlice::new(head), IoSlice::new(bytes)]);
        let mut slices: Vec<IoSlice<'_>> = slices.collect();
        let (mut left, mut position) = (&mut slices[..], self.position);
        while !left.is_empty() {
            match rustix::io::pwritev(file, left, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut left, written);
                    position += written as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.parts.clear();
        self.length = 0;
        Ok(())
    }
}

/// Where a reader is in a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    slot: Slot,
    /// Bytes of the slot that are behind it.
    at: u32,
    /// The number of the next byte.
    next: u64,
    /// Bytes that are left of the record under way, and whose they are.
    left: usize,
    stream: Stream,
}

impl Cursor {
    pub(super) fn new(slot: Slot) -> Self {
        Self { slot, at: 0, next: slot.start, left: 0, stream: Stream::Out }
    }

    /// The number of the next byte.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Goes on in the same slot as it is now; says whether it is the same.
    pub(super) fn renew(&mut self, slot: Slot) -> bool {
        let same = slot.number == self.slot.number && slot.start == self.slot.start;
        if same {
            self.slot = slot;
        }
        same
    }

    /// Reads some of what is in the slot from byte `from` on, of the streams that are `wanted`, one read of the file with `buffer`. What is
    /// before `from` is passed over. Returns nothing when it got no further than that, or found other streams.
    pub(super) fn read(
        &mut self,
        file: &File,
        shape: Shape,
        from: u64,
        wanted: impl Fn(Stream) -> bool,
        buffer: &mut [u8],
    ) -> io::Result<Vec<u8>> {
        let rest = (self.slot.used - self.at.min(self.slot.used)) as usize;
        let size = rest.min(buffer.len());
        let buffer = &mut buffer[..size];
        file.read_exact_at(buffer, shape.position(self.slot.number) + u64::from(self.at))?;
        let (mut here, mut read) = (0, Vec::new());
        while here < size {
            if self.left == 0 {
                let Some(record) = Record::read(&buffer[here..]) else {
                    // The head goes on beyond the buffer, unless it is no head.
                    if here > 0 && size - here < RECORD {
                        break;
                    }
                    return Err(io::ErrorKind::InvalidData.into());
                };
                if record.start != self.next {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                here += RECORD;
                (self.left, self.stream) = (record.length, record.stream);
            }
            // What is passed over may lie beyond the buffer: the next read begins behind it.
            let passed = usize::try_from(from.saturating_sub(self.next)).unwrap_or(usize::MAX).min(self.left);
            let count = if passed > 0 { passed } else { self.left.min(size - here) };
            if passed == 0 && wanted(self.stream) {
                read.extend_from_slice(&buffer[here..here + count]);
            }
            self.left -= count;
            self.next += count as u64;
            here += count;
        }
        self.at += u32::try_from(here).unwrap_or(u32::MAX);
        Ok(read)
    }
}
