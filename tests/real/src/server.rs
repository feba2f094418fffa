//! A real server, as an operator would run it, in a lane of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::{Value, json};

use crate::disk::{self, FileSystem, PowerDisk};
use crate::http::{Answer, Client};
use crate::lane::Lane;
use crate::ssh::{Door, Ssh, reference};

/// The key of every test server; it opens nothing else.
const KEY: &str = "box_test_00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// How long a server may take to accept requests.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// How long a server that is told to stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// Lines of its log that are shown when a test fails.
const LOG_LINES: usize = 60;

/// What a test wants to be different: settings by the names of their environment variables, `BOXYARD_SIZES_SMALL_PIDS` for example.
pub type Settings = BTreeMap<&'static str, String>;

/// What a command said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code.
    pub code: i64,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A running (or killed) server with everything that belongs to it. Dropping it deletes its boxes, stops it and removes its files.
#[derive(Debug)]
pub struct Server {
    lane: Lane,
    programs: PathBuf,
    settings: Settings,
    child: Option<Child>,
    client: Client,
    /// Where the SSH door is to listen, if it shall: port 0 until the server has said what it took.
    ssh: Option<SocketAddr>,
}

impl Server {
    /// Starts a server with the defaults.
    ///
    /// # Errors
    /// This machine cannot run boxes, or the server does not get ready.
    pub fn start() -> Result<Self> {
        Self::with(Settings::new())
    }

    /// Starts a server with other settings.
    ///
    /// # Errors
    /// This machine cannot run boxes, or the server does not get ready.
    pub fn with(settings: Settings) -> Result<Self> {
        Self::start_from(programs()?, settings, None)
    }

    /// Starts a server that has its SSH door open, on a port of its own.
    ///
    /// # Errors
    /// This machine cannot run boxes, or the server does not get ready.
    pub fn with_ssh(settings: Settings) -> Result<Self> {
        Self::start_from(programs()?, settings, any_port())
    }

    /// Starts a server from the programs in that folder, with the defaults and its SSH door open.
    ///
    /// # Errors
    /// This machine cannot run boxes, or the server does not get ready.
    pub fn from_programs(programs: &Path) -> Result<Self> {
        Self::start_from(programs.to_owned(), Settings::new(), any_port())
    }

    /// Starts a server from the programs in that folder, with room for several hundred boxes and its SSH door open.
    ///
    /// # Errors
    /// This machine cannot run boxes, or the server does not get ready.
    pub fn with_room(programs: &Path, settings: Settings) -> Result<Self> {
        Self::start_in(Lane::take_wide()?, programs.to_owned(), settings, any_port())
    }

    /// Starts a server from the programs in that folder.
    ///
    /// # Errors
    /// This machine cannot run boxes, or the server does not get ready.
    pub fn with_programs(programs: &Path, settings: Settings) -> Result<Self> {
        Self::start_from(programs.to_owned(), settings, None)
    }

    /// Starts a server whose data lie on a disk of its own.
    ///
    /// # Errors
    /// This machine cannot run boxes or make such disks, or the server does not get ready.
    pub fn on_disk(file_system: FileSystem, settings: Settings) -> Result<(Self, PowerDisk)> {
        let lane = Lane::take()?;
        let disk = PowerDisk::make(lane.folder(), file_system, &lane.data())?;
        Ok((Self::start_in(lane, programs()?, settings, None)?, disk))
    }

    /// Starts a server on a copy of another's disk, in a place of its own beside it.
    ///
    /// # Errors
    /// The copy cannot be mounted, or the server does not get ready.
    pub fn on_copy(copy: &Path, settings: Settings) -> Result<Self> {
        let lane = Lane::take()?;
        disk::mount_copy(copy, &lane.data())?;
        // Two instances on one host have two tags.
        fs::remove_file(lane.data().join("instance"))?;
        Self::start_in(lane, programs()?, settings, None)
    }

    fn start_from(programs: PathBuf, settings: Settings, ssh: Option<SocketAddr>) -> Result<Self> {
        Self::start_in(Lane::take()?, programs, settings, ssh)
    }

    fn start_in(lane: Lane, programs: PathBuf, settings: Settings, ssh: Option<SocketAddr>) -> Result<Self> {
        lane.share_images(&programs)?;
        // Somebody else may take the port before the server does; then it says so and the test fails, which beats a fixed port.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let client = Client { address, key: KEY.to_owned() };
        let mut server = Self { lane, programs, settings, child: None, client, ssh };
        server.launch()?;
        Ok(server)
    }

    /// Starts the server again, on the same data and address, after [`stop`](Self::stop) or [`kill`](Self::kill).
    ///
    /// # Errors
    /// It runs, or does not get ready.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the server runs already");
        let log = File::options().create(true).append(true).open(self.lane.log())?;
        let mut command = Command::new(self.programs.join("boxyard"));
        command.arg("serve").arg("--data-dir").arg(self.lane.data());
        command.arg("--http").arg(self.client.address.to_string());
        command.arg("--ssh").arg(self.ssh.map_or_else(|| "off".to_owned(), |address| address.to_string()));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BOXYARD_") {
                command.env_remove(name);
            }
        }
        command.env("BOXYARD_BOOTSTRAP_KEY", KEY);
        command.env("BOXYARD_NETWORK_RANGE", self.lane.range());
        command.env("BOXYARD_UIDS_START", self.lane.uids_start().to_string());
        // Many servers at once cannot have the default port. Tests of the door choose one in their settings.
        command.env("BOXYARD_SSH", "off");
        command.envs(&self.settings);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        let said = child.stdout.take().context("the server has no standard output")?;
        self.child = Some(child);
        let (lines, heard) = mpsc::channel();
        // Ends with the server, whose standard output ends then.
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(std::io::Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        loop {
            match heard.recv_timeout(START_DEADLINE) {
                Ok(line) if line.starts_with("ready ") => return self.heard_ready(&line),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("the server did not get ready; its log:\n{}", self.log_end())
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the server ended; its log:\n{}", self.log_end()),
            }
        }
    }

    /// Notes where the SSH door is, so that the next start takes the same port.
    fn heard_ready(&mut self, line: &str) -> Result<()> {
        if self.ssh.is_some() {
            let address = line.split(' ').find_map(|word| word.strip_prefix("ssh="));
            let address = address.with_context(|| format!("the server does not tell its SSH address: {line}"))?;
            self.ssh = Some(address.parse().with_context(|| format!("'{address}' is no address"))?);
        }
        Ok(())
    }

    /// The SSH door, with the host keys that the server tells of.
    ///
    /// # Errors
    /// It has none, or does not tell.
    pub fn door(&self) -> Result<Door> {
        let told = self.call("GET", "/v2/ssh", None)?.ok()?;
        let door = Door::told_by(&told, &self.lane.folder().join("ssh"))?;
        ensure!(
            Some(door.address()) == self.ssh,
            "the door is at {:?} and is told to be at {}",
            self.ssh,
            door.address()
        );
        Ok(door)
    }

    /// A client that logs into a box, by its id or name, with the server's first API key as password.
    ///
    /// # Errors
    /// There is no door.
    pub fn ssh(&self, id: &str) -> Result<Ssh> {
        let door = match reference::wanted() {
            true => reference::door(self, id, &self.lane.folder().join("ssh"))?,
            false => self.door()?,
        };
        Ok(door.user(id).password(&self.client.key))
    }

    /// The lines of a box's log.
    ///
    /// # Errors
    /// The call fails.
    pub fn logs(&self, id: &str) -> Result<Vec<String>> {
        let logs = self.call("GET", &format!("/v2/box/{id}/logs?limit=1000"), None)?.ok()?;
        let lines = logs["logs"].as_array().with_context(|| format!("no list of logs in {logs}"))?;
        Ok(lines.iter().map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Where it is and its key.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its place on the host.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Its settings, which count from its next [`launch`](Self::launch) on.
    pub fn settings(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// The folder of the programs that it runs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the server does not run")?.id())
    }

    /// Ends it as a power cut would end it.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the server does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Whether it has ended by itself, as one does that is armed with a fail point. Then it can be launched again.
    ///
    /// # Errors
    /// Nobody knows.
    pub fn has_ended(&mut self) -> Result<bool> {
        let Some(child) = self.child.as_mut() else { return Ok(true) };
        let ended = child.try_wait()?.is_some();
        if ended {
            self.child = None;
        }
        Ok(ended)
    }

    /// Changes a setting for the next launch.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.settings.insert(name, value.to_owned());
    }

    /// Asks it to stop, by SIGTERM, and waits.
    ///
    /// # Errors
    /// It does not run, or not stop.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("the server does not run")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("its pid is none")?;
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        kill_process(pid, Signal::TERM)?;
        let deadline = Timespec::try_from(STOP_DEADLINE)?;
        let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&deadline))?;
        ensure!(ended == 1, "the server did not stop within {} s of SIGTERM", STOP_DEADLINE.as_secs());
        let status = child.wait()?;
        self.child = None;
        Ok(status)
    }

    /// One API call.
    ///
    /// # Errors
    /// No whole answer came.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.client.call(method, path, body)
    }

    /// Makes a box and returns its id.
    ///
    /// # Errors
    /// It is refused, or not ready at once.
    pub fn create(&self) -> Result<String> {
        self.create_with(&json!({}))
    }

    /// Makes a box as `body` says and returns its id.
    ///
    /// # Errors
    /// It is refused, or not ready at once.
    pub fn create_with(&self, body: &Value) -> Result<String> {
        let made = self.call("POST", "/v2/box", Some(body))?.ok()?;
        ensure!(made["status"] == "idle", "a new box is {}", made["status"]);
        Ok(made["id"].as_str().context("no id")?.to_owned())
    }

    /// Runs a shell command in a box, as boxuser.
    ///
    /// # Errors
    /// The call fails; a failing command does not.
    pub fn exec(&self, id: &str, command: &str) -> Result<Output> {
        let body = json!({ "command": ["bash", "-c", command] });
        let answer = self.call("POST", &format!("/v2/box/{id}/exec"), Some(&body))?;
        let said = answer.ok().with_context(|| format!("exec of `{command}` in {id}"))?;
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        Ok(Output {
            code: said["exit_code"].as_i64().context("no exit code")?,
            out: text("output"),
            err: text("error"),
        })
    }

    /// Runs a shell command that must succeed, and returns its standard output without the last newline.
    ///
    /// # Errors
    /// The call or the command fails.
    pub fn sh(&self, id: &str, command: &str) -> Result<String> {
        let output = self.exec(id, command)?;
        ensure!(output.code == 0, "`{command}` in {id} ended with {}: {}{}", output.code, output.out, output.err);
        Ok(output.out.trim_end_matches('\n').to_owned())
    }

    /// Starts a shell command that goes on, and returns its run's id.
    ///
    /// # Errors
    /// The call fails.
    pub fn begin(&self, id: &str, command: &str) -> Result<String> {
        let body = json!({ "command": ["bash", "-c", command], "async": true });
        let started = self.call("POST", &format!("/v2/box/{id}/exec"), Some(&body))?.ok()?;
        Ok(started["run_id"].as_str().context("no run id")?.to_owned())
    }

    /// The record of a run.
    ///
    /// # Errors
    /// There is none.
    pub fn run(&self, id: &str, run: &str) -> Result<Value> {
        self.call("GET", &format!("/v2/box/{id}/runs/{run}"), None)?.ok()
    }

    /// Deletes a box.
    ///
    /// # Errors
    /// It is refused.
    pub fn delete(&self, id: &str) -> Result<()> {
        self.call("DELETE", &format!("/v2/box/{id}"), None)?.ok().map(|_| ())
    }

    /// The ids of all boxes of the first account, with their status.
    ///
    /// # Errors
    /// The call fails.
    pub fn list(&self) -> Result<BTreeMap<String, String>> {
        let boxes = self.call("GET", "/v2/box", None)?.ok()?;
        let boxes = boxes.as_array().context("the list of boxes is no array")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(boxes.iter().map(|each| (text(&each["id"]), text(&each["status"]))).collect())
    }

    /// The ids of all boxes of the first account.
    ///
    /// # Errors
    /// The call fails.
    pub fn ids(&self) -> Result<BTreeSet<String>> {
        Ok(self.list()?.into_keys().collect())
    }

    /// Runs the program `boxyard` on this server's data folder and returns its standard output.
    ///
    /// # Errors
    /// It fails.
    pub fn program(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.programs.join("boxyard"));
        command.args(arguments).arg("--data-dir").arg(self.lane.data());
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`boxyard {}` failed: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.lane.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Deletes all boxes, stops the server and removes its files; what it leaves on the host is an error.
    fn clean_up(&mut self) -> Result<()> {
        if self.child.is_none() {
            self.launch()?;
        }
        let ids = self.ids()?;
        if !ids.is_empty() {
            self.call("DELETE", "/v2/box", Some(&json!({ "ids": ids })))?.ok()?;
        }
        self.stop()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the end of the server's log:\n{}", self.log_end());
        }
        let cleaned = self.clean_up();
        if let Some(mut child) = self.child.take() {
            // It did not stop when asked; there is nothing left to ask.
            let _killed = child.kill();
            let _status = child.wait();
        }
        let cleaned = cleaned.and_then(|()| self.lane.empty());
        if let Err(error) = cleaned {
            eprintln!("cleaning up {}: {error:#}; the next test in this place tries again", self.lane.data().display());
        }
    }
}

/// Where an SSH door listens that is the test's own: the kernel chooses the port. None when OpenSSH's server takes its place.
fn any_port() -> Option<SocketAddr> {
    (!reference::wanted()).then_some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

/// The folder of the programs to test: `BOXYARD_TEST_PROGRAMS`, or where cargo puts programs of the profile that this test has.
///
/// # Errors
/// They have not been built.
pub fn programs() -> Result<PathBuf> {
    let folder = match std::env::var_os("BOXYARD_TEST_PROGRAMS") {
        Some(set) => PathBuf::from(set),
        None => {
            let own = std::env::current_exe()?;
            own.parent().and_then(Path::parent).context("this test lies in no target folder")?.to_owned()
        }
    };
    for program in ["boxyard", "boxyard-init"] {
        ensure!(
            folder.join(program).is_file(),
            "{} is not there: call `cargo xtask test`, or build it by `cargo build -p boxyard-cli -p boxyard-init`",
            folder.join(program).display()
        );
    }
    Ok(folder)
}
