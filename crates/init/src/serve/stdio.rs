//! A job's standard input, output and error: three pipes, or one terminal.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use boxyard_proto::wire::{Exec, Kind};
use rustix::io::Errno;

use super::output::Output;
use super::pty::Terminal;
use super::stdin::Stdin;

/// Our side of it.
#[derive(Debug)]
pub struct Stdio {
    /// What the job reads.
    pub stdin: Stdin,
    /// What it writes.
    pub outputs: [Output; 2],
    /// What both are, where they are a terminal.
    pub terminal: Option<Rc<Terminal>>,
    /// A variable that tells the job the terminal's path, where it shall have one.
    pub variable: Option<CString>,
}

/// The child's side of it.
#[derive(Debug)]
pub enum Ends {
    /// Pipes. Without one for its input the job shares our standard input, which is `/dev/null`.
    Pipes {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        out: OwnedFd,
        /// Standard error.
        err: OwnedFd,
    },
    /// The slave side of a terminal.
    Terminal(OwnedFd),
}

/// Makes what `exec` asks for.
///
/// # Errors
/// What was being done and what the kernel says.
pub fn open(exec: &Exec) -> Result<(Stdio, Ends), (&'static str, io::Error)> {
    match &exec.pty {
        Some(asked) => {
            let (terminal, slave) = Terminal::open(asked, exec.user).map_err(|error| ("opening a terminal", error))?;
            let stdin = Stdin::terminal(Rc::clone(&terminal));
            let outputs = [Output::terminal(Rc::clone(&terminal)), Output::closed()];
            let variable = asked.variable.as_ref().map(|name| path_in(name, &terminal)).transpose();
            let variable = variable.map_err(|error| ("naming a terminal", error))?;
            Ok((Stdio { stdin, outputs, terminal: Some(terminal), variable }, Ends::Terminal(slave)))
        }
        None => pipes(exec.stdin).map_err(|error| ("starting the process", error)),
    }
}

/// `NAME=path`.
fn path_in(name: &str, terminal: &Terminal) -> io::Result<CString> {
    let text = [name.as_bytes(), b"=", terminal.path()?.to_bytes()].concat();
    CString::new(text).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn pipes(input: bool) -> io::Result<(Stdio, Ends)> {
    let (out, out_end) = Output::new(Kind::Out)?;
    let (err, err_end) = Output::new(Kind::Err)?;
    let (stdin, stdin_end) = if input {
        let (stdin, end) = Stdin::new()?;
        (stdin, Some(end))
    } else {
        (Stdin::default(), None)
    };
    let ours = Stdio { stdin, outputs: [out, err], terminal: None, variable: None };
    Ok((ours, Ends::Pipes { stdin: stdin_end, out: out_end, err: err_end }))
}

impl Ends {
    /// Makes them descriptors 0, 1 and 2 of this process, and a terminal its controlling one. For a child that leads a session of its
    /// own; makes system calls only.
    pub fn take(&self) -> Result<(), Errno> {
        let (stdin, out, err) = match self {
            Self::Pipes { stdin, out, err } => (stdin.as_ref(), out, err),
            Self::Terminal(slave) => {
                rustix::process::ioctl_tiocsctty(slave)?;
                (Some(slave), slave, slave)
            }
        };
        if let Some(stdin) = stdin {
            rustix::stdio::dup2_stdin(stdin)?;
        }
        rustix::stdio::dup2_stdout(out)?;
        rustix::stdio::dup2_stderr(err)
    }
}
