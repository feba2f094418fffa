//! `boxyard ssh-key`: the account's SSH public keys.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::ssh::{AddSshKey, PUBLIC_KEY_MAX, SshKeyData, SshKeys};
use boxyard_server::ssh_keys::{ALGORITHMS, read_public_key};
use clap::{Args, Subcommand};
use reqwest::Method;

use crate::client::ClientOptions;
use crate::failure::{FAILED, Failure};
use crate::output::{note, print, table, time};

#[derive(Debug, Subcommand)]
pub(crate) enum SshKey {
    /// Add a public key, which opens all boxes of the account, and print its id
    Add(Add),
    /// List the account's public keys
    List(ClientOptions),
    /// Remove public keys; open sessions stay open
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// File of the public key, - for standard input, or the line itself
    #[arg(required = true, value_name = "FILE|-|LINE")]
    public_key: Vec<String>,
    /// What the key is called [default: the comment in it]
    #[arg(long)]
    label: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Ids or fingerprints (SHA256:…) of the keys
    #[arg(required = true, value_name = "ID|FINGERPRINT", value_parser = key_argument)]
    keys: Vec<String>,
    #[command(flatten)]
    client: ClientOptions,
}

impl SshKey {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Add(add) => add.run().await,
            Self::List(client) => list(&client).await,
            Self::Remove(remove) => remove.run().await,
        }
    }
}

impl Add {
    async fn run(self) -> Result<ExitCode, Failure> {
        let line = line(&self.public_key)?;
        // The server checks it too. But a private key that was named by mistake must not leave this host.
        read_public_key(&line).map_err(|error| {
            let beside = format!("{}.pub", self.public_key.join(" "));
            let hint = if Path::new(&beside).exists() { format!(" (here {beside})") } else { String::new() };
            Failure::usage(format!("{error}{hint}"))
        })?;
        let client = self.client.connect()?;
        let body = AddSshKey { public_key: Some(line), label: self.label };
        let key: SshKeyData = client.call(client.request_beside(Method::POST, &["ssh-keys"]).json(&body)).await?;
        note(format!("{} {}", key.fingerprint, key.label.as_deref().unwrap_or_default()).trim_end());
        print(key.id.as_str())
    }
}

/// The text of the key that the arguments mean. A line that was not put in quotes comes in several of them.
fn line(arguments: &[String]) -> Result<String, Failure> {
    let first = arguments.first().map(String::as_str).unwrap_or_default();
    let is_line = ALGORITHMS.iter().any(|algorithm| first.split(' ').next() == Some(algorithm));
    match arguments {
        _ if is_line && (arguments.len() > 1 || first.contains(' ')) => Ok(arguments.join(" ")),
        [file] if file == "-" => read(io::stdin().lock(), "standard input"),
        [file] => {
            let opened = File::open(file).map_err(|error| Failure::failed(format!("cannot open {file}"), error))?;
            read(opened, file)
        }
        _ => Err(Failure::usage("name one file, or put the key's line in quotes; add one key at a time")),
    }
}

fn read(from: impl Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    // One byte more than a key may have, so that a longer one is seen to be longer.
    let most = u64::try_from(PUBLIC_KEY_MAX + 1).unwrap_or(u64::MAX);
    from.take(most).read_to_end(&mut bytes).map_err(|error| Failure::failed(format!("cannot read {name}"), error))?;
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{name} holds no public key: it is not UTF-8 text")))
}

/// Reads a key's id or fingerprint from the command line. Anything else would name something else of the API.
fn key_argument(text: &str) -> Result<String, String> {
    let right = text.bytes().all(|byte| byte.is_ascii_graphic()) && !matches!(text, "" | "." | "..");
    if right { Ok(text.to_owned()) } else { Err("it must be a key's id, or its fingerprint SHA256:…".into()) }
}

async fn list(client: &ClientOptions) -> Result<ExitCode, Failure> {
    let client = client.connect()?;
    let keys: SshKeys = client.call(client.request_beside(Method::GET, &["ssh-keys"])).await?;
    let rows: Vec<_> = keys
        .keys
        .into_iter()
        .map(|key| {
            let added = time(key.created_at.saturating_mul(1000));
            [key.id.to_string(), key.fingerprint, key.algorithm, added, key.label.unwrap_or_default()]
        })
        .collect();
    print(&table(["ID", "FINGERPRINT", "ALGORITHM", "ADDED", "LABEL"], &rows))
}

impl Remove {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let mut code = ExitCode::SUCCESS;
        // One at a time, so that each that fails is told; the others go all the same.
        for key in &self.keys {
            let request = client.request_beside(Method::DELETE, &["ssh-keys", key]);
            if let Err(failure) = client.call::<MessageBody>(request).await {
                failure.about(key).tell();
                code = ExitCode::from(FAILED);
            }
        }
        Ok(code)
    }
}
