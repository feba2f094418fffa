//! `cargo xtask up`: from a clone to a running server.
//!
//! This process becomes the server at the end (`exec`), so that signals, exit code and Ctrl-C are the server's own. What is to be said
//! once the server is ready is said by a second small process, [`greet`], which reads the server's standard output and passes it on.

use std::io::{BufRead as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::{self, Profile};
use crate::host::{self, Consent};
use crate::shell;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Install missing host packages without asking
    #[arg(long, short)]
    yes: bool,
    /// Where the server keeps its things
    #[arg(long, value_name = "DIR", env = "BOXYARD_DATA_DIR", default_value = "/var/lib/boxyard")]
    data_dir: PathBuf,
    /// Address of the HTTP API
    #[arg(long, value_name = "ADDR", env = "BOXYARD_HTTP", default_value = "127.0.0.1:7070")]
    http: SocketAddr,
    /// Address of the SSH door, or off
    #[arg(long, value_name = "ADDR", env = "BOXYARD_SSH", default_value = "127.0.0.1:2222")]
    ssh: String,
    /// More flags for `boxyard serve`, after `--`
    #[arg(last = true, value_name = "FLAG")]
    serve: Vec<String>,
    /// The programs are built already; set when going on through sudo
    #[arg(long, hide = true)]
    built: bool,
}

#[derive(Debug, Args)]
pub struct Greeting {
    #[arg(long)]
    data_dir: PathBuf,
    #[arg(long)]
    http: SocketAddr,
    #[arg(long)]
    program: PathBuf,
}

/// Builds, installs, and becomes the server.
///
/// # Errors
/// Anything of it fails; it returns in no other case.
pub fn run(arguments: &Arguments) -> Result<()> {
    let consent = if arguments.yes { Consent::Given } else { Consent::Ask };
    if !arguments.built {
        // Said before minutes of building, not after.
        if TcpStream::connect_timeout(&arguments.http, Duration::from_secs(1)).is_ok() {
            let http = arguments.http;
            bail!("something listens on {http} already: Boxyard, if it runs; or choose another address with --http");
        }
        if let Ok(ssh) = arguments.ssh.parse()
            && TcpStream::connect_timeout(&ssh, Duration::from_secs(1)).is_ok()
        {
            bail!("something listens on {ssh} already; choose another address with --ssh, or --ssh off");
        }
        host::install(&[host::BUILD, host::SERVER].concat(), consent)?;
        // As the caller, before root is needed: what cargo writes belongs to the caller.
        build::programs(Profile::Release)?;
    }
    host::become_root(&["--built"])?;
    let program = Profile::Release.programs().join("boxyard");
    let data_dir = std::path::absolute(&arguments.data_dir)?;
    let data_text = data_dir.to_string_lossy();
    // Does nothing when the image is there; else it takes a minute or two and shows how far it is.
    shell::run(&mut shell::command(&program, &["image", "build", "node", "--data-dir", &data_text]))?;

    let mut server = shell::command(&program, &["serve", "--data-dir", &data_text]);
    server.args(["--http", &arguments.http.to_string(), "--ssh", &arguments.ssh]).args(&arguments.serve);
    let greeter = start_greeter(&data_dir, arguments.http, &program)?;
    eprintln!("$ {}", shell::spelled(&server));
    Err(server.stdout(greeter).exec()).with_context(|| format!("starting {}", program.display()))
}

/// Starts [`greet`] and returns the end of the pipe that it reads.
fn start_greeter(data_dir: &Path, http: SocketAddr, program: &Path) -> Result<Stdio> {
    let own = std::env::current_exe()?;
    // The shell leaves the greeter to init and ends: as our own child it would be the server's after `exec`, and the server waits for
    // nobody else's children. `3<&0` because a shell gives what runs in the background an empty standard input.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0; \"$@\" <&3 3<&- &", "sh"]).arg(own).arg("greet");
    shell.arg("--data-dir").arg(data_dir).arg("--http").arg(http.to_string()).arg("--program").arg(program);
    // Its own group: Ctrl-C is for the server, whose last words are still to be passed on.
    let mut started = shell.process_group(0).stdin(Stdio::piped()).spawn().context("starting sh")?;
    let pipe = started.stdin.take().context("no pipe to the greeter")?;
    started.wait()?;
    Ok(Stdio::from(OwnedFd::from(pipe)))
}

/// Passes standard input on, and after its line `ready …` tells how to use the server.
///
/// # Errors
/// Nobody reads what is passed on.
pub fn greet(greeting: &Greeting) -> Result<()> {
    let mut out = std::io::stdout();
    let mut greeted = false;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        writeln!(out, "{line}")?;
        if line.starts_with("ready ") && !greeted {
            greeted = true;
            write!(out, "{}", text(greeting, ssh_address(&line), &fingerprints(greeting)))?;
        }
        out.flush()?;
    }
    Ok(())
}

/// The key that the server was told, or else the one that it made.
fn api_key(data_dir: &Path) -> Option<String> {
    let first = std::fs::read_to_string(data_dir.join("first-key")).ok();
    let key = std::env::var("BOXYARD_BOOTSTRAP_KEY").ok().filter(|key| !key.is_empty()).or(first)?;
    Some(key.trim().to_owned())
}

/// Where the line `ready …` says that the SSH door is.
fn ssh_address(ready: &str) -> Option<SocketAddr> {
    ready.split(' ').find_map(|word| word.strip_prefix("ssh="))?.parse().ok()
}

/// What `boxyard ssh-fingerprint` shows of the door's keys, a line each.
fn fingerprints(greeting: &Greeting) -> String {
    let Some(key) = api_key(&greeting.data_dir) else { return String::new() };
    let mut shown = Command::new(&greeting.program);
    shown.args(["ssh-fingerprint", "--url", &format!("http://{}", greeting.http)]).env("BOXYARD_API_KEY", key);
    let output = shown.stderr(Stdio::null()).output().ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// How to come in by SSH to the box that the greeting makes.
fn ssh_text(address: SocketAddr, fingerprints: &str) -> String {
    // An address that stands for all of this host's is none to connect to.
    let host = if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { address.ip().to_string() };
    let keys: String = fingerprints.lines().map(|line| format!("  host key  {line}\n")).collect();
    format!("  ssh first@{host} -p {}     # the password is the API key\n{keys}", address.port())
}

fn text(greeting: &Greeting, ssh: Option<SocketAddr>, fingerprints: &str) -> String {
    let Greeting { data_dir, http, program } = greeting;
    let url = format!("http://{http}");
    let Some(key) = api_key(data_dir) else {
        let program = program.display();
        return format!(
            "\n  Base URL  {url}\n  API key   one that was made before; `{program} key create` makes another\n\n"
        );
    };
    let program = program.display();
    let ssh = ssh.map(|address| ssh_text(address, fingerprints)).unwrap_or_default();
    format!(
        r#"
  Base URL  {url}
  API key   {key}

Set these, and the published Upstash Box SDKs talk to this server:

  export UPSTASH_BOX_BASE_URL={url} UPSTASH_BOX_API_KEY={key}

Then try:

  npm install @upstash/box && node --input-type=module -e 'import {{ Box }} from "@upstash/box"; const box = await Box.create(); console.log((await box.exec.command("uname -a")).result); await box.delete()'
  curl -s -X POST {url}/v2/box -H "X-Box-Api-Key: $UPSTASH_BOX_API_KEY" -H 'Content-Type: application/json' -d '{{"name": "first"}}'
  {program} exec first -- echo hello
{ssh}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_names_the_key_that_the_server_made() {
        let folder = shell::target().join("greeting-test");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("first-key"), "box_made\n").unwrap();
        let greeting =
            Greeting { data_dir: folder, http: "127.0.0.1:7070".parse().unwrap(), program: "boxyard".into() };
        let ssh = ssh_address("ready http=127.0.0.1:7070 ssh=0.0.0.0:2222 metrics=127.0.0.1:9");
        let text = text(&greeting, ssh, "SHA256:abc ssh-ed25519\n");
        assert!(text.contains("API key   box_made\n"), "{text}");
        assert!(text.contains("UPSTASH_BOX_BASE_URL=http://127.0.0.1:7070"), "{text}");
        assert!(text.contains("  ssh first@127.0.0.1 -p 2222 "), "{text}");
        assert!(text.contains("  host key  SHA256:abc ssh-ed25519\n"), "{text}");
        assert_eq!(ssh_address("ready http=127.0.0.1:7070"), None);
    }
}
