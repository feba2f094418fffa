//! The program `boxyard`: the server, its keys and images, and a first client.
//!
//! Exit codes: 0 all is well, 1 it failed, 64 it was called wrongly. `exec`, `attach` and `git exec` answer with the command's own code, and
//! 125 when it could not be run at all. `ssh` answers as the ssh that it becomes, with 255 when it could not
//! connect; so does `shell`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod archive;
mod askpass;
mod attach;
mod client;
mod context;
mod cp;
mod create;
mod data;
mod delete;
mod doctor;
mod door;
mod edit;
mod env;
mod exec;
mod failure;
mod git;
mod host;
mod image;
mod key;
mod list;
mod logs;
mod output;
mod patience;
mod pause;
mod poll;
mod serve;
mod session;
mod shell;
mod signals;
mod snapshot;
mod ssh;
mod ssh_config;
mod ssh_fingerprint;
mod ssh_key;
mod ssh_token;
mod trailer;
mod usage;

use failure::Failure;

/// Isolated Linux boxes on your own host.
#[derive(Debug, Parser)]
#[command(name = "boxyard", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server, as root
    Serve(serve::Serve),
    /// Make, list and revoke API keys, on the server's host
    #[command(subcommand)]
    Key(key::Key),
    /// Build and list images, on the server's host
    #[command(subcommand)]
    Image(image::Image),
    /// Say what this host lacks to run boxes, and how to mend it; let the pool of boxes' disks grow
    Doctor(doctor::Doctor),
    /// Make a box and print its id
    Create(create::Create),
    /// List boxes
    List(list::List),
    /// Run a command in a box
    Exec(exec::Exec),
    /// Open a shell in a box, or run a command by it
    Shell(shell::Shell),
    /// Copy files and folders into a box and out of it
    Cp(cp::Cp),
    /// Edit a file of a box with this host's editor
    Edit(edit::Edit),
    /// Clone, look, commit and push in a box; make pull requests and issues of it
    #[command(subcommand)]
    Git(git::Git),
    /// Print what a run has written, follow it, and end with its exit code
    Attach(attach::Attach),
    /// Start interpreters whose variables live between calls, and run code in them
    #[command(subcommand)]
    Context(context::Context),
    /// Print a box's log, and follow it
    Logs(logs::Logs),
    /// Pause boxes: what runs in them stands still until they are resumed
    Pause(pause::Pause),
    /// Resume paused boxes; any work in them does so too
    Resume(pause::Pause),
    /// Delete boxes
    Delete(delete::Delete),
    /// Show what boxes use of memory, disk, CPU and network
    Usage(usage::Usage),
    /// Set, list and remove variables that all boxes get that are made afterwards
    #[command(subcommand)]
    Env(env::Env),
    /// Save disks of boxes, list and delete what was saved
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Make a box that starts as a copy of another and print its id
    Fork(snapshot::Fork),
    /// Log in to a box with this host's ssh, or run a command in it
    Ssh(ssh::Ssh),
    /// Print what ~/.ssh/config needs to know of boxes
    SshConfig(ssh_config::SshConfig),
    /// Print the fingerprints of the server's SSH host keys
    SshFingerprint(ssh_fingerprint::SshFingerprint),
    /// Add, list and remove SSH public keys that open all boxes
    #[command(subcommand)]
    SshKey(ssh_key::SshKey),
    /// Make, list and revoke SSH passwords that open one box for a time
    #[command(subcommand)]
    SshToken(ssh_token::SshToken),
    /// What ssh asks when `boxyard ssh` has become it
    #[command(hide = true, name = askpass::KNOWN_HOSTS)]
    SshKnownHosts,
    /// List the points at which tests kill the server
    #[cfg(feature = "fail-points")]
    #[command(hide = true)]
    FailPoints,
}

fn main() -> ExitCode {
    if let Some(code) = askpass::answer() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; whoever closed the terminal does not want them.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { failure::USAGE } else { 0 });
        }
    };
    let outcome = match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Key(key) => client(key.run()),
        Command::Image(image) => client(image.run()),
        Command::Doctor(doctor) => client(doctor.run()),
        Command::Create(create) => client(create.run()),
        Command::List(list) => client(list.run()),
        Command::Exec(exec) => client(exec.run()),
        Command::Shell(shell) => client(shell.run()),
        Command::Cp(cp) => client(cp.run()),
        Command::Edit(edit) => client(edit.run()),
        Command::Git(git) => client(git.run()),
        Command::Attach(attach) => client(attach.run()),
        Command::Context(context) => client(context.run()),
        Command::Logs(logs) => client(logs.run()),
        Command::Pause(boxes) => client(boxes.pause()),
        Command::Resume(boxes) => client(boxes.resume()),
        Command::Delete(delete) => client(delete.run()),
        Command::Usage(usage) => client(usage.run()),
        Command::Env(env) => client(env.run()),
        Command::Snapshot(snapshot) => client(snapshot.run()),
        Command::Fork(fork) => client(fork.run()),
        Command::Ssh(ssh) => client(ssh.run()),
        Command::SshConfig(config) => client(config.run()),
        Command::SshFingerprint(fingerprint) => client(fingerprint.run()),
        Command::SshKey(key) => client(key.run()),
        Command::SshToken(token) => client(token.run()),
        Command::SshKnownHosts => askpass::known_hosts(),
        #[cfg(feature = "fail-points")]
        Command::FailPoints => output::print(&boxyard_engine::fail::POINTS.join("\n")),
    };
    outcome.unwrap_or_else(|failure| {
        failure.tell();
        ExitCode::from(failure.code())
    })
}

/// Runs a command that needs one thread only.
fn client(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("cannot start", error))?;
    let outcome = runtime.block_on(command);
    // A write to a terminal that nobody reads must not keep the program.
    runtime.shutdown_background();
    outcome
}
