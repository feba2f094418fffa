//! Telling of changes below a folder, with inotify(7).
//!
//! A folder is watched before it is looked into, so nothing that is in a new one is missed; what was seen in both ways is told once.

mod changes;
mod folders;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use boxyard_proto::files::{Answer, PathText};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use self::changes::Watch;
use super::channel::Channel;
use super::jail::Jail;
use super::path::Path;
use super::refusal::Refusal;
use super::session::{Done, Outcome};

/// How long the second half of a rename is waited for.
const HALF: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Tells of changes until the input ends, or the folder is gone.
pub fn watch(jail: &Jail, path: &PathText, recursive: bool, channel: &mut Channel<'_>) -> Outcome {
    let Some(input) = channel.waits_for() else {
        return Ok(Err(Refusal::invalid("changes are told over pipes only")));
    };
    let mut watch = match Path::try_from(path).and_then(|path| Watch::new(jail, &path, recursive)) {
        Ok(watch) => watch,
        Err(refusal) => return Ok(Err(refusal)),
    };
    channel.say(&Answer::Watching { truncated: watch.is_lossy() })?;
    channel.flush()?;
    loop {
        let (said, changed) = wait(input, &watch)?;
        let more = if changed { watch.hear().map_err(io::Error::from)? } else { false };
        if !more {
            watch.settle();
        }
        while let Some((changes, lost)) = watch.take() {
            channel.say(&Answer::Changes { changes, lost })?;
        }
        channel.flush()?;
        if watch.is_gone() || (said && !channel.drop_input()?) {
            channel.end();
            return Ok(Ok(Done::default()));
        }
    }
}

/// Waits until something was said, or has changed, or a rename has had its time.
fn wait(input: BorrowedFd<'_>, watch: &Watch<'_>) -> io::Result<(bool, bool)> {
    let mut ends =
        [PollFd::from_borrowed_fd(input, PollFlags::IN), PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)];
    let timeout = watch.waits_for_half().then_some(&HALF);
    match poll(&mut ends, timeout) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [said, changed] = ends.map(|end| !end.revents().is_empty());
    Ok((said, changed))
}
