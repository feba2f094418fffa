//! Pull requests and issues.

use boxyard_proto::api::git::{BODY_CHARS_MAX, TITLE_CHARS_MAX};
use serde_json::{Value, json};

use super::super::InvalidOrder;
use super::super::order::folder_of;
use super::address::{OfGitHub, Repository};
use super::attach::{self, Attached};
use super::command::Command;
use super::failure::{GitError, Refusal};
use super::github::GitHub;
use super::names::check_branch;
use super::token::Token;
use super::told::last_lines;
use super::work::GitWork;

/// What GitHub says of a branch that has a pull request.
const OPEN_ALREADY: &str = "A pull request already exists";

/// What a pull request and an issue have in common. Everything in it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    title: String,
    body: String,
    base: Option<String>,
    attach: Vec<String>,
    folder: String,
    token: Option<Token>,
}

/// What GitHub has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Its page.
    pub url: String,
    /// Its number.
    pub number: u64,
    /// Its title.
    pub title: String,
    /// The branch that it is to be merged into; empty of an issue.
    pub base: String,
    /// What is not as it was asked for.
    pub warning: Option<String>,
}

impl Proposal {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(
        title: Option<String>,
        body: Option<String>,
        attach: Option<Vec<String>>,
        folder: Option<&str>,
        token: Option<String>,
    ) -> Result<Self, InvalidOrder> {
        let title = title.map(|title| title.trim().to_owned()).filter(|title| !title.is_empty());
        let title = title.ok_or_else(|| InvalidOrder("title is required".into()))?;
        if title.chars().count() > TITLE_CHARS_MAX {
            return Err(InvalidOrder(format!("title must have at most {TITLE_CHARS_MAX} characters")));
        }
        let body = body.unwrap_or_default();
        if body.chars().count() > BODY_CHARS_MAX {
            return Err(InvalidOrder(format!("body must have at most {BODY_CHARS_MAX} characters")));
        }
        let attach = attach::check(attach.unwrap_or_default())?;
        Ok(Self { title, body, base: None, attach, folder: folder_of(folder)?, token: Token::check(token)? })
    }
}

impl Proposal {
    /// The same, to be merged into this branch.
    ///
    /// # Errors
    /// No branch can be called so.
    pub fn onto(self, base: Option<String>) -> Result<Self, InvalidOrder> {
        let base = base.filter(|base| !base.is_empty());
        if let Some(base) = &base {
            check_branch(base, "base")?;
        }
        Ok(Self { base, ..self })
    }
}

/// Where something is proposed.
struct Place {
    github: GitHub,
    of: OfGitHub,
}

impl Place {
    fn path<'a>(&'a self, rest: &'a str) -> Vec<&'a str> {
        let path = ["repos", self.of.owner.as_str(), self.of.name.as_str(), rest];
        path.into_iter().filter(|part| !part.is_empty()).collect()
    }
}

impl GitWork {
    /// Makes a pull request of the branch that is checked out.
    ///
    /// # Errors
    /// There is no branch, no token, the repository is not on GitHub, or what GitHub says.
    pub async fn propose_merge(&self, proposal: Proposal) -> Result<Proposed, GitError> {
        let head = self.current_branch(&proposal.folder).await?;
        let place = self.place(&proposal).await?;
        let Attached { text, warning } = self.attach(proposal.body, &proposal.folder, &proposal.attach).await?;
        let base = match proposal.base {
            Some(base) => base,
            None => {
                let repository = place.github.get(&place.path(""), &[]).await?;
                text_of(&repository, "default_branch")?
            }
        };
        let body = json!({"title": proposal.title, "head": head, "base": base, "body": text});
        let made = match place.github.post(&place.path("pulls"), &body).await {
            Err(GitError::Refused { kind: Refusal::Other, text }) if text.contains(OPEN_ALREADY) => {
                let open = self.open_already(&place, &head).await?;
                let found = open.ok_or_else(|| GitError::refused(Refusal::Conflict, text))?;
                let warning = warning.map_or_else(String::new, |warning| format!("; {warning}"));
                let warning = format!("a pull request of {head} is open already, and was not changed{warning}");
                return Ok(Proposed { warning: Some(warning), ..found });
            }
            Err(GitError::Refused { kind, text }) if text.contains("head is invalid") => {
                return Err(GitError::refused(kind, format!("{text}; push {head} first")));
            }
            made => made?,
        };
        let base = made["base"]["ref"].as_str().map_or(base, shown);
        Ok(Proposed { base, warning, ..proposed(&made)? })
    }

    /// Makes an issue.
    ///
    /// # Errors
    /// There is no token, the repository is not on GitHub, or what GitHub says.
    pub async fn propose_issue(&self, proposal: Proposal) -> Result<Proposed, GitError> {
        let place = self.place(&proposal).await?;
        let Attached { text, warning } = self.attach(proposal.body, &proposal.folder, &proposal.attach).await?;
        let body = json!({"title": proposal.title, "body": text});
        let made = place.github.post(&place.path("issues"), &body).await?;
        Ok(Proposed { warning, ..proposed(&made)? })
    }

    /// Which repository it is about, and who is to be asked.
    async fn place(&self, proposal: &Proposal) -> Result<Place, GitError> {
        let token = self.token(proposal.token.clone()).await?.ok_or_else(|| {
            let text = "there is no token for GitHub: send github_token, or give the box one of its own";
            GitError::refused(Refusal::Other, text)
        })?;
        let folder = proposal.folder.as_str();
        self.succeed(Command::new(folder, ["rev-parse", "--git-dir"])).await?;
        let said = self.run(Command::new(folder, ["remote", "get-url", "origin"])).await?;
        if said.code != 0 {
            return Err(GitError::refused(Refusal::Other, "the repository has no remote called origin"));
        }
        let hosts = &self.boxes.yard.git.github_hosts;
        let origin = Repository::parse(&said.line());
        let Some((host, of)) = origin.ok().and_then(|origin| origin.on_github(hosts)) else {
            let known: Vec<&str> = hosts.iter().map(|host| host.host.as_str()).collect();
            let text = format!("the repository's origin is not on {}, the GitHub of this server", known.join(" or "));
            return Err(GitError::refused(Refusal::Other, text));
        };
        Ok(Place { github: GitHub::new(&host.api, token)?, of })
    }

    async fn open_already(&self, place: &Place, head: &str) -> Result<Option<Proposed>, GitError> {
        let head = format!("{}:{head}", place.of.owner);
        let query = [("head", head.as_str()), ("state", "open"), ("per_page", "1")];
        let found = place.github.get(&place.path("pulls"), &query).await?;
        let Some(found) = found.get(0) else { return Ok(None) };
        let base = found["base"]["ref"].as_str().map(shown).unwrap_or_default();
        proposed(found).map(|proposed| Some(Proposed { base, ..proposed }))
    }
}

fn proposed(made: &Value) -> Result<Proposed, GitError> {
    let number = made["number"].as_u64().ok_or_else(nonsense)?;
    let (url, title) = (text_of(made, "html_url")?, text_of(made, "title")?);
    Ok(Proposed { url, number, title, base: String::new(), warning: None })
}

fn text_of(value: &Value, key: &str) -> Result<String, GitError> {
    value[key].as_str().map(shown).ok_or_else(nonsense)
}

/// As it may be shown to people.
fn shown(text: &str) -> String {
    last_lines(text)
}

fn nonsense() -> GitError {
    GitError::refused(Refusal::Unreachable, "GitHub's answer makes no sense")
}
