//! The files part of `boxyard-init`, as a pretended box has it: the same words over a tree in memory.
//!
//! It knows no links, owners or special files, and its searches know no patterns. Those are for tests in real boxes.

use std::sync::Arc;

use boxyard_proto::files::{Answer, Ask, ENTRIES_MAX, Failure, LIST_MAX, Match, PathText, Search};
use boxyard_proto::wire::{self, Kind};
use bytes::{Bytes, BytesMut};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::job::Job;

mod archive;
mod lie;
mod tree;

pub use lie::Lie;
pub(super) use tree::Tree;

use tree::{Refusal, place};

/// Bytes of content that are sent at once.
const PIECE: usize = 256 * 1024;

/// A part of boxyard-init that runs.
pub(super) struct Work {
    pub(super) tree: Arc<Tree>,
    pub(super) job: Arc<Job>,
    pub(super) stdin: mpsc::Receiver<Bytes>,
    pub(super) come: BytesMut,
}

enum Frame {
    Ask(Ask),
    NoAsk(String),
    Content(Bytes),
}

impl Work {
    /// Answers until the input ends.
    pub(super) async fn run(mut self) -> i32 {
        loop {
            let ask = match self.frame().await {
                Some(Frame::Ask(ask)) => ask,
                Some(Frame::NoAsk(message)) => {
                    self.say(&Answer::Failed { kind: Failure::Invalid, message }).await;
                    continue;
                }
                Some(Frame::Content(_)) => continue,
                None => return 0,
            };
            if let Some(lie) = self.tree.lie() {
                if !self.tell_lie(lie).await {
                    return 1;
                }
                continue;
            }
            let content = match &ask {
                Ask::Write { .. } | Ask::Unpack { .. } => match self.content().await {
                    Some(content) => content,
                    // As in a real box: what is not whole is not written.
                    None => return 1,
                },
                Ask::Read { .. }
                | Ask::List { .. }
                | Ask::Stat { .. }
                | Ask::Mkdir { .. }
                | Ask::Rename { .. }
                | Ask::Remove { .. }
                | Ask::Chmod { .. }
                | Ask::Archive { .. }
                | Ask::Search(_)
                | Ask::Watch { .. } => Bytes::new(),
            };
            let last = match self.obey(ask, content).await {
                Ok(truncated) => Answer::Done { truncated },
                Err(Refusal(kind, message)) => Answer::Failed { kind, message: message.into() },
            };
            self.say(&last).await;
        }
    }

    async fn obey(&mut self, ask: Ask, content: Bytes) -> Result<bool, Refusal> {
        match ask {
            Ask::Write { path, mode } => self.tree.write(&place(&path)?, content, mode)?,
            Ask::Mkdir { path, parents } => self.tree.make_folder(&place(&path)?, parents)?,
            Ask::Rename { from, to } => self.tree.rename(&place(&from)?, &place(&to)?)?,
            Ask::Remove { path, recursive } => self.tree.remove(&place(&path)?, recursive)?,
            Ask::Chmod { path, mode, recursive } => self.tree.chmod(&place(&path)?, mode, recursive)?,
            Ask::Unpack { path } => archive::unpack(&self.tree, &place(&path)?, &content)?,
            Ask::Stat { path, .. } => {
                let stat = self.tree.find(&place(&path)?)?.stat();
                self.say(&Answer::Stat { stat }).await;
            }
            Ask::Read { path, offset, length } => {
                let node = self.tree.find(&place(&path)?)?;
                let all = node.content.clone().ok_or(Refusal(Failure::IsFolder, "this is a folder"))?;
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
                let most = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
                let part = all.slice(from..from.saturating_add(most).min(all.len()));
                self.say(&Answer::Opened { stat: node.stat(), length: Some(part.len() as u64) }).await;
                self.send(&part).await;
            }
            Ask::Archive { path, format } => {
                let path = place(&path)?;
                let stat = self.tree.find(&path)?.stat();
                let packed = archive::pack(&self.tree, &path, format)?;
                self.say(&Answer::Opened { stat, length: None }).await;
                self.send(&packed.into()).await;
            }
            Ask::List { path, after, limit } => {
                let after = after.as_ref().and_then(PathText::bytes).map(std::borrow::Cow::into_owned);
                let limit = usize::try_from(limit.unwrap_or(LIST_MAX)).unwrap_or(usize::MAX);
                let (entries, truncated) = self.tree.list(&place(&path)?, after.as_deref(), limit)?;
                for entries in entries.chunks(ENTRIES_MAX) {
                    self.say(&Answer::Entries { entries: entries.to_vec() }).await;
                }
                return Ok(truncated);
            }
            Ask::Search(search) => return self.search(search).await,
            Ask::Watch { path, recursive } => self.watch(&place(&path)?, recursive).await?,
        }
        Ok(false)
    }

    async fn search(&mut self, search: Search) -> Result<bool, Refusal> {
        let folder = place(search.path.as_ref().ok_or(Refusal(Failure::Invalid, "a path is needed"))?)?;
        let (mut matches, limit) = (Vec::new(), usize::try_from(search.limit).unwrap_or(usize::MAX));
        for (path, node) in self.tree.below(&folder) {
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if search.name.as_ref().is_some_and(|wanted| wanted.as_bytes() != name) {
                continue;
            }
            let found = |line, text| Match { path: PathText::new(&path), kind: node.stat().kind, line, text };
            match (&search.content, &node.content) {
                (None, _) => matches.push(found(None, None)),
                (Some(wanted), Some(content)) => {
                    for (number, line) in (1..).zip(String::from_utf8_lossy(content).lines()) {
                        if line.contains(wanted.as_str()) {
                            matches.push(found(Some(number), Some(line.to_owned())));
                        }
                    }
                }
                (Some(_), None) => {}
            }
        }
        let truncated = matches.len() > limit;
        matches.truncate(limit);
        for matches in matches.chunks(ENTRIES_MAX) {
            self.say(&Answer::Matches { matches: matches.to_vec() }).await;
        }
        Ok(truncated)
    }

    async fn watch(&mut self, folder: &[u8], recursive: bool) -> Result<(), Refusal> {
        let node = self.tree.find(folder)?;
        let mut changes = self.tree.changes();
        if node.content.is_some() {
            return Err(Refusal(Failure::NotFolder, "this is no folder"));
        }
        self.say(&Answer::Watching { truncated: false }).await;
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                input = self.stdin.recv() => match input {
                    Some(_) => continue,
                    None => return Ok(()),
                },
            };
            let (change, lost) = match change {
                Ok(change) => (Some(change), false),
                Err(RecvError::Lagged(_)) => (None, true),
                Err(RecvError::Closed) => return Ok(()),
            };
            let is_below = |text: &PathText| {
                let path = text.bytes().unwrap_or_default().into_owned();
                let rest = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix(b"/"));
                rest.is_some_and(|rest| recursive || !rest.contains(&b'/'))
            };
            let changes: Vec<_> = change.into_iter().filter(|change| is_below(&change.path)).collect();
            if lost || !changes.is_empty() {
                self.say(&Answer::Changes { changes, lost }).await;
            }
            if self.tree.find(folder).is_err() {
                return Ok(());
            }
        }
    }

    /// All of a request's content; none where it ends before its end.
    async fn content(&mut self) -> Option<Bytes> {
        let mut all = BytesMut::new();
        loop {
            match self.frame().await? {
                Frame::Content(bytes) if bytes.is_empty() => return Some(all.freeze()),
                Frame::Content(bytes) => all.extend_from_slice(&bytes),
                Frame::Ask(_) | Frame::NoAsk(_) => return None,
            }
        }
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(&head) = self.come.first_chunk::<{ wire::HEADER_LEN }>() {
                let (kind, length) = wire::parse_header(head).ok()?;
                if self.come.len() >= wire::HEADER_LEN + length {
                    let payload = self.come.split_to(wire::HEADER_LEN + length).freeze().split_off(wire::HEADER_LEN);
                    return match kind {
                        Kind::Json => Some(match serde_json::from_slice(&payload) {
                            Ok(ask) => Frame::Ask(ask),
                            Err(error) => Frame::NoAsk(error.to_string()),
                        }),
                        Kind::In => Some(Frame::Content(payload)),
                        Kind::Out | Kind::Err => None,
                    };
                }
            }
            let more = self.stdin.recv().await?;
            self.come.extend_from_slice(&more);
        }
    }

    async fn say(&self, answer: &Answer) {
        self.job.say(Kind::Out, wire::json_frame(answer).into()).await;
    }

    async fn send(&self, content: &Bytes) {
        let mut left = content.clone();
        while !left.is_empty() {
            let piece = left.split_to(left.len().min(PIECE));
            self.job.say(Kind::Out, Bytes::copy_from_slice(&wire::header(Kind::Out, piece.len()))).await;
            self.job.say(Kind::Out, piece).await;
        }
    }
}
