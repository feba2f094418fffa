//! The result of a job that has ended: how, and what nobody is known to have of its output.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use boxyard_proto::wire::{Exit, FromInit, ToInit};
use tokio::time::{Instant, timeout_at};

use super::connection::{CLOSING, Connection, Incoming};
use super::held::{Held, Sending};

/// What is kept of a job.
#[derive(Debug)]
pub struct Finished {
    pid: u32,
    exit: Exit,
    /// Only of a job whose output is held until it is taken.
    held: Option<RefCell<Held>>,
}

impl Finished {
    /// A job that was process `pid` and ended so.
    pub fn new(pid: u32, exit: Exit, held: Option<Held>) -> Rc<Self> {
        let held = held.map(|mut held| {
            held.close();
            RefCell::new(held)
        });
        Rc::new(Self { pid, exit, held })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Bytes of output that it holds.
    pub fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.borrow().length())
    }

    /// Drops what is held.
    pub fn drop_held(&self) {
        if let Some(held) = &self.held {
            held.borrow_mut().clear();
        }
    }

    /// See [`Held::follow`].
    pub fn follow(&self, from: Option<u64>) -> u64 {
        self.held.as_ref().map_or(0, |held| held.borrow_mut().follow(from))
    }

    /// Tells the rest of the output and the end, however long the other side takes to read it, and closes. Says whether the other side
    /// certainly has everything: that it has read it, or, where output is held, that it says so.
    pub async fn tell(&self, mut connection: Connection, sending: Sending) -> bool {
        match &self.held {
            None => {
                connection.say(&FromInit::Exit(self.exit));
                connection.deliver().await
            }
            // Gone without a word, perhaps in the middle of writing it down: the next one asks again.
            Some(held) => self.hand_over(held, connection, sending).await.unwrap_or(false),
        }
    }

    async fn hand_over(
        &self,
        held: &RefCell<Held>,
        mut connection: Connection,
        mut sending: Sending,
    ) -> io::Result<bool> {
        let (mut deadline, mut said) = (None, false);
        loop {
            held.borrow_mut().send(&mut sending, &mut connection)?;
            let has_more = held.borrow().has_more(&sending);
            if !has_more && deadline.is_none() {
                connection.say(&FromInit::Exit(self.exit));
                deadline = Some(Instant::now() + CLOSING);
                continue;
            }
            while let Some(incoming) = connection.cut()? {
                match incoming {
                    Incoming::Message(ToInit::Taken { upto, ended }) => {
                        held.borrow_mut().take(upto, &sending);
                        if ended && deadline.is_some() {
                            return Ok(true);
                        }
                    }
                    // There is nobody left for it.
                    Incoming::Message(_) | Incoming::Unknown(_) | Incoming::Input(_) => {}
                }
            }
            let pending = has_more || connection.is_pending();
            if deadline.is_some() && !pending && !said {
                connection.end()?;
                said = true;
            }
            let ready = async {
                tokio::select! {
                    readable = connection.readable() => readable.map(|()| true),
                    writable = connection.writable(), if pending => writable.map(|()| false),
                }
            };
            let readable = match deadline.filter(|_| !pending) {
                Some(deadline) => timeout_at(deadline, ready).await??,
                None => ready.await?,
            };
            if readable {
                match connection.fill() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && said => {
                        return Ok(held.borrow().is_trusted());
                    }
                    filled => filled?,
                }
            }
        }
    }
}
