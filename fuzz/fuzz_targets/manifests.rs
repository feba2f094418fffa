//! What registries and archives say of images: see `manifests` in `crates/engine/src/images/oci/exercise.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| boxyard_engine::images::exercise::manifests(bytes));
