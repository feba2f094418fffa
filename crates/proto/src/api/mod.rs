//! The JSON of the HTTP API, one file a resource.
//!
//! Shapes and quirks are those that the published Upstash Box clients send and parse. Two rules hold everywhere: a `null` field reads as
//! an absent one, and unknown fields are ignored. Times are Unix seconds unless a field says otherwise.

pub mod account_env;
pub mod boxes;
pub mod contexts;
pub mod error;
pub mod exec;
pub mod files;
pub mod git;
pub mod labels;
pub mod logs;
pub mod runs;
pub mod session;
pub mod snapshots;
pub mod ssh;
pub mod usage;
