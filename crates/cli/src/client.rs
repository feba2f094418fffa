//! A client of the HTTP API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use boxyard_proto::BoxId;
use boxyard_proto::api::error::ErrorBody;
use boxyard_proto::names::check_box_name;
use boxyard_server::config::{Environment, Secret, Strings};
use boxyard_server::keys::read_first_key;
use reqwest::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Upgraded, Url};
use serde::de::DeserializeOwned;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::data::{DataOptions, load};
use crate::failure::Failure;

/// How long a connection may take to come about.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long an ordinary call may take; what the official clients allow.
const CALL_DEADLINE: Duration = Duration::from_secs(600);
/// How long a server may take to switch a connection to WebSocket.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(60);
/// How often the network is asked whether a silent connection is alive.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Bytes of an answer at most.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// Variables that name the server, in order of precedence.
const URLS: [&str; 2] = ["BOXYARD_URL", "UPSTASH_BOX_BASE_URL"];
/// Variables that hold the key, in order of precedence.
const KEYS: [&str; 2] = ["BOXYARD_API_KEY", "UPSTASH_BOX_API_KEY"];

/// Which server, and who asks.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ClientOptions {
    /// Base URL of the server [env: BOXYARD_URL, UPSTASH_BOX_BASE_URL] [default: the server of this host]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// API key [env: BOXYARD_API_KEY, UPSTASH_BOX_API_KEY] [default: the first key of this host's server]
    ///
    /// Others on this host can read command lines: prefer the environment.
    #[arg(long, value_name = "KEY", hide_short_help = true)]
    key: Option<String>,
    #[command(flatten)]
    data: DataOptions,
}

/// Speaks to one server as one account.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
}

impl ClientOptions {
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        let given = first(self.url.clone(), &URLS)?;
        let elsewhere = given.as_deref().is_some_and(|url| !is_on_this_host(url));
        let url = match given {
            Some(url) => url,
            None => format!("http://{}", reachable(load(&self.data.flags()?)?.http)),
        };
        let key = match first(self.key.clone(), &KEYS)? {
            Some(key) => Secret::new(key),
            None if elsewhere => {
                return Err(Failure::usage(format!(
                    "no API key for {url}: set BOXYARD_API_KEY; this host's own key is for its own server"
                )));
            }
            None => read_first_key(&load(&self.data.flags()?)?.data_dir).ok_or_else(|| {
                Failure::usage(
                    "no API key: set BOXYARD_API_KEY, or run this as the server's user on its host (make one there with \
                     boxyard key create)",
                )
            })?,
        };
        Client::new(&url, &key)
    }
}

fn first(flag: Option<String>, variables: &[&str]) -> Result<Option<String>, Failure> {
    if flag.is_some() {
        return Ok(flag);
    }
    for name in variables {
        if let Some(text) = Environment.get(name)?.filter(|text| !text.is_empty()) {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// Whether a URL is surely of this host.
fn is_on_this_host(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        let Some(host) = url.host_str() else { return false };
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

/// Where a server that listens on `address` is reached from its own host.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => ip.into(),
    };
    SocketAddr::new(ip, address.port())
}

impl Client {
    fn new(url: &str, key: &Secret) -> Result<Self, Failure> {
        let wrong =
            || Failure::usage(format!("'{url}' is not the base URL of a server, such as http://127.0.0.1:7070"));
        let base = Url::parse(url).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(wrong());
        }
        let mut value = HeaderValue::from_str(key.expose())
            .map_err(|_| Failure::usage("the API key has characters that a key cannot have"))?;
        value.set_sensitive(true);
        let http = reqwest::Client::builder()
            .default_headers(HeaderMap::from_iter([(reqwest::header::HeaderName::from_static("x-box-api-key"), value)]))
            .user_agent(concat!("boxyard/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_keepalive(KEEPALIVE)
            // The key goes to the server that was named and to no other.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::failed("cannot make a client", error))?;
        Ok(Self { http, base })
    }

    /// A request for `/v2/box` and what follows it.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        self.request_with(method, segments, &[])
    }

    /// The same, with a query.
    pub(crate) fn request_with(&self, method: Method, segments: &[&str], query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.url(&["box"], segments);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.request(method, url)
    }

    /// A request for what is beside the boxes: `/v2` and what follows it.
    pub(crate) fn request_beside(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        self.http.request(method, self.url(segments, &[]))
    }

    fn url(&self, first: &[&str], rest: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v2").extend(first).extend(rest);
        }
        url
    }

    /// The server's host: a name or an address, IPv6 without brackets.
    pub(crate) fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// Sends an ordinary request and reads the JSON of its answer.
    pub(crate) async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        read_json(self.send(request.timeout(CALL_DEADLINE)).await?).await
    }

    /// Sends a request that may take as long as it likes and reads the JSON of its answer.
    pub(crate) async fn call_patiently<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        read_json(self.send(request).await?).await
    }

    /// Reads an answer that is not long.
    pub(crate) async fn read_bytes(&self, answer: Response) -> Result<Vec<u8>, Failure> {
        read(answer).await
    }

    /// Sends a request and returns when the answer's headers are there and say that all is well.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = self.ask(request).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refusal(answer).await) }
    }

    /// The same, whatever the headers say.
    pub(crate) async fn ask(&self, request: RequestBuilder) -> Result<Response, Failure> {
        request.send().await.map_err(|error| {
            let base = &self.base;
            Failure::failed(format!("cannot reach the server at {base}"), error.without_url()).of_absence()
        })
    }

    /// What an answer says that does not say that all is well.
    pub(crate) async fn refusal(&self, answer: Response) -> Failure {
        let status = answer.status();
        let text = match read(answer).await.map(|bytes| serde_json::from_slice::<ErrorBody>(&bytes)) {
            Ok(Ok(body)) => body.error,
            Ok(Err(_)) | Err(_) => format!("the server answered {status}"),
        };
        let failure = Failure::plain(text);
        // A proxy says it for a server that is being started anew.
        if matches!(status.as_u16(), 502..=504) { failure.of_absence() } else { failure }
    }

    /// Asks for a connection that speaks WebSocket from then on, through the same proxies and with the same trust as any other.
    pub(crate) async fn websocket(&self, segments: &[&str]) -> Result<Upgraded, Failure> {
        let key = generate_key();
        let request = self.request(Method::GET, segments).header(CONNECTION, "Upgrade").header(UPGRADE, "websocket");
        let request = request.header(SEC_WEBSOCKET_VERSION, "13").header(SEC_WEBSOCKET_KEY, &key);
        let base = &self.base;
        let broke_off = |error: reqwest::Error| Failure::failed("the handshake broke off", error.without_url());
        let upgrading = async {
            let answer = self.ask(request).await?;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                // Somebody else may answer with what is no refusal at all.
                return Err(self.refusal(answer).await);
            }
            let accept = answer.headers().get(SEC_WEBSOCKET_ACCEPT);
            if accept.is_none_or(|accept| accept.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes()) {
                return Err(Failure::plain("the server's answer makes no sense: it is no WebSocket handshake"));
            }
            answer.upgrade().await.map_err(broke_off)
        };
        let late = |_| Failure::plain(format!("the server at {base} does not answer"));
        tokio::time::timeout(HANDSHAKE_DEADLINE, upgrading).await.map_err(late)?
    }
}

/// Reads the JSON of an answer.
pub(crate) async fn read_json<T: DeserializeOwned>(answer: Response) -> Result<T, Failure> {
    let bytes = read(answer).await?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::failed("the server's answer makes no sense", error))
}

async fn read(mut answer: Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(piece) =
        answer.chunk().await.map_err(|error| Failure::failed("the answer broke off", error.without_url()))?
    {
        bytes.extend_from_slice(&piece);
        if bytes.len() > ANSWER_MAX {
            return Err(Failure::plain("the server's answer is too long"));
        }
    }
    Ok(bytes)
}

/// Reads a box's id or name from the command line. What is neither would name something else of the API.
pub(crate) fn box_argument(text: &str) -> Result<String, String> {
    if !BoxId::looks_like(text) {
        check_box_name(text).map_err(|error| format!("neither a box id nor a box name: {error}"))?;
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_this_host_is_not_sent_to_another() {
        for here in ["http://127.0.0.1:7070", "http://localhost", "http://[::1]:7070/x"] {
            assert!(is_on_this_host(here), "{here}");
        }
        for elsewhere in ["https://box.example", "http://127.0.0.1.example", "http://localhost@box.example", "nonsense"]
        {
            assert!(!is_on_this_host(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn paths_are_made_below_the_base_and_keys_stay_hidden() {
        let key = Secret::new("box_secret".into());
        for base in ["http://host:1", "http://host:1/", "http://host:1/yard", "http://host:1/yard/"] {
            let client = Client::new(base, &key).expect("a right URL");
            let request = client.request(Method::GET, &["a b", "c/d?e"]).build().expect("a request");
            let path = base.trim_end_matches('/').trim_start_matches("http://host:1");
            assert_eq!(request.url().path(), format!("{path}/v2/box/a%20b/c%2Fd%3Fe"));
        }
        for base in ["", "host:1", "ftp://host", "mailto:a@b", "http://"] {
            assert!(Client::new(base, &key).is_err(), "{base}");
        }
        let refused = Client::new("http://host", &Secret::new("a\nb".into()));
        assert!(refused.is_err());
    }

    #[test]
    fn a_server_that_listens_everywhere_is_reached_on_loopback() {
        for (listens, reached) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("192.0.2.1:1", "192.0.2.1:1")]
        {
            assert_eq!(reachable(listens.parse().expect("an address")).to_string(), reached);
        }
    }

    #[test]
    fn only_ids_and_names_name_boxes() {
        for text in ["current-wasp-05510", "my-worker"] {
            assert_eq!(box_argument(text).as_deref(), Ok(text));
        }
        for text in ["", ".", "..", "snapshots", "a/b", "a b"] {
            assert!(box_argument(text).is_err(), "{text}");
        }
    }
}
