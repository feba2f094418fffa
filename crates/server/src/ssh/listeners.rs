//! Listening sockets in the box: `ssh -R`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::agent::Incoming;
use boxyard_proto::wire::Endpoint;
use russh::Channel;
use russh::server::{Handle, Msg};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::Common;
use super::forward::{self, carry, is_text};
use crate::boxes::SessionListener;

/// Listening sockets of one connection.
const LISTENERS_MAX: usize = 32;
/// How long the box may take to listen. The connection's other channels wait meanwhile: the reply is given in a callback.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of an address to listen on.
const ADDRESS_MAX: usize = 255;

/// The listening sockets of one connection, each until it is cancelled or this is dropped.
#[derive(Debug)]
pub(super) struct Listeners {
    common: Arc<Common>,
    open: HashMap<Place, DropGuard>,
}

/// Where a client wants us to listen, in its own words: with them it recognises the connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// An address, and the port that it got.
    Tcp(String, u32),
    /// A path.
    Unix(String),
    /// The socket of the client's own SSH agent.
    Agent,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address, port) => forward::show(f, address, *port),
            Self::Unix(path) => f.write_str(path),
            Self::Agent => f.write_str("the SSH agent"),
        }
    }
}

impl Listeners {
    pub(super) fn new(common: Arc<Common>) -> Self {
        Self { common, open: HashMap::new() }
    }

    /// Listens on a TCP address; port 0 means any, and is set to the one that it got.
    pub(super) async fn add_tcp(&mut self, address: &str, port: &mut u32) -> bool {
        let Ok(wanted) = u16::try_from(*port) else { return false };
        let asked = Place::Tcp(address.to_owned(), *port);
        if !is_text(address, ADDRESS_MAX) || !self.has_room_for(&asked) {
            return false;
        }
        let at = Endpoint::Tcp { host: address.to_owned(), port: wanted };
        let Some(listener) = self.listen(&asked, at).await else { return false };
        if wanted == 0 {
            *port = u32::from(listener.listener.port());
        }
        self.keep(Place::Tcp(address.to_owned(), *port), listener);
        true
    }

    pub(super) fn remove_tcp(&mut self, address: &str, port: u32) -> bool {
        self.open.remove(&Place::Tcp(address.to_owned(), port)).is_some()
    }

    /// Listens on a Unix socket.
    pub(super) async fn add_unix(&mut self, path: &str) -> bool {
        let place = Place::Unix(path.to_owned());
        let Ok(at) = forward::unix(path) else { return false };
        if !self.has_room_for(&place) {
            return false;
        }
        let Some(listener) = self.listen(&place, at).await else { return false };
        self.keep(place, listener);
        true
    }

    pub(super) fn remove_unix(&mut self, path: &str) -> bool {
        self.open.remove(&Place::Unix(path.to_owned())).is_some()
    }

    fn has_room_for(&mut self, place: &Place) -> bool {
        self.open.len() < LISTENERS_MAX && !self.open.contains_key(place)
    }

    async fn listen(&self, place: &Place, at: Endpoint) -> Option<SessionListener> {
        let common = &self.common;
        let listening = timeout(LISTEN_DEADLINE, common.shared.boxes.listen(&common.kept, at));
        let listener = common.until_gone(listening).await?.ok().and_then(Result::ok);
        let word = if listener.is_some() { "" } else { " failed" };
        common.log_forward(format_args!("SSH forward of {place} in the box{word}"));
        listener
    }

    fn keep(&mut self, place: Place, listener: SessionListener) {
        let cancel = CancellationToken::new();
        self.open.insert(place.clone(), cancel.clone().drop_guard());
        let common = Arc::clone(&self.common);
        self.common
            .spawn(async move { cancel.run_until_cancelled(accept_all(common, place, listener)).await.unwrap_or(()) });
    }
}

/// Opens a channel to the client for each connection to a listener, until that ends.
pub(super) async fn accept_all(common: Arc<Common>, place: Place, listener: SessionListener) {
    let SessionListener { mut listener, lease: _lease } = listener;
    let accept = async {
        while let Ok(incoming) = listener.next().await {
            // Without room nobody takes it, and the box closes it after a while.
            let Some(slot) = common.slot_for_box() else { continue };
            let (shared, place) = (Arc::clone(&common), place.clone());
            common.spawn(async move {
                let _slot = slot;
                serve(&shared, &place, incoming).await;
            });
        }
    };
    tokio::select! {
        _ = common.over() => {}
        () = accept => {}
    }
}

async fn serve(common: &Common, place: &Place, incoming: Incoming) {
    let accepted = tokio::select! {
        biased;
        _ = common.over() => return,
        accepted = common.shared.boxes.accept(&common.kept, incoming.connection) => accepted,
    };
    let Ok(socket) = accepted else { return };
    // Waits for as long as the client takes: `russh` would keep a channel that is confirmed later, and nobody would close it.
    match open(&common.handle, place, incoming).await {
        Ok(channel) => carry(common, channel, socket).await,
        Err(error) => tracing::debug!(%error, "the client did not open a channel for a forward"),
    }
}

async fn open(handle: &Handle, place: &Place, incoming: Incoming) -> Result<Channel<Msg>, russh::Error> {
    match place {
        Place::Tcp(address, port) => {
            let from = u32::from(incoming.port);
            handle.channel_open_forwarded_tcpip(address.as_str(), *port, incoming.host, from).await
        }
        Place::Unix(path) => handle.channel_open_forwarded_streamlocal(path.as_str()).await,
        Place::Agent => handle.channel_open_agent().await,
    }
}
