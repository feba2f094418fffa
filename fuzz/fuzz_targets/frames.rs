//! What comes over a connection between an engine and `boxyard-init`: see `frames` in `crates/proto/tests/frames/entry.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/proto/tests/frames/entry.rs"]
mod entry;

fuzz_target!(|bytes: &[u8]| entry::frames(bytes));
