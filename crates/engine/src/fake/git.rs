//! Git as pretended boxes have it: it says what the real one says, and remembers as little as that takes.
//!
//! A folder with a `.git` in it is a repository. What else git knows (settings, branches, origins) stands among the box's folders, as texts that
//! no path looks like; so it goes where they go. Words in addresses and messages choose what happens: `missing`, `private`, `hang`,
//! `nothing`, `wip`; a folder called `huge` has a huge diff. A box with the variable `FAKE_NO_GIT` has no git.

use super::FakeBox;
use super::lock;
use super::programs::Program;

/// What a program hears that asks for the environment: the last word of any command that speaks with another repository.
const SAYS_ENVIRONMENT: &str = "env";
const NOT_A_REPOSITORY: &str = "fatal: not a git repository (or any of the parent directories): .git\n";
/// The name of every commit.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const HUGE: usize = 32 * 1024 * 1024;

/// What is remembered under this name.
fn remembered(home: &FakeBox, key: &str) -> Option<String> {
    let prefix = format!("git {key}=");
    lock(&home.folders).iter().find_map(|text| text.strip_prefix(&prefix).map(str::to_owned))
}

fn remember(home: &FakeBox, key: &str, value: &str) {
    let prefix = format!("git {key}=");
    let mut folders = lock(&home.folders);
    folders.retain(|text| !text.starts_with(&prefix));
    folders.insert(format!("{prefix}{value}"));
}

/// The origins that a token is for, and what is left of the arguments.
fn split_options<'a>(words: &'a [&'a str]) -> (Vec<String>, &'a [&'a str]) {
    let (mut origins, mut rest) = (Vec::new(), words);
    while let ["-c", setting, more @ ..] = rest {
        let origin = setting.strip_prefix("credential.").and_then(|rest| rest.split_once(".helper=!"));
        origins.extend(origin.map(|(origin, _)| origin.to_owned()));
        rest = more;
    }
    (origins, rest)
}

impl Program {
    fn variable(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}=");
        self.env.iter().rev().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }

    /// Whether the other side lets in whoever comes with the token that there is.
    fn opens(&self, address: &str, origins: &[String]) -> Result<(), String> {
        if !address.contains("private") {
            return Ok(());
        }
        match self.variable("BOXYARD_GIT_TOKEN").filter(|_| origins.iter().any(|origin| address.starts_with(origin))) {
            None => Err(format!("fatal: could not read Username for '{address}': terminal prompts disabled\n")),
            // One that shows more than it should.
            Some(token) if token.starts_with("wrong") => {
                Err(format!("remote: {token} is wrong\nfatal: Authentication failed for '{address}'\n"))
            }
            Some(_) => Ok(()),
        }
    }

    async fn refuse(&self, text: impl Into<String>) -> i32 {
        self.err(text.into()).await;
        128
    }

    pub(super) async fn git(&self, words: &[&str]) -> i32 {
        let Some(home) = self.home.upgrade() else { return 1 };
        if self.variable("FAKE_NO_GIT").is_some() {
            self.err("boxyard: git: command not found\n").await;
            return 127;
        }
        let (origins, words) = split_options(words);
        match words {
            ["--version"] => return self.out("git version 2.47.3\n").await,
            ["clone", options @ .., "--", address, into] => {
                return self.clone_into(&home, options, address, into, &origins).await;
            }
            ["config", "--global", "--replace-all", key, value] => {
                remember(&home, key, value);
                return 0;
            }
            ["config", "--get", key] => {
                let value = remembered(&home, key).or_else(|| (*key == "user.name").then(|| "Upstash Box".to_owned()));
                return match value {
                    Some(value) => self.out(format!("{value}\n")).await,
                    None => 1,
                };
            }
            _ => {}
        }
        let root = self.root(&home);
        let Some(root) = root else { return self.refuse(NOT_A_REPOSITORY).await };
        self.in_repository(&home, &root, words, &origins).await
    }

    /// The repository that the program's folder is in.
    fn root(&self, home: &FakeBox) -> Option<String> {
        let folders = lock(&home.folders);
        let mut folder = self.folder.as_str();
        while !folder.is_empty() {
            if folders.contains(&format!("{folder}/.git")) {
                return Some(folder.to_owned());
            }
            folder = folder.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
        None
    }

    async fn clone_into(&self, home: &FakeBox, options: &[&str], address: &str, into: &str, origins: &[String]) -> i32 {
        if address.contains("hang") {
            return std::future::pending().await;
        }
        if address.contains("missing") {
            return self
                .refuse(format!("remote: Repository not found.\nfatal: repository '{address}/' not found\n"))
                .await;
        }
        if options.contains(&"gone") {
            return self.refuse("fatal: Remote branch gone not found in upstream origin\n").await;
        }
        let is_full = lock(&home.folders).iter().any(|folder| folder.starts_with(&format!("{into}/")));
        if is_full {
            let name = into.rsplit('/').next().unwrap_or_default();
            let text = format!("fatal: destination path '{name}' already exists and is not an empty directory.\n");
            return self.refuse(text).await;
        }
        if let Err(text) = self.opens(address, origins) {
            return self.refuse(text).await;
        }
        lock(&home.folders).extend([into.to_owned(), format!("{into}/.git")]);
        remember(home, &format!("origin {into}"), address);
        0
    }

    async fn in_repository(&self, home: &FakeBox, root: &str, words: &[&str], origins: &[String]) -> i32 {
        let origin = remembered(home, &format!("origin {root}"));
        match words {
            ["rev-parse", "--git-dir"] => self.out(".git\n").await,
            ["status", ..] => self.out("?? a.txt\n").await,
            ["diff", "--cached", "--quiet"] => 1,
            ["diff", ..] if self.folder.ends_with("/huge") => self.yes(HUGE).await,
            ["diff", ..] => self.out("diff --git a/a.txt b/a.txt\n").await,
            ["commit", message] if message.contains("nothing") => {
                self.out("On branch main\nnothing to commit, working tree clean\n").await;
                1
            }
            ["commit", message] => {
                let message = message.strip_prefix("--message=").unwrap_or_default();
                let author = self.variable("GIT_AUTHOR_NAME").map_or_else(String::new, |name| format!("{name}: "));
                remember(home, &format!("commit {root}"), &format!("{author}{message}"));
                0
            }
            ["log", ..] => {
                let message = remembered(home, &format!("commit {root}")).unwrap_or_default();
                self.out(format!("{COMMIT}\n{message}\n")).await
            }
            ["symbolic-ref", ..] => {
                let branch = remembered(home, &format!("branch {root}")).unwrap_or_else(|| "main".into());
                self.out(format!("{branch}\n")).await
            }
            ["show-ref", ..] => 1,
            ["for-each-ref", ..] => self.out("\n\n").await,
            ["checkout", "-b", branch] | ["checkout", branch @ "main"] => {
                remember(home, &format!("branch {root}"), branch);
                0
            }
            ["checkout", "wip"] => {
                let text =
                    "error: Your local changes to the following files would be overwritten by checkout:\n\ta.txt\n";
                self.err(text).await;
                1
            }
            ["checkout", what] => {
                self.err(format!("error: pathspec '{what}' did not match any file(s) known to git\n")).await;
                1
            }
            ["remote", "get-url", "origin"] => match origin {
                Some(origin) => self.out(format!("{origin}\n")).await,
                None => {
                    self.err("error: No such remote 'origin'\n").await;
                    2
                }
            },
            [.., SAYS_ENVIRONMENT] => {
                self.out(self.env.iter().map(|line| format!("{line}\n")).collect::<String>()).await
            }
            ["push", ..] => match self.opens(&origin.unwrap_or_default(), origins) {
                Ok(()) => 0,
                Err(text) => self.refuse(text).await,
            },
            ["add", ..] => 0,
            _ => {
                let command = words.first().unwrap_or(&"");
                self.err(format!("git: '{command}' is not a git command. See 'git --help'.\n")).await;
                1
            }
        }
    }

    /// The beginning of a file, as the server asks for it: what a file is follows from its name.
    pub(super) async fn read_attachment(&self, path: &str) -> i32 {
        match path {
            path if path.ends_with("missing.txt") => 3,
            path if path.ends_with(".png") => self.out(vec![0x89, b'P', 0xff, 0]).await,
            path if path.ends_with("long.txt") => self.out("x".repeat(40_000)).await,
            path => self.out(format!("content of {path}\n")).await,
        }
    }
}
