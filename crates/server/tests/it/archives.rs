//! Snapshots as archives: out, in, and half way.

use boxyard_engine::ErrorKind;
use boxyard_engine::fake::Call;
use bytes::Bytes;
use reqwest::{Body, Method, StatusCode};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream_of::stream_of;

use crate::support::{Answer, Client, Yard, box_id};

/// A request's body that comes piece by piece, and ends when the sender does.
mod tokio_stream_of {
    use std::io;

    use bytes::Bytes;
    use futures_util::Stream;
    use tokio::sync::mpsc;

    pub fn stream_of(take: mpsc::Receiver<Bytes>) -> impl Stream<Item = io::Result<Bytes>> + Send {
        futures_util::stream::unfold(take, async |mut take| Some((Ok(take.recv().await?), take)))
    }
}

impl Client {
    async fn export(&self, snapshot: &str) -> Answer {
        self.get(&format!("/v2/box/snapshots/{snapshot}/export")).await
    }

    async fn import(&self, query: &str, body: impl Into<Body>) -> Answer {
        let request = self.request(Method::POST, &format!("/v2/box/snapshots/import{query}"));
        self.send(request.body(body)).await
    }
}

fn id_of(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_snapshot_comes_to_another_account_as_an_archive() {
    let yard = Yard::start().await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let body = json!({"name": "src", "size": "large", "runtime": "ruby", "env_vars": {"SECRET": "of-the-source"}});
    let id = client.post("/v2/box", body).await.json()["id"].as_str().expect("an id").to_owned();
    client.sh(&id, "mkdir /workspace/x").await;
    let snapshot = client.new_snapshot(&id).await;

    let archive = client.export(&snapshot).await;
    assert_eq!(archive.status, StatusCode::OK, "{archive:?}");
    assert_eq!(archive.header("content-type"), Some("application/x-tar"));
    assert_eq!(archive.header("content-length"), Some(archive.body.len().to_string().as_str()));
    let disposition = format!("attachment; filename=\"{snapshot}.tar\"");
    assert_eq!(archive.header("content-disposition"), Some(disposition.as_str()));
    assert!(!archive.text().contains("SECRET") && !archive.text().contains("of-the-source"), "{}", archive.text());

    let imported = stranger.import("", archive.body.clone()).await;
    let into = id_of(&imported);
    assert_ne!(into, snapshot);
    assert_eq!(
        imported.json(),
        json!({"id": into, "name": "s", "box_id": id, "size_bytes": 4096, "status": "ready",
            "created_at": imported.json()["created_at"]})
    );
    assert_eq!(stranger.snapshot_ids("/v2/box/snapshots").await, std::slice::from_ref(&into));
    assert_eq!(stranger.snapshot_ids(&format!("/v2/box/{id}/snapshots")).await, std::slice::from_ref(&into));
    assert_eq!(client.snapshot_ids("/v2/box/snapshots").await, std::slice::from_ref(&snapshot));
    let copy = stranger.restored(&into).await;
    assert!(stranger.has(&copy, "/workspace/x").await);
    let spec = yard.engine.spec(&box_id(&copy)).expect("a box");
    assert_eq!((spec.image.as_str(), spec.env.contains_key("SECRET")), ("ruby", false));
    assert_eq!(stranger.get(&format!("/v2/box/{copy}")).await.json()["size"], "large");

    let named = stranger.import("?name=mine", archive.body).await;
    assert_eq!(named.json()["name"], "mine");
    assert_eq!(stranger.delete("/v2/box/snapshots?all=true").await.json(), json!({"deleted": 2}));
    assert!(stranger.has(&copy, "/workspace/x").await);
    yard.until_saved(1).await;
}

#[tokio::test]
async fn nobody_learns_of_snapshots_of_others() {
    let yard = Yard::start().await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let id = client.new_box().await;
    let snapshot = client.new_snapshot(&id).await;
    let others = stranger.export(&snapshot).await;
    let gone = stranger.export(&snapshot.replace(char::is_numeric, "7")).await;
    let nonsense = stranger.export("nonsense").await;
    assert_eq!(others.status, StatusCode::NOT_FOUND);
    assert_eq!((others.status, others.text()), (gone.status, gone.text()));
    assert_eq!((others.status, others.text()), (nonsense.status, nonsense.text()));
    let nobody = Client::new(yard.address(), None);
    assert_eq!(nobody.export(&snapshot).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(nobody.import("", "x").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_is_no_archive_leaves_nothing() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let snapshot = client.new_snapshot(&id).await;
    let archive = client.export(&snapshot).await.body;
    for body in [Vec::new(), b"nonsense".to_vec(), archive[..archive.len() - 1].to_vec()] {
        let answer = client.import("", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        assert!(answer.text().contains("could not be imported"), "{answer:?}");
    }
    let long = format!("?name={}", "x".repeat(201));
    assert_eq!(client.import(&long, archive.clone()).await.status, StatusCode::BAD_REQUEST);
    yard.engine.fail_next(Call::Import, ErrorKind::Exhausted);
    assert_eq!(client.import("", archive.clone()).await.status, StatusCode::SERVICE_UNAVAILABLE);
    yard.engine.fail_next(Call::Import, ErrorKind::Broken);
    assert_eq!(client.import("", archive.clone()).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    for (kind, status) in [
        (ErrorKind::Invalid, StatusCode::UNPROCESSABLE_ENTITY),
        (ErrorKind::Exhausted, StatusCode::SERVICE_UNAVAILABLE),
        (ErrorKind::Broken, StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        yard.engine.fail_next(Call::Export, kind);
        assert_eq!(client.export(&snapshot).await.status, status);
    }
    assert_eq!(yard.saved().await, std::slice::from_ref(&snapshot));
    assert_eq!(client.snapshot_ids("/v2/box/snapshots").await, std::slice::from_ref(&snapshot));

    // One byte more than this server takes, announced and not.
    yard.change(|config| config.images.download_max = 100);
    yard.restart().await;
    let client = yard.client();
    let answer = client.import("", archive.clone()).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{answer:?}");
    let (give, take) = mpsc::channel(1);
    give.send(Bytes::from(archive)).await.expect("room");
    drop(give);
    let answer = client.import("", Body::wrap_stream(stream_of(take))).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    assert_eq!(client.export(&snapshot).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn an_import_whose_client_leaves_half_way_leaves_nothing() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let snapshot = client.new_snapshot(&id).await;
    let archive = client.export(&snapshot).await.body;
    let (give, take) = mpsc::channel(1);
    let sending = tokio::spawn({
        let client = client.clone();
        async move { client.import("", Body::wrap_stream(stream_of(take))).await }
    });
    give.send(Bytes::from(archive[..40].to_vec())).await.expect("room");
    sending.abort();
    assert!(sending.await.is_err_and(|error| error.is_cancelled()));
    // Its place is free again as soon as the server has noticed; two at once are allowed.
    for _ in 0..3 {
        id_of(&client.import("", archive.clone()).await);
    }
    assert_eq!(client.snapshot_ids("/v2/box/snapshots").await.len(), 4);
    assert_eq!(yard.saved().await.len(), 4);
}

#[tokio::test]
async fn an_account_has_as_many_snapshots_as_it_may_however_they_come() {
    let yard = Yard::with(|config| config.snapshots_max = 2).await;
    let client = yard.client();
    let id = client.new_box().await;
    let snapshot = client.new_snapshot(&id).await;
    let archive = client.export(&snapshot).await.body;
    yard.engine.hold(Call::Import, Some("import"));
    let importing = || {
        let (client, archive) = (client.clone(), archive.clone());
        tokio::spawn(async move { client.import("", archive).await })
    };
    let both = [importing(), importing()];
    yard.engine.came_to("import", 2).await;
    let third = client.import("", archive.clone()).await;
    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS, "{third:?}");
    assert!(third.text().contains("under way"), "{third:?}");
    assert_eq!(client.export(&snapshot).await.status, StatusCode::TOO_MANY_REQUESTS);
    yard.engine.open("import");
    let mut statuses = Vec::new();
    for importing in both {
        statuses.push(importing.await.expect("an answer").status);
    }
    statuses.sort();
    assert_eq!(statuses, [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS], "there is room for one");
    yard.until_saved(2).await;
    let refused = client.import("", archive).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.text().contains("limit of 2 snapshots"), "{refused:?}");
    assert_eq!(yard.saved().await.len(), 2);
}

#[tokio::test]
async fn a_server_that_leaves_in_the_middle_of_an_import_leaves_nothing() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let snapshot = client.new_snapshot(&id).await;
    let archive = client.export(&snapshot).await.body;
    yard.engine.hold(Call::Import, Some("never"));
    let importing = tokio::spawn({
        let (client, archive) = (client.clone(), archive.clone());
        async move { client.request(Method::POST, "/v2/box/snapshots/import").body(archive).send().await }
    });
    yard.engine.came_to("never", 1).await;
    yard.restart().await;
    let answer = importing.await.expect("no panic");
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == StatusCode::SERVICE_UNAVAILABLE));
    let client = yard.client();
    assert_eq!(client.snapshot_ids("/v2/box/snapshots").await, std::slice::from_ref(&snapshot));
    yard.until_saved(1).await;

    // What an engine was left with that was killed between its work and the row.
    yard.engine.hold(Call::Import, None);
    let order = boxyard_engine::archive::ArchiveLimits { packed_bytes: 1 << 20, unpacked_bytes: 1 << 20, keep_free: 0 };
    let stray = boxyard_proto::SnapshotId::from_entropy(rand::random());
    let archive = Box::new(std::io::Cursor::new(archive));
    boxyard_engine::Engine::import(&*yard.engine, &stray, archive, &order).await.expect("imported");
    assert_eq!(yard.saved().await.len(), 2);
    yard.restart().await;
    yard.until_saved(1).await;
}

#[tokio::test]
async fn a_snapshot_that_is_deleted_while_it_is_packed_is_sent_nevertheless() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let snapshot = client.new_snapshot(&id).await;
    yard.engine.hold(Call::Export, Some("export"));
    let exporting = tokio::spawn({
        let (client, snapshot) = (client.clone(), snapshot.clone());
        async move { client.export(&snapshot).await }
    });
    yard.engine.came_to("export", 1).await;
    assert_eq!(client.delete("/v2/box/snapshots?all=true").await.json(), json!({"deleted": 1}));
    assert_eq!(yard.saved().await, std::slice::from_ref(&snapshot), "it is kept until it is packed");
    yard.engine.open("export");
    id_of(&client.import("", exporting.await.expect("an answer").body).await);
    yard.until_saved(1).await;
    assert_eq!(client.export(&snapshot).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_archive_of_any_length_goes_through_the_pipe() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let snapshot = client.new_snapshot(&id).await;
    yard.engine.fill_archives(5 << 20);
    let archive = client.export(&snapshot).await.body;
    assert!(archive.len() > 5 << 20);
    id_of(&client.import("", archive.clone()).await);
    let small = client.get(&format!("/v2/box/snapshots/{snapshot}/export?image=false")).await.body;
    assert!(small.len() < 1000);
    let (give, take) = mpsc::channel(1);
    let importing = tokio::spawn({
        let client = client.clone();
        async move { client.import("", Body::wrap_stream(stream_of(take))).await }
    });
    for piece in archive.chunks(100_003) {
        give.send(Bytes::from(piece.to_vec())).await.expect("room");
    }
    drop(give);
    id_of(&importing.await.expect("an answer"));
}
