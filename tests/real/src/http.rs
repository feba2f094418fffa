//! A small HTTP/1.1 client over plain TCP: kept-alive, no TLS, no runtime, so that a measurement measures the server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// Header lines of an answer at most; a server that sends more is broken.
const HEADERS_MAX: usize = 100;
/// Bytes of one header line at most.
const LINE_MAX: u64 = 16 * 1024;
/// Bytes of a body that is read as a whole at most.
const BODY_MAX: usize = 512 * 1024 * 1024;
/// How long one read may take. An image may be built meanwhile.
const READ_DEADLINE: Duration = Duration::from_secs(600);

/// Where a server is, and the key to it.
#[derive(Debug, Clone)]
pub struct Client {
    /// The server's address.
    pub address: SocketAddr,
    /// An API key.
    pub key: String,
}

/// An answer with its whole body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl Answer {
    /// The header of that lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` when it is empty.
    ///
    /// # Errors
    /// The body is something else.
    pub fn json(&self) -> Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).with_context(|| format!("body is not JSON: {}", self.text()))
    }

    /// The body as JSON of an answer that must be a success.
    ///
    /// # Errors
    /// The status is not 2xx, or the body is not JSON.
    pub fn ok(&self) -> Result<Value> {
        ensure!((200..300).contains(&self.status), "status {}: {}", self.status, self.text());
        self.json()
    }
}

impl Client {
    /// The same server with another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { address: self.address, key: key.to_owned() }
    }

    /// The base URL that an SDK takes.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens a connection that is kept alive.
    ///
    /// # Errors
    /// Nobody accepts it.
    pub fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_DEADLINE))?;
        stream.set_write_timeout(Some(READ_DEADLINE))?;
        Ok(Connection { stream: BufReader::with_capacity(256 * 1024, stream), key: self.key.clone() })
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// No whole answer came.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.connect()?.call(method, path, body)
    }
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(u64),
    Chunked,
    UntilClose,
}

/// A kept-alive connection; one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    key: String,
}

impl Connection {
    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// No whole answer came.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut whole = Vec::new();
        let mut answer = self.stream(method, path, body, |part| {
            ensure!(whole.len() + part.len() <= BODY_MAX, "a body of more than {BODY_MAX} bytes");
            whole.extend_from_slice(part);
            Ok(())
        })?;
        answer.body = whole;
        Ok(answer)
    }

    /// Sends a request and hands each part of the answer's body to `part` as it comes; the returned answer has no body.
    ///
    /// # Errors
    /// No whole answer came, or `part` failed.
    pub fn stream(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        mut part: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<Answer> {
        self.send(method, path, body)?;
        let answer = self.head().with_context(|| format!("reading the answer to {method} {path}"))?;
        match length_of(&answer) {
            Length::Known(length) => self.copy(length, &mut part)?,
            Length::Chunked => self.chunks(&mut part)?,
            Length::UntilClose => self.copy(u64::MAX, &mut part)?,
        }
        Ok(answer)
    }

    /// Sends a request without waiting for an answer.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<()> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: boxyard\r\nx-box-api-key: {}\r\n", self.key);
        if !body.is_empty() {
            text.push_str("content-type: application/json\r\n");
        }
        text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        self.stream.get_mut().write_all(text.as_bytes()).with_context(|| format!("sending {method} {path}"))
    }

    /// Sends a request whose body of `length` bytes `write` writes, and reads the whole answer. A body that the server does not take to its
    /// end is no failure: the answer says why.
    ///
    /// # Errors
    /// No whole answer came.
    pub fn send_body(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        length: u64,
        write: impl FnOnce(&mut TcpStream) -> std::io::Result<()>,
    ) -> Result<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: boxyard\r\nx-box-api-key: {}\r\ncontent-type: {content_type}\r\n\
             content-length: {length}\r\n\r\n",
            self.key
        );
        let stream = self.stream.get_mut();
        let sent = stream.write_all(head.as_bytes()).and_then(|()| write(stream));
        let mut whole = Vec::new();
        let answer = self.head().and_then(|answer| {
            let mut part = |part: &[u8]| {
                ensure!(whole.len() + part.len() <= BODY_MAX, "a body of more than {BODY_MAX} bytes");
                whole.extend_from_slice(part);
                Ok(())
            };
            match length_of(&answer) {
                Length::Known(length) => self.copy(length, &mut part)?,
                Length::Chunked => self.chunks(&mut part)?,
                Length::UntilClose => self.copy(u64::MAX, &mut part)?,
            }
            Ok(answer)
        });
        let mut answer = match (answer, sent) {
            (Ok(answer), _) => answer,
            (Err(_), Err(error)) => return Err(error).with_context(|| format!("sending {method} {path}")),
            (Err(error), Ok(())) => return Err(error.context(format!("reading the answer to {method} {path}"))),
        };
        answer.body = whole;
        Ok(answer)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.by_ref().take(LINE_MAX).read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "the connection ended in the middle of an answer");
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    fn head(&mut self) -> Result<Answer> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("'{first}' is no HTTP status line"))?;
        let mut headers = Vec::new();
        for _ in 0..HEADERS_MAX {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Answer { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').with_context(|| format!("'{line}' is no header"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        bail!("more than {HEADERS_MAX} headers")
    }

    fn copy(&mut self, mut left: u64, part: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while left > 0 {
            let available = self.stream.fill_buf()?;
            if available.is_empty() {
                ensure!(left > u64::MAX / 2, "the connection ended {left} bytes early");
                return Ok(());
            }
            let taken = available.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            part(&available[..taken])?;
            self.stream.consume(taken);
            left -= taken as u64;
        }
        Ok(())
    }

    fn chunks(&mut self, part: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size.trim(), 16).with_context(|| format!("'{line}' is no chunk size"))?;
            self.copy(size, part)?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(());
            }
            ensure!(self.line()?.is_empty(), "a chunk is longer than it says");
        }
    }
}

fn length_of(answer: &Answer) -> Length {
    if answer.status == 204 || answer.status == 304 {
        return Length::Known(0);
    }
    if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Length::Chunked;
    }
    let known = answer.header("content-length").and_then(|value| value.parse().ok());
    known.map_or(Length::UntilClose, Length::Known)
}
