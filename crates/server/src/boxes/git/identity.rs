//! Who commits in a box.

use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::agent::{self, AgentError, Event};
use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_proto::wire::{self, Exit, OnClose, User};
use tokio::time::timeout;

use super::super::kept::Shared;
use super::super::work::ENVIRONMENT;
use super::super::{BoxError, InvalidOrder, Yard, now_ms};
use super::command::Command;
use super::failure::GitError;
use super::names::check_person;
use super::token::Token;
use super::work::GitWork;
use crate::store::{LogRow, StoreError};

/// Where git finds no repository whose own settings would count. Nobody but root can make one there.
const NOWHERE: &str = "/";
/// The settings of boxuser, by the fields that set them.
const NAME: &str = "user.name";
const EMAIL: &str = "user.email";
/// How long a new box may take to be told.
const DEADLINE: Duration = Duration::from_secs(60);

/// A name and an address, each of which may be left as it is. Checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub name: Option<String>,
    /// The address.
    pub email: Option<String>,
}

impl Identity {
    /// Checks what was asked for; an empty text is none.
    ///
    /// # Errors
    /// Says what git would not take.
    pub fn check(name: Option<String>, email: Option<String>) -> Result<Self, InvalidOrder> {
        let email = check_person(email, "git_user_email")?;
        if email.as_ref().is_some_and(|email| email.contains(char::is_whitespace)) {
            return Err(InvalidOrder("git_user_email must have no spaces".into()));
        }
        Ok(Self { name: check_person(name, "git_user_name")?, email })
    }

    /// Whether everything is left as it is.
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && self.email.is_none()
    }

    fn commands(&self) -> impl Iterator<Item = Command> {
        let settings = [(NAME, &self.name), (EMAIL, &self.email)];
        settings.into_iter().filter_map(|(key, value)| {
            let value = value.as_deref()?;
            Some(Command::new(NOWHERE, ["config", "--global", "--replace-all", key, value]))
        })
    }
}

impl GitWork {
    /// Changes who commits in the box, and says who does from now on.
    ///
    /// # Errors
    /// What git says.
    pub async fn identify(&self, identity: &Identity) -> Result<(String, String), GitError> {
        for command in identity.commands() {
            self.succeed(command).await?;
        }
        Ok((self.setting(NAME).await?, self.setting(EMAIL).await?))
    }

    /// Sets or removes the box's own token for GitHub.
    ///
    /// # Errors
    /// The box is being deleted, or the store failed.
    pub async fn keep_token(&self, token: Option<Token>) -> Result<(), GitError> {
        let (id, token) = (self.kept().id().clone(), token.map(|token| token.secret().clone()));
        match self.boxes.yard.store.set_git_token(id, token).await {
            Err(StoreError::NotFound) => Err(BoxError::NotFound.into()),
            set => Ok(set?),
        }
    }

    /// A setting as it counts outside of repositories; empty when nobody has set it.
    async fn setting(&self, key: &str) -> Result<String, GitError> {
        let said = self.run(Command::new(NOWHERE, ["config", "--get", key])).await?;
        // 1 when there is none.
        if said.code == 1 { Ok(String::new()) } else { super::told::succeeded(said).map(|said| said.line()) }
    }
}

/// Tells a box that has just been made who commits there, before anything works in it. A box that cannot be told is as good as any other,
/// and its log says so.
pub(in super::super) async fn introduce(yard: &Arc<Yard>, shared: &Arc<Shared>) {
    for command in shared.fixed.identity.commands() {
        let told = timeout(DEADLINE, tell(yard, shared, &command)).await;
        let why = match told {
            Ok(Ok(Exit { code: 0, .. })) => continue,
            Ok(Ok(Exit { code, .. })) => format!("git ended with exit code {code}"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        let message = format!("Git could not be told who commits in this box: {why}");
        let entry = LogRow { at: now_ms(), level: LogLevel::Warn, source: LogSource::System, message };
        yard.store.append_log_queued(shared.fixed.id.clone(), entry);
    }
}

async fn tell(yard: &Arc<Yard>, shared: &Arc<Shared>, command: &Command) -> Result<Exit, AgentError> {
    let name = format!("git-{:032x}", rand::random::<u128>());
    let exec = wire::Exec {
        env: ENVIRONMENT.iter().map(|&variable| variable.to_owned()).chain(command.env()).collect(),
        on_close: OnClose::End,
        ..wire::Exec::new(name, command.argv(), command.folder.clone(), User::BOXUSER)
    };
    let mut job = agent::exec(yard.engine.as_ref(), &shared.fixed.id, exec).await?;
    loop {
        if let Event::Exit(exit) = job.next().await? {
            return Ok(exit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_would_not_take_is_refused() {
        let check = |name: &str, email: &str| Identity::check(Some(name.into()), Some(email.into()));
        assert!(check("Ada Lovelace", "ada@example.com").is_ok_and(|identity| identity.commands().count() == 2));
        assert!(check("", "").is_ok_and(|identity| identity.is_empty()));
        for (name, email) in [("--add", "x"), ("a\nb", "x"), ("x", "a b@c"), ("x", "<a@b>"), ("...", "x")] {
            assert!(check(name, email).is_err(), "{name} {email}");
        }
    }
}
