//! Answering requests.

use std::cell::OnceCell;

use super::accounts::Accounts;
use super::answers::Answers;
use super::attributes::Attributes;
use super::files::Done;
use super::handles::Handles;
use super::packet::{Extended, Request};
use super::status::{self, Refusal};
use super::{extensions, files, folders, paths};
use crate::guard::Guard;

/// One client's session.
#[derive(Debug)]
pub struct Session {
    guard: Guard,
    handles: Handles,
    /// Read when they are first needed.
    accounts: OnceCell<Accounts>,
}

impl Session {
    /// A session with nothing open.
    pub fn new() -> Self {
        Self { guard: Guard::new(), handles: Handles::default(), accounts: OnceCell::new() }
    }

    /// Does what is asked and adds the answer.
    pub fn answer(&mut self, id: u32, request: &Request<'_>, answers: &mut Answers) {
        if let Err(Refusal { code, message }) = self.obey(id, request, answers) {
            answers.status(id, code, &message);
        }
    }

    fn obey(&mut self, id: u32, request: &Request<'_>, answers: &mut Answers) -> Done {
        let Self { guard, handles, accounts, .. } = self;
        let accounts = || accounts.get_or_init(|| Accounts::of_box(guard));
        match request {
            Request::Open { path, flags, attributes } => {
                // Before a file is made that nobody could then use.
                handles.check_room()?;
                answers.handle(id, &handles.insert(files::open(guard, path, *flags, attributes)?)?);
                return Ok(());
            }
            Request::Opendir { path } => {
                handles.check_room()?;
                answers.handle(id, &handles.insert(folders::open(guard, path)?)?);
                return Ok(());
            }
            Request::Read { handle, offset, length } => {
                return files::read(handles, id, (handle, *offset, *length), answers);
            }
            Request::Readdir { handle } => return folders::list(handles, accounts(), id, handle, answers),
            Request::Stat { path } => return tell(answers, id, &files::stat(path, true)?),
            Request::Lstat { path } => return tell(answers, id, &files::stat(path, false)?),
            Request::Fstat { handle } => {
                let stat = rustix::fs::fstat(handles.get(handle)?.fd()?)?;
                return tell(answers, id, &Attributes::from(&stat));
            }
            Request::Realpath { path } => return name(answers, id, &paths::resolve(guard, path)?),
            Request::Readlink { path } => return name(answers, id, &paths::read_link(guard, path)?),
            Request::Extended(extended) => match extended {
                Extended::Limits => {
                    extensions::limits(id, answers);
                    return Ok(());
                }
                Extended::Statvfs { path } => {
                    extensions::file_system(id, &rustix::fs::statvfs(*path)?, answers);
                    return Ok(());
                }
                Extended::Fstatvfs { handle } => {
                    let known = rustix::fs::fstatvfs(handles.get(handle)?.fd()?)?;
                    extensions::file_system(id, &known, answers);
                    return Ok(());
                }
                Extended::ExpandPath { path } => return name(answers, id, &paths::expand(guard, accounts(), path)?),
                Extended::HomeDirectory { user } => return name(answers, id, paths::home(accounts(), user)?),
                Extended::UsersGroupsById { uids, gids } => {
                    return extensions::names(accounts(), id, uids, gids, answers);
                }
                Extended::PosixRename { from, to } => paths::replace(from, to)?,
                Extended::Hardlink { from, to } => paths::link(from, to)?,
                Extended::Fsync { handle } => rustix::fs::fsync(handles.get(handle)?.fd()?)?,
                Extended::Lsetstat { path, attributes } => files::change_link(path, attributes)?,
                Extended::CopyData { from, from_offset, length, to, to_offset } => {
                    extensions::copy(handles, (from, *from_offset), *length, (to, *to_offset))?;
                }
            },
            Request::Close { handle } => drop(handles.remove(handle)?),
            Request::Write { handle, offset, data } => files::write(handles, handle, *offset, data)?,
            Request::Setstat { path, attributes } => files::change(guard, path, attributes)?,
            Request::Fsetstat { handle, attributes } => {
                files::change_open(handles.get(handle)?.fd()?, attributes)?;
            }
            Request::Remove { path } => rustix::fs::unlink(*path)?,
            Request::Mkdir { path, attributes } => paths::make_folder(path, attributes)?,
            Request::Rmdir { path } => rustix::fs::rmdir(*path)?,
            Request::Rename { from, to } => paths::rename(from, to)?,
            Request::Symlink { target, link } => rustix::fs::symlink(*target, *link)?,
            Request::Unknown => return Err(Refusal::new(status::OP_UNSUPPORTED, "Operation unsupported")),
        }
        answers.done(id);
        Ok(())
    }
}

fn tell(answers: &mut Answers, id: u32, attributes: &Attributes) -> Done {
    answers.attributes(id, attributes);
    Ok(())
}

fn name(answers: &mut Answers, id: u32, name: &[u8]) -> Done {
    answers.name(id, name);
    Ok(())
}
