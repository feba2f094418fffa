//! From a `start` frame to an order.

use boxyard_engine::agent::AgentError;
use boxyard_proto::api::session::Start;
use boxyard_proto::names::{self, BLOCKED_ENV};
use boxyard_proto::wire::{FailedKind, Pty, PtySize};

use crate::boxes::{InvalidOrder, Order, Program, SessionError, SessionOrder};

/// Characters of a command that the log shows.
const PROMPT_CHARS: usize = 200;
/// What programs on a terminal are told that it is, unless the client says so itself.
const TERM: &str = "TERM=xterm-256color";

/// What to start, and what the log shows of it.
///
/// # Errors
/// Says what is wrong with the frame.
pub(super) fn order(start: Start) -> Result<(SessionOrder, String), InvalidOrder> {
    let Start { argv, cmd, tty, cwd, rows, cols, env, window: _ } = start;
    let argv = match (argv, cmd) {
        (Some(argv), _) => argv,
        (None, Some(line)) => vec!["bash".into(), "-lc".into(), line],
        (None, None) => return Err(InvalidOrder("start needs argv or cmd".into())),
    };
    let order = Order::command(argv, cwd.as_deref())?;
    let prompt = order.prompt().chars().take(PROMPT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut env = variables(env.unwrap_or_default())?;
    let pty = (tty == Some(true)).then(|| Pty { size: size(rows, cols), modes: Vec::new(), variable: None });
    if pty.is_some() && !env.iter().any(|line| line.starts_with("TERM=")) {
        env.push(TERM.to_owned());
    }
    Ok((SessionOrder { program: Program::Exact(order), env, pty }, prompt))
}

/// The size of a terminal: 80 by 24 unless something else is said.
pub(super) fn size(rows: Option<u32>, cols: Option<u32>) -> PtySize {
    let cells = |cells: Option<u32>, default| {
        cells.filter(|&cells| cells > 0).map_or(default, |cells| u16::try_from(cells).unwrap_or(u16::MAX))
    };
    PtySize { columns: cells(cols, 80), rows: cells(rows, 24), width: 0, height: 0 }
}

/// Variables as `NAME=value`. Those that nobody may set are left out without a word, as the real service does.
fn variables(lines: Vec<String>) -> Result<Vec<String>, InvalidOrder> {
    let mut env = std::collections::BTreeMap::new();
    for line in lines {
        let Some((name, value)) = line.split_once('=') else {
            return Err(InvalidOrder("env: each entry must be NAME=value".into()));
        };
        if !BLOCKED_ENV.contains(&name) {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    names::check_env(&env).map_err(|error| InvalidOrder(error.to_string()))?;
    Ok(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// What a client is told of a program that did not start.
pub(super) fn refusal(error: &SessionError) -> String {
    match error {
        SessionError::Agent(AgentError::Refused { kind: FailedKind::NotFound, message }) => {
            format!("could not be started: {message}")
        }
        SessionError::Agent(_) | SessionError::Box(_) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Start {
        Start { argv: Some(vec!["true".into()]), ..Start::default() }
    }

    #[test]
    fn blocked_variables_are_left_out_and_the_others_pass() {
        let env = ["LD_PRELOAD=/x", "A=1", "PATH=/x", "B=x=y", "A=2"].map(str::to_owned).to_vec();
        let (order, _) = order(Start { env: Some(env), ..start() }).expect("fine");
        assert_eq!(order.env, ["A=2", "B=x=y"]);
    }

    #[test]
    fn a_terminal_has_a_size_and_a_name_from_the_beginning() {
        let (order, _) = order(Start { tty: Some(true), cols: Some(100_000), ..start() }).expect("fine");
        assert_eq!(order.pty.map(|pty| pty.size), Some(PtySize { columns: u16::MAX, rows: 24, width: 0, height: 0 }));
        assert_eq!(order.env, [TERM]);
    }

    #[test]
    fn a_start_without_a_program_or_with_broken_variables_is_refused() {
        assert!(order(Start::default()).is_err());
        assert!(order(Start { argv: Some(Vec::new()), cmd: Some("x".into()), ..Start::default() }).is_err());
        for line in ["A", "1A=x", "A B=x", "A=\0"] {
            assert!(order(Start { env: Some(vec![line.to_owned()]), ..start() }).is_err(), "{line:?}");
        }
    }
}
