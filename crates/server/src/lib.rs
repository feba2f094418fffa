//! The server.
#![forbid(unsafe_code)]

pub mod boxes;
pub mod config;
pub mod keys;
pub mod metrics;
pub mod store;
pub mod telemetry;
