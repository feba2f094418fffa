//! What an SFTP client sends: see `requests` in `crates/init/src/sftp/exercise.rs`. Nothing is done that was asked for; this is about
//! reading it.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/init/src/guard.rs"]
#[allow(dead_code, reason = "opens nothing here")]
mod guard;
#[path = "../../crates/init/src/pipes.rs"]
#[allow(dead_code, reason = "reads no pipes here")]
mod pipes;

// The crate is a program and no library, so its module is taken as it is.
#[path = "../../crates/init/src/sftp/mod.rs"]
#[allow(dead_code, reason = "all but reading requests")]
mod sftp;

fuzz_target!(|bytes: &[u8]| sftp::exercise::requests(bytes));
