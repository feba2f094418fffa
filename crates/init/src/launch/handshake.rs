//! The words between the launcher and the first process of a box while it is made.
//!
//! The launcher says what it has done for the box, one byte each; the box's process says at the end, in one message, that it is ready
//! or what went wrong. Both directions are pipes whose other end closes when the other side dies, so nobody waits for the dead.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use boxyard_proto::launch::Launched;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::trouble::{Doing, Trouble};

/// How long making a box may take in all. Generous: a host under load is slow, not broken.
const DEADLINE: Duration = Duration::from_secs(30);

/// Bytes of the last message at most.
const MESSAGE_MAX: usize = 4096;

/// What the launcher has done for the box, in the order in which it does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Deed {
    /// The ids are mapped: the process can become the box's root.
    IdsMapped = b'i',
    /// The layers are mapped too and can be attached.
    LayersMapped = b'l',
    /// The network interfaces exist.
    NetworkMade = b'n',
    /// The process is in all its cgroups.
    Confined = b'c',
}

/// Both ends of both pipes.
#[derive(Debug)]
pub struct Handshake {
    down: (OwnedFd, OwnedFd),
    up: (OwnedFd, OwnedFd),
}

impl Handshake {
    /// Makes the pipes.
    pub fn new() -> Result<Self, Trouble> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).doing("making a pipe");
        Ok(Self { down: pipe()?, up: pipe()? })
    }

    /// The launcher's side; drops the other.
    pub fn outside(self) -> Outside {
        Outside { down: self.down.1, up: self.up.0, deadline: Instant::now() + DEADLINE }
    }

    /// The box's side; drops the other.
    pub fn inside(self) -> Inside {
        Inside { down: self.down.0, up: self.up.1, deadline: Instant::now() + DEADLINE }
    }
}

/// The launcher's side.
#[derive(Debug)]
pub struct Outside {
    down: OwnedFd,
    up: OwnedFd,
    deadline: Instant,
}

impl Outside {
    /// Tells the box what has been done.
    pub fn tell(&self, deed: Deed) -> Result<(), Trouble> {
        match rustix::io::write(&self.down, &[deed as u8]) {
            // It has died; what it said before that is worth more than this.
            Ok(_) | Err(Errno::PIPE) => Ok(()),
            Err(error) => Err(error).doing("telling the box to go on"),
        }
    }

    /// Waits for the box to be ready.
    ///
    /// # Errors
    /// What the box failed at, or that it died or took too long.
    pub fn wait(&self) -> Result<(), Trouble> {
        self.listen(self.deadline)
    }

    /// What the box has failed at, if it has said so already.
    pub fn last_words(&self) -> Option<Trouble> {
        let message = poll(&mut [PollFd::new(&self.up, PollFlags::IN)], Some(&Timespec::default())).ok()?;
        if message == 0 { None } else { self.listen(self.deadline).err() }
    }

    fn listen(&self, deadline: Instant) -> Result<(), Trouble> {
        let mut message = Vec::new();
        loop {
            wait_readable(&self.up, deadline).doing("waiting for the box to be ready")?;
            let mut piece = [0; MESSAGE_MAX];
            let read = rustix::io::read(&self.up, &mut piece).doing("listening to the box")?;
            message.extend_from_slice(&piece[..read]);
            if read == 0 || message.len() > MESSAGE_MAX || message.ends_with(b"\n") {
                break;
            }
        }
        match serde_json::from_slice(&message) {
            Ok(Launched::Ready { .. }) => Ok(()),
            Ok(Launched::Failed { doing, errno: 0, error }) => Err(Trouble::new(doing, error)),
            Ok(Launched::Failed { doing, errno, .. }) => {
                Err(Trouble { doing, error: std::io::Error::from_raw_os_error(errno) })
            }
            Err(_) => Err(Trouble::new("waiting for the box to be ready", "its first process died")),
        }
    }
}

/// The box's side.
#[derive(Debug)]
pub struct Inside {
    down: OwnedFd,
    up: OwnedFd,
    deadline: Instant,
}

impl Inside {
    /// Waits until the launcher has done `deed`; deeds are waited for in their order, and none is left out.
    pub fn wait(&self, deed: Deed) -> Result<(), Trouble> {
        let mut byte = [0];
        wait_readable(&self.down, self.deadline).doing("waiting for the launcher")?;
        let read = rustix::io::read(&self.down, &mut byte).doing("listening to the launcher")?;
        if read == 1 && byte[0] == deed as u8 {
            Ok(())
        } else {
            Err(Trouble::new("waiting for the launcher", "it stopped"))
        }
    }

    /// The descriptor of the last message, to be kept when all others are closed.
    pub fn into_up(self) -> OwnedFd {
        self.up
    }

    /// Says that something went wrong.
    pub fn fail(&self, trouble: &Trouble) {
        say(&self.up, &failed(trouble));
    }
}

/// Says `launched` as one line on `up`. A launcher that is gone has nobody to tell.
pub fn say(up: &OwnedFd, launched: &Launched) {
    if let Ok(mut line) = serde_json::to_vec(launched) {
        line.push(b'\n');
        let _ = rustix::io::write(up, &line);
    }
}

/// A failure as the engine reads it.
pub fn failed(trouble: &Trouble) -> Launched {
    let error = trouble.error.to_string().chars().take(500).collect();
    let doing = trouble.doing.chars().take(500).collect();
    Launched::Failed { doing, error, errno: trouble.error.raw_os_error().unwrap_or(0) }
}

fn wait_readable(fd: &OwnedFd, deadline: Instant) -> Result<(), Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
