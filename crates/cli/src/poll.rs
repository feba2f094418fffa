//! Waiting for what the server does behind its answers.

use std::time::Duration;

use crate::failure::Failure;

/// The API tells how far something is only when asked; half as often as the official clients would be slow to notice.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// How long something may take: building an image takes minutes, and so may copying a disk. A server that says "creating" for ever is
/// broken.
const DEADLINE: Duration = Duration::from_secs(3600);

/// Asks until `made` says yes. `what` is being made.
pub(crate) async fn until_made(
    what: &str,
    mut made: impl AsyncFnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let asking = async {
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            if made().await? {
                return Ok(());
            }
        }
    };
    let late = |_| {
        let minutes = DEADLINE.as_secs() / 60;
        Failure::plain(format!("{what} is still being made after {minutes} minutes; see the server's log"))
    };
    tokio::time::timeout(DEADLINE, asking).await.map_err(late)?
}

/// What was to be made failed.
pub(crate) fn not_made(what: &str) -> Failure {
    Failure::plain(format!("{what} could not be made; the server's log says why"))
}
