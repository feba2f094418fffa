//! What goes out: one buffer that answers are written into and that is written to the pipe in large pieces.

use std::io;
use std::os::fd::BorrowedFd;

use super::attributes::Attributes;
use super::packet::kind;
use super::status::{self, Refusal};
use crate::pipes::again;

/// Bytes that are worth a write of their own even when more requests are there to be answered.
const FULL: usize = 256 * 1024;

/// Bytes of an answer's list of names at which no more are added. Every client takes this much at once.
pub const NAMES_MAX: usize = 60_000;

/// Answers that have not been written yet.
#[derive(Debug)]
pub struct Answers {
    /// Never shrinks, so that memory is cleared once and not for each answer.
    bytes: Vec<u8>,
    end: usize,
}

impl Answers {
    /// None yet.
    pub fn new() -> Self {
        Self { bytes: Vec::new(), end: 0 }
    }

    /// Whether it is time to write.
    pub fn is_full(&self) -> bool {
        self.end >= FULL
    }

    /// Writes everything.
    pub fn write(&mut self, to: BorrowedFd<'_>) -> io::Result<()> {
        let mut left = self.pending();
        while !left.is_empty() {
            match again(|| rustix::io::write(to, left))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => left = left.get(written..).unwrap_or_default(),
            }
        }
        self.end = 0;
        Ok(())
    }

    /// What is to be written.
    pub fn pending(&self) -> &[u8] {
        self.bytes.get(..self.end).unwrap_or_default()
    }

    /// The next `size` bytes of the buffer, to be filled.
    fn room(&mut self, size: usize) -> &mut [u8] {
        let end = self.end + size;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(self.end..end).unwrap_or_default()
    }

    /// Adds bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Adds four bytes, the highest first.
    pub fn put_u32(&mut self, number: u32) {
        self.put(&number.to_be_bytes());
    }

    /// Adds eight bytes, the highest first.
    pub fn put_u64(&mut self, number: u64) {
        self.put(&number.to_be_bytes());
    }

    /// Adds bytes behind their length.
    pub fn put_string(&mut self, bytes: &[u8]) {
        self.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.put(bytes);
    }

    /// Writes the length of what has been added since `at` into the four bytes before `at`.
    fn patch(&mut self, at: usize) {
        let length = u32::try_from(self.end - at).unwrap_or(u32::MAX);
        if let Some(place) = at.checked_sub(4).and_then(|from| self.bytes.get_mut(from..at)) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Adds a packet that `write` adds the content of. If that fails, nothing is added.
    fn packet<E>(&mut self, kind: u8, write: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        let before = self.end;
        self.put_u32(0);
        let start = self.end;
        self.put(&[kind]);
        let written = write(self);
        match written {
            Ok(()) => self.patch(start),
            Err(_) => self.end = before,
        }
        written
    }

    /// Adds an answer that nothing can go wrong with.
    fn answer(&mut self, kind: u8, id: u32, write: impl FnOnce(&mut Self)) {
        let Ok(()) = self.packet(kind, |answers| {
            answers.put_u32(id);
            write(answers);
            Ok::<_, std::convert::Infallible>(())
        });
    }

    /// The answer to the greeting: our version and the extensions we have, each with its own version.
    pub fn version(&mut self, extensions: &[(&str, &str)]) {
        self.answer(kind::VERSION, VERSION, |answers| {
            for (name, version) in extensions {
                answers.put_string(name.as_bytes());
                answers.put_string(version.as_bytes());
            }
        });
    }

    /// How a request ended.
    pub fn status(&mut self, id: u32, code: u32, message: &str) {
        self.answer(kind::STATUS, id, |answers| {
            answers.put_u32(code);
            answers.put_string(message.as_bytes());
            // The text's language, which nobody tells.
            answers.put_string(b"");
        });
    }

    /// It is done.
    pub fn done(&mut self, id: u32) {
        self.status(id, status::OK, "Success");
    }

    /// A new handle.
    pub fn handle(&mut self, id: u32, handle: &[u8]) {
        self.answer(kind::HANDLE, id, |answers| answers.put_string(handle));
    }

    /// Bytes of a file: `read` puts at most `length` of them where they are sent from, and says how many.
    pub fn data<F>(&mut self, id: u32, length: usize, read: F) -> Result<(), Refusal>
    where
        F: FnOnce(&mut [u8]) -> Result<usize, Refusal>,
    {
        self.packet(kind::DATA, |answers| {
            answers.put_u32(id);
            answers.put_u32(0);
            let start = answers.end;
            let count = read(answers.room(length))?;
            answers.end += count.min(length);
            answers.patch(start);
            Ok(())
        })
    }

    /// What is known of a file.
    pub fn attributes(&mut self, id: u32, attributes: &Attributes) {
        self.answer(kind::ATTRS, id, |answers| attributes.write(answers));
    }

    /// One name of which nothing else is said.
    pub fn name(&mut self, id: u32, name: &[u8]) {
        self.answer(kind::NAME, id, |answers| {
            answers.put_u32(1);
            answers.put_string(name);
            answers.put_string(name);
            Attributes::default().write(answers);
        });
    }

    /// A folder's next names: as many as `next` gives (name, line of a listing, attributes), up to `most` and to [`NAMES_MAX`] bytes.
    pub fn names<F>(&mut self, id: u32, most: u32, mut next: F) -> Result<(), Refusal>
    where
        F: FnMut() -> Result<Option<(Vec<u8>, Vec<u8>, Attributes)>, Refusal>,
    {
        self.packet(kind::NAME, |answers| {
            answers.put_u32(id);
            let (place, mut count) = (answers.end, 0_u32);
            answers.put_u32(0);
            while count < most && answers.end - place < NAMES_MAX {
                match next() {
                    Ok(Some((name, line, attributes))) => {
                        answers.put_string(&name);
                        answers.put_string(&line);
                        attributes.write(answers);
                        count += 1;
                    }
                    Ok(None) if count == 0 => return Err(Refusal::eof()),
                    Err(refusal) if count == 0 => return Err(refusal),
                    Ok(None) | Err(_) => break,
                }
            }
            if let Some(place) = answers.bytes.get_mut(place..place + 4) {
                place.copy_from_slice(&count.to_be_bytes());
            }
            Ok(())
        })
    }

    /// The answer to an extension that has one of its own.
    pub fn extended(&mut self, id: u32, write: impl FnOnce(&mut Self)) {
        self.answer(kind::EXTENDED_REPLY, id, write);
    }
}

/// The version that we speak.
const VERSION: u32 = 3;
