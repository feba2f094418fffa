//! How a box is to live: kept alive or not, what runs when it starts, how long it lives. All of it checked.

use std::time::Duration;

use boxyard_proto::api::boxes::{INIT_COMMAND_MAX, TTL_MAX};
use boxyard_proto::names::InvalidName;

/// How a new box is to live.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Life {
    /// It is never paused, and comes back by itself after its host was restarted.
    pub(super) keep_alive: bool,
    /// What runs whenever it is started; empty when nothing does.
    pub(super) init_command: String,
    /// How long it lives, if it is ephemeral.
    pub(super) ttl: Option<Duration>,
}

impl Life {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn check(
        keep_alive: bool,
        init_command: Option<String>,
        ephemeral: bool,
        ttl: Option<u64>,
    ) -> Result<Self, InvalidName> {
        let wrong = |text: String| Err(InvalidName(text));
        if ephemeral && keep_alive {
            return wrong("a box is either ephemeral or keep_alive; leave one of them out".into());
        }
        let ttl = match (ephemeral, ttl) {
            (false, None | Some(0)) => None,
            (false, Some(_)) => return wrong("ttl is for ephemeral boxes; send ephemeral: true with it".into()),
            (true, None) => Some(TTL_MAX),
            (true, Some(ttl)) if (1..=TTL_MAX).contains(&ttl) => Some(ttl),
            (true, Some(_)) => return wrong(format!("ttl must be 1 to {TTL_MAX} seconds")),
        };
        let init_command = check_init_command(init_command.unwrap_or_default())?;
        Ok(Self { keep_alive, init_command, ttl: ttl.map(Duration::from_secs) })
    }

    /// Whether it is deleted by itself.
    pub fn is_ephemeral(&self) -> bool {
        self.ttl.is_some()
    }
}

/// Checks an init command; an empty one stands for none.
///
/// # Errors
/// It is too long, or no program can be given it.
pub fn check_init_command(command: String) -> Result<String, InvalidName> {
    if command.len() > INIT_COMMAND_MAX {
        return Err(InvalidName(format!(
            "init_command can be at most {INIT_COMMAND_MAX} bytes long; write a long script into a file and call that"
        )));
    }
    if command.contains('\0') {
        return Err(InvalidName("init_command contains a NUL byte".into()));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ephemeral_boxes_have_a_ttl_and_it_has_bounds() {
        let ttl = |ephemeral, ttl| Life::check(false, None, ephemeral, ttl).map(|life| life.ttl);
        assert_eq!(ttl(false, None), Ok(None));
        assert_eq!(ttl(false, Some(0)), Ok(None));
        assert_eq!(ttl(true, None), Ok(Some(Duration::from_hours(72))));
        assert_eq!(ttl(true, Some(1)), Ok(Some(Duration::from_secs(1))));
        for (ephemeral, seconds) in [(false, 60), (true, 0), (true, TTL_MAX + 1), (true, u64::MAX)] {
            assert!(ttl(ephemeral, Some(seconds)).is_err(), "{ephemeral} {seconds}");
        }
        assert!(Life::check(true, None, true, None).is_err());
    }

    #[test]
    fn an_init_command_is_what_a_shell_can_be_given() {
        assert!(check_init_command("x".repeat(INIT_COMMAND_MAX)).is_ok());
        assert!(check_init_command("x".repeat(INIT_COMMAND_MAX + 1)).is_err());
        assert!(check_init_command("a\0b".into()).is_err());
    }
}
