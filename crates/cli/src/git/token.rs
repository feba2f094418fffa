//! Where tokens for GitHub come from. Never from the command line, which others on this host can read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use boxyard_server::config::{Environment, Strings};
use clap::Args;

use crate::failure::Failure;

/// The variable that GitHub's own programs know.
const VARIABLE: &str = "GITHUB_TOKEN";
/// Bytes of a file with a token at most.
const FILE_MAX: u64 = 4096;
/// The host whose tokens the variable has.
const GITHUB: &str = "github.com";

#[derive(Debug, Args)]
pub(super) struct TokenOptions {
    /// File with a token for GitHub, - for standard input [default: the variable GITHUB_TOKEN, else the box's own token]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenOptions {
    /// For a call in which the server sends it to GitHub and nobody else.
    pub(super) fn for_github(&self) -> Result<Option<String>, Failure> {
        match &self.token_file {
            Some(path) => read(path).map(Some),
            None => Ok(Environment.get(VARIABLE)?.filter(|token| !token.is_empty())),
        }
    }

    /// For a clone: the host of the repository gets what is in a file that was named for it. What is in the variable is GitHub's.
    pub(super) fn for_repository(&self, repo: &str) -> Result<Option<String>, Failure> {
        if self.token_file.is_none() && !is_on_github(repo) { Ok(None) } else { self.for_github() }
    }
}

fn is_on_github(repo: &str) -> bool {
    let rest = repo.strip_prefix("https://").unwrap_or(repo);
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    host.eq_ignore_ascii_case(GITHUB)
}

/// Reads a token from a file, or standard input. What is around it does not count.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot read the token in {}", path.display()), error);
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().take(FILE_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    } else {
        File::open(path).map_err(failed)?.take(FILE_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    }
    let token = text.trim();
    if token.is_empty() || text.len() as u64 > FILE_MAX {
        return Err(Failure::usage(format!("there is no token in {}", path.display())));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_variable_is_for_github_alone() {
        for repo in ["https://github.com/a/b", "github.com/a/b", "https://x@GitHub.com/a/b"] {
            assert!(is_on_github(repo), "{repo}");
        }
        for repo in [
            "https://github.com.evil.test/a",
            "http://github.com/a",
            "evil.test/github.com/a",
            "https://github.com@evil.test/a",
            "/github.com",
        ] {
            assert!(!is_on_github(repo), "{repo}");
        }
    }
}
