//! Snapshots as archives: out and in. Not a part of the protocol of Upstash Box.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use boxyard_proto::api::snapshots::{ExportSnapshotQuery, ImportSnapshotQuery, SnapshotData};
use bytes::Bytes;
use futures_util::stream::{StreamExt as _, unfold};
use http::header;
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::io::{ReaderStream, StreamReader};

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::{Path, Query};
use super::limits::{SILENCE_MAX, drop_rest};
use super::snapshots::checked_name;

/// Bytes that are sent at once.
const PIECE: usize = 128 * 1024;
/// Pieces of an archive that wait to be read.
const WAITING: usize = 4;

/// Sends a snapshot as an archive
///
/// A tar archive with an OCI image layout: the layers of the image, and one with what the box has written. The answer begins when all
/// of it is packed. It holds no variables of the box, and nothing else that is secret but what is in the box's files.
#[utoipa::path(get, path = "/v2/box/snapshots/{id}/export", tag = "snapshots",
    params(("id" = String, Path, description = "Id of the snapshot"), ExportSnapshotQuery),
    responses((status = 200, content_type = "application/x-tar", body = Vec<u8>), Refusals))]
pub(super) async fn export(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<ExportSnapshotQuery>,
) -> Result<Response, ApiError> {
    let (exported, transfer) = http.boxes.export(&account, &id, query.image == Some(false)).await?;
    let length = exported.length;
    let bytes = ReaderStream::with_capacity(exported.bytes, PIECE).map(move |piece| {
        // Ends with the stream.
        let _transfer = &transfer;
        piece
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.tar\"")),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

/// Makes a snapshot from an archive
///
/// The body is an archive as it was exported here or elsewhere, compressed or not. Layers of its image that this server has are used, the
/// others come with it. The snapshot is there when this answers, or nothing of it. Boxes from it have no variables of the box
/// that was saved.
#[utoipa::path(post, path = "/v2/box/snapshots/import", tag = "snapshots", params(ImportSnapshotQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = SnapshotData), Refusals))]
pub(super) async fn import(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Query(query): Query<ImportSnapshotQuery>,
    request: Request,
) -> Result<axum::Json<SnapshotData>, ApiError> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let asks_first = request.headers().contains_key(header::EXPECT);
    let most = http.boxes.archive_max();
    let mut body = request.into_body();
    let refused = match checked_name(query.name) {
        Ok(_) if announced.is_some_and(|length: u64| length > most) => ApiError::archive_too_long(most),
        Ok(name) => {
            let (give, take) = mpsc::channel(WAITING);
            let importing = http.boxes.import(&account, name, Box::new(StreamReader::new(Box::pin(stream(take)))));
            let ((), imported) = tokio::join!(pump(&mut body, give), importing);
            match imported {
                Ok(imported) => return Ok(axum::Json(imported)),
                Err(error) => error.into(),
            }
        }
        Err(error) => error,
    };
    // Many clients see a refusal only when they have sent everything; who asks before sending has not sent anything yet.
    if !asks_first {
        drop_rest(&mut body).await;
    }
    Err(refused)
}

/// Hands pieces of a body on until nobody wants them any more. A piece of nothing is the end; a channel that is closed without is none.
async fn pump(body: &mut Body, give: mpsc::Sender<io::Result<Option<Bytes>>>) {
    loop {
        let frame = tokio::select! {
            frame = timeout(SILENCE_MAX, body.frame()) => frame,
            () = give.closed() => return,
        };
        let piece = match frame {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Ok(Some(data)),
                Err(_) => continue,
            },
            Ok(None) => Ok(None),
            Ok(Some(Err(_))) => Err(broken_off()),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the archive did not arrive in time")),
        };
        let last = !matches!(piece, Ok(Some(_)));
        if give.send(piece).await.is_err() || last {
            return;
        }
    }
}

fn stream(take: mpsc::Receiver<io::Result<Option<Bytes>>>) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    unfold(Some(take), async |take| {
        let mut take = take?;
        match take.recv().await {
            Some(Ok(Some(piece))) => Some((Ok(piece), Some(take))),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(broken_off()), None)),
        }
    })
}

fn broken_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the archive broke off")
}
