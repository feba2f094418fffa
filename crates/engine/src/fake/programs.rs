//! The programs that pretended boxes know.

use std::sync::{Arc, Weak};

use boxyard_proto::wire::{Builtin, Exit, Kind};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::context;
use super::files::Work;
use super::job::Job;
use super::serve::killed_by;
use super::{FakeBox, Gates, lock};

/// Bytes that `yes` writes at once.
const BLOCK: usize = 64 * 1024;

/// How the script begins by which `boxyard shell` becomes a login shell.
const BECOMES_SHELL: &str = "command -v bash";

/// A program that runs.
pub(super) struct Program {
    pub(super) home: Weak<FakeBox>,
    pub(super) gates: Gates,
    pub(super) job: Arc<Job>,
    pub(super) folder: String,
    pub(super) env: Vec<String>,
    pub(super) stdin: mpsc::Receiver<Bytes>,
}

/// Runs a command line to its end, or until a signal ends it.
pub(super) async fn run(mut program: Program, argv: Vec<String>, builtin: Option<Builtin>) -> Exit {
    let job = Arc::clone(&program.job);
    let (term, kill) = (job.term.clone(), job.kill.clone());
    let stubborn = argv.iter().any(|arg| arg.contains("stubborn"));
    // A box whose boxyard-init was taken over may claim anything.
    let liar = argv.iter().any(|arg| arg == "lie");
    let (cpu_ns, memory_peak) = if liar { (u64::MAX, u64::MAX) } else { (1_000_000, 1 << 20) };
    tokio::select! {
        biased;
        code = program.start(&argv, builtin) => Exit { code, signal: None, cpu_ns, memory_peak },
        () = kill.cancelled() => killed_by(9),
        () = term.cancelled(), if !stubborn => killed_by(job.ended_by()),
    }
}

impl Program {
    async fn start(&mut self, argv: &[String], builtin: Option<Builtin>) -> i32 {
        let tree = match builtin {
            Some(Builtin::Files) => self.home.upgrade().map(|home| Arc::clone(&home.tree)),
            Some(Builtin::Sftp) | None => None,
        };
        let Some(tree) = tree else { return self.command(argv).await };
        let (_, none) = mpsc::channel(1);
        let stdin = std::mem::replace(&mut self.stdin, none);
        Work { tree, job: Arc::clone(&self.job), stdin, come: BytesMut::new() }.run().await
    }

    async fn command(&mut self, argv: &[String]) -> i32 {
        if argv.iter().any(|arg| arg == context::NAME) {
            return context::run(self).await;
        }
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        match words.as_slice() {
            // The client's own way to a login shell, with a line for it or without one.
            ["sh", "-c", becomes, line] if becomes.starts_with(BECOMES_SHELL) => self.script(line).await,
            ["sh", "-c", becomes] if becomes.starts_with(BECOMES_SHELL) => self.shell().await,
            ["sh" | "bash" | "/bin/bash", "-c" | "-lc", script, ..] => self.script(script).await,
            ["/bin/bash", "-l"] => self.shell().await,
            ["/bin/sh", "-c", _, "sh", _, path] => self.read_attachment(path).await,
            ["node" | "python3", ..] => {
                let script = self.read_code().await;
                self.script(&String::from_utf8_lossy(&script)).await
            }
            words => self.simple(words).await,
        }
    }

    /// Lines of input, each a script, until `exit` or the end.
    async fn shell(&mut self) -> i32 {
        let mut typed = Vec::new();
        while let Some(bytes) = self.stdin.recv().await {
            typed.extend_from_slice(&bytes);
            while let Some(end) = typed.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                let line: Vec<u8> = typed.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                let code = Box::pin(self.script(&line)).await;
                if line.starts_with("exit") {
                    return code;
                }
            }
        }
        0
    }

    /// Commands up to the first that fails, each one simple.
    async fn script(&mut self, script: &str) -> i32 {
        for line in script.split([';', '\n']) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            let code = self.simple(&words).await;
            if code != 0 {
                return code;
            }
        }
        0
    }

    async fn simple(&mut self, words: &[&str]) -> i32 {
        match words {
            ["true" | "stubborn", ..] => 0,
            ["lie"] => i32::MAX,
            ["false", ..] => 1,
            ["exit", code] => code.parse().unwrap_or(2),
            ["echo", rest @ ..] => self.out(format!("{}\n", rest.join(" "))).await,
            ["printf", rest @ ..] => self.out(rest.join(" ")).await,
            ["stderr", rest @ ..] => self.err(format!("{}\n", rest.join(" "))).await,
            // Bytes that are no UTF-8.
            ["bytes", hex @ ..] => {
                let bytes: Vec<u8> = hex.iter().filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
                self.out(bytes).await
            }
            ["git", rest @ ..] => self.git(rest).await,
            ["pwd", ..] => self.out(format!("{}\n", self.folder)).await,
            ["env", ..] => self.out(self.env.iter().map(|line| format!("{line}\n")).collect::<String>()).await,
            ["cat", ..] => {
                while let Some(bytes) = self.stdin.recv().await {
                    self.out(bytes).await;
                }
                0
            }
            ["stty", "size"] => {
                let size = *self.job.size.borrow();
                self.out(format!("{} {}\r\n", size.rows, size.columns)).await
            }
            // At every change, for ever.
            ["stty", "sizes"] => {
                let mut sizes = self.job.size.subscribe();
                loop {
                    let size = *sizes.borrow_and_update();
                    self.out(format!("{} {}\r\n", size.rows, size.columns)).await;
                    if sizes.changed().await.is_err() {
                        return 0;
                    }
                }
            }
            ["yes", count] => self.yes(count.parse().unwrap_or(0)).await,
            ["ls", path] if self.has_folder(path) => 0,
            ["ls", path] => {
                self.err(format!("ls: cannot access '{path}': No such file or directory\n")).await;
                2
            }
            ["mkdir", path] => {
                if let Some(home) = self.home.upgrade() {
                    lock(&home.folders).insert((*path).to_owned());
                }
                0
            }
            ["gate", name] => {
                self.gates.pass(name).await;
                0
            }
            ["sleep", ..] => std::future::pending().await,
            [unknown, ..] => {
                self.err(format!("{unknown}: command not found\n")).await;
                127
            }
            [] => 0,
        }
    }

    fn has_folder(&self, path: &str) -> bool {
        self.home.upgrade().is_some_and(|home| lock(&home.folders).contains(path))
    }

    pub(super) async fn yes(&self, mut left: usize) -> i32 {
        let block = Bytes::from("y\n".repeat(BLOCK / 2));
        while left > 0 {
            let piece = left.min(BLOCK);
            self.out(block.slice(..piece)).await;
            left -= piece;
        }
        0
    }

    /// All of the input, unless it begins with `deaf `: then the first line is taken and nothing more is read.
    async fn read_code(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = self.stdin.recv().await {
            all.extend_from_slice(&bytes);
            if let Some(rest) = all.strip_prefix(b"deaf ") {
                return rest.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec();
            }
        }
        all
    }

    pub(super) async fn out(&self, bytes: impl Into<Bytes>) -> i32 {
        self.job.say(Kind::Out, bytes.into()).await;
        0
    }

    pub(super) async fn err(&self, bytes: impl Into<Bytes>) -> i32 {
        self.job.say(Kind::Err, bytes.into()).await;
        0
    }
}
