//! The two pipes: frames of requests and content in, frames of answers and content out, each through one buffer.
//!
//! Whatever is said waits in the buffer until there is enough of it, or until more has to be waited for. So a thousand small requests
//! that came together are answered together.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use boxyard_proto::files::{Answer, Ask};
use boxyard_proto::wire::{FRAME_MAX, HEADER_LEN, Kind, header, parse_header};

use super::refusal::Refusal;

/// Bytes that come in at once: the largest frame always fits.
const ROOM: usize = FRAME_MAX + HEADER_LEN;

/// Bytes of content in a frame, which is also what is worth a write of its own. Larger ones fall out of the processor's caches.
pub const CHUNK: usize = 256 * 1024;

/// Characters of what is said of a request that is none.
const COMPLAINT: usize = 200;

/// Both directions.
pub struct Channel<'a> {
    input: &'a mut dyn Read,
    output: &'a mut dyn Write,
    /// What the input can be waited for on, if it can.
    waits_for: Option<BorrowedFd<'a>>,
    /// Nothing more is asked.
    ended: bool,
    /// What has come and is not taken yet. The kernel gives its memory only as far as it is used.
    come: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of an `In` frame's content that are not taken yet.
    content: usize,
    /// Whether a request's content is being read, up to the empty frame that ends it.
    within: bool,
    /// What is to be said. Never shrinks, so that memory is cleared once and not for each answer.
    said: Vec<u8>,
    full: usize,
    /// Where the header of an `Out` frame is that more may be added to.
    open: Option<usize>,
}

impl std::fmt::Debug for Channel<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("start", &self.start).field("end", &self.end).finish_non_exhaustive()
    }
}

/// A request, or why it is none.
pub type Asked = Result<Ask, Refusal>;

impl<'a> Channel<'a> {
    /// Nothing has come or been said.
    pub fn new(input: &'a mut dyn Read, output: &'a mut dyn Write) -> Self {
        Self {
            input,
            output,
            waits_for: None,
            ended: false,
            come: vec![0; ROOM],
            start: 0,
            end: 0,
            content: 0,
            within: false,
            said: Vec::new(),
            full: 0,
            open: None,
        }
    }

    /// The same where the input is the descriptor `fd`.
    pub fn of(fd: BorrowedFd<'a>, input: &'a mut dyn Read, output: &'a mut dyn Write) -> Self {
        Self { waits_for: Some(fd), ..Self::new(input, output) }
    }

    /// What the input can be waited for on.
    pub fn waits_for(&self) -> Option<BorrowedFd<'a>> {
        self.waits_for
    }

    /// Reads and drops what has come. Returns false at the end.
    ///
    /// # Errors
    /// The pipe broke.
    pub fn drop_input(&mut self) -> io::Result<bool> {
        (self.start, self.end) = (0, 0);
        Ok(self.input.read(&mut self.come)? > 0)
    }

    /// Takes no more requests.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The next request; none when the input has ended. Content that nobody asked for is skipped.
    ///
    /// # Errors
    /// The pipes broke, or what comes are no frames.
    pub fn ask(&mut self) -> io::Result<Option<Asked>> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let Some((kind, length)) = self.head()? else { return Ok(None) };
            match kind {
                Kind::Json => {
                    let payload = self.whole(length)?;
                    return Ok(Some(serde_json::from_slice(payload).map_err(|error| {
                        // It may repeat what was said.
                        let why: String = error.to_string().chars().take(COMPLAINT).collect();
                        Refusal::invalid(format!("the request is not understood: {why}"))
                    })));
                }
                Kind::In => {
                    self.whole(length)?;
                }
                Kind::Out | Kind::Err => return Err(broken("a frame that only we send")),
            }
        }
    }

    /// Says that what comes next is a request's content.
    pub fn begin_content(&mut self) {
        self.within = true;
        self.content = 0;
    }

    /// The next piece of a request's content; none at its end.
    ///
    /// # Errors
    /// The pipes broke or ended, or what comes is no content.
    pub fn content(&mut self) -> io::Result<Option<&[u8]>> {
        let count = self.peek_content()?.len();
        let from = self.start;
        self.take_content(count);
        Ok((count > 0).then(|| self.come.get(from..from + count).unwrap_or_default()))
    }

    /// The same without taking it; empty at the end.
    ///
    /// # Errors
    /// As for [`Self::content`].
    pub fn peek_content(&mut self) -> io::Result<&[u8]> {
        while self.within && self.content == 0 {
            let Some((kind, length)) = self.head()? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            match kind {
                Kind::In if length == 0 => self.within = false,
                Kind::In => self.content = length,
                Kind::Json | Kind::Out | Kind::Err => return Err(broken("something else than content")),
            }
        }
        if !self.within {
            return Ok(&[]);
        }
        if self.start == self.end && !self.fill()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = self.content.min(self.end - self.start);
        Ok(self.come.get(self.start..self.start + count).unwrap_or_default())
    }

    /// Takes as much of what [`Self::peek_content`] showed.
    pub fn take_content(&mut self, count: usize) {
        let count = count.min(self.content);
        self.start += count;
        self.content -= count;
    }

    /// Takes the rest of a request's content, so that the next request is found.
    ///
    /// # Errors
    /// As for [`Self::content`].
    pub fn finish_content(&mut self) -> io::Result<()> {
        while self.content()?.is_some() {}
        Ok(())
    }

    /// A frame's header; none when the input has ended before it.
    fn head(&mut self) -> io::Result<Option<(Kind, usize)>> {
        loop {
            let there = self.come.get(self.start..self.end).unwrap_or_default();
            if let Some(&head) = there.first_chunk::<HEADER_LEN>() {
                self.start += HEADER_LEN;
                return parse_header(head).map(Some).map_err(|error| broken(&error.to_string()));
            }
            if !self.fill()? {
                return if self.start == self.end { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The next `length` bytes, all of them.
    fn whole(&mut self, length: usize) -> io::Result<&[u8]> {
        while self.end - self.start < length {
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let from = self.start;
        self.start += length;
        Ok(self.come.get(from..self.start).unwrap_or_default())
    }

    /// Waits for more, after all that was said has been sent. Returns false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.flush()?;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.end - self.start < self.start {
            self.come.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        } else if self.end == self.come.len() {
            // Only a frame that is nearly as long as the buffer gets here.
            self.come.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = self.come.get_mut(self.end..).unwrap_or_default();
        let limit = room.len();
        let count = self.input.read(room)?.min(limit);
        self.end += count;
        Ok(count > 0)
    }

    /// Says an answer.
    ///
    /// # Errors
    /// The pipe broke.
    pub fn say(&mut self, answer: &Answer) -> io::Result<()> {
        self.close();
        let start = self.full;
        let mut to = Tail { said: &mut self.said, full: start };
        // Our own messages always serialise, and writing to memory does not fail.
        let written = to.write_all(&[0; HEADER_LEN]).is_ok() && serde_json::to_writer(&mut to, answer).is_ok();
        let full = to.full;
        let length = full - start - HEADER_LEN;
        if !written || length > FRAME_MAX {
            return Err(broken("an answer that is too long"));
        }
        self.full = full;
        self.patch(start, Kind::Json, length);
        self.flush_if_full()
    }

    /// Lets `write` fill up to `most` bytes (at most [`CHUNK`]) of content; it says how many it did.
    ///
    /// # Errors
    /// The pipe broke; or within, what `write` failed with.
    pub fn data<E>(
        &mut self,
        most: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> io::Result<Result<usize, E>> {
        let most = most.min(CHUNK);
        if self.open.is_some_and(|open| self.full - open - HEADER_LEN + most > FRAME_MAX) {
            self.close();
        }
        if self.open.is_none() {
            self.open = Some(self.full);
            self.room(HEADER_LEN);
            self.full += HEADER_LEN;
        }
        let written = write(self.room(most)).map(|count| count.min(most));
        if let Ok(count) = &written {
            self.full += count;
            self.flush_if_full()?;
        }
        Ok(written)
    }

    /// Adds content.
    ///
    /// # Errors
    /// The pipe broke.
    pub fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((piece, rest)) = bytes.split_at_checked(CHUNK.min(bytes.len()).max(1)) {
            let Ok(_) = self.data(piece.len(), |room| {
                room.copy_from_slice(piece);
                Ok::<_, std::convert::Infallible>(piece.len())
            })?;
            bytes = rest;
        }
        Ok(())
    }

    /// The next `size` bytes of what is to be said.
    fn room(&mut self, size: usize) -> &mut [u8] {
        let end = self.full + size;
        if self.said.len() < end {
            self.said.resize(end, 0);
        }
        self.said.get_mut(self.full..end).unwrap_or_default()
    }

    /// Ends the frame of content, if there is one.
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            let length = self.full - open - HEADER_LEN;
            if length == 0 {
                self.full = open;
            } else {
                self.patch(open, Kind::Out, length);
            }
        }
    }

    fn patch(&mut self, at: usize, kind: Kind, length: usize) {
        if let Some(place) = self.said.get_mut(at..at + HEADER_LEN) {
            place.copy_from_slice(&header(kind, length));
        }
    }

    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.full >= CHUNK { self.flush() } else { Ok(()) }
    }

    /// Sends all that was said.
    ///
    /// # Errors
    /// The pipe broke.
    pub fn flush(&mut self) -> io::Result<()> {
        self.close();
        if self.full > 0 {
            self.output.write_all(self.said.get(..self.full).unwrap_or_default())?;
            self.full = 0;
        }
        Ok(())
    }
}

/// The end of what is to be said, to be written to.
struct Tail<'a> {
    said: &'a mut Vec<u8>,
    full: usize,
}

impl Write for Tail<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.full + bytes.len();
        if self.said.len() < end {
            self.said.resize(end.max(2 * self.said.len()), 0);
        }
        if let Some(place) = self.said.get_mut(self.full..end) {
            place.copy_from_slice(bytes);
        }
        self.full = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
