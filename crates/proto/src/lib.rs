//! What Boxyard's parts say to each other, and to their clients. No I/O happens here.
//!
//! * [`api`]: the JSON of the HTTP API, as the published Upstash Box clients speak it.
//! * [`ids`] and [`names`]: what boxes, runs, accounts and labels are called, and which texts are refused.
//! * [`wire`]: the frames between an engine and `boxyard-init` inside a box.
//! * [`files`]: what is said to the part of `boxyard-init` that works on files.
//! * [`launch`]: what an engine asks of `boxyard-init launch`.
#![forbid(unsafe_code)]

pub mod api;
pub mod disk;
pub mod files;
pub mod ids;
pub mod launch;
pub mod names;
pub mod wire;

pub use ids::{AccountId, BoxId, ContextId, KeyId, RunId, SnapshotId, SshKeyId, SshTokenId};
