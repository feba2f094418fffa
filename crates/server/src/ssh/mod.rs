//! The SSH door: `ssh BOX@host` with an API key as the password, a public key, or a token.
//!
//! ```text
//!  accept.rs ──▶ visit.rs ──▶ stream.rs ──▶ russh ──▶ handler.rs ──▶ auth.rs        who is it, and which box is meant
//!  limits        one connection                          │
//!                                                        └────────▶ connection.rs   what all channels of a login share
//!                                                                      ├─ session.rs    shell, command, SFTP
//!                                                                      └─ forward.rs    sockets in the box
//! ```
//!
//! `russh` speaks the protocol; nothing here parses a packet. A callback of its handler stalls the whole connection while it runs, so it
//! hands over and returns: every channel is a task of its own, and all tasks of a connection end with it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::boxes::Boxes;
use crate::config::Limits;
use crate::metrics::Metrics;

mod accept;
mod agent_forward;
mod auth;
mod connection;
mod environment;
mod flow;
mod forward;
mod forward_log;
mod handler;
pub mod host_keys;
pub mod identity;
mod input;
mod listeners;
mod motd;
mod output;
mod places;
mod refusal;
mod request;
mod session;
mod settings;
mod share;
mod signals;
mod source;
mod stream;
mod throttle;
mod visit;

pub use accept::{Door, DoorError};

use share::Shares;
use stream::Pace;

/// What all connections share.
#[derive(Debug)]
struct Shared {
    boxes: Boxes,
    metrics: Arc<Metrics>,
    limits: Limits,
    shares: Shares,
    /// Cancelled when the server is told to stop: connections have `limits.ssh_shutdown_grace` then.
    stop: CancellationToken,
}

/// The connection under a login.
#[derive(Debug, Clone)]
struct Link {
    /// The client's address.
    peer: SocketAddr,
    /// The address that it connected to.
    local: SocketAddr,
    /// Cancelled when the connection has ended or must end. What it has begun in the box ends then.
    gone: CancellationToken,
    /// How fast it is read.
    pace: Pace,
}
