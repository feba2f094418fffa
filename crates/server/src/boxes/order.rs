//! What is to be run in a box, checked: the one shape that every door turns its requests into.

use std::time::Duration;

use boxyard_proto::wire;
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Where work happens unless a request says otherwise. Relative folders lie under it.
pub const WORKSPACE: &str = "/workspace/home";

/// Arguments of one command at most, the program included.
const ARGS_MAX: usize = 4096;
/// Bytes of one argument at most: Linux refuses to start a program with a longer one.
const ARG_BYTES_MAX: usize = 128 * 1024 - 1;
/// Bytes of all arguments together, as JSON: what fits into one frame of the protocol, and far below what Linux allows.
const COMMAND_BYTES_MAX: usize = wire::JSON_MAX - 64 * 1024;
/// Bytes of a folder's path at most: Linux knows no longer ones.
const FOLDER_BYTES_MAX: usize = 4095;
/// Bytes of a piece of code at most.
const CODE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Characters of code that its run shows as prompt.
const CODE_PROMPT_CHARS: usize = 200;
/// Bytes of a prompt at most; what is longer is cut.
const PROMPT_BYTES_MAX: usize = 8 * 1024;
/// Milliseconds of a timeout at most: a year. More is a slip.
const TIMEOUT_MS_MAX: u64 = 365 * 24 * 3600 * 1000;

/// Makes `require` work in code that Node takes for an ES module, as it does in code that it takes for CommonJS.
const REQUIRE: &str = r#"data:text/javascript,import{createRequire}from"node:module";globalThis.require=createRequire(process.cwd()+"/")"#;

/// A program to run in a box, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Program and arguments.
    pub(super) argv: Vec<String>,
    /// Absolute working folder.
    pub(super) folder: String,
    /// What the program reads from its standard input; nothing when missing.
    pub(super) input: Option<Bytes>,
    /// What the run's record shows.
    pub(super) prompt: String,
    /// How long it may take.
    pub(super) timeout: Option<Duration>,
}

/// An order that cannot be carried out. The text says why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidOrder(pub String);

/// A language that code may be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// JavaScript: CommonJS or an ES module, whichever it turns out to be.
    Js,
    /// TypeScript as Node runs it: types are removed, not checked.
    Ts,
    /// Python 3.
    Python,
}

impl Order {
    /// A command: `argv` as it is, without a shell.
    ///
    /// # Errors
    /// Says what is wrong with the command or the folder.
    pub fn command(argv: Vec<String>, folder: Option<&str>) -> Result<Self, InvalidOrder> {
        let program = argv.first().ok_or_else(|| {
            InvalidOrder("command is required: an array with the program and its arguments, not empty".into())
        })?;
        if program.is_empty() {
            return Err(InvalidOrder("command must begin with the name of a program".into()));
        }
        if argv.len() > ARGS_MAX {
            return Err(InvalidOrder(format!("command can have at most {ARGS_MAX} arguments")));
        }
        for (place, arg) in argv.iter().enumerate() {
            if arg.contains('\0') {
                return Err(InvalidOrder(format!("command: argument {place} contains a NUL byte")));
            }
            if arg.len() > ARG_BYTES_MAX {
                return Err(InvalidOrder(format!(
                    "command: argument {place} is longer than {ARG_BYTES_MAX} bytes; write long data into a file"
                )));
            }
        }
        if json_len(&argv) > COMMAND_BYTES_MAX {
            return Err(InvalidOrder(format!(
                "command is longer than {COMMAND_BYTES_MAX} bytes; write long data into a file"
            )));
        }
        let prompt = cut(argv.join(" "), PROMPT_BYTES_MAX);
        Ok(Self { argv, folder: folder_of(folder)?, input: None, prompt, timeout: None })
    }

    /// A piece of code, ended after `timeout_ms` milliseconds unless that is missing or 0.
    ///
    /// # Errors
    /// Says what is wrong with the code, the folder or the timeout.
    pub fn code(
        code: String,
        language: Language,
        folder: Option<&str>,
        timeout_ms: Option<u64>,
    ) -> Result<Self, InvalidOrder> {
        check_code(&code)?;
        let timeout = timeout_of(timeout_ms)?;
        // PostgreSQL has no place for NUL in a text.
        let prompt = code.chars().take(CODE_PROMPT_CHARS).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect();
        let argv = language.argv();
        Ok(Self { argv, folder: folder_of(folder)?, input: Some(Bytes::from(code)), prompt, timeout })
    }

    /// What its record shows.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// SHA-256 of all that it is: the same for the same order, whatever door it came through.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(&(self.argv.len() as u64).to_le_bytes());
        self.argv.iter().for_each(|arg| part(arg.as_bytes()));
        part(self.folder.as_bytes());
        part(&[u8::from(self.input.is_some())]);
        part(self.input.as_deref().unwrap_or_default());
        part(&self.timeout.map_or(0, |timeout| timeout.as_millis()).to_le_bytes());
        hash.finalize().into()
    }

    /// The absolute folder that it runs in.
    pub fn folder(&self) -> &str {
        &self.folder
    }
}

impl Language {
    /// Reads `js`, `ts` or `python`.
    ///
    /// # Errors
    /// Names the languages there are.
    pub fn parse(text: &str) -> Result<Self, InvalidOrder> {
        match text {
            "js" => Ok(Self::Js),
            "ts" => Ok(Self::Ts),
            "python" => Ok(Self::Python),
            _ => Err(InvalidOrder("language must be js, ts or python".into())),
        }
    }

    /// The program that reads code of this language from its standard input. Node is not told whether the code is CommonJS or an ES
    /// module: it finds out by itself.
    fn argv(self) -> Vec<String> {
        let argv: &[&str] = match self {
            Self::Js => &["node", "--import", REQUIRE, "-"],
            Self::Ts => &[
                "node",
                "--experimental-transform-types",
                "--disable-warning=ExperimentalWarning",
                "--import",
                REQUIRE,
                "-",
            ],
            Self::Python => &["python3", "-u", "-"],
        };
        argv.iter().map(|&arg| arg.to_owned()).collect()
    }
}

/// Refuses code that is too long.
pub(super) fn check_code(code: &str) -> Result<(), InvalidOrder> {
    if code.len() > CODE_BYTES_MAX {
        return Err(InvalidOrder(format!("code is longer than {CODE_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// How long code may take: for ever when nothing is said, or 0.
pub(super) fn timeout_of(timeout_ms: Option<u64>) -> Result<Option<Duration>, InvalidOrder> {
    match timeout_ms {
        None | Some(0) => Ok(None),
        Some(ms) if ms <= TIMEOUT_MS_MAX => Ok(Some(Duration::from_millis(ms))),
        Some(_) => Err(InvalidOrder(format!("timeout can be at most {TIMEOUT_MS_MAX} milliseconds"))),
    }
}

/// The absolute folder that a request means.
pub(crate) fn folder_of(folder: Option<&str>) -> Result<String, InvalidOrder> {
    let folder = match folder {
        None | Some("") => WORKSPACE.to_owned(),
        Some(absolute) if absolute.starts_with('/') => absolute.to_owned(),
        Some(relative) => format!("{WORKSPACE}/{relative}"),
    };
    if folder.contains('\0') {
        return Err(InvalidOrder("folder contains a NUL byte".into()));
    }
    if folder.len() > FOLDER_BYTES_MAX {
        return Err(InvalidOrder(format!("folder is longer than {FOLDER_BYTES_MAX} bytes")));
    }
    Ok(folder)
}

/// Bytes that the arguments take as JSON: control characters grow sixfold.
fn json_len(argv: &[String]) -> usize {
    let text = |arg: &String| {
        arg.bytes()
            .map(|byte| match byte {
                b'"' | b'\\' => 2,
                0..0x20 => 6,
                _ => 1,
            })
            .sum::<usize>()
    };
    argv.iter().map(|arg| text(arg) + 3).sum()
}

fn cut(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(argv: &[&str], folder: Option<&str>) -> Result<Order, InvalidOrder> {
        Order::command(argv.iter().map(|&arg| arg.to_owned()).collect(), folder)
    }

    #[test]
    fn folders_are_absolute_or_lie_in_the_workspace() {
        for (given, meant) in [
            (None, "/workspace/home"),
            (Some(""), "/workspace/home"),
            (Some("sub/dir"), "/workspace/home/sub/dir"),
            (Some("/tmp"), "/tmp"),
            (Some("/workspace/home/."), "/workspace/home/."),
        ] {
            assert_eq!(command(&["true"], given).map(|order| order.folder), Ok(meant.to_owned()), "{given:?}");
        }
        assert!(command(&["true"], Some("a\0b")).is_err());
        assert!(command(&["true"], Some(&"x".repeat(5000))).is_err());
    }

    #[test]
    fn a_command_is_what_linux_can_start() {
        let order = command(&["sh", "-c", "echo warmup"], None).expect("an ordinary command");
        assert_eq!(order.prompt, "sh -c echo warmup");
        assert!(command(&[], None).is_err());
        assert!(command(&[""], None).is_err());
        assert!(command(&["a", "b\0"], None).is_err());
        assert!(command(&["a", &"x".repeat(128 * 1024)], None).is_err());
        assert!(command(&["a", &"x".repeat(128 * 1024 - 1)], None).is_ok());
        assert!(command(&["a"; 4097], None).is_err());
        assert!(command(&["a"; 4096], None).is_ok());
        assert!(command(&["x".repeat(100_000).as_str(); 10], None).is_err());
        // 200,000 bytes that take 1,200,000 as JSON.
        assert!(command(&["a", &"\u{1}".repeat(100_000), &"\u{1}".repeat(100_000)], None).is_err());
    }

    #[test]
    fn code_has_caps_too() {
        let code = |text: String, timeout| Order::code(text, Language::Js, None, timeout);
        assert!(code("x".repeat(CODE_BYTES_MAX + 1), None).is_err());
        assert!(code(String::new(), Some(u64::MAX)).is_err());
        assert_eq!(code("1".into(), Some(0)).map(|order| order.timeout), Ok(None));
        assert_eq!(code("ü".repeat(300), None).map(|order| order.prompt.chars().count()), Ok(200));
        assert!(Language::parse("rust").is_err());
    }

    proptest! {
        #[test]
        fn the_json_length_is_never_underestimated(argv: Vec<String>) {
            let real = serde_json::to_vec(&argv).expect("texts").len();
            // A missing comma and the brackets are all there is between the two.
            prop_assert!(json_len(&argv) + 2 >= real);
        }

        #[test]
        fn an_accepted_command_fits_into_a_frame(argv in prop::collection::vec("\\PC{0,40}", 1..40)) {
            if let Ok(order) = Order::command(argv, Some("sub")) {
                prop_assert!(order.folder.starts_with('/'));
                prop_assert!(serde_json::to_vec(&order.argv).expect("texts").len() < wire::JSON_MAX);
            }
        }
    }
}
