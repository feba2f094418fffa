//! The programs that run a context's code: parts of this one, handed to the interpreter over its standard input. So nothing in the box
//! can change them before they run, and they are always of this version.
//!
//! ```text
//!   server                              interpreter
//!     [u32 length][driver's source]  ─▶  read and run by what stands on its command line
//!     [u32 length]{mark, caps}       ─▶
//!                                    ◀─  S{version}                         ready
//!     [u32 length]{n} LF code        ─▶
//!     SIGINT, [u32 length]{interrupt: n} ─▶                                  perhaps
//!                                    ◀─  output of the code, and between it, marked (see `frames.rs`):
//!                                    ◀─  R{main, parts}…                    what it shows
//!                                    ◀─  E{name, message, traceback}        if it raised an error
//!                                    ◀─  D{n} on standard error, D{n, cut} on standard output
//! ```

use boxyard_proto::api::contexts::ContextLanguage;
use boxyard_proto::wire;
use serde::Serialize;

use super::frames::Mark;

/// Characters of a text that stands for a value.
const TEXT_CHARS_MAX: u64 = 1024 * 1024;
/// Characters of an error's text.
const ERROR_CHARS_MAX: u64 = 64 * 1024;
/// What `ps` shows at the end of an interpreter's command line.
pub(super) const NAME: &str = "boxyard-context";

const PYTHON: &str = include_str!("driver.py");
const PYTHON_BOOT: &str = include_str!("boot.py");
const JS: &str = include_str!("driver.js");
const JS_BOOT: &str = include_str!("boot.js");
/// Node cannot give a descriptor another number: what it is told comes by 3, so that no program that it starts can read it.
const JS_SHELL: &str = r#"exec node --expose-internals -e "$1" "$0" 3<&0 0</dev/null"#;

/// What a driver is told first.
#[derive(Serialize)]
struct Setup {
    mark: String,
    results: usize,
    result_bytes: usize,
    text_bytes: u64,
    error_bytes: u64,
}

#[derive(Serialize)]
struct Interrupt {
    interrupt: u64,
}

#[derive(Serialize)]
struct Cell {
    n: u64,
}

/// Program and arguments of an interpreter.
pub(super) fn argv(language: ContextLanguage) -> Vec<String> {
    let argv: &[&str] = match language {
        ContextLanguage::Python => &["python3", "-u", "-c", PYTHON_BOOT, NAME],
        ContextLanguage::Js => &["/bin/sh", "-c", JS_SHELL, NAME, JS_BOOT],
    };
    argv.iter().map(|&arg| arg.to_owned()).collect()
}

/// What an interpreter reads first. It shows at most so many results of one piece of code, and so many bytes of them.
pub(super) fn setup(language: ContextLanguage, mark: &Mark, results: usize, result_bytes: usize) -> Vec<u8> {
    let source = match language {
        ContextLanguage::Python => PYTHON,
        ContextLanguage::Js => JS,
    };
    let setup =
        Setup { mark: mark.to_hex(), results, result_bytes, text_bytes: TEXT_CHARS_MAX, error_bytes: ERROR_CHARS_MAX };
    let mut said = framed(source.as_bytes());
    said.extend_from_slice(&framed(&json(&setup)));
    said
}

/// What an interpreter reads to run its piece of code number `n`.
pub(super) fn cell(n: u64, code: &str) -> Vec<u8> {
    framed(&[&json(&Cell { n })[..], b"\n", code.as_bytes()].concat())
}

/// What an interpreter reads when its piece of code number `n` is to end, after the signal that says the same.
pub(super) fn interrupt(n: u64) -> Vec<u8> {
    framed(&json(&Interrupt { interrupt: n }))
}

fn json<T: Serialize>(message: &T) -> Vec<u8> {
    // Plain structs of texts and numbers always serialise.
    serde_json::to_vec(message).unwrap_or_default()
}

fn framed(message: &[u8]) -> Vec<u8> {
    // Code is capped far below 4 GiB.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length, message].concat()
}

const _: () = assert!(PYTHON_BOOT.len() < wire::JSON_MAX / 2 && JS_BOOT.len() < wire::JSON_MAX / 2);

#[cfg(test)]
mod tests;
