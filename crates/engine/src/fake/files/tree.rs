//! Files of a pretended box.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use boxyard_proto::files::{Change, ChangeKind, Entry, Failure, FileKind, PathText, ROOTS, Stat};
use bytes::Bytes;
use tokio::sync::broadcast;

use super::Lie;
use crate::fake::lock;

/// Changes that a watch may be behind.
const CHANGES: usize = 1024;

/// Why something is not done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal(pub(super) Failure, pub(super) &'static str);

const MISSING: Refusal = Refusal(Failure::NotFound, "there is no such file or folder");

/// All files, by path.
pub(in crate::fake) struct Tree {
    nodes: Mutex<BTreeMap<Vec<u8>, Node>>,
    changes: broadcast::Sender<Change>,
    lie: Mutex<Option<Lie>>,
}

/// A file, or a folder where it has no content.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) content: Option<Bytes>,
    mode: u32,
    modified_ns: i64,
    inode: u64,
}

impl Node {
    fn new(content: Option<Bytes>, mode: u32) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        Self { content, mode, modified_ns, inode: rand::random::<u32>().into() }
    }

    pub(super) fn stat(&self) -> Stat {
        Stat {
            kind: if self.content.is_some() { FileKind::File } else { FileKind::Directory },
            size: self.content.as_ref().map_or(4096, |content| content.len() as u64),
            mode: self.mode,
            modified_ns: self.modified_ns,
            inode: self.inode,
            uid: 1000,
            gid: 1000,
            target: None,
        }
    }
}

impl Default for Tree {
    fn default() -> Self {
        let roots = ROOTS.map(|root| (root.as_bytes().to_vec(), Node::new(None, 0o755)));
        Self { nodes: Mutex::new(roots.into()), changes: broadcast::Sender::new(CHANGES), lie: Mutex::default() }
    }
}

/// Where a path leads: without parts that say nothing, and in a root.
pub(super) fn place(path: &PathText) -> Result<Vec<u8>, Refusal> {
    let bytes = path.bytes().ok_or(Refusal(Failure::Invalid, "the path is not base64"))?;
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in bytes.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let path: Vec<u8> = parts.iter().flat_map(|part| [&b"/"[..], part].concat()).collect();
    let is_in = |root: &&str| path.strip_prefix(root.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
    if ROOTS.iter().any(is_in) {
        Ok(path)
    } else {
        Err(Refusal(Failure::Denied, "the path leads out of the folders that may be used"))
    }
}

/// The folder of a path, without the slash.
fn folder_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').and_then(|at| path.get(..at)).unwrap_or_default()
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"))
}

fn is_root(path: &[u8]) -> bool {
    ROOTS.iter().any(|root| root.as_bytes() == path)
}

impl Tree {
    pub(super) fn lie(&self) -> Option<Lie> {
        *lock(&self.lie)
    }

    pub(in crate::fake) fn set_lie(&self, lie: Option<Lie>) {
        *lock(&self.lie) = lie;
    }

    pub(super) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn tell(&self, kind: ChangeKind, path: &[u8], from: Option<&[u8]>, is_dir: bool) {
        // Nobody needs to watch.
        let _ = self.changes.send(Change { kind, path: PathText::new(path), from: from.map(PathText::new), is_dir });
    }

    pub(super) fn find(&self, path: &[u8]) -> Result<Node, Refusal> {
        lock(&self.nodes).get(path).cloned().ok_or(MISSING)
    }

    /// What is below a folder, or the file itself.
    pub(super) fn below(&self, folder: &[u8]) -> Vec<(Vec<u8>, Node)> {
        let nodes = lock(&self.nodes);
        nodes
            .iter()
            .filter(|(path, _)| is_below(path, folder))
            .map(|(path, node)| (path.clone(), node.clone()))
            .collect()
    }

    pub(super) fn list(
        &self,
        folder: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<Entry>, bool), Refusal> {
        self.find(folder)?;
        let mut entries = Vec::new();
        for (path, node) in self.below(folder) {
            let name = path.get(folder.len() + 1..).unwrap_or_default();
            if name.contains(&b'/') || after.is_some_and(|after| name <= after) {
                continue;
            }
            entries.push(Entry { name: PathText::new(name), stat: node.stat() });
        }
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok((entries, more))
    }

    pub(super) fn write(&self, path: &[u8], content: Bytes, mode: Option<u32>) -> Result<(), Refusal> {
        let before = lock(&self.nodes).get(path).cloned();
        let kept = match &before {
            Some(Node { content: None, .. }) => return Err(Refusal(Failure::IsFolder, "this is a folder")),
            Some(node) => node.mode,
            None => 0o644,
        };
        self.make_folder(folder_of(path), true)?;
        lock(&self.nodes).insert(path.to_vec(), Node::new(Some(content), mode.unwrap_or(kept)));
        let kind = if before.is_some() { ChangeKind::Modify } else { ChangeKind::Create };
        self.tell(kind, path, None, false);
        Ok(())
    }

    pub(super) fn make_folder(&self, path: &[u8], parents: bool) -> Result<(), Refusal> {
        match lock(&self.nodes).get(path) {
            Some(Node { content: Some(_), .. }) if parents => {
                return Err(Refusal(Failure::NotFolder, "this is no folder"));
            }
            Some(_) if parents => return Ok(()),
            Some(_) => return Err(Refusal(Failure::Exists, "there is something already")),
            None => {}
        }
        if parents {
            self.make_folder(folder_of(path), true)?;
        } else if self.find(folder_of(path))?.content.is_some() {
            return Err(Refusal(Failure::NotFolder, "this is no folder"));
        }
        lock(&self.nodes).insert(path.to_vec(), Node::new(None, 0o755));
        self.tell(ChangeKind::Create, path, None, true);
        Ok(())
    }

    pub(super) fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), Refusal> {
        let node = self.find(from)?;
        self.find(folder_of(to))?;
        if is_root(from) || is_root(to) {
            return Err(Refusal(Failure::Denied, "permission denied"));
        }
        if is_below(to, from) {
            return Err(Refusal(Failure::Invalid, "this cannot be done here"));
        }
        if !self.below(to).is_empty() {
            return Err(Refusal(Failure::NotEmpty, "the folder is not empty"));
        }
        let moved = self.below(from);
        let mut nodes = lock(&self.nodes);
        for (path, node) in moved {
            nodes.remove(&path);
            nodes.insert([to, path.get(from.len()..).unwrap_or_default()].concat(), node);
        }
        nodes.remove(from);
        nodes.insert(to.to_vec(), node.clone());
        drop(nodes);
        self.tell(ChangeKind::Rename, to, Some(from), node.content.is_none());
        Ok(())
    }

    pub(super) fn remove(&self, path: &[u8], recursive: bool) -> Result<(), Refusal> {
        let node = self.find(path)?;
        if is_root(path) {
            return Err(Refusal(Failure::Denied, "permission denied"));
        }
        if node.content.is_none() && !recursive {
            return Err(Refusal(Failure::IsFolder, "this is a folder"));
        }
        lock(&self.nodes).retain(|other, _| other != path && !is_below(other, path));
        self.tell(ChangeKind::Delete, path, None, node.content.is_none());
        Ok(())
    }

    pub(super) fn chmod(&self, path: &[u8], mode: u32, recursive: bool) -> Result<(), Refusal> {
        self.find(path)?;
        for (other, node) in lock(&self.nodes).iter_mut() {
            if other == path || (recursive && is_below(other, path)) {
                node.mode = mode;
            }
        }
        Ok(())
    }

    /// Says when a file was last changed.
    pub(super) fn date(&self, path: &[u8], seconds: u64) {
        if let Some(node) = lock(&self.nodes).get_mut(path) {
            node.modified_ns = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        }
    }
}
