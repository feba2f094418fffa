//! Waiting for what sends no event.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `condition` again and again until it gives something, for as long as `deadline`. Only for what cannot be waited for otherwise.
///
/// # Errors
/// `condition` fails, or gives nothing in time; `what` says what was waited for.
pub fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > end {
            bail!("waited {} s in vain for {what}", deadline.as_secs());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "nothing announces what is waited for, and every wait has a deadline"
        )]
        std::thread::sleep(PAUSE);
    }
}
