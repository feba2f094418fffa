//! `boxyard key`: API keys, straight in the server's database.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use boxyard_proto::KeyId;
use boxyard_server::keys::{DEFAULT_ACCOUNT, create_key, first_key_path, hash_key, read_first_key};
use clap::{Args, Subcommand};

use crate::data::DataOptions;
use crate::failure::Failure;
use crate::output::{note, print, table, time};

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key and print it, this once
    Create(Create),
    /// List all keys, revoked ones too
    List(DataOptions),
    /// Revoke keys for ever; a running server notices within a second
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Account that the key opens; made where it is missing
    #[arg(long, default_value = DEFAULT_ACCOUNT)]
    account: String,
    /// What the key is for
    #[arg(long)]
    label: Option<String>,
    #[command(flatten)]
    data: DataOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// Ids of the keys, as `boxyard key list` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<KeyId>,
    #[command(flatten)]
    data: DataOptions,
}

impl Key {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(data) => list(&data).await,
            Self::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result<ExitCode, Failure> {
        let (_, store) = self.data.open(true).await?;
        let made = create_key(&store, &self.account, self.label.as_deref()).await;
        store.close().await;
        let (id, key) = made?;
        note(&format!("{id} for account {}. It is shown this once:", self.account));
        print(key.expose())
    }
}

async fn list(data: &DataOptions) -> Result<ExitCode, Failure> {
    let (_, store) = data.open(false).await?;
    let (keys, accounts) = (store.keys().await, store.accounts().await);
    store.close().await;
    let names: HashMap<_, _> = accounts?.into_iter().map(|account| (account.id, account.name)).collect();
    let rows: Vec<_> = keys?
        .into_iter()
        .map(|key| {
            let account = names.get(&key.account).cloned().unwrap_or_else(|| key.account.to_string());
            let state = key.revoked_at.map_or_else(|| "live".into(), |at| format!("revoked {}", time(at)));
            let begin = format!("{}…", key.prefix);
            [key.id.to_string(), account, begin, key.label.unwrap_or_default(), time(key.created_at), state]
        })
        .collect();
    print(&table(["ID", "ACCOUNT", "KEY", "LABEL", "MADE", "STATE"], &rows))
}

impl Revoke {
    async fn run(self) -> Result<ExitCode, Failure> {
        let (config, store) = self.data.open(false).await?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let mut unknown = Vec::new();
        for id in self.ids {
            if !store.revoke_key(id.clone(), now).await? {
                unknown.push(id.to_string());
            }
        }
        // A first key that no longer opens anything would only mislead whoever finds it.
        if let Some(key) = read_first_key(&config.data_dir)
            && store.find_key(hash_key(key.expose())).await?.is_none()
        {
            let path = first_key_path(&config.data_dir);
            std::fs::remove_file(&path)
                .map_err(|error| Failure::failed(format!("cannot remove {}", path.display()), error))?;
        }
        store.close().await;
        if unknown.is_empty() {
            Ok(ExitCode::SUCCESS)
        } else {
            Err(Failure::plain(format!("no live key is called {}", unknown.join(", "))))
        }
    }
}
