//! What is said to the files part of `boxyard-init`.

use boxyard_proto::files::Ask;
use boxyard_proto::wire::{self, Kind};
use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::STALL_MAX;
use crate::agent::{AgentError, JobControl};

/// Bytes that are worth a write of their own.
const WORTH: usize = 256 * 1024;
/// Bytes of content in a frame at most.
const CONTENT: usize = 256 * 1024;
/// Content up to this size is copied, so that many small files go out in one piece.
const COPIED: usize = 16 * 1024;

/// Sends requests and content. Nothing goes out before there is enough of it, or [`flush`](Self::flush) says so. A future of its methods
/// that is dropped before its end leaves the connection in no usable state.
#[derive(Debug)]
pub struct Asks {
    control: JobControl,
    /// What goes out next, in order, before `tail`.
    held: Vec<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Asks {
    pub(super) fn new(control: JobControl) -> Self {
        Self { control, held: Vec::new(), tail: BytesMut::new(), bytes: 0 }
    }

    /// A request.
    ///
    /// # Errors
    /// The box is lost, or takes nothing for too long.
    pub async fn ask(&mut self, ask: &Ask) -> Result<(), AgentError> {
        let frame = wire::json_frame(ask);
        self.put(&frame);
        self.flush_if_worth().await
    }

    /// Content of the last request, which is a write or an archive.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn content(&mut self, mut bytes: Bytes) -> Result<(), AgentError> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(CONTENT));
            self.put(&wire::header(Kind::In, piece.len()));
            if piece.len() <= COPIED {
                self.put(&piece);
            } else {
                self.bytes += piece.len();
                let tail = self.tail.split().freeze();
                self.held.extend([tail, piece]);
            }
            self.flush_if_worth().await?;
        }
        Ok(())
    }

    /// The end of the last request's content.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn end_content(&mut self) -> Result<(), AgentError> {
        self.put(&wire::header(Kind::In, 0));
        self.flush_if_worth().await
    }

    /// Sends what is held.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn flush(&mut self) -> Result<(), AgentError> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.bytes = 0;
        let mut pieces = std::mem::take(&mut self.held);
        pieces.push(self.tail.split().freeze());
        match timeout(STALL_MAX, self.control.input_pieces(&pieces)).await {
            Ok(sent) => sent,
            Err(_) => Err(AgentError::Lost { doing: "sending a file to it", source: None }),
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.bytes += bytes.len();
    }

    // One more piece is far below what a frame of the connection can hold.
    async fn flush_if_worth(&mut self) -> Result<(), AgentError> {
        if self.bytes >= WORTH { self.flush().await } else { Ok(()) }
    }
}
