//! Git with any arguments.

use super::super::output::Share;
use super::super::{InvalidOrder, Order};
use super::command::Command;
use super::failure::GitError;
use super::work::{GitWork, Said};

/// Commands that speak with another repository, and so may need a token. All others run without: what lies in a repository can be code
/// that they run, and has no business with it.
const REMOTE: [&str; 9] = ["clone", "fetch", "lfs", "ls-remote", "pull", "push", "remote", "submodule", "archive"];
/// Options before the command that take what follows them.
const WITH_VALUE: [&str; 9] = [
    "-c",
    "-C",
    "--git-dir",
    "--work-tree",
    "--namespace",
    "--exec-path",
    "--super-prefix",
    "--config-env",
    "--attr-source",
];

/// A git to run. Everything in it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    args: Vec<String>,
    folder: String,
}

/// What came of it.
#[derive(Debug)]
pub struct Ran {
    /// Git's exit code.
    pub code: i32,
    /// Its output; behind it, when it failed, what it complained of.
    pub output: Vec<u8>,
    /// Whether there was more.
    pub truncated: bool,
    /// The output's share of what the server may hold. To be dropped when the output is.
    pub share: Share,
}

impl Raw {
    /// Checks what was asked for: as much as of any other command.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(args: Option<Vec<String>>, folder: Option<&str>) -> Result<Self, InvalidOrder> {
        let args = args.filter(|args| !args.is_empty());
        let args = args.ok_or_else(|| {
            InvalidOrder("args is required: an array with git's arguments, without git itself, not empty".into())
        })?;
        let order = Order::command(std::iter::once("git".to_owned()).chain(args).collect(), folder)?;
        Ok(Self { args: order.argv.into_iter().skip(1).collect(), folder: order.folder })
    }

    fn is_remote(&self) -> bool {
        let mut args = self.args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            if WITH_VALUE.contains(&arg) {
                args.next();
            } else if !arg.starts_with('-') {
                return REMOTE.contains(&arg);
            }
        }
        false
    }
}

impl GitWork {
    /// Runs git as it was asked for. With the box's own token where that may be of use.
    ///
    /// # Errors
    /// It could not be started, was lost, or took too long. That it fails is no error.
    pub async fn raw(&self, raw: &Raw) -> Result<Ran, GitError> {
        let credentials = if raw.is_remote() { self.credentials(None).await? } else { None };
        let command = Command::verbatim(&raw.folder, raw.args.clone()).credentials(credentials);
        let Said { code, out: mut output, err, truncated, share } = self.run(command).await?;
        if code != 0 {
            output.extend_from_slice(&err);
        }
        Ok(Ran { code, output, truncated, share })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_commands_that_speak_with_others() {
        let is_remote = |args: &[&str]| {
            let args = args.iter().map(|&arg| arg.to_owned()).collect();
            Raw::check(Some(args), None).expect("arguments").is_remote()
        };
        for args in [&["fetch"][..], &["-C", "status", "pull"], &["--no-pager", "-c", "a=b", "push", "--force"]] {
            assert!(is_remote(args), "{args:?}");
        }
        for args in [&["status"][..], &["-c", "fetch", "status"], &["--version"], &["log", "fetch"], &["-c"]] {
            assert!(!is_remote(args), "{args:?}");
        }
        assert!(Raw::check(None, None).is_err());
        assert!(Raw::check(Some(Vec::new()), None).is_err());
        assert!(Raw::check(Some(vec!["a\0".into()]), None).is_err());
    }
}
