//! What ssh asks of this program when `boxyard ssh` has become ssh: the box's password, and the server's host keys.
//!
//! Both are in the environment, which only ssh and what it starts inherit; a command line is for everybody to read. The password opens
//! one box, for minutes.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::failure::{FAILED, Failure};
use crate::output::print;

/// Variable that holds the password.
pub(crate) const PASSWORD: &str = "BOXYARD_SSH_PASSWORD";
/// Variable that holds the lines of `known_hosts`.
pub(crate) const HOST_KEYS: &str = "BOXYARD_SSH_HOST_KEYS";
/// The command that prints them.
pub(crate) const KNOWN_HOSTS: &str = "ssh-known-hosts";
/// What the server is called between ssh and us, whatever its address: in its question for the password, and in `known_hosts`.
pub(crate) const ALIAS: &str = "boxyard";

/// Answers when ssh has called this program as its `SSH_ASKPASS`, with its question as the only argument.
///
/// Only the question for the password of this very login is answered, not that of a host on the way to it (`ProxyJump`), whose ssh
/// inherits the environment.
pub(crate) fn answer() -> Option<ExitCode> {
    let password = std::env::var(PASSWORD).ok()?;
    let mut arguments = std::env::args_os().skip(1);
    let (question, rest) = (arguments.next()?, arguments.next());
    if rest.is_some() || !is_question(&question) {
        return None;
    }
    let right = question.to_str().is_some_and(|text| text.ends_with(&format!("@{ALIAS}'s password: ")));
    if !right {
        return Some(ExitCode::from(FAILED));
    }
    Some(print(&password).unwrap_or_else(|_| ExitCode::from(FAILED)))
}

/// Whether it is a question and no command: those are single words.
fn is_question(text: &OsString) -> bool {
    text.to_string_lossy().contains(' ')
}

/// Prints the lines of `known_hosts` that `boxyard ssh` has left.
pub(crate) fn known_hosts() -> Result<ExitCode, Failure> {
    let lines =
        std::env::var(HOST_KEYS).map_err(|_| Failure::usage("only ssh calls this, when boxyard ssh started it"))?;
    print(&lines)
}
