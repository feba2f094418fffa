//! What a server sends to the work on files: see `files` in `crates/init/src/files/exercise.rs`. There are no roots, so nothing is done on
//! a disk.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/init/src/guard.rs"]
#[allow(dead_code, reason = "opens nothing here")]
mod guard;
#[path = "../../crates/init/src/pipes.rs"]
#[allow(dead_code, reason = "reads no pipes here")]
mod pipes;

// The crate is a program and no library, so its module is taken as it is.
#[path = "../../crates/init/src/files/mod.rs"]
#[allow(dead_code, reason = "all but what needs pipes")]
mod files;

fuzz_target!(|bytes: &[u8]| files::exercise::files(bytes));
