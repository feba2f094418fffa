//! Carrying out requests.

use std::io;

use boxyard_proto::files::{Answer, Ask};

use super::channel::Channel;
use super::jail::Jail;
use super::path::Path;
use super::refusal::Refusal;
use super::{archive, list, modes, names, read, remove, search, stat, unpack, watch, write};

/// What a request came to: whether something was left out, or why it failed. Outside of it, the pipes broke.
pub type Outcome = io::Result<Result<Done, Refusal>>;

/// A request has been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// There would have been more.
    pub truncated: bool,
}

/// One connection's work.
#[derive(Debug)]
pub struct Session {
    jail: Jail,
}

impl Session {
    /// Work in `jail`.
    pub fn new(jail: Jail) -> Self {
        Self { jail }
    }

    /// Answers all requests.
    ///
    /// # Errors
    /// The pipes broke, or what comes are no frames.
    pub fn run(&self, channel: &mut Channel<'_>) -> io::Result<()> {
        let ended = self.answer(channel);
        // What was asked before something that is no request has been done, and is said.
        let sent = channel.flush();
        ended.and(sent)
    }

    fn answer(&self, channel: &mut Channel<'_>) -> io::Result<()> {
        while let Some(ask) = channel.ask()? {
            let outcome = match ask {
                Ok(ask) => self.obey(&ask, channel)?,
                Err(refusal) => Err(refusal),
            };
            match outcome {
                Ok(Done { truncated }) => channel.say(&Answer::Done { truncated })?,
                Err(refusal) => channel.say(&refusal.into())?,
            }
        }
        Ok(())
    }

    fn obey(&self, ask: &Ask, channel: &mut Channel<'_>) -> Outcome {
        let jail = &self.jail;
        match ask {
            Ask::Read { path, offset, length } => read::read(jail, path, *offset, *length, channel),
            Ask::Write { path, mode } => {
                channel.begin_content();
                let written = write::write(jail, path, *mode, channel)?;
                channel.finish_content()?;
                Ok(written.map(|()| Done::default()))
            }
            Ask::List { path, after, limit } => list::list(jail, path, after.as_ref(), *limit, channel),
            Ask::Stat { path, follow } => {
                match Path::try_from(path).and_then(|path| stat::of_path(jail, &path, *follow)) {
                    Ok(stat) => {
                        channel.say(&Answer::Stat { stat })?;
                        Ok(Ok(Done::default()))
                    }
                    Err(refusal) => Ok(Err(refusal)),
                }
            }
            Ask::Mkdir { path, parents } => done(names::make_folder(jail, path, *parents)),
            Ask::Rename { from, to } => done(names::rename(jail, from, to)),
            Ask::Remove { path, recursive } => done(remove::remove(jail, path, *recursive)),
            Ask::Chmod { path, mode, recursive } => done(modes::change(jail, path, *mode, *recursive)),
            Ask::Archive { path, format } => archive::archive(jail, path, *format, channel),
            Ask::Unpack { path } => {
                channel.begin_content();
                let unpacked = unpack::unpack(jail, path, channel)?;
                channel.finish_content()?;
                Ok(unpacked)
            }
            Ask::Search(ask) => search::search(jail, ask, channel),
            Ask::Watch { path, recursive } => watch::watch(jail, path, *recursive, channel),
        }
    }
}

fn done(result: Result<(), Refusal>) -> Outcome {
    Ok(result.map(|()| Done::default()))
}
