//! Configuration: one value, made once from flags, environment and file, in this order of precedence.
//!
//! Every setting has a key such as `network.range`. In `boxyard.toml` it is `range` in the table `[network]`, in the environment it is
//! `BOXYARD_NETWORK_RANGE`, and for some there is a flag. Nothing here reads or changes anything global: environment and files come
//! in through [`Strings`] and [`Files`]. `docs/configuration.md` lists all keys; a test compares.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxyard_engine::local::StorageChoice;

use crate::store::Synchronous;

mod git;
mod layers;
mod sizes;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use git::is_host;
pub use git::{Git, GitHubHost};
pub use layers::{ConfigError, Environment, FileSystem, Files, Flags, Strings};
pub use sizes::Sizes;
pub use value::{AddressRange, Factor, Secret, bytes, duration};

use layers::Layers;
use value::{Bytes, HostEntry, Mirror, OrOff, RegistryHost, Resolver, Span, SpanOrOff};

/// Where the configuration file is looked for when none is named; after it, `boxyard.toml` in the data directory.
pub const SYSTEM_FILE: &str = "/etc/boxyard/boxyard.toml";
/// Name of the configuration file in the data directory.
pub const FILE_NAME: &str = "boxyard.toml";

const DATA_DIR: &str = "/var/lib/boxyard";
const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
const GB: u64 = 1_000_000_000;
const DAY: Duration = Duration::from_hours(24);

/// How the server is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Folder of everything that outlives the server: database, images, boxes.
    pub data_dir: PathBuf,
    /// Address of the HTTP API.
    pub http: SocketAddr,
    /// Address of the SSH door; closed when missing.
    pub ssh: Option<SocketAddr>,
    /// Whether the SSH door offers its ECDSA key beside the Ed25519 one.
    pub ssh_ecdsa: bool,
    /// Whether the SSH door exchanges keys only in a way that withstands quantum computers.
    pub ssh_post_quantum_only: bool,
    /// Address of the metrics; off when missing.
    pub metrics: Option<SocketAddr>,
    /// An API key that the operator chose, from the environment only.
    pub bootstrap_key: Option<Secret>,
    /// The program `boxyard-init`.
    pub init: PathBuf,
    /// Whether boxes trust the certificate authorities that this host trusts.
    pub trust_host_cas: bool,
    /// What boxes may reach.
    pub network: Network,
    /// First uid of the host that boxes use; each takes 65,536.
    pub uids_start: u32,
    /// Boxes at most, of all accounts together.
    pub boxes_max: u32,
    /// Boxes at most of one account; as many as all together when missing.
    pub boxes_max_per_account: Option<u32>,
    /// How long the records of deleted boxes are kept.
    pub boxes_deleted_keep: Duration,
    /// How much more boxes may be promised than the host has.
    pub overcommit: Overcommit,
    /// Snapshots of one account at most.
    pub snapshots_max: u32,
    /// Where boxes' disks lie.
    pub storage: Storage,
    /// Where images come from.
    pub images: Images,
    /// Caps and deadlines of the doors.
    pub limits: Limits,
    /// What boxes of each size may use.
    pub sizes: Sizes,
    /// How long a box does nothing before it is paused; for ever when missing.
    pub idle_pause_after: Option<Duration>,
    /// How long a paused box keeps its processes and their memory.
    pub pause_keep_memory_for: Duration,
    /// Bytes of the host's memory that must stay available, or paused boxes lose their processes; 0 for none.
    pub pause_memory_floor: u64,
    /// How long entries of box logs are kept.
    pub logs_keep: Duration,
    /// How long the records of ended runs are kept.
    pub runs_keep: Duration,
    /// Bytes of one run's output that are kept, the newest.
    pub output_keep: u64,
    /// Bytes of all runs' outputs that are kept; those of the runs that ended first go first.
    pub output_total: u64,
    /// How long idempotency keys are kept.
    pub idempotency_keep: Duration,
    /// What interpreters that go on in boxes may take.
    pub contexts: Contexts,
    /// How git in boxes is helped.
    pub git: Git,
    /// When an acknowledged write of the database is safe.
    pub synchronous: Synchronous,
    /// What the server says of itself on standard error.
    pub log: Log,
}

/// What boxes may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Addresses that boxes get.
    pub range: AddressRange,
    /// Addresses closed to boxes beside the private, link-local and other special ranges.
    pub deny: Vec<AddressRange>,
    /// Addresses open to boxes although a range above closes them.
    pub allow: Vec<AddressRange>,
    /// Resolvers that boxes' questions are forwarded to; the host's own when empty.
    pub dns: Vec<SocketAddr>,
    /// Names that the forwarder answers by itself.
    pub hosts: BTreeMap<String, Ipv4Addr>,
}

/// Where boxes' disks lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// Which kind of place.
    pub kind: StorageChoice,
    /// Bytes of the pool where there is one; a share of what is free when it is made, if nothing is said.
    pub pool_size: Option<u64>,
}

/// How much more boxes may be promised than the host has, and what must be left of it when one is made or started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit {
    /// The memory limits of all boxes together are at most this many times the host's memory; stopped boxes do not count.
    pub memory: Factor,
    /// Bytes of the host's memory that must be available, caches that can be dropped included.
    pub memory_floor: u64,
    /// The disk limits of all boxes together are at most this many times what the engine has for them.
    pub disk: Factor,
    /// Bytes that must be left of that.
    pub disk_floor: u64,
}

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Folder of the operator's own recipes, over the built-in ones.
    pub recipes_dir: Option<PathBuf>,
    /// Addresses that are asked before a registry itself, by the registry's name.
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// The file with logins for registries, as docker writes it; where docker has it when missing.
    pub docker_config: Option<PathBuf>,
    /// Bytes of one image of a registry as they are downloaded.
    pub download_max: u64,
    /// Bytes of one image of a registry unpacked.
    pub unpacked_max: u64,
}

/// Caps and deadlines of the doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a command's output that `exec` holds, standard output and standard error together.
    pub output_cap: u64,
    /// Bytes of output that are held for all commands together. When it is used up, answers are cut.
    pub output_budget: u64,
    /// Bytes of a request's body.
    pub body_cap: u64,
    /// Bytes of requests' bodies that are held for all requests together; for those of one account half of it.
    pub body_budget: u64,
    /// Bytes of files that one request uploads.
    pub upload_cap: u64,
    /// How long a client may take to send a request's headers.
    pub header_timeout: Duration,
    /// Connections at once.
    pub connections: u32,
    /// How long a server that is told to stop waits for what is under way.
    pub shutdown_grace: Duration,
    /// SSH connections at once.
    pub ssh_connections: u32,
    /// SSH connections of one address at once, loopback included; an IPv6 network of 64 bits counts as one address.
    pub ssh_connections_per_address: u32,
    /// SSH connections at once that are logged in to the same box.
    pub ssh_connections_per_box: u32,
    /// Channels at once of one SSH connection: sessions, forwarded connections, forwarded listeners' connections.
    pub ssh_channels_per_connection: u32,
    /// SSH connections at once that have not logged in; one address can have half of them. When all are taken, the address that has
    /// most loses its oldest to whoever comes next.
    pub ssh_unauthenticated: u32,
    /// SSH connections a minute of one address that end without a login before it is sent away for a while.
    pub ssh_idlers_per_minute: u32,
    /// How long an SSH client may take to log in, from its connecting.
    pub ssh_login_time: Duration,
    /// Failed SSH logins a minute that one address may have before it is sent away for a while.
    pub ssh_failures_per_minute: u32,
    /// Failed SSH logins a minute that the boxes of one account may have before passwords from unknown addresses are not looked at.
    pub ssh_account_failures_per_minute: u32,
    /// Bytes that go either way of an SSH connection under one key; fewer than 1 MiB count as that, more than 1 GiB likewise.
    pub ssh_rekey_bytes: u64,
    /// How long open SSH connections may go on when the server is told to stop.
    pub ssh_shutdown_grace: Duration,
}

/// What interpreters that go on in boxes may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contexts {
    /// Contexts of one box at most.
    pub per_box: u32,
    /// How long a context is not used before it is ended.
    pub idle: Duration,
    /// Bytes of one piece of code's output that are held, standard output and standard error together.
    pub output_cap: u64,
    /// Bytes of what one piece of code shows.
    pub results_cap: u64,
}

/// What the server says of itself on standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How much: a level such as `info`, or directives such as `info,boxyard_server::http=debug`.
    pub level: String,
    /// In which form.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Makes the configuration from `flags`, then `env`, then the file that they name or that lies in one of the usual places. Looks at
    /// nothing else and binds, makes or opens nothing.
    ///
    /// `program` is the running program's own path: `boxyard-init` lies beside it unless a setting says otherwise.
    ///
    /// # Errors
    /// Says which setting is wrong, where it comes from, and what is expected instead.
    pub fn load(flags: &Flags, env: &dyn Strings, files: &dyn Files, program: &Path) -> Result<Self, ConfigError> {
        let layers = Layers::read(flags, env, files)?;
        let config = Self::from_layers(&layers, program)?;
        layers.refuse_unknown_keys()?;
        Ok(config)
    }

    fn from_layers(layers: &Layers<'_>, program: &Path) -> Result<Self, ConfigError> {
        let default_init = program.with_file_name("boxyard-init");
        let memory_floor = layers.get("overcommit.memory_floor")?.map_or(256 * MIB, |Bytes(bytes)| bytes);
        Ok(Self {
            data_dir: layers.get("data_dir")?.unwrap_or_else(|| DATA_DIR.into()),
            http: layers.get("http")?.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 7070))),
            ssh: layers
                .get("ssh")?
                .map_or_else(|| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 2222))), |OrOff(address)| address),
            ssh_ecdsa: layers.get("ssh_ecdsa")?.unwrap_or(false),
            ssh_post_quantum_only: layers.get("ssh_post_quantum_only")?.unwrap_or(false),
            metrics: layers.get("metrics")?,
            bootstrap_key: layers.secret("bootstrap_key")?,
            init: layers.get("init")?.unwrap_or(default_init),
            trust_host_cas: layers.get("trust_host_cas")?.unwrap_or(true),
            network: Network {
                range: layers.get("network.range")?.unwrap_or(AddressRange::BOXES),
                deny: layers.list("network.deny")?,
                allow: layers.list("network.allow")?,
                dns: layers.list("network.dns")?.into_iter().map(|Resolver(address)| address).collect(),
                hosts: layers
                    .list("network.hosts")?
                    .into_iter()
                    .map(|HostEntry(name, address)| (name, address))
                    .collect(),
            },
            uids_start: layers.get("uids.start")?.unwrap_or(0x7000_0000),
            boxes_max: layers.get("boxes.max")?.unwrap_or(1000),
            boxes_max_per_account: layers.get("boxes.max_per_account")?,
            boxes_deleted_keep: layers.get("boxes.deleted_keep")?.map_or(30 * DAY, |Span(span)| span),
            overcommit: Overcommit {
                memory: layers.get("overcommit.memory")?.unwrap_or(Factor::whole(64)),
                memory_floor,
                disk: layers.get("overcommit.disk")?.unwrap_or(Factor::whole(100)),
                disk_floor: layers.get("overcommit.disk_floor")?.map_or(GB, |Bytes(bytes)| bytes),
            },
            snapshots_max: layers.get("snapshots.max")?.unwrap_or(1000),
            storage: Storage {
                kind: layers.get("storage.kind")?.unwrap_or_default(),
                pool_size: layers.get("storage.pool_size")?.map(|Bytes(bytes)| bytes),
            },
            images: Images {
                recipes_dir: layers.get("images.recipes_dir")?,
                registry_mirrors: layers.list("images.registry_mirrors")?.into_iter().fold(
                    BTreeMap::new(),
                    |mut mirrors, Mirror(registry, address)| {
                        mirrors.entry(registry).or_insert_with(Vec::new).push(address);
                        mirrors
                    },
                ),
                insecure_registries: layers
                    .list("images.insecure_registries")?
                    .into_iter()
                    .map(|RegistryHost(host)| host)
                    .collect(),
                docker_config: layers.get("images.docker_config")?,
                download_max: layers.get("images.download_max")?.map_or(16 * GIB, |Bytes(bytes)| bytes),
                unpacked_max: layers.get("images.unpacked_max")?.map_or(64 * GIB, |Bytes(bytes)| bytes),
            },
            limits: Limits {
                output_cap: layers.get("limits.output_cap")?.map_or(64 * MIB, |Bytes(bytes)| bytes),
                output_budget: layers.get("limits.output_budget")?.map_or(1024 * MIB, |Bytes(bytes)| bytes),
                body_cap: layers.get("limits.body_cap")?.map_or(32 * MIB, |Bytes(bytes)| bytes),
                body_budget: layers.get("limits.body_budget")?.map_or(1024 * MIB, |Bytes(bytes)| bytes),
                upload_cap: layers.get("limits.upload_cap")?.map_or(8 * GIB, |Bytes(bytes)| bytes),
                header_timeout: layers.get("limits.header_timeout")?.map_or(Duration::from_secs(20), |Span(span)| span),
                connections: layers.get("limits.connections")?.unwrap_or(4096),
                shutdown_grace: layers.get("limits.shutdown_grace")?.map_or(Duration::from_secs(30), |Span(span)| span),
                ssh_connections: layers.get("limits.ssh_connections")?.unwrap_or(1000),
                ssh_connections_per_address: layers.get("limits.ssh_connections_per_address")?.unwrap_or(128),
                ssh_connections_per_box: layers.get("limits.ssh_connections_per_box")?.unwrap_or(64),
                ssh_channels_per_connection: layers.get("limits.ssh_channels_per_connection")?.unwrap_or(64),
                ssh_unauthenticated: layers.get("limits.ssh_unauthenticated")?.unwrap_or(100),
                ssh_idlers_per_minute: layers.get("limits.ssh_idlers_per_minute")?.unwrap_or(300),
                ssh_login_time: layers.get("limits.ssh_login_time")?.map_or(Duration::from_secs(30), |Span(span)| span),
                ssh_failures_per_minute: layers.get("limits.ssh_failures_per_minute")?.unwrap_or(10),
                ssh_account_failures_per_minute: layers.get("limits.ssh_account_failures_per_minute")?.unwrap_or(60),
                ssh_rekey_bytes: layers.get("limits.ssh_rekey_bytes")?.map_or(GIB, |Bytes(bytes)| bytes),
                ssh_shutdown_grace: layers
                    .get("limits.ssh_shutdown_grace")?
                    .map_or(Duration::from_secs(10), |Span(span)| span),
            },
            sizes: Sizes::read(layers)?,
            idle_pause_after: layers
                .get("idle.pause_after")?
                .map_or(Some(Duration::from_hours(1)), |SpanOrOff(span)| span),
            pause_keep_memory_for: layers
                .get("pause.keep_memory_for")?
                .map_or(Duration::from_mins(10), |Span(span)| span),
            // Paused boxes go before new ones are refused.
            pause_memory_floor: layers
                .get("pause.memory_floor")?
                .map_or_else(|| memory_floor.saturating_mul(2), |Bytes(bytes)| bytes),
            logs_keep: layers.get("logs.keep")?.map_or(7 * DAY, |Span(span)| span),
            runs_keep: layers.get("runs.keep")?.map_or(30 * DAY, |Span(span)| span),
            output_keep: layers.get("runs.output_keep")?.map_or(16 * MIB, |Bytes(bytes)| bytes),
            output_total: layers.get("runs.output_total")?.map_or(2 * GIB, |Bytes(bytes)| bytes),
            idempotency_keep: layers.get("runs.idempotency_keep")?.map_or(DAY, |Span(span)| span),
            contexts: Contexts {
                per_box: layers.get("contexts.per_box")?.unwrap_or(8),
                idle: layers.get("contexts.idle")?.map_or(Duration::from_hours(1), |Span(span)| span),
                output_cap: layers.get("contexts.output_cap")?.map_or(8 * MIB, |Bytes(bytes)| bytes),
                results_cap: layers.get("contexts.results_cap")?.map_or(16 * MIB, |Bytes(bytes)| bytes),
            },
            git: Git::read(layers)?,
            synchronous: layers.get("store.synchronous")?.unwrap_or_default(),
            log: Log {
                level: layers.get("log.level")?.unwrap_or_else(|| "info".into()),
                format: layers.get("log.format")?.unwrap_or_default(),
            },
        })
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        database(&self.data_dir)
    }
}

/// The database file in a data directory.
pub fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("boxyard.db")
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}
