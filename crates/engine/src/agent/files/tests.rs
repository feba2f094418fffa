//! Work on files against boxes that answer, lie and stay silent.

use boxyard_proto::BoxId;
use bytes::Bytes;

use super::*;
use crate::fake::{FakeEngine, Lie};
use crate::{BoxSpec, Limits};

async fn yard() -> (std::sync::Arc<FakeEngine>, BoxId) {
    let engine = FakeEngine::new();
    let id = BoxId::from_entropy(7);
    let limits = Limits { cpu_millis: 1, memory_bytes: 1, pids: 1, disk_bytes: 1 };
    let spec = BoxSpec { id: id.clone(), image: "node".into(), limits, env: Default::default(), from: None };
    engine.create(&spec).await.expect("a box");
    (engine, id)
}

async fn files(engine: &FakeEngine, id: &BoxId) -> Files {
    Files::start(engine, id, format!("files-{}", rand::random::<u64>())).await.expect("it starts")
}

fn read(path: &str) -> Ask {
    Ask::Read { path: path.into(), offset: 0, length: None }
}

async fn write(files: &mut Files, path: &str, content: Bytes) -> Result<(), FilesError> {
    files.asks.ask(&Ask::Write { path: path.into(), mode: None }).await?;
    files.asks.content(content).await?;
    files.asks.end_content().await?;
    files.asks.flush().await?;
    files.answer(ANSWER_DEADLINE).await.map(drop)
}

async fn all(mut content: Content) -> Result<Vec<u8>, FilesError> {
    let mut all = Vec::new();
    while let Some(bytes) = content.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

#[tokio::test]
async fn what_is_written_is_read_whatever_its_length() {
    let (engine, id) = yard().await;
    let mut session = files(&engine, &id).await;
    for length in [0, 1, 16 * 1024, 16 * 1024 + 1, 256 * 1024, 3_000_001] {
        let content: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0]).collect();
        write(&mut session, "/workspace/home/a", content.clone().into()).await.expect("written");
        let opened = files(&engine, &id).await.open(&read("/workspace/home/a")).await.expect("opened");
        assert_eq!(opened.length(), Some(u64::from(length)));
        assert!(all(opened).await.expect("read") == content, "{length}");
    }
    let refused = session.stat("/etc/passwd".into(), true).await.expect_err("outside");
    assert!(matches!(refused, FilesError::Refused { kind: Failure::Denied, .. }), "{refused:?}");
    assert_eq!(session.stat("/workspace/home/a".into(), true).await.expect("goes on").size, 3_000_001);
}

#[tokio::test]
async fn dropping_what_came_of_it_ends_the_job() {
    let (engine, id) = yard().await;
    let session = files(&engine, &id).await;
    assert_eq!(engine.jobs(&id).len(), 1);
    drop(session);
    engine.idle(&id).await;
    assert!(engine.jobs(&id).is_empty());
}

#[tokio::test]
async fn no_lie_is_believed_and_none_is_waited_for_without_end() {
    let (engine, id) = yard().await;
    for lie in Lie::ALL {
        engine.lie_about_files(&id, Some(lie));
        let silent = [Lie::Silence, Lie::Half, Lie::NoLength, Lie::OutOfTurn].contains(&lie);
        let wait = if silent { Duration::from_millis(50) } else { ANSWER_DEADLINE };
        let files = async |engine: &FakeEngine, id: &BoxId| {
            let patience = Patience { answer: wait, long: wait };
            Files { patience, ..files(engine, id).await }
        };
        let told = files(&engine, &id).await.stat("/workspace/home/a".into(), false).await;
        assert_eq!(told.is_ok(), lie == Lie::Figures, "{lie:?}: {told:?}");
        let opened = files(&engine, &id).await.open(&read("/workspace/home/a")).await;
        let got = match opened {
            Ok(mut content) => loop {
                match content.next().await {
                    Ok(Some(bytes)) if lie == Lie::Endless => assert!(bytes.len() <= 1 << 20),
                    Ok(Some(_)) => continue,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
                // As long as bytes come it is no lie that could be found out.
                break Err(AgentError::Protocol("enough".into()).into());
            },
            Err(error) => Err(error),
        };
        let error = got.expect_err("a lie");
        assert!(error.to_string().chars().count() <= 1200 && !error.to_string().contains('\x1b'), "{lie:?}: {error}");
        let remove = Ask::Remove { path: "/workspace/home/a".into(), recursive: true };
        let done = files(&engine, &id).await.carry_out(&remove).await;
        assert_eq!(done.is_ok(), lie == Lie::OnlyDone, "{lie:?}");
        let mut session = files(&engine, &id).await;
        session.begin(&Ask::List { path: "/workspace/home".into(), after: None, limit: None }).await.expect("sent");
        match session.next_entries().await {
            Ok(Part::Some(entries)) => assert!(lie == Lie::EndlessList && entries.len() <= 512, "{lie:?}"),
            Ok(Part::End { .. }) => assert_eq!(lie, Lie::OnlyDone),
            Err(_) => {}
        }
    }
    engine.lie_about_files(&id, None);
    engine.idle(&id).await;
}

#[test]
fn names_that_lead_elsewhere_are_none() {
    for name in ["", ".", "..", "a/b", "/", "a\0", &"x".repeat(256)] {
        assert!(!is_name(&name.into()), "{name:?}");
    }
    assert!(is_name(&"..a".into()) && is_name(&PathText::new(b"\xff")));
    assert!(!is_name(&PathText::Bytes { base64: "?".into() }) && !is_name(&PathText::new(b"\xff/")));
    assert!(is_path(&"/a".into()) && !is_path(&"a".into()) && !is_path(&"/\0".into()) && !is_path(&"".into()));
}
