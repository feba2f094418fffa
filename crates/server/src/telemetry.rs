//! What the server says of itself: log lines on standard error. Standard output stays free for the `ready` line.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{Log, LogFormat};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is neither a level nor a list of directives.
    #[error("log.level is '{level}' and must be a level such as info, or directives such as info,boxyard_server=debug")]
    Level {
        /// What was asked for.
        level: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else in this process has begun a log.
    #[error("the log has begun already")]
    Begun(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Begins the log of this process, once.
///
/// # Errors
/// The level is wrong, or a log has begun already.
pub fn begin(log: &Log) -> Result<(), TelemetryError> {
    let colours = std::io::stderr().is_terminal();
    tracing::subscriber::set_global_default(subscriber(log, colours, std::io::stderr)?)?;
    Ok(())
}

fn subscriber<W>(log: &Log, colours: bool, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter =
        EnvFilter::try_new(&log.level).map_err(|source| TelemetryError::Level { level: log.level.clone(), source })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    Ok(Box::new(Registry::default().with(lines.with_filter(filter))))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn of(format: LogFormat, level: &str) -> String {
            let lines = Self::default();
            let writer = lines.clone();
            let log = Log { level: level.into(), format };
            let subscriber = subscriber(&log, false, move || writer.clone()).expect("a right level");
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(id = "current-wasp-05510", "box made");
                tracing::debug!("too small to tell");
            });
            String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text")
        }
    }

    #[test]
    fn json_lines_can_be_parsed() {
        let text = Lines::of(LogFormat::Json, "info");
        let line: serde_json::Value = serde_json::from_str(&text).expect("one line of JSON");
        assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"box made".into()));
        assert_eq!(line["id"], "current-wasp-05510");
    }

    #[test]
    fn levels_and_directives_decide_what_is_told() {
        assert!(Lines::of(LogFormat::Text, "info").contains("box made id=\"current-wasp-05510\""));
        assert_eq!(Lines::of(LogFormat::Text, "debug").lines().count(), 2);
        assert_eq!(Lines::of(LogFormat::Text, "debug,boxyard_server::telemetry=warn"), "");
        let log = Log { level: "info,=loud".into(), format: LogFormat::Text };
        let Err(refused) = subscriber(&log, false, io::sink) else { panic!("a wrong level must be refused") };
        assert!(refused.to_string().starts_with("log.level is 'info,=loud' and must be"), "{refused}");
    }
}
