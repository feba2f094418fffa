//! Running `boxyard-init disk`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use boxyard_proto::disk::{Answer, Order};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::fail;

/// How long one order may take. Writing out what a box has in memory takes as long as the disk needs for it.
const DEADLINE: Duration = Duration::from_secs(120);

/// Bytes of an answer at most: some thousands of boxes with their sizes.
const ANSWER_MAX: u64 = 4 << 20;

/// Gives orders to the file system, through one short-lived process each.
#[derive(Debug)]
pub(super) struct DiskTool {
    program: PathBuf,
    /// Who is at work on which subvolume.
    busy: Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>,
}

impl DiskTool {
    /// Runs `program`, which is `boxyard-init`.
    pub(super) fn new(program: PathBuf) -> Self {
        Self { program, busy: Mutex::default() }
    }

    /// Gives an order and waits for its end. An order whose caller does not wait any more is carried out nevertheless, and the next one
    /// about the same subvolume waits for it.
    ///
    /// # Errors
    /// What the program says, of the same kind as the kernel's error underneath.
    pub(super) async fn order(&self, order: Order) -> io::Result<Answer> {
        let lock = self.lock(subject(&order));
        let program = self.program.clone();
        // Ends with the program, which ends with the kernel's call.
        let told = tokio::spawn(async move {
            let _turn = lock.lock().await;
            converse(&program, &order).await
        });
        match timeout(DEADLINE, told).await {
            Ok(told) => told.map_err(io::Error::other)?,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the file system does not answer")),
        }
    }

    /// Waits until nothing is being done to the subvolume, by orders whose callers do not wait any more either.
    pub(super) async fn idle(&self, subvolume: &Path) {
        drop(self.lock(subvolume).lock().await);
    }

    fn lock(&self, path: &Path) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = busy.get(path).and_then(Weak::upgrade) {
            return lock;
        }
        busy.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        busy.insert(path.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// What two orders must not change at the same time.
fn subject(order: &Order) -> &Path {
    match order {
        Order::Mount { at, .. } | Order::Grow { at, .. } | Order::Quotas { at, .. } => at,
        Order::Freed { at } => at,
        Order::Make(disk) => &disk.subvolume,
        Order::Limit { subvolume, .. } => subvolume,
        Order::Flush { draft, .. } => draft,
        Order::Snapshot { into, .. } => into,
        Order::Destroy { subvolume } | Order::Measure { subvolume } => subvolume,
        Order::Sizes { folder, .. } => folder,
    }
}

async fn converse(program: &Path, order: &Order) -> io::Result<Answer> {
    let mut child = Command::new(program)
        .arg0("boxyard-init")
        .arg("disk")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("starting {}: {error}", program.display())))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&serde_json::to_vec(order)?).await?;
        fail::point("disk: told");
    }
    let mut text = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_MAX).read_to_end(&mut text).await?;
    }
    let ended = child.wait().await?;
    match serde_json::from_slice(&text) {
        Ok(Answer::Failed { doing, error, errno }) => {
            let kind = io::Error::from_raw_os_error(errno).kind();
            Err(io::Error::new(kind, format!("{doing}: {error}")))
        }
        Ok(answer) => Ok(answer),
        Err(error) => Err(io::Error::other(format!("no answer from boxyard-init ({ended}): {error}"))),
    }
}
