//! The SSH door: `ssh BOX@host` with an API key as the password, a public key, or a token.
//!
//! ```text
//!  accept.rs ──▶ stream.rs ──▶ russh ──▶ handler.rs ──▶ auth.rs        who is it, and which box is meant
//!                                            │
//!                                            └────────▶ connection.rs   what all channels of a login share
//!                                                          ├─ session.rs    shell, command, SFTP
//!                                                          └─ forward.rs    sockets in the box
//! ```
//!
//! `russh` speaks the protocol; nothing here parses a packet. A callback of its handler stalls the whole connection while it runs, so it
//! hands over and returns: every channel is a task of its own, and all tasks of a connection end with it.

mod auth;
mod connection;
mod handler;
pub mod identity;
