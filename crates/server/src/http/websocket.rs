//! WebSockets (RFC 6455): from a request to a connection that belongs to nobody else.

use std::io;
use std::os::fd::AsFd;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::error::ApiError;
use super::paced::Paced;

/// Bytes of a message of a client at most.
pub(super) const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Bytes that are put together before they are sent.
const WRITE_BUFFER: usize = 64 * 1024;

/// A WebSocket and the news of its client's going.
pub(super) struct Socket {
    pub(super) stream: WebSocketStream<TcpStream>,
    pub(super) departure: Departure,
}

/// Accepts a client that wants to speak WebSocket: the answer for it, and the connection that there is once the answer is sent.
///
/// # Errors
/// It does not want that, or not as RFC 6455 has it.
pub(super) fn accept(request: &mut Request) -> Result<(Response, OnUpgrade), ApiError> {
    let key = key_of(request.method(), request.headers())?;
    let answer = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|_| ApiError::bad_request("Sec-WebSocket-Key is malformed"))?;
    let head = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, answer),
    ];
    Ok(((StatusCode::SWITCHING_PROTOCOLS, head).into_response(), hyper::upgrade::on(request)))
}

fn key_of<'a>(method: &Method, headers: &'a HeaderMap) -> Result<&'a HeaderValue, ApiError> {
    let has = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
    };
    if method != Method::GET || !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Err(ApiError::upgrade_required("send Connection: Upgrade and Upgrade: websocket over HTTP/1.1"));
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(ApiError::upgrade_required("send Sec-WebSocket-Version: 13"));
    }
    // Whoever is in between would take for a body what we take for frames.
    let has_body = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    if has_body || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(ApiError::bad_request("a WebSocket handshake has no body"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    key.ok_or_else(|| ApiError::bad_request("Sec-WebSocket-Key is missing or malformed"))
}

/// Waits for the answer's being sent and takes the connection.
///
/// # Errors
/// The client left before.
pub(super) async fn take(upgrade: OnUpgrade) -> io::Result<Socket> {
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    let parts = Upgraded::downcast::<TokioIo<Paced<TcpStream>>>(upgraded)
        .map_err(|_| io::Error::other("a connection of another kind than the accept loop's"))?;
    let stream = parts.io.into_inner().into_inner();
    let departure = Departure::new(&stream)?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        .write_buffer_size(WRITE_BUFFER);
    let stream =
        WebSocketStream::from_partially_read(stream, parts.read_buf.to_vec(), Role::Server, Some(config)).await;
    Ok(Socket { stream, departure })
}

/// The end of what a client sends, which is heard of even while nobody reads what it has sent before.
pub(super) struct Departure(TcpStream);

impl Departure {
    fn new(stream: &TcpStream) -> io::Result<Self> {
        // A descriptor of its own: the stream's is registered with the reactor already.
        let own = stream.as_fd().try_clone_to_owned()?;
        TcpStream::from_std(own.into()).map(Self)
    }

    /// Waits until the client has closed its side of the connection.
    pub(super) async fn wait(&self) {
        loop {
            // An error is the reactor's, which ends with the server.
            let Ok(ready) = self.0.ready(Interest::READABLE).await else { return };
            if ready.is_read_closed() {
                return;
            }
            // The next news comes with more bytes or with the end: nothing is asked again and again.
            let _ = self.0.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_a_websocket_handshake_is_one() {
        let whole = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert!(key_of(&Method::GET, &headers(&whole)).is_ok());
        assert!(key_of(&Method::POST, &headers(&whole)).is_err());
        for (more, fine) in
            [("content-length: 0", true), ("content-length: 1", false), ("transfer-encoding: chunked", false)]
        {
            let (name, value) = more.split_once(": ").expect("a header");
            let with = [&whole[..], &[(name, value)]].concat();
            assert_eq!(key_of(&Method::GET, &headers(&with)).is_ok(), fine, "{more}");
        }
        for missing in 0..whole.len() {
            let part: Vec<_> =
                whole.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, &pair)| pair).collect();
            assert!(key_of(&Method::GET, &headers(&part)).is_err(), "without {:?}", whole[missing]);
        }
    }
}
