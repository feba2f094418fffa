//! A registry of the test's own, which can be made to misbehave, and images for it.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::manifest::{INDEX, MANIFEST, architecture};
use super::reference::Digest;

/// How a layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packed {
    Plain,
    Gzip,
    Zstd,
}

/// What the registry does instead of answering a request for a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Breaks the connection after this many bytes of the answer.
    BreakAfter(usize),
    /// Sends this many bytes and then nothing.
    StallAfter(usize),
    /// Answers with this status.
    Status(u16),
    /// Sends other bytes of the same length.
    Garbage,
    /// Sends all of it, whatever part was asked for.
    IgnoreRange,
}

/// How the registry lets in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Door {
    #[default]
    Open,
    /// A token for everybody, or for this `name:password`.
    Token(Option<String>),
    /// This `name:password`.
    Basic(String),
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub blobs: BTreeMap<String, Bytes>,
    pub manifests: BTreeMap<String, Bytes>,
    pub door: Door,
    /// Used up one by one by requests for blobs.
    pub faults: VecDeque<Fault>,
    /// Where blobs are redirected to.
    pub redirect: Option<String>,
    /// `GET path`, the range asked for, and whether there was an authorization.
    pub requests: Vec<(String, Option<String>, bool)>,
}

/// A registry that lives as long as this.
pub(crate) struct Registry {
    pub address: SocketAddr,
    pub inner: Arc<Mutex<Inner>>,
    _task: AbortOnDropHandle<()>,
}

pub(crate) const TOKEN: &str = "opensesame";

impl Registry {
    pub async fn start() -> Self {
        let inner = Arc::new(Mutex::new(Inner::default()));
        let routes = Router::new()
            .route("/token", get(token))
            .route("/v2/{*path}", get(serve))
            .route("/storage/{digest}", get(storage))
            .with_state(inner.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, inner, _task: AbortOnDropHandle::new(task) }
    }

    /// A reference to `name` here.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub fn with<T>(&self, deed: impl FnOnce(&mut Inner) -> T) -> T {
        deed(&mut self.inner.lock().unwrap())
    }

    /// How many requests for blobs there were.
    pub fn blob_requests(&self) -> usize {
        self.with(|inner| inner.requests.iter().filter(|(path, ..)| path.contains("/blobs/")).count())
    }

    /// Keeps a blob; returns its digest.
    pub fn blob(&self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.with(|inner| inner.blobs.insert(digest.to_string(), bytes.into()));
        digest
    }

    /// Keeps a manifest under its digest and a tag of `team/tool`.
    pub fn manifest(&self, tag: &str, manifest: &serde_json::Value) -> Digest {
        let bytes = Bytes::from(manifest.to_string());
        let digest = Digest::of(&bytes);
        self.with(|inner| {
            inner.manifests.insert(digest.to_string(), bytes.clone());
            inner.manifests.insert(tag.to_owned(), bytes);
        });
        digest
    }

    /// Keeps an image of these layers (tar archives, the lowest first) behind an index, as `team/tool:TAG`; returns the digest of its manifest.
    pub fn image(&self, tag: &str, layers: &[(Vec<u8>, Packed)], env: &[&str]) -> Digest {
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| Digest::of(tar).to_string()).collect();
        let config = json!({"architecture": architecture(), "os": "linux", "config": {"Env": env}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = config.to_string().into_bytes();
        let (config_size, config) = (config.len(), self.blob(config));
        let mut described = Vec::new();
        for (tar, packed) in layers {
            let (bytes, suffix) = pack(tar, *packed);
            let size = bytes.len();
            let digest = self.blob(bytes);
            described.push(json!({"mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"), "digest": digest, "size": size}));
        }
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size}, "layers": described});
        let digest = self.manifest("unnamed", &manifest);
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
            {"mediaType": MANIFEST, "digest": Digest::of(b"other"), "size": 1, "platform": {"os": "linux", "architecture": "riscv64"}},
            {"mediaType": MANIFEST, "digest": digest, "size": manifest.to_string().len(), "platform": {"os": "linux", "architecture": architecture()}},
        ]});
        self.manifest(tag, &index);
        digest
    }
}

fn pack(tar: &[u8], packed: Packed) -> (Vec<u8>, &'static str) {
    match packed {
        Packed::Plain => (tar.to_vec(), ""),
        Packed::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            (encoder.finish().unwrap(), "+gzip")
        }
        Packed::Zstd => (ruzstd::encoding::compress_to_vec(tar, ruzstd::encoding::CompressionLevel::Fastest), "+zstd"),
    }
}

/// A tar archive of these files; a path that ends in a slash is a folder.
pub(crate) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        let folder = path.ends_with('/');
        header.set_entry_type(if folder { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(0o755);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

type Shared = State<Arc<Mutex<Inner>>>;

fn base64(text: &str) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

async fn token(State(inner): Shared, headers: HeaderMap, uri: axum::http::Uri) -> Response {
    let mut inner = inner.lock().unwrap();
    inner.requests.push((
        format!("/token?{}", uri.query().unwrap_or_default()),
        None,
        headers.contains_key(header::AUTHORIZATION),
    ));
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match &inner.door {
        Door::Token(None) => {}
        Door::Token(Some(login)) if given == format!("Basic {}", base64(login)) => {}
        Door::Open | Door::Token(_) | Door::Basic(_) => return StatusCode::UNAUTHORIZED.into_response(),
    }
    axum::Json(json!({"token": TOKEN})).into_response()
}

async fn serve(State(shared): Shared, Path(path): Path<String>, request: Request) -> Response {
    let headers = request.headers().clone();
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut inner = shared.lock().unwrap();
    inner.requests.push((path.clone(), range.clone(), !given.is_empty()));
    let host = headers[header::HOST].to_str().unwrap();
    let challenge = match &inner.door {
        Door::Open => None,
        Door::Token(_) if given == format!("Bearer {TOKEN}") => None,
        Door::Token(_) => Some(format!(r#"Bearer realm="http://{host}/token",service="test",scope="x""#)),
        Door::Basic(login) if given == format!("Basic {}", base64(login)) => None,
        Door::Basic(_) => Some("Basic realm=\"test\"".to_owned()),
    };
    if let Some(challenge) = challenge {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    if let Some((_, wanted)) = path.split_once("/manifests/") {
        let found = inner.manifests.get(wanted).cloned();
        return found.map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response);
    }
    let Some((_, digest)) = path.split_once("/blobs/") else { return StatusCode::NOT_FOUND.into_response() };
    if let Some(target) = &inner.redirect {
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, format!("{target}/storage/{digest}"))])
            .into_response();
    }
    blob(&mut inner, digest, range.as_deref())
}

async fn storage(State(shared): Shared, Path(digest): Path<String>, headers: HeaderMap) -> Response {
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut inner = shared.lock().unwrap();
    inner.requests.push((format!("/storage/{digest}"), range.clone(), headers.contains_key(header::AUTHORIZATION)));
    blob(&mut inner, &digest, range.as_deref())
}

fn blob(inner: &mut Inner, digest: &str, range: Option<&str>) -> Response {
    let Some(whole) = inner.blobs.get(digest).cloned() else { return StatusCode::NOT_FOUND.into_response() };
    // Configurations are small and come first; faults are for layers.
    let fault = if whole.starts_with(b"{") { None } else { inner.faults.pop_front() };
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let from = from.filter(|_| fault != Some(Fault::IgnoreRange));
    let body = whole.slice(from.unwrap_or(0)..);
    let length = body.len();
    let mut response = match fault {
        Some(Fault::Status(status)) => return StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Garbage) => Body::from(vec![b'x'; length]),
        Some(Fault::BreakAfter(count)) => {
            use futures_util::StreamExt as _;
            let part = futures_util::stream::iter([Ok(body.slice(..count.min(length)))]);
            // The server sends what it has when there is nothing more for the moment.
            let breaks = futures_util::stream::once(async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("the test breaks off"))
            });
            Body::from_stream(part.chain(breaks))
        }
        Some(Fault::StallAfter(count)) => {
            use futures_util::StreamExt as _;
            let part = futures_util::stream::iter([Ok::<_, std::io::Error>(body.slice(..count.min(length)))]);
            Body::from_stream(part.chain(futures_util::stream::pending()))
        }
        Some(Fault::IgnoreRange) | None => Body::from(body),
    }
    .into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    if let Some(from) = from {
        let range = format!("bytes {from}-{}/{}", whole.len() - 1, whole.len());
        response.headers_mut().insert(header::CONTENT_RANGE, range.parse().unwrap());
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}
