//! The server: the doors, the boxes, the store.
//!
//! [`app`] puts the parts together. Doors ([`http`]) parse and translate; [`boxes`] owns the state of every box and is the only user of
//! the engine; [`store`] is the only place with SQL.
#![forbid(unsafe_code)]

pub mod app;
pub mod boxes;
pub mod config;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod ssh;
pub mod ssh_keys;
pub mod ssh_tokens;
pub mod store;
pub mod telemetry;

pub use app::{App, BuildError, Ready};
