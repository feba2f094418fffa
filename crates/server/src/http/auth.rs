//! Who asks: every path under `/v2` needs an API key, existing paths and others alike.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use boxyard_proto::AccountId;
use http::request::Parts;
use http::{HeaderMap, header};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::Http;
use super::error::ApiError;
use crate::keys::hash_key;
use crate::store::{Store, StoreError};

/// The header that most clients send their key in.
pub(super) const KEY_HEADER: &str = "x-box-api-key";
/// Bytes of a key at most. No key of ours is longer.
const KEY_BYTES_MAX: usize = 512;
/// How long a key is believed without asking the store: the longest that a revoked key still works.
const FRESH: Duration = Duration::from_secs(1);
/// Keys that are remembered at most.
const REMEMBERED_MAX: usize = 4096;

/// The account that a request speaks for.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) AccountId);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Set by `authenticate`; a route that was registered outside its reach answers nobody.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::unauthorized("send an API key"))
    }
}

/// The layer around all routes: lets requests under `/v2` pass with a key only.
pub(super) async fn authenticate(
    State(http): State<Arc<Http>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    if path == "/v2" || path.starts_with("/v2/") {
        let hash = presented_key(request.headers())?;
        let account = http.keys.account(&http.store, hash).await?;
        let account = account.ok_or_else(|| ApiError::unauthorized("this API key is not known here"))?;
        let share = http.bodies.share(account.clone());
        request.extensions_mut().insert(Caller(account));
        request.extensions_mut().insert(Arc::clone(&share));
        let answer = next.run(request).await;
        share.release();
        return Ok(answer);
    }
    Ok(next.run(request).await)
}

/// The hash of the key that a request carries, in `X-Box-Api-Key` or as bearer token.
fn presented_key(headers: &HeaderMap) -> Result<[u8; 32], ApiError> {
    let mut found: Option<[u8; 32]> = None;
    let own = headers.get_all(KEY_HEADER).iter().map(|value| value.as_bytes());
    // Another scheme is meant for somebody else, a proxy in between for instance.
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| bearer(value.as_bytes()));
    for key in own.chain(bearer) {
        let key = str::from_utf8(key).ok().map(str::trim).filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
        let key = key.ok_or_else(|| ApiError::unauthorized("the API key is malformed"))?;
        let hash = hash_key(key);
        if found.is_some_and(|other| !bool::from(other.ct_eq(&hash))) {
            return Err(ApiError::unauthorized("the request carries two different API keys"));
        }
        found = Some(hash);
    }
    found.ok_or_else(|| ApiError::unauthorized("send an API key as X-Box-Api-Key or as Authorization: Bearer"))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}

/// Remembers for a moment which account a key belongs to. Keys are looked up by their hash, whose bits a client cannot choose, so the
/// time that it takes tells nothing about other keys.
#[derive(Default)]
pub(super) struct KeyCache(Mutex<HashMap<[u8; 32], (AccountId, Instant)>>);

impl KeyCache {
    async fn account(&self, store: &Store, hash: [u8; 32]) -> Result<Option<AccountId>, StoreError> {
        let asked = Instant::now();
        let remembered = self.lock().get(&hash).filter(|(_, at)| at.elapsed() < FRESH).cloned();
        if let Some((account, _)) = remembered {
            return Ok(Some(account));
        }
        let account = store.find_key(hash).await?.map(|(_, account)| account);
        let mut keys = self.lock();
        match &account {
            Some(account) => {
                if keys.len() >= REMEMBERED_MAX {
                    keys.retain(|_, (_, at)| at.elapsed() < FRESH);
                }
                if keys.len() < REMEMBERED_MAX {
                    // Fresh as of the question, not of the answer.
                    keys.insert(hash, (account.clone(), asked));
                }
            }
            None => {
                keys.remove(&hash);
            }
        }
        Ok(account)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (AccountId, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn a_key_comes_in_either_header() {
        let hash = hash_key("box_1");
        for pairs in [
            &[("x-box-api-key", "box_1")][..],
            &[("authorization", "Bearer box_1")],
            &[("authorization", "bearer  box_1 ")],
            &[("x-box-api-key", "box_1"), ("authorization", "Bearer box_1")],
            &[("x-box-api-key", "box_1"), ("authorization", "Basic dTpw")],
        ] {
            assert_eq!(presented_key(&headers(pairs)).ok(), Some(hash), "{pairs:?}");
        }
    }

    #[test]
    fn anything_else_is_no_key() {
        let long = "x".repeat(513);
        for pairs in [
            &[][..],
            &[("x-box-api-key", "")],
            &[("x-box-api-key", " ")],
            &[("x-box-api-key", long.as_str())],
            &[("authorization", "box_1")],
            &[("authorization", "Basic box_1")],
            &[("authorization", "Bearer ")],
            &[("x-box-api-key", "box_1"), ("authorization", "Bearer box_2")],
            &[("x-box-api-key", "box_1"), ("x-box-api-key", "box_2")],
        ] {
            let error = presented_key(&headers(pairs)).expect_err("no key");
            assert!(error.message().contains("unauthorized") && error.message().contains("API key"), "{pairs:?}");
            assert!(!error.message().contains("box_"), "{pairs:?}");
        }
    }
}
