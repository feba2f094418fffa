//! `boxyard-init`: makes a box from outside (`launch`) and is PID 1 inside it (`serve`).
//!
//! One small static program with one thread. `launch` reads what to make from standard input, makes it and leaves a copy of itself as
//! PID 1 of the box; that copy serves jobs on a socket. `serve` alone does the second half for a process that somebody else has put
//! into a box, or into none. `sftp` alone is what a box's SFTP sessions run, for tests and measurements: `sftp -D "boxyard-init sftp"`;
//! so is `files`, with other folders than a box's.
//! `disk` does one thing to the file system that boxes lie on.

mod disk;
mod files;
mod guard;
mod launch;
mod pipes;
mod serve;
mod sftp;
mod sys;
mod trouble;

use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

use serve::Grace;

use boxyard_proto::wire::Builtin;

const USAGE: &str = "usage: boxyard-init launch < PLAN
       boxyard-init disk < ORDER
       boxyard-init serve [--cgroup FOLDER [--hangup-grace MILLISECONDS]]    (listening socket as descriptor 3)
       boxyard-init sftp                       (an SFTP server on standard input and output)
       boxyard-init files FOLDER...            (work on files in these folders, on standard input and output)
       boxyard-init --version";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|argument| argument.to_str().unwrap_or_default()).collect();
    match words.as_slice() {
        ["launch"] => launch::run(),
        ["disk"] => disk::run(),
        ["serve"] => serve::on_host(None, Grace::default()),
        ["serve", "--cgroup", folder] => serve::on_host(Some(folder.as_ref()), Grace::default()),
        ["serve", "--cgroup", folder, "--hangup-grace", grace] => match grace.parse().map(Duration::from_millis) {
            Ok(each) => serve::on_host(Some(folder.as_ref()), Grace { to_end: each, to_obey: each, to_be_taken: each }),
            Err(_) => misused(),
        },
        ["sftp"] => serve::builtin::run(Builtin::Sftp),
        ["files", _, ..] => {
            serve::builtin::files_in(&arguments.iter().skip(1).map(|root| root.as_bytes().to_vec()).collect::<Vec<_>>())
        }
        ["--version"] => {
            println!("boxyard-init {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => misused(),
    }
}

fn misused() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(64)
}
