//! Requests that are carried out at most once: those with an `Idempotency-Key`.
//!
//! The first one with a key begins a run, and the key is stored with the run's record before anything happens. Whoever comes later with
//! the same key and asks for the same gets that run's answer: waits for it while it runs, and has its output from what is kept of it.

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use boxyard_proto::RunId;
use boxyard_proto::api::exec::ExecStarted;
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use super::Http;
use super::error::ApiError;
use super::exec::{Whole, run_id_header};
use super::output::{DROPPED, OFFSET};
use super::paced::Patience;
use super::stream;
use crate::boxes::{BoxError, Kept, Order, Started, Streams, same_run};
use crate::store::Claim;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Bytes of a key at most.
const KEY_MAX: usize = 255;

/// The request's key, if it has one.
#[derive(Debug)]
pub(super) struct IdempotencyKey(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut keys = parts.headers.get_all(&KEY).iter();
        let Some(key) = keys.next() else { return Ok(Self(None)) };
        let fits = (1..=KEY_MAX).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic);
        match key.to_str() {
            Ok(key) if fits && keys.next().is_none() => Ok(Self(Some(key.to_owned()))),
            Ok(_) | Err(_) => Err(ApiError::bad_request(format!(
                "Idempotency-Key must be one text of 1 to {KEY_MAX} visible ASCII characters"
            ))),
        }
    }
}

impl IdempotencyKey {
    /// The claim that it lays to an order.
    pub(super) fn claim(self, order: &Order) -> Option<Claim> {
        self.0.map(|name| Claim { name, hash: order.fingerprint() })
    }
}

/// In which form an answer is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form<'a> {
    /// At once, while the run goes on.
    Detached,
    /// Whole, when the run has ended.
    Whole,
    /// As it comes.
    Stream(&'a Patience),
}

/// The answer of the run that was begun under the claim before, if one was.
pub(super) async fn before(
    http: &Http,
    kept: &Kept,
    claim: Option<&Claim>,
    form: Form<'_>,
) -> Result<Option<Response>, ApiError> {
    let Some(claim) = claim else { return Ok(None) };
    match http.boxes.claimed(kept, claim).await? {
        Some(id) => replay(http, kept, &id, form).await.map(Some),
        None => Ok(None),
    }
}

/// The same for a run that has just been begun under the claim, in case that somebody else was faster.
pub(super) async fn meanwhile(
    http: &Http,
    kept: &Kept,
    claim: Option<&Claim>,
    started: &mut Started,
    form: Form<'_>,
) -> Result<Option<Response>, ApiError> {
    let Some(claim) = claim else { return Ok(None) };
    match (&mut started.recorded).await {
        Ok(Some(before)) => replay(http, kept, &same_run(claim, before)?, form).await.map(Some),
        // How it could not be recorded is told as its end.
        Ok(None) | Err(_) => Ok(None),
    }
}

async fn replay(http: &Http, kept: &Kept, id: &RunId, form: Form<'_>) -> Result<Response, ApiError> {
    let mark = [(REPLAYED, HeaderValue::from_static("true"))];
    let answer = match form {
        Form::Detached => {
            let started = ExecStarted { run_id: id.to_string(), status: "running".into() };
            (run_id_header(id), axum::Json(started)).into_response()
        }
        Form::Whole => {
            let ended = http.boxes.ended(kept, id).await.map_err(forgotten)?;
            let Some(exit_code) = ended.exit_code else {
                return Ok(
                    (mark, run_id_header(id), ApiError::not_run_again(ended.complaint.as_deref())).into_response()
                );
            };
            let replayed = http.boxes.replay(kept, id).await.map_err(forgotten)?;
            let (out, err, truncated, share) = (replayed.out, replayed.err, replayed.truncated, replayed.share);
            Whole { exit_code, out, err, complaint: ended.complaint, truncated, share }.answer(id)
        }
        Form::Stream(patience) => {
            let output = http.boxes.output(kept, id.as_str()).await.map_err(forgotten)?;
            let reader = output.read(0, Streams::Both, true);
            let head = [(OFFSET, HeaderValue::from(reader.next_byte())), (DROPPED, HeaderValue::from(output.start()))];
            let (boxes, kept, id) = (http.boxes.clone(), kept.clone(), id.clone());
            let run = id.clone();
            let ended = async move { boxes.ended(&kept, &run).await };
            (head, stream::replay(&id, reader, ended, patience)).into_response()
        }
    };
    Ok((mark, answer).into_response())
}

/// A claim can outlive what is known of its run.
fn forgotten(error: BoxError) -> ApiError {
    if matches!(error, BoxError::RunNotFound | BoxError::OutputUnknown) {
        ApiError::not_run_again(None)
    } else {
        error.into()
    }
}
