//! Boxes whose `boxyard-init` was taken over and lies about files: every answer is an answer, and the server goes on.

use std::time::Duration;

use boxyard_engine::fake::Lie;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Yard, box_id};

/// Lies that are told at once. The others are waited for, up to a minute; see the engine's own tests.
fn quick() -> impl Iterator<Item = Lie> {
    Lie::ALL
        .into_iter()
        .filter(|lie| !matches!(lie, Lie::Silence | Lie::Half | Lie::NoLength | Lie::OutOfTurn | Lie::Endless))
}

#[tokio::test]
async fn whatever_a_box_says_the_client_hears_of_it_and_the_server_goes_on() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    for lie in quick() {
        yard.engine.lie_about_files(&box_id(&id), Some(lie));
        for query in [
            "read?path=a",
            "stat?path=a",
            "list",
            "search?name=x",
            "download?folder=a",
            "watch",
            "download?folder=a&format=tar",
        ] {
            let request = client.request(Method::GET, &format!("/v2/box/{id}/files/{query}"));
            let answer = request.send().await.expect("an answer");
            let status = answer.status();
            let body = answer.bytes().await;
            assert!(
                status == StatusCode::OK || status == StatusCode::BAD_GATEWAY || lie == Lie::LongFailure,
                "{lie:?} {query}: {status}"
            );
            match (lie, query) {
                (Lie::Figures, "stat?path=a") => assert!(status == StatusCode::OK),
                // What ends at once is an empty folder, and what finds nothing finds nothing.
                (Lie::OnlyDone, "list" | "search?name=x") => assert!(status == StatusCode::OK),
                // It breaks off when there is more than can be.
                (Lie::EndlessList, "list") => assert!(body.is_err(), "{lie:?}"),
                (Lie::LongFailure, _) => {
                    assert_eq!(status, StatusCode::NOT_FOUND);
                    let body = body.expect("a body");
                    assert!(body.len() < 8_000 && !body.contains(&0x1b), "{} bytes", body.len());
                }
                _ => assert!(status == StatusCode::BAD_GATEWAY, "{lie:?} {query}: {status} {body:?}"),
            }
        }
        for (what, body) in [
            ("write", json!({"path": "a", "content": "x"})),
            ("mkdir", json!({"path": "a"})),
            ("remove", json!({"path": "a"})),
        ] {
            let answer = client.change_files(&id, what, body).await;
            let told = [(Lie::OnlyDone, StatusCode::OK), (Lie::LongFailure, StatusCode::NOT_FOUND)];
            let told = told.into_iter().find(|(told, _)| *told == lie);
            let expected = told.map_or(StatusCode::BAD_GATEWAY, |(_, status)| status);
            assert_eq!(answer.status, expected, "{lie:?} {what}: {answer:?}");
        }
    }
    yard.engine.lie_about_files(&box_id(&id), None);
    yard.engine.idle(&box_id(&id)).await;
    client.write_file(&id, "a", "true").await;
    assert_eq!(client.read_file(&id, "a").await, "true");
}

#[tokio::test]
async fn a_box_that_stays_silent_holds_nobody_who_leaves_and_is_deleted_at_once() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    for lie in [Lie::Silence, Lie::Half, Lie::NoLength] {
        yard.engine.lie_about_files(&box_id(&id), Some(lie));
        let path = format!("/v2/box/{id}/files/download?folder=a&format=tar");
        let asked = client.request(Method::GET, &path).timeout(Duration::from_millis(100)).send().await;
        // Whether or not there was a head, nobody waits any more.
        drop(asked);
        client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
        yard.engine.idle(&box_id(&id)).await;
    }
    yard.engine.lie_about_files(&box_id(&id), Some(Lie::Silence));
    let asking = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move { client.files(&id, "stat?path=a").await }
    });
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "running").await;
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
    let answer = asking.await.expect("no panic");
    assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
    assert!(answer.text().contains("deleted"), "{answer:?}");
}

#[tokio::test]
async fn bytes_without_end_are_cut_off_with_their_reader() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.lie_about_files(&box_id(&id), Some(Lie::Endless));
    let read = client.files(&id, "read?path=a").await;
    assert_eq!(read.status, StatusCode::PAYLOAD_TOO_LARGE);
    let mut download =
        client.request(Method::GET, &format!("/v2/box/{id}/files/download?folder=a")).send().await.expect("a head");
    for _ in 0..10 {
        assert!(download.chunk().await.expect("bytes").is_some());
    }
    drop(download);
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
    yard.engine.idle(&box_id(&id)).await;
}
