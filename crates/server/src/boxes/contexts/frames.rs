//! What an interpreter says, told from what its code writes: both come through the same pipes, so their order is kept and nothing in the
//! box has to copy output.
//!
//! The driver's words begin with a mark of 16 random bytes, made anew for each interpreter. A piece is `[mark][kind][place][u16 length,
//! big endian][payload]`, at most 4096 bytes, which the kernel writes to a pipe whole or not at all (`PIPE_BUF`), whoever else writes there.
//! The place is `.` for a message of one piece, and `(`, `-` and `)` for the first, those between and the last of a longer one. What an
//! interrupt has broken off is forgotten when the next one begins. Code that knows the mark, because it looks for it in its own process, can say what
//! it likes in the driver's name: it spoils the answers to its own code and nothing else, because all of it is bounded and checked here.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use boxyard_proto::api::contexts::CodeError;
use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::boxes::output::{Budget, Output};

const MARK_LEN: usize = 16;
/// Bytes before a piece's payload.
const HEAD_LEN: usize = MARK_LEN + 4;
/// Bytes of a piece's payload at most.
const PIECE_MAX: usize = 4096 - HEAD_LEN;
/// Bytes of a message beside the values in it.
pub(super) const WORDS_MAX: usize = 1024 * 1024;
/// As what one value is shown at most.
const KINDS_MAX: usize = 32;
/// Bytes of a MIME type.
const KIND_BYTES_MAX: usize = 100;
/// Characters of an error's name, and of its texts, of which an honest driver sends fewer.
const NAME_CHARS_MAX: usize = 200;
const TEXT_CHARS_MAX: usize = 128 * 1024;

/// What the driver's words begin with.
#[derive(Clone)]
pub(super) struct Mark([u8; MARK_LEN]);

impl Mark {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    pub(super) fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What comes out of one of an interpreter's pipes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// What the code wrote.
    Written(Bytes),
    /// A message of the driver's: its kind, and what it says.
    Said(u8, Bytes),
    /// One of this kind that is not kept: there is no memory left for it, or no piece of code that it belongs to.
    Dropped(u8),
}

/// A driver that does not keep to the protocol. The text says how.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it broke the protocol: {0}")]
pub(super) struct Malformed(&'static str);

impl Malformed {
    pub(super) const OUT_OF_TURN: Self = Self("a message out of turn");
    pub(super) const UNFINISHED: Self = Self("only one of its two outputs came to an end");
}

/// Divides one pipe's bytes.
pub(super) struct Split {
    finder: Finder<'static>,
    mark: Mark,
    /// Not divided yet.
    rest: Bytes,
    /// A message that goes on; nothing of one that is not kept.
    message: Option<(u8, Option<BytesMut>)>,
    /// What that takes of the memory for answers.
    budget: Budget,
    room: Output,
    /// Bytes of a message at most.
    message_max: usize,
    /// Whether messages of more than one piece are kept.
    keeps: bool,
}

impl Split {
    pub(super) fn new(mark: &Mark, message_max: usize, budget: &Budget) -> Self {
        let finder = Finder::new(&mark.0).into_owned();
        let (budget, room) = (budget.clone(), budget.output());
        Self { finder, mark: mark.clone(), rest: Bytes::new(), message: None, budget, room, message_max, keeps: true }
    }

    /// Whether messages of more than one piece are kept from now on. While they are not they take no memory either, that have been begun.
    pub(super) fn keep(&mut self, keeps: bool) {
        self.keeps = keeps;
        if !keeps {
            self.forget();
        }
    }

    fn forget(&mut self) {
        if let Some((_, message)) = &mut self.message {
            *message = None;
        }
        self.room = self.budget.output();
    }

    /// Takes in what has come.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.rest.is_empty() {
            self.rest = bytes;
        } else {
            // Less than a piece was left.
            self.rest = [&self.rest[..], &bytes[..]].concat().into();
        }
    }

    /// The next part; nothing when that takes more bytes.
    pub(super) fn next(&mut self) -> Result<Option<Heard>, Malformed> {
        loop {
            match self.finder.find(&self.rest) {
                Some(0) => {}
                Some(at) => return Ok(Some(Heard::Written(self.rest.split_to(at)))),
                None => {
                    let written = self.rest.len() - self.begun();
                    return Ok((written > 0).then(|| Heard::Written(self.rest.split_to(written))));
                }
            }
            let &[kind, place @ (b'.' | b'(' | b'-' | b')'), a, b] = (match self.rest.get(MARK_LEN..HEAD_LEN) {
                None => return Ok(None),
                Some(head) => head,
            }) else {
                return Err(Malformed("a piece with an unknown head"));
            };
            let length = usize::from(u16::from_be_bytes([a, b]));
            if length > PIECE_MAX {
                return Err(Malformed("a piece that is too long"));
            }
            if self.rest.len() < HEAD_LEN + length {
                return Ok(None);
            }
            self.rest.advance(HEAD_LEN);
            let payload = self.rest.split_to(length);
            let message = match (place, self.message.take()) {
                (b'.', _) => return Ok(Some(Heard::Said(kind, payload))),
                (b'(', _) => {
                    self.room = self.budget.output();
                    self.keeps.then(BytesMut::new)
                }
                (_, Some((begun, message))) if begun == kind => message,
                (_, Some(_)) => return Err(Malformed("a message within another")),
                (_, None) => return Err(Malformed("a message without a beginning")),
            };
            let message = match message {
                Some(message) if message.len() + length > self.message_max => {
                    return Err(Malformed("a message that is too long"));
                }
                Some(mut message) if self.room.hold_elsewhere(length) => {
                    message.extend_from_slice(&payload);
                    Some(message)
                }
                Some(_) | None => {
                    self.room = self.budget.output();
                    None
                }
            };
            if place == b')' {
                self.room = self.budget.output();
                return Ok(Some(message.map_or(Heard::Dropped(kind), |message| Heard::Said(kind, message.freeze()))));
            }
            self.message = Some((kind, message));
        }
    }

    /// What was taken for the beginning of a message and is none, because nothing more comes.
    pub(super) fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// How many bytes at the end could be the beginning of a mark.
    fn begun(&self) -> usize {
        let most = self.rest.len().min(MARK_LEN - 1);
        (1..=most).rev().find(|&length| self.rest.ends_with(&self.mark.0[..length])).unwrap_or(0)
    }
}

/// A message of the driver's.
#[derive(Debug)]
pub(super) enum Word {
    /// It waits for code.
    Ready,
    /// Something is shown.
    Result(Shown),
    /// The code has raised an error.
    Error(CodeError),
    /// The code has ended, and the pipe has brought all that it wrote there.
    Done {
        /// Which.
        n: u64,
        /// Whether not all that it showed was sent.
        cut: bool,
    },
}

/// A value as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Whether it is the value of the last expression.
    pub is_main: bool,
    /// By MIME type.
    pub data: BTreeMap<String, Value>,
}

/// A value as one kind of thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text, or base64.
    Text(Bytes),
    /// JSON, without a line break or any other control character.
    Json(Bytes),
}

impl Shown {
    /// Bytes of all values.
    pub(super) fn len(&self) -> usize {
        let len = |(kind, value): (&String, &Value)| match value {
            Value::Text(bytes) | Value::Json(bytes) => kind.len() + bytes.len(),
        };
        self.data.iter().map(len).sum()
    }
}

#[derive(Deserialize)]
struct Ready {
    #[serde(rename = "version")]
    _version: String,
}

#[derive(Deserialize)]
struct Head {
    main: bool,
    parts: Vec<(String, usize)>,
}

#[derive(Deserialize)]
struct Raised {
    name: String,
    message: String,
    traceback: String,
}

#[derive(Deserialize)]
struct Done {
    n: u64,
    #[serde(default)]
    cut: bool,
}

impl Word {
    /// Reads a message.
    pub(super) fn read(kind: u8, message: &Bytes) -> Result<Self, Malformed> {
        match kind {
            b'S' => parse::<Ready>(message).map(|_| Self::Ready),
            b'R' => shown(message).map(Self::Result),
            b'E' => parse(message).map(|Raised { name, message, traceback }| {
                Self::Error(CodeError {
                    name: cut(name, NAME_CHARS_MAX),
                    message: cut(message, TEXT_CHARS_MAX),
                    traceback: cut(traceback, TEXT_CHARS_MAX),
                })
            }),
            b'D' => parse(message).map(|Done { n, cut }| Self::Done { n, cut }),
            _ => Err(Malformed("a message of an unknown kind")),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Result<T, Malformed> {
    // Small values would take far more memory than they take here.
    if message.len() > WORDS_MAX {
        return Err(Malformed("a message that is too long"));
    }
    serde_json::from_slice(message).map_err(|_| Malformed("a message that is not as it must be"))
}

/// Reads what is shown: a line of JSON that says what follows, and then the values.
fn shown(message: &Bytes) -> Result<Shown, Malformed> {
    let end = memchr::memchr(b'\n', message).ok_or(Malformed("a result without a head"))?;
    // Enough for as many kinds as there may be, with the longest names.
    if end > 2 * KINDS_MAX * KIND_BYTES_MAX {
        return Err(Malformed("a result with too long a head"));
    }
    let Head { main, parts } = parse(&message[..end])?;
    if parts.len() > KINDS_MAX {
        return Err(Malformed("a result of too many kinds"));
    }
    let mut rest = message.slice(end + 1..);
    let mut data = BTreeMap::new();
    for (kind, length) in parts {
        if length > rest.len() {
            return Err(Malformed("a result that is shorter than it says"));
        }
        let bytes = rest.split_to(length);
        // Code may show what it likes under any name. What is no such thing is left out, and does not live on in what is not.
        if is_mime(&kind)
            && let Some(value) = value(&kind, &bytes)
        {
            data.insert(kind, value);
        }
    }
    if !rest.is_empty() {
        return Err(Malformed("a result that is longer than it says"));
    }
    Ok(Shown { is_main: main, data })
}

/// A copy: what it is read from may be much larger.
fn value(kind: &str, bytes: &[u8]) -> Option<Value> {
    let copy = || Bytes::copy_from_slice(bytes);
    if kind == "application/json" || kind.ends_with("+json") {
        // JSON has no control characters but between values, where a line break would end a line of an answer.
        let is_one_line = !bytes.iter().any(u8::is_ascii_control);
        let is_json =
            is_one_line && str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        return is_json.then(|| Value::Json(copy()));
    }
    let is_picture = kind.starts_with("image/") && kind != "image/svg+xml" || kind == "application/pdf";
    let is_fine = if is_picture { is_base64(bytes) } else { str::from_utf8(bytes).is_ok() };
    is_fine.then(|| Value::Text(copy()))
}

/// Whether it decodes. In pieces: decoded as a whole it would take memory once more.
fn is_base64(bytes: &[u8]) -> bool {
    const PIECE: usize = 4096;
    let mut scratch = [0; PIECE];
    bytes.chunks(PIECE).enumerate().all(|(place, piece)| {
        let is_last = (place + 1) * PIECE >= bytes.len();
        let is_padded = piece.last() == Some(&b'=');
        BASE64_STANDARD.decode_slice(piece, &mut scratch).is_ok() && (is_last || !is_padded)
    })
}

fn is_mime(kind: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
    kind.len() <= KIND_BYTES_MAX
        && kind.split_once('/').is_some_and(|(kind, subtype)| {
            !kind.is_empty() && !subtype.is_empty() && kind.bytes().chain(subtype.bytes()).all(is_fine)
        })
}

fn cut(mut text: String, chars: usize) -> String {
    if let Some((at, _)) = text.char_indices().nth(chars) {
        text.truncate(at);
    }
    text
}

#[cfg(test)]
mod tests;
