//! What a client and a server of a live session say: see `session` in `crates/proto/tests/session/entry.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/proto/tests/session/entry.rs"]
mod entry;

fuzz_target!(|bytes: &[u8]| entry::session(bytes));
