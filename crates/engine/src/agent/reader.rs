//! The reading half of a connection to `boxyard-init`.

use boxyard_proto::wire::{self, FromInit, Kind, Parsed};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, ReadHalf};

use super::{AgentError, READ_SIZE, fit_to_show};
use crate::Duplex;

/// Bytes of a control message of a box's at most. All of it is kept until its end has come, and a box chooses when that is; the longest
/// that there is, a refusal, has less than a kilobyte.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Cuts a connection's bytes into messages and data. Data is handed on as it arrives, without waiting for the whole frame.
pub(super) struct Reader {
    read: ReadHalf<Box<dyn Duplex>>,
    buffer: BytesMut,
    /// Bytes still to come of the data frame under way.
    data: Option<(Kind, usize)>,
}

pub(super) enum Incoming {
    Message(FromInit),
    Data(Kind, Bytes),
}

impl Incoming {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Message(FromInit::Hello(_)) => "a second greeting".into(),
            Self::Message(FromInit::Started { .. }) => "a start".into(),
            Self::Message(FromInit::Opened { .. }) => "an open socket".into(),
            Self::Message(FromInit::Incoming { .. }) => "a connection".into(),
            Self::Message(FromInit::OutEnd) => "an end of output".into(),
            Self::Message(FromInit::Exit(_)) => "an end".into(),
            Self::Message(FromInit::Failed { .. }) => "a failure".into(),
            Self::Message(FromInit::Unsupported { .. }) => "a refusal".into(),
            Self::Data(kind, bytes) => format!("{} bytes of {kind:?}", bytes.len()),
        }
    }
}

impl Reader {
    pub(super) fn new(read: ReadHalf<Box<dyn Duplex>>) -> Self {
        Self { read, buffer: BytesMut::new(), data: None }
    }

    /// Cancel safe: bytes that were read stay in the buffer.
    pub(super) async fn next(&mut self) -> Result<Incoming, AgentError> {
        loop {
            if let Some(incoming) = self.cut()? {
                return Ok(incoming);
            }
            self.buffer.reserve(READ_SIZE);
            let lost = |source| AgentError::Lost { doing: "waiting for the job", source };
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(lost(None)),
                Ok(_) => {}
                Err(error) => return Err(lost(Some(error))),
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Incoming>, AgentError> {
        loop {
            if let Some((kind, left)) = self.data.take() {
                if left == 0 {
                    continue;
                }
                let piece = left.min(self.buffer.len());
                if piece < left {
                    self.data = Some((kind, left - piece));
                }
                if piece == 0 {
                    return Ok(None);
                }
                return Ok(Some(Incoming::Data(kind, self.buffer.split_to(piece).freeze())));
            }
            let Some(header) = self.buffer.first_chunk::<{ wire::HEADER_LEN }>() else { return Ok(None) };
            let (kind, length) =
                wire::parse_header(*header).map_err(|error| AgentError::Protocol(error.to_string()))?;
            match kind {
                Kind::Out | Kind::Err => {
                    self.buffer.advance(wire::HEADER_LEN);
                    self.data = Some((kind, length));
                }
                Kind::In => return Err(AgentError::Protocol("input from a box".into())),
                Kind::Json if length > MESSAGE_BYTES_MAX => {
                    return Err(AgentError::Protocol(format!("a message of {length} bytes")));
                }
                Kind::Json => {
                    if self.buffer.len() < wire::HEADER_LEN + length {
                        return Ok(None);
                    }
                    self.buffer.advance(wire::HEADER_LEN);
                    let payload = self.buffer.split_to(length);
                    match wire::parse::<FromInit>(&payload, &FromInit::KNOWN) {
                        Ok(Parsed::Known(message)) => return Ok(Some(Incoming::Message(message))),
                        // A newer boxyard-init's extra news is no business of this version.
                        Ok(Parsed::Unknown(_)) => {}
                        // It may quote what was sent.
                        Err(error) => return Err(AgentError::Protocol(fit_to_show(&error.to_string()))),
                    }
                }
            }
        }
    }
}
