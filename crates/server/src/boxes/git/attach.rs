//! Files of a box in the text of a pull request or an issue. GitHub's API takes no attachments, so text goes into the text.

use boxyard_proto::api::git::{ATTACH_MAX, BODY_CHARS_MAX};

use super::super::InvalidOrder;
use super::command::Command;
use super::failure::GitError;
use super::work::GitWork;

/// Bytes of one file at most.
const FILE_MAX: usize = 32 * 1024;
/// Characters of the text that attachments may fill; the rest is for what makes blocks of them.
const TEXT_CHARS_MAX: usize = BODY_CHARS_MAX - 1024;
/// Bytes of a path at most: Linux knows no longer ones.
const PATH_BYTES_MAX: usize = 4095;
/// Reads the beginning of a file and nothing that would wait for somebody: no pipe, no device. `$1` is the bytes, `$2` the path.
const SCRIPT: &str =
    "test -e \"$2\" || exit 3; test -f \"$2\" || exit 4; test -r \"$2\" || exit 5; exec head -c \"$1\" \"$2\"";

/// Checks the paths of what is to be attached.
///
/// # Errors
/// There are too many, or one is none.
pub(super) fn check(paths: Vec<String>) -> Result<Vec<String>, InvalidOrder> {
    if paths.len() > ATTACH_MAX {
        return Err(InvalidOrder(format!("attach can name at most {ATTACH_MAX} files")));
    }
    for path in &paths {
        if path.is_empty() || path.len() > PATH_BYTES_MAX || path.contains('\0') {
            return Err(InvalidOrder(format!("attach: a path must have 1 to {PATH_BYTES_MAX} bytes and no NUL byte")));
        }
    }
    Ok(paths)
}

/// A text with what could be attached to it, and what could not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) text: String,
    pub(super) warning: Option<String>,
}

impl GitWork {
    /// Adds files of the box to a text.
    ///
    /// # Errors
    /// The box does not answer.
    pub(super) async fn attach(&self, text: String, folder: &str, paths: &[String]) -> Result<Attached, GitError> {
        let (mut attached, mut left_out) = (Attached { text, warning: None }, Vec::new());
        for path in paths {
            let why = match self.read_attachment(folder, path).await? {
                Ok(content) => {
                    let block = block(path, &content);
                    if attached.text.chars().count() + block.chars().count() <= TEXT_CHARS_MAX {
                        attached.text.push_str(&block);
                        continue;
                    }
                    "there is no room left for it".to_owned()
                }
                Err(why) => why,
            };
            left_out.push(format!("{} ({why})", shown(path)));
        }
        if !left_out.is_empty() {
            attached.warning = Some(format!("not attached: {}", left_out.join(", ")));
        }
        Ok(attached)
    }

    /// The text of a file, or why it cannot be attached.
    async fn read_attachment(&self, folder: &str, path: &str) -> Result<Result<String, String>, GitError> {
        // One byte more tells that there is more.
        let most = (FILE_MAX + 1).to_string();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("./{path}") };
        let argv = ["/bin/sh", "-c", SCRIPT, "sh", &most, &path].map(str::to_owned).to_vec();
        let said = self.run(Command::program(folder, argv)).await?;
        let why = match said.code {
            0 if said.out.len() > FILE_MAX => format!("longer than {FILE_MAX} bytes"),
            0 => match String::from_utf8(said.out) {
                Ok(text) if !text.contains('\0') => return Ok(Ok(text)),
                Ok(_) | Err(_) => "not a text; push it with the repository and link to it".into(),
            },
            3 => "there is no such file".into(),
            4 => "not a file".into(),
            5 => "it may not be read".into(),
            code => format!("it could not be read, exit code {code}"),
        };
        Ok(Err(why))
    }
}

fn shown(path: &str) -> String {
    path.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A file as a block that is folded up, fenced by more backticks than there are in it.
fn block(path: &str, content: &str) -> String {
    let name = shown(path).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let longest = content.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let end = if content.ends_with('\n') { "" } else { "\n" };
    format!("\n\n<details><summary>{name}</summary>\n\n{fence}\n{content}{end}{fence}\n\n</details>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cannot_break_out_of_its_block() {
        let block = block("a<b>.md", "```\nquoted\n`````\n</details>");
        assert!(block.contains("<summary>a&lt;b&gt;.md</summary>"), "{block}");
        assert!(block.contains("\n``````\n```\nquoted\n`````\n</details>\n``````\n\n</details>\n"), "{block}");
        assert!(super::block("x", "plain\n").contains("\n```\nplain\n```\n"));
    }

    #[test]
    fn paths_have_bounds() {
        assert!(check(vec!["a".into(); ATTACH_MAX]).is_ok());
        assert!(check(vec!["a".into(); ATTACH_MAX + 1]).is_err());
        for path in ["", "a\0b", &"x".repeat(4096)] {
            assert!(check(vec![path.to_owned()]).is_err());
        }
    }
}
