//! Commands that work on the server's own data directory, also while it runs.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use boxyard_server::config::{Config, Environment, FileSystem, Flags};
use boxyard_server::store::{Store, StoreOptions};

use crate::failure::Failure;

/// Where the server keeps its things.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DataOptions {
    /// Data directory of the server [env: BOXYARD_DATA_DIR] [default: /var/lib/boxyard]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Configuration file [env: BOXYARD_CONFIG] [default: /etc/boxyard/boxyard.toml or DIR/boxyard.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl DataOptions {
    /// The flags as the configuration takes them.
    pub(crate) fn flags(&self) -> Result<Flags, Failure> {
        let mut flags = Flags { config: self.config.clone(), ..Flags::default() };
        if let Some(data_dir) = &self.data_dir {
            let absolute = std::path::absolute(data_dir).map_err(|error| Failure::failed("--data-dir", error))?;
            let text = absolute.into_os_string().into_string();
            let text = text.map_err(|_| Failure::usage("--data-dir is not UTF-8 text"))?;
            flags.settings.insert("data_dir", text);
        }
        Ok(flags)
    }

    /// The server's configuration.
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        load(&self.flags()?)
    }

    /// Opens the server's database; makes it, and the directory, if `make` says so.
    pub(crate) async fn open(&self, make: bool) -> Result<(Config, Store), Failure> {
        let config = self.load()?;
        let path = config.database();
        if make {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir);
            made.map_err(|error| Failure::failed(format!("cannot make {}", config.data_dir.display()), error))?;
        } else if !path.try_exists().map_err(|error| unreadable(&path, error))? {
            let text =
                format!("there is no database {}: start the server once, or name its --data-dir", path.display());
            return Err(Failure::plain(text));
        }
        let options = StoreOptions { synchronous: config.synchronous };
        let store = Store::open(&path, options).await.map_err(|error| unreadable(&path, error))?;
        Ok((config, store))
    }
}

/// Loads the configuration of this process.
pub(crate) fn load(flags: &Flags) -> Result<Config, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::failed("cannot find this program", error))?;
    Ok(Config::load(flags, &Environment, &FileSystem, &program)?)
}

fn unreadable(path: &std::path::Path, error: impl Into<Box<dyn std::error::Error>>) -> Failure {
    Failure::failed(format!("cannot open {} (are you the server's user?)", path.display()), error)
}
