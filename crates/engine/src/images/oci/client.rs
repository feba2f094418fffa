//! Talking to registries (OCI distribution specification 1.1): asking again where that helps, and never giving away a password.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};

use super::auth::{Challenge, Token};
use super::credentials::{self, Access, Login};
use super::limits::OciLimits;
use super::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST};
use super::reference::{Digest, Reference};
use crate::images::lock;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);

/// A redirect leads to another one at most this often.
const REDIRECTS_MAX: usize = 5;

/// The longest that a registry can make us wait with `Retry-After`.
const WAIT_MAX: Duration = Duration::from_secs(30);

const TOKEN_MAX: u64 = 64 * 1024;

/// How registries are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OciConfig {
    /// Addresses (`https://mirror.test`, perhaps with a path) that are asked before the registry itself, by the registry's name.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries (`registry.test:5000`) that are spoken to without TLS. Those on this host's loopback are anyway.
    pub insecure: Vec<String>,
    /// The file with logins, as docker writes it; where docker has it when missing.
    pub logins: Option<PathBuf>,
    /// What an image may cost.
    pub limits: OciLimits,
}

impl OciConfig {
    fn is_insecure(&self, host: &str) -> bool {
        self.insecure.iter().any(|insecure| insecure.eq_ignore_ascii_case(host)) || is_loopback(host)
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Why something could not be had from a registry.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    /// Asking again may help.
    #[error("{0}")]
    Passing(String, Option<Duration>),
    /// Asking again does not help.
    #[error("{0}")]
    Lasting(String),
    /// This host failed.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

impl PullError {
    pub fn lasting(text: impl Into<String>) -> Self {
        Self::Lasting(text.into())
    }

    pub fn passing(text: impl Into<String>) -> Self {
        Self::Passing(text.into(), None)
    }

    fn of_transfer(host: &str, error: &reqwest::Error) -> Self {
        // Without the address: a redirect's may hold a signature that opens the file to whoever knows it.
        let mut text = format!("{host} cannot be reached or broke off");
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let words = cause.to_string();
            if !words.contains("://") {
                text = format!("{text}: {words}");
            }
            source = cause.source();
        }
        Self::passing(text)
    }
}

/// One registry as it is reached: itself or a mirror.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// With a slash at the end.
    base: Url,
    /// The name under which its logins are kept.
    logins: String,
    /// Whether it may be spoken to without TLS, and so its token server and what it redirects to.
    insecure: bool,
    /// What opens it for the repository, once that is known.
    key: Mutex<Option<HeaderValue>>,
}

impl Endpoint {
    fn host(&self) -> String {
        host(&self.base)
    }
}

/// A repository, at its registry and the registry's mirrors.
#[derive(Debug)]
pub(super) struct Repository {
    client: Client,
    endpoints: Vec<Endpoint>,
    repository: String,
    logins: PathBuf,
    pub(super) limits: OciLimits,
}

impl Repository {
    /// Prepares to ask for what `reference` names. Nothing is asked yet.
    pub fn new(reference: &Reference, config: &OciConfig) -> Result<Self, PullError> {
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(config.limits.stall)
            .user_agent(concat!("boxyard/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| PullError::lasting(format!("preparing to speak TLS: {error}")))?;
        let mut endpoints = Vec::new();
        for mirror in config.mirrors.get(&reference.registry).into_iter().flatten() {
            endpoints.push(mirror_endpoint(mirror, config)?);
        }
        let insecure = config.is_insecure(&reference.registry);
        let scheme = if insecure { "http" } else { "https" };
        let base = format!("{scheme}://{}/", reference.api_host());
        let base = base.parse().map_err(|_| PullError::lasting(format!("{} is no host", reference.registry)))?;
        endpoints.push(Endpoint { base, logins: reference.registry.clone(), insecure, key: Mutex::default() });
        let logins = config.logins.clone().unwrap_or_else(credentials::default_file);
        Ok(Self { client, endpoints, repository: reference.repository.clone(), logins, limits: config.limits.clone() })
    }

    /// The manifest or index that `wanted`, a tag or digest, stands for; checked against the digest.
    pub async fn manifest(&self, wanted: &str) -> Result<Vec<u8>, PullError> {
        let path = format!("v2/{}/manifests/{wanted}", self.repository);
        let accept = format!("{INDEX}, {MANIFEST}, {DOCKER_INDEX}, {DOCKER_MANIFEST}");
        let digest = wanted.contains(':').then(|| Digest::try_from(wanted.to_owned())).transpose();
        let digest = digest.map_err(PullError::Lasting)?;
        self.small(&path, Some(&accept), self.limits.manifest_bytes, digest.as_ref()).await
    }

    /// A small blob, checked against its digest.
    pub async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, PullError> {
        let path = format!("v2/{}/blobs/{digest}", self.repository);
        self.small(&path, None, size, Some(digest)).await
    }

    async fn small(
        &self,
        path: &str,
        accept: Option<&str>,
        most: u64,
        digest: Option<&Digest>,
    ) -> Result<Vec<u8>, PullError> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept.and_then(|accept| HeaderValue::from_str(accept).ok()) {
            headers.insert(ACCEPT, accept);
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            match self.small_from(endpoint, path, &headers, most, digest).await {
                Err(error) if self.has_another(index, &error) => {}
                done => return done,
            }
        }
        Err(PullError::lasting("there is no registry to ask"))
    }

    /// From one mirror or the registry, asking again where that may help.
    async fn small_from(
        &self,
        endpoint: &Endpoint,
        path: &str,
        headers: &HeaderMap,
        most: u64,
        digest: Option<&Digest>,
    ) -> Result<Vec<u8>, PullError> {
        let mut tries = 1;
        loop {
            let got = match self.get(endpoint, path, headers).await {
                Ok(response) => whole(response, most).await,
                Err(error) => Err(error),
            };
            match (got, digest) {
                (Ok(bytes), Some(digest)) if Digest::of(&bytes) != *digest => {
                    let text = format!("{} answers with something else than {digest}", endpoint.host());
                    return Err(PullError::Lasting(text));
                }
                (Err(PullError::Passing(why, wait)), _) if tries < self.limits.attempts => {
                    tracing::debug!(why, tries, "asking a registry again");
                    tokio::time::sleep(self.wait(tries, wait)).await;
                    tries += 1;
                }
                (got, _) => return got,
            }
        }
    }

    /// Mirrors first, the registry last.
    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Whether to ask the next one after `error` of the one at `index`. What the last says, the registry itself, counts.
    pub(super) fn has_another(&self, index: usize, error: &PullError) -> bool {
        let another = index + 1 < self.endpoints.len() && !matches!(error, PullError::Disk(_));
        if another {
            tracing::info!(mirror = self.endpoints[index].host(), %error, "a mirror does not help");
        }
        another
    }

    /// How long to wait after the try with this number, of those without any progress.
    pub(super) fn wait(&self, tries: u32, asked: Option<Duration>) -> Duration {
        let grown = self.limits.backoff.saturating_mul(1 << tries.saturating_sub(1).min(10));
        asked.unwrap_or(grown).min(WAIT_MAX)
    }

    /// Asks for the blob from byte `from` on.
    pub(super) async fn blob(&self, endpoint: &Endpoint, digest: &Digest, from: u64) -> Result<Response, PullError> {
        let mut headers = HeaderMap::new();
        if from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            headers.insert(RANGE, range);
        }
        self.get(endpoint, &format!("v2/{}/blobs/{digest}", self.repository), &headers).await
    }

    /// Asks once, gets a key when one is asked for, follows redirects. The answer is a success.
    async fn get(&self, endpoint: &Endpoint, path: &str, headers: &HeaderMap) -> Result<Response, PullError> {
        let url = endpoint.base.join(path).map_err(|_| PullError::lasting("the registry's address is wrong"))?;
        let key = lock(&endpoint.key).clone();
        let response = self.follow(endpoint, url.clone(), headers, key).await?;
        // Only the registry itself may say where its login is to be shown: storage that it redirects to could name a server of its own.
        if response.status() != StatusCode::UNAUTHORIZED || response.url().origin() != endpoint.base.origin() {
            return self.success(endpoint, response);
        }
        let key = self.key(endpoint, &response).await?;
        *lock(&endpoint.key) = Some(key.clone());
        let response = self.follow(endpoint, url, headers, Some(key)).await?;
        self.success(endpoint, response)
    }

    /// Sends the request, and again to where it is redirected. The key goes to the registry only: storage that it redirects to has keys
    /// of its own in its address, and must not learn ours.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        mut url: Url,
        headers: &HeaderMap,
        key: Option<HeaderValue>,
    ) -> Result<Response, PullError> {
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.client.get(url.clone()).headers(headers.clone());
            if let Some(key) = key.as_ref().filter(|_| url.origin() == endpoint.base.origin()) {
                request = request.header(AUTHORIZATION, key.clone());
            }
            let response = request.send().await.map_err(|error| PullError::of_transfer(&host(&url), &error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
            let target = target.and_then(|target| url.join(target).ok());
            let target = target.ok_or_else(|| PullError::lasting(format!("{} redirects to nowhere", host(&url))))?;
            if !is_safe(&target, endpoint.insecure) {
                return Err(PullError::lasting(format!(
                    "{} redirects to an address without TLS, or to a link-local one",
                    host(&url)
                )));
            }
            url = target;
        }
        Err(PullError::lasting(format!("{} redirects too often", endpoint.host())))
    }

    fn success(&self, endpoint: &Endpoint, response: Response) -> Result<Response, PullError> {
        let (status, host) = (response.status(), endpoint.host());
        if status.is_success() {
            return Ok(response);
        }
        match status {
            StatusCode::NOT_FOUND => Err(PullError::lasting(format!("{host} does not have {}", self.repository))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(PullError::lasting(self.refused(endpoint))),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(passing(&host, &response)),
            _ if status.is_server_error() => Err(passing(&host, &response)),
            _ => Err(PullError::lasting(format!("{host} answers {status}"))),
        }
    }

    fn refused(&self, endpoint: &Endpoint) -> String {
        let (host, name) = (endpoint.host(), &endpoint.logins);
        let file = self.logins.display();
        let hint = match credentials::access(&self.logins, name) {
            Ok(Access::Login(_)) => format!("the login for {name} in {file} does not open it"),
            Ok(Access::Helper) => format!(
                "{file} leaves the login for {name} to a credential helper, which the server does not run: put it under `auths`"
            ),
            Ok(Access::Nothing) => {
                format!("it does not exist, or needs a login: `docker login {name}`, or an entry in {file}")
            }
            Err(error) => error.to_string(),
        };
        format!("{host} refuses to show {}: {hint}", self.repository)
    }

    /// Gets what opens the repository, as the registry asks for it.
    async fn key(&self, endpoint: &Endpoint, refusal: &Response) -> Result<HeaderValue, PullError> {
        let challenges = refusal.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenges.iter().find_map(|header| Challenge::parse(header.to_str().ok()?));
        let challenge =
            challenge.ok_or_else(|| PullError::lasting(format!("{} does not say how to log in", endpoint.host())))?;
        let login = match credentials::access(&self.logins, &endpoint.logins)? {
            Access::Login(login) => Some(login),
            Access::Helper | Access::Nothing => None,
        };
        let text = match challenge {
            Challenge::Basic => basic(&login.ok_or_else(|| PullError::lasting(self.refused(endpoint)))?),
            Challenge::Bearer { realm, service } => {
                format!("Bearer {}", self.token(endpoint, &realm, service, login.as_ref()).await?)
            }
        };
        secret(&text)
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        realm: &str,
        service: Option<String>,
        login: Option<&Login>,
    ) -> Result<String, PullError> {
        let wrong = || PullError::lasting(format!("{} names a token server that cannot be used", endpoint.host()));
        let mut url: Url = realm.parse().map_err(|_| wrong())?;
        if !is_safe(&url, endpoint.insecure) {
            return Err(wrong());
        }
        if let Some(service) = &service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull", self.repository));
        let mut request = self.client.get(url.clone());
        if let Some(login) = login {
            request = request.header(AUTHORIZATION, secret(&basic(login))?);
        }
        let response = request.send().await.map_err(|error| PullError::of_transfer(&host(&url), &error))?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(PullError::lasting(self.refused(endpoint)));
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(passing(&host(&url), &response));
        }
        let bytes = whole(response, TOKEN_MAX).await?;
        let token: Option<Token> = serde_json::from_slice(&bytes).ok().filter(|_| status.is_success());
        let no_token = || PullError::lasting(format!("{} answers {status} and no token", host(&url)));
        token.and_then(Token::into_text).ok_or_else(no_token)
    }
}

fn mirror_endpoint(mirror: &str, config: &OciConfig) -> Result<Endpoint, PullError> {
    // Not the address as it is written: it may have a password in it.
    let nameless = || PullError::lasting("one of the mirrors is no address");
    let base: Url = format!("{}/", mirror.trim_end_matches('/')).parse().map_err(|_| nameless())?;
    let name = host(&base);
    let wrong = |why: &str| PullError::lasting(format!("the mirror {name} {why}"));
    let insecure = base.scheme() == "http";
    if !matches!(base.scheme(), "http" | "https") || base.password().is_some() || !base.username().is_empty() {
        return Err(wrong("must be https://HOST[:PORT][/PATH]; logins belong into docker's configuration"));
    }
    if insecure && !config.is_insecure(&name) {
        return Err(wrong("has no TLS and is not among images.insecure_registries"));
    }
    Ok(Endpoint { base, logins: name, insecure, key: Mutex::default() })
}

/// Whether a registry may send us there. No registry has anything at link-local addresses, but hosts in clouds have their secrets there.
fn is_safe(url: &Url, insecure: bool) -> bool {
    url.has_host() && !is_link_local(url) && (url.scheme() == "https" || (url.scheme() == "http" && insecure))
}

fn is_link_local(url: &Url) -> bool {
    use std::net::IpAddr;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some_and(|address| address.is_link_local())
        }
        Err(_) => false,
    }
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn basic(login: &Login) -> String {
    use base64::Engine as _;
    let text = format!("{}:{}", login.user, login.password);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

fn secret(text: &str) -> Result<HeaderValue, PullError> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| PullError::lasting("the registry's token is no text for a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn passing(host: &str, response: &Response) -> PullError {
    let after = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
    PullError::Passing(format!("{host} answers {}", response.status()), after.map(Duration::from_secs))
}

/// A whole answer of at most `most` bytes.
async fn whole(mut response: Response, most: u64) -> Result<Vec<u8>, PullError> {
    let host = host(response.url());
    let long = || PullError::lasting(format!("{host} answers with more than {most} bytes"));
    if response.content_length().is_some_and(|length| length > most) {
        return Err(long());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| PullError::of_transfer(&host, &error))? {
        if (bytes.len() + chunk.len()) as u64 > most {
            return Err(long());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_what_is_configured_goes_without_tls() {
        let config = OciConfig { insecure: vec!["Lan.Test:5000".into()], ..OciConfig::default() };
        for (host, insecure) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("lan.test:5000", true),
            ("lan.test", false),
            ("docker.io", false),
            ("127.0.0.1.evil.test", false),
            ("[2001:db8::1]:5000", false),
        ] {
            assert_eq!(config.is_insecure(host), insecure, "{host}");
        }
        for mirror in ["http://mirror.test", "ftp://mirror.test", "https://u:p@mirror.test", "mirror.test", ""] {
            let why = mirror_endpoint(mirror, &config).unwrap_err().to_string();
            assert!(!why.contains("u:p"), "a password is told: {why}");
        }
        for (address, insecure, safe) in [
            ("https://storage.test/x", false, true),
            ("http://storage.test/x", true, true),
            ("http://storage.test/x", false, false),
            ("http://169.254.169.254/latest/meta-data", true, false),
            ("http://[::ffff:169.254.169.254]/", true, false),
            ("http://2852039166/", true, false),
            ("https://[fe80::1]/", false, false),
            ("file:///etc/shadow", true, false),
        ] {
            assert_eq!(is_safe(&address.parse().unwrap(), insecure), safe, "{address}");
        }
        assert_eq!(mirror_endpoint("http://lan.test:5000/hub", &config).unwrap().base.path(), "/hub/");
    }
}
