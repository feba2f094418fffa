//! What all channels of one login share.

use std::sync::Arc;

use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelId};

use super::auth::Login;
use super::{Link, Shared};

/// A connection that has logged in.
#[derive(Debug)]
pub(super) struct Connection {}

/// A socket in the box that a client wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// `direct-tcpip`: host and port as seen from the box.
    Tcp(String, u32),
    /// `direct-streamlocal@openssh.com`: a path in the box.
    Unix(String),
}

impl Connection {
    /// Begins when the login has been let in.
    pub(super) fn begin(_login: Login, _link: Link, _handle: Handle, _shared: Arc<Shared>) -> Self {
        Self {}
    }

    /// A session channel was asked for. Returns at once; a task of its own does the rest.
    pub(super) async fn open_session(&mut self, _channel: Channel<Msg>, reply: ChannelOpenHandle) {
        drop(reply);
    }

    /// A connection to a socket in the box was asked for. Returns at once.
    pub(super) async fn open_direct(&mut self, _channel: Channel<Msg>, _target: Target, reply: ChannelOpenHandle) {
        drop(reply);
    }

    /// Listening on a TCP address in the box was asked for; `port` 0 means any, and is set to what it got.
    pub(super) async fn forward_tcp(&mut self, _address: &str, _port: &mut u32) -> bool {
        false
    }

    /// Listening on a TCP address is no longer wanted.
    pub(super) async fn cancel_tcp(&mut self, _address: &str, _port: u32) -> bool {
        false
    }

    /// Listening on a Unix socket in the box was asked for.
    pub(super) async fn forward_unix(&mut self, _path: &str) -> bool {
        false
    }

    /// Listening on a Unix socket is no longer wanted.
    pub(super) async fn cancel_unix(&mut self, _path: &str) -> bool {
        false
    }

    /// `channel` has been granted `granted` bytes; returns the window that the next channel to run low shall get (see `flow.rs`).
    pub(super) fn next_window(&mut self, _channel: ChannelId, granted: u32) -> u32 {
        granted
    }
}
