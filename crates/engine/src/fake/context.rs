//! A pretended interpreter of a context: speaks the protocol of the server's drivers, honestly or not.
//!
//! Code is lines of these: `let NAME VALUE`, `get NAME` (the main result), `print TEXT`, `err TEXT`, `html TEXT` (a result), `raise NAME`,
//! `gate NAME`, `sleep` (until it is interrupted), `stubborn` (for ever), `exit N`. And the lies: `yes N` (so many bytes), `results N`,
//! `garbage`, `endless` (a message without end), `early` (the end of another piece of code), `half` (one end of two), `mute` (no end), `word TEXT`
//! (any message). The variable `FAKE` of a context makes it `die` before it is ready, say `garbage` then, or be `mute`.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde_json::{Value, json};

use super::programs::Program;

/// The argument by which such an interpreter is known.
pub(super) const NAME: &str = "boxyard-context";
/// Bytes of a piece's payload.
const PIECE: usize = 4000;

struct Interpreter<'a> {
    program: &'a mut Program,
    given: Vec<u8>,
    mark: Vec<u8>,
    names: BTreeMap<String, String>,
}

/// What a line of code comes to.
enum Came {
    Next,
    Error(Value),
    Exit(i32),
    /// The code does not come to an end.
    Never,
    /// It has come to an end that was told already.
    Told,
}

pub(super) async fn run(program: &mut Program) -> i32 {
    program.job.catches_interrupts.store(true, Ordering::Relaxed);
    let fake = program.env.iter().find_map(|line| line.strip_prefix("FAKE=")).unwrap_or_default().to_owned();
    let mut it = Interpreter { program, given: Vec::new(), mark: Vec::new(), names: BTreeMap::new() };
    if it.message().await.is_none() {
        return 0;
    }
    let Some(setup) = it.json().await else { return 0 };
    let mark = setup["mark"].as_str().unwrap_or_default();
    let digits: Vec<char> = mark.chars().collect();
    it.mark =
        digits.chunks(2).filter_map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).ok()).collect();
    match fake.as_str() {
        "die" => {
            it.program.err("no such thing\n".to_owned()).await;
            return 127;
        }
        "garbage" => it.say(b'?', b"x").await,
        "mute" => {}
        _ => it.say(b'S', b"{\"version\":\"0\"}").await,
    }
    while let Some(said) = it.message().await {
        let said = String::from_utf8_lossy(&said).into_owned();
        // An interrupt is told as well as signalled.
        let Some((head, code)) = said.split_once('\n') else { continue };
        let n = serde_json::from_str::<Value>(head).unwrap_or_default()["n"].clone();
        match it.cell(&n, code).await {
            Came::Next => it.end(&n, None).await,
            Came::Error(error) => it.end(&n, Some(error)).await,
            Came::Exit(code) => return code,
            Came::Never => std::future::pending().await,
            Came::Told => {}
        }
    }
    0
}

impl Interpreter<'_> {
    async fn cell(&mut self, n: &Value, code: &str) -> Came {
        for line in code.lines() {
            let line = line.trim();
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let came = self.line(n, word, rest).await;
            if !matches!(came, Came::Next) {
                return came;
            }
        }
        Came::Next
    }

    async fn line(&mut self, n: &Value, word: &str, rest: &str) -> Came {
        match word {
            "let" => {
                let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
                self.names.insert(name.to_owned(), value.to_owned());
            }
            "get" => match self.names.get(rest).cloned() {
                Some(value) => self.show(true, "text/plain", &value).await,
                None => return Came::Error(json!({"name": "NameError", "message": rest, "traceback": "line 1"})),
            },
            "print" => drop(self.program.out(format!("{rest}\n")).await),
            "err" => drop(self.program.err(format!("{rest}\n")).await),
            "html" => self.show(false, "text/html", rest).await,
            "raise" => return Came::Error(json!({"name": rest, "message": "raised", "traceback": "line 1"})),
            "gate" => self.program.gates.pass(rest).await,
            "sleep" => {
                self.program.job.interrupted.notified().await;
                return Came::Error(json!({"name": "KeyboardInterrupt", "message": "", "traceback": "line 1"}));
            }
            "stubborn" | "mute" => return Came::Never,
            "exit" => return Came::Exit(rest.parse().unwrap_or(1)),
            "yes" => {
                let block = Bytes::from(vec![b'y'; 64 * 1024]);
                let mut left: usize = rest.parse().unwrap_or(0);
                while left > 0 {
                    let piece = left.min(block.len());
                    self.program.out(block.slice(..piece)).await;
                    left -= piece;
                }
            }
            "results" => {
                for _ in 0..rest.parse().unwrap_or(0) {
                    self.show(false, "text/plain", "x").await;
                }
            }
            "garbage" => self.say(b'?', b"x").await,
            "word" => self.say(rest.bytes().next().unwrap_or(b'R'), rest.get(1..).unwrap_or_default().as_bytes()).await,
            "endless" => {
                let mut place = b'(';
                loop {
                    self.piece(b'R', place, &[b'x'; PIECE]).await;
                    place = b'-';
                }
            }
            "early" => self.say(b'D', b"{\"n\":999}").await,
            "half" => {
                self.say(b'D', format!("{{\"n\":{n}}}").as_bytes()).await;
                return Came::Told;
            }
            _ => return Came::Error(json!({"name": "SyntaxError", "message": word, "traceback": ""})),
        }
        Came::Next
    }

    async fn show(&mut self, main: bool, kind: &str, value: &str) {
        let head = json!({"main": main, "parts": [[kind, value.len()]]});
        self.say(b'R', format!("{head}\n{value}").as_bytes()).await;
    }

    async fn end(&mut self, n: &Value, error: Option<Value>) {
        if let Some(error) = error {
            self.say(b'E', error.to_string().as_bytes()).await;
        }
        let done = format!("{{\"n\":{n},\"cut\":false}}");
        let framed = self.framed(b'D', b'.', done.as_bytes());
        self.program.err(framed).await;
        self.say(b'D', done.as_bytes()).await;
    }

    async fn say(&mut self, kind: u8, message: &[u8]) {
        let pieces = message.chunks(PIECE).collect::<Vec<_>>();
        for (number, piece) in pieces.iter().enumerate() {
            let place = match (number == 0, number + 1 == pieces.len()) {
                (true, true) => b'.',
                (true, false) => b'(',
                (false, false) => b'-',
                (false, true) => b')',
            };
            self.piece(kind, place, piece).await;
        }
    }

    async fn piece(&mut self, kind: u8, place: u8, payload: &[u8]) {
        let framed = self.framed(kind, place, payload);
        self.program.out(framed).await;
    }

    fn framed(&self, kind: u8, place: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&self.mark[..], &[kind, place], &length, payload].concat()
    }

    async fn json(&mut self) -> Option<Value> {
        serde_json::from_slice(&self.message().await?).ok()
    }

    async fn message(&mut self) -> Option<Vec<u8>> {
        let head = self.read(4).await?;
        let length = u32::from_be_bytes(head.try_into().ok()?);
        self.read(usize::try_from(length).ok()?).await
    }

    async fn read(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.given.len() < count {
            self.given.extend_from_slice(&self.program.stdin.recv().await?);
        }
        Some(self.given.drain(..count).collect())
    }
}
