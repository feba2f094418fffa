//! `boxyard env`: variables that the account's boxes get when they are made.
//!
//! Values are read from files or standard input where they should not be seen in process lists; none is ever printed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::process::ExitCode;

use boxyard_proto::api::account_env::{AccountEnv, ReplaceAccountEnv, SetAccountVariable};
use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::names::{ENV_BYTES_MAX, check_env};
use clap::{Args, Subcommand};
use reqwest::Method;

use crate::client::{Client, ClientOptions};
use crate::failure::Failure;
use crate::output::print;

/// Bytes of a file of variables at most: comments and line breaks come on top of what an account may have.
const FILE_MAX: usize = 2 * ENV_BYTES_MAX;

#[derive(Debug, Subcommand)]
pub(crate) enum Env {
    /// List the names of the account's variables; values are never shown
    List(ClientOptions),
    /// Set variables for boxes made from now on, and leave the others
    Set(Set),
    /// Remove variables; boxes that are there keep theirs
    Unset(Unset),
    /// Set all variables anew from a file of NAME=VALUE lines; an empty one removes them all
    Replace(Replace),
}

#[derive(Args)]
pub(crate) struct Set {
    /// A variable; of one that is given as NAME alone, standard input is the value, without its last line break
    #[arg(value_name = "NAME=VALUE|NAME", required_unless_present = "file")]
    variables: Vec<String>,
    /// File of NAME=VALUE lines, - for standard input
    #[arg(long, value_name = "FILE|-")]
    file: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Unset {
    /// Names of the variables
    #[arg(required = true, value_name = "NAME", value_parser = name_argument)]
    names: Vec<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// File of NAME=VALUE lines, - for standard input
    #[arg(value_name = "FILE|-")]
    file: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Set").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Env {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::List(client) => list(&client.connect()?).await,
            Self::Set(set) => set.run().await,
            Self::Unset(unset) => unset.run().await,
            Self::Replace(replace) => replace.run().await,
        }
    }
}

async fn list(client: &Client) -> Result<ExitCode, Failure> {
    let env: AccountEnv = client.call(client.request(Method::GET, &["settings", "env"])).await?;
    let names: Vec<String> = env.env_vars.into_keys().collect();
    if names.is_empty() { Ok(ExitCode::SUCCESS) } else { print(&names.join("\n")) }
}

impl Set {
    async fn run(self) -> Result<ExitCode, Failure> {
        let mut env = match self.file.as_deref() {
            Some(file) => variables(&read(file)?).map_err(|error| Failure::usage(format!("{file}: {error}")))?,
            None => BTreeMap::new(),
        };
        let mut input = self.file.as_deref() == Some("-");
        for variable in self.variables {
            match variable.split_once('=') {
                Some((name, value)) => drop(env.insert(name.to_owned(), value.to_owned())),
                None if input => return Err(Failure::usage("standard input can be one value or one file only")),
                None => {
                    input = true;
                    let text = read("-")?;
                    let value =
                        text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
                    env.insert(variable, value.to_owned());
                }
            }
        }
        // All or none, as far as can be seen from here.
        check_env(&env).map_err(|error| Failure::usage(error.to_string()))?;
        let client = self.client.connect()?;
        for (name, value) in env {
            let request = client.request(Method::PUT, &["settings", "env", &name]);
            let body = SetAccountVariable { value: Some(value) };
            client.call::<MessageBody>(request.json(&body)).await.map_err(|failure| failure.about(&name))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Unset {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        for name in &self.names {
            let request = client.request(Method::DELETE, &["settings", "env", name]);
            client.call::<MessageBody>(request).await.map_err(|failure| failure.about(name))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Replace {
    async fn run(self) -> Result<ExitCode, Failure> {
        let env = variables(&read(&self.file)?).map_err(|error| Failure::usage(format!("{}: {error}", self.file)))?;
        check_env(&env).map_err(|error| Failure::usage(error.to_string()))?;
        let client = self.client.connect()?;
        let body = ReplaceAccountEnv { env_vars: Some(env) };
        let request = client.request(Method::PUT, &["settings", "env"]).json(&body);
        client.call::<MessageBody>(request).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The text of a file, or of standard input.
fn read(file: &str) -> Result<String, Failure> {
    let failed = |error| Failure::failed(format!("cannot read {file}"), error);
    let from: Box<dyn Read> = match file {
        "-" => Box::new(io::stdin().lock()),
        file => Box::new(File::open(file).map_err(failed)?),
    };
    let mut bytes = Vec::new();
    let most = u64::try_from(FILE_MAX + 1).unwrap_or(u64::MAX);
    from.take(most).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > FILE_MAX {
        return Err(Failure::usage(format!("{file} has more than {FILE_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{file} is not UTF-8 text")))
}

/// Reads lines of `NAME=VALUE`. Empty lines and those that begin with `#` count for nothing, a value is all that follows the first `=`:
/// quotes are part of it.
///
/// # Errors
/// Names the first line that is neither, by its number only: it may be a part of a secret.
fn variables(text: &str) -> Result<BTreeMap<String, String>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            let (name, value) = line.split_once('=').ok_or_else(|| format!("line {} is not NAME=VALUE", number + 1))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Reads a variable's name from the command line. What is none would name something else of the API.
fn name_argument(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let right = first && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if right { Ok(text.to_owned()) } else { Err("use letters, digits and '_', not beginning with a digit".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        let env = variables("# a comment\nA=1\n\nB=\"x = y\" # z\r\nEMPTY=\n").expect("right lines");
        let expected = [("A", "1"), ("B", "\"x = y\" # z"), ("EMPTY", "")];
        assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(variables("A=1\ns3cret\n"), Err("line 2 is not NAME=VALUE".into()));
        assert_eq!(variables(""), Ok(BTreeMap::new()));
    }

    #[test]
    fn only_names_name_variables() {
        assert_eq!(name_argument("_A1").as_deref(), Ok("_A1"));
        for text in ["", "1A", "..", "A=B", "A/B"] {
            assert!(name_argument(text).is_err(), "{text}");
        }
    }
}
