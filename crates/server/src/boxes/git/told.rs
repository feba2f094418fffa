//! What git says when it fails, and what sort of failure that is.
//!
//! Git is asked to speak English. What it says has parts from the repository and from the other side, so a box or a server that likes can
//! choose among these refusals; nothing depends on them but the status of an answer.

use super::failure::{GitError, Refusal};
use super::work::{Said, is_missing, no_git};

/// Lines of git's words that are passed on, the last ones.
const LINES_MAX: usize = 12;
/// Characters of git's words that are passed on.
const CHARS_MAX: usize = 2000;

/// Words of git, in the order in which they are looked for, and what they mean.
const WORDS: [(&str, Refusal); 38] = [
    ("not a git repository", Refusal::NotRepository),
    ("must be run in a work tree", Refusal::NotRepository),
    ("could not read Username", Refusal::Denied),
    ("could not read Password", Refusal::Denied),
    ("Authentication failed", Refusal::Denied),
    ("Permission denied (", Refusal::Denied),
    ("Host key verification failed", Refusal::Denied),
    ("returned error: 401", Refusal::Denied),
    ("returned error: 403", Refusal::Denied),
    ("Write access to repository not granted", Refusal::Denied),
    ("protected branch", Refusal::Denied),
    ("Repository not found", Refusal::NotFound),
    ("returned error: 404", Refusal::NotFound),
    ("does not appear to be a git repository", Refusal::NotFound),
    ("not found in upstream", Refusal::NotFound),
    ("couldn't find remote ref", Refusal::NotFound),
    ("did not match any file(s) known to git", Refusal::NotFound),
    ("does not match any", Refusal::NotFound),
    ("No such remote", Refusal::NotFound),
    ("already exists and is not an empty directory", Refusal::Conflict),
    ("[rejected]", Refusal::Conflict),
    ("[remote rejected]", Refusal::Conflict),
    ("nothing to commit", Refusal::Conflict),
    ("nothing added to commit", Refusal::Conflict),
    ("no changes added to commit", Refusal::Conflict),
    ("would be overwritten by", Refusal::Conflict),
    ("you need to resolve your current index first", Refusal::Conflict),
    ("unmerged files", Refusal::Conflict),
    ("index.lock': File exists", Refusal::Conflict),
    ("is already checked out at", Refusal::Conflict),
    ("is already used by worktree at", Refusal::Conflict),
    ("already exists", Refusal::Conflict),
    ("cannot lock ref", Refusal::Conflict),
    ("matched multiple", Refusal::Conflict),
    ("could be both a local file and a tracking branch", Refusal::Conflict),
    // Last, because the name of anything can be in it.
    ("' not found", Refusal::NotFound),
    ("does not exist", Refusal::NotFound),
    ("Could not find remote branch", Refusal::NotFound),
];

/// What git said, if it did as asked.
///
/// # Errors
/// It failed.
pub(super) fn succeeded(said: Said) -> Result<Said, GitError> {
    if said.code == 0 { Ok(said) } else { Err(refusal(&said)) }
}

/// What a failed git said, as a refusal.
pub(super) fn refusal(said: &Said) -> GitError {
    if is_missing(said.code, &said.err) {
        return no_git();
    }
    let words = if said.err.trim_ascii().is_empty() { &said.out } else { &said.err };
    let words = String::from_utf8_lossy(words);
    // `git commit` complains on its standard output.
    let out = String::from_utf8_lossy(&said.out[..said.out.len().min(CHARS_MAX * 4)]);
    let meant = WORDS.iter().find(|(part, _)| words.contains(part) || out.contains(part));
    let kind = meant.map_or(Refusal::Other, |(_, kind)| *kind);
    let text = last_lines(&words);
    let text = if text.is_empty() { format!("git ended with exit code {}", said.code) } else { text };
    GitError::refused(kind, text)
}

/// The last lines of a text, without what would steer a terminal.
pub(super) fn last_lines(text: &str) -> String {
    // Progress overwrites itself.
    let shown = |line: &str| {
        let line = line.trim_end_matches('\r');
        let line = line.rsplit('\r').next().unwrap_or_default().trim_end();
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()
    };
    let lines: Vec<String> = text.lines().map(shown).filter(|line| !line.trim().is_empty()).collect();
    let text = lines[lines.len().saturating_sub(LINES_MAX)..].join("\n");
    let over = text.chars().count().saturating_sub(CHARS_MAX);
    text.chars().skip(over).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::output::Share;

    fn kind(code: i32, out: &str, err: &str) -> Refusal {
        let said = Said { code, out: out.into(), err: err.into(), truncated: false, share: Share::default() };
        let GitError::Refused { kind, .. } = refusal(&said) else { panic!("no refusal") };
        kind
    }

    #[test]
    fn git_s_words_are_understood() {
        for (err, meant) in [
            ("fatal: not a git repository (or any of the parent directories): .git", Refusal::NotRepository),
            ("remote: Repository not found.\nfatal: repository 'https://github.com/a/b/' not found", Refusal::NotFound),
            ("fatal: repository '/workspace/home/none' does not exist", Refusal::NotFound),
            (
                "warning: Could not find remote branch x to clone.\nfatal: Remote branch x not found in upstream origin",
                Refusal::NotFound,
            ),
            ("error: pathspec 'x' did not match any file(s) known to git", Refusal::NotFound),
            ("error: src refspec x does not match any\nerror: failed to push some refs", Refusal::NotFound),
            ("fatal: could not read Username for 'https://github.com': terminal prompts disabled", Refusal::Denied),
            ("fatal: Authentication failed for 'https://github.com/a/b/'", Refusal::Denied),
            (
                "git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.",
                Refusal::Denied,
            ),
            (
                "remote: Permission to a/b.git denied to c.\nfatal: unable to access 'https://x/': The requested URL returned error: 403",
                Refusal::Denied,
            ),
            (
                " ! [rejected]        main -> main (fetch first)\nerror: failed to push some refs to 'x'",
                Refusal::Conflict,
            ),
            ("fatal: destination path 'x' already exists and is not an empty directory.", Refusal::Conflict),
            (
                "error: Your local changes to the following files would be overwritten by checkout:\n\tx",
                Refusal::Conflict,
            ),
            ("fatal: unable to access 'https://x/': Could not resolve host: x", Refusal::Other),
        ] {
            assert_eq!(kind(128, "", err), meant, "{err}");
        }
        assert_eq!(kind(1, "On branch master\nnothing to commit, working tree clean\n", ""), Refusal::Conflict);
        assert_eq!(kind(127, "", "git: command not found\n"), Refusal::NoGit);
        assert_eq!(kind(1, "", ""), Refusal::Other);
    }

    #[test]
    fn words_are_cut_to_their_end_and_cannot_steer_a_terminal() {
        assert_eq!(
            last_lines("Receiving: 10%\rReceiving: 100%\r\nfatal: \u{1b}[2Jgone\n\n"),
            "Receiving: 100%\nfatal:  [2Jgone"
        );
        let many: String = (0..100).map(|n| format!("line {n}\n")).collect();
        assert!(last_lines(&many).starts_with("line 88\n") && last_lines(&many).ends_with("line 99"));
        assert_eq!(last_lines(&"ü".repeat(5000)).chars().count(), CHARS_MAX);
    }
}
