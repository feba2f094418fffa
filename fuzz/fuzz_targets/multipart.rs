//! Forms that clients upload: see `multipart` in `crates/server/src/http/files/exercise.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| boxyard_server::http::exercise::multipart(bytes));
