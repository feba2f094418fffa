//! `boxyard cp`: files and folders into a box and out of it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::client::{Client, ClientOptions};
use crate::failure::Failure;

mod bar;
mod down;
mod pack;
mod part;
mod place;
mod tree;
mod unpack;
mod up;

pub(crate) use place::Remote;
pub(crate) use up::put;

use place::Place;

#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// What to copy: BOX:PATH, a path here, or - for standard input
    ///
    /// A path in a box is absolute, or below /workspace/home. A folder that ends in /. is copied without itself.
    #[arg(value_name = "SRC")]
    from: String,
    /// Where to: a path here, BOX:PATH, or - for standard output
    ///
    /// Into it, where it is a folder.
    #[arg(value_name = "DST")]
    to: String,
    /// When a folder goes into a box, leave out files that are there with the same size and time
    #[arg(long)]
    resume: bool,
    /// No progress bar
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    client: ClientOptions,
}

/// What a copy goes by.
pub(crate) struct Copy {
    pub(crate) client: Client,
    pub(crate) resume: bool,
    pub(crate) quiet: bool,
}

impl Cp {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let (from, to) = (Place::parse(&self.from)?, Place::parse(&self.to)?);
        let copy = |client| Copy { client, resume: self.resume, quiet: self.quiet };
        match (from, to) {
            (Place::Pipe, Place::Box(to)) => up::pipe(&copy(self.client.connect()?), &to).await?,
            (Place::Here(from), Place::Box(to)) => up::path(&copy(self.client.connect()?), &from, &to).await?,
            (Place::Box(from), Place::Pipe) => down::pipe(&copy(self.client.connect()?), &from).await?,
            (Place::Box(from), Place::Here(to)) => down::path(&copy(self.client.connect()?), &from, &to).await?,
            (Place::Box(_), Place::Box(_)) => {
                return Err(Failure::usage("one of the two must be here: boxyard cp A:FILE - | boxyard cp - B:FILE"));
            }
            (Place::Here(_) | Place::Pipe, Place::Here(_) | Place::Pipe) => {
                return Err(Failure::usage(
                    "one of the two must be in a box: BOX:PATH; a path here with a colon in it begins with ./",
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A failure with a file here.
fn failed(doing: &str, path: &std::path::Path, error: std::io::Error) -> Failure {
    Failure::failed(format!("cannot {doing} {}", shown(path)), error)
}

/// A path as a terminal may have it: a box can name its files as it likes.
fn shown(path: &std::path::Path) -> String {
    path.to_string_lossy().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Runs what blocks. It goes on when nobody waits any more, and ends with what it reads from or writes to.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Failure::failed("the copy broke off", error)),
    }
}

/// The permission bits that files from a box get here: never more than this user gives to new ones.
fn granted(mode: u32) -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let mask = mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022);
    mode & 0o777 & !mask
}

/// The last name of a path here, which is what a copy of it is called.
fn name_of(path: &std::path::Path) -> Result<PathBuf, Failure> {
    let whole = path.canonicalize().map_err(|error| failed("find", path, error))?;
    match path.file_name().or_else(|| whole.file_name()) {
        Some(name) => Ok(name.into()),
        None => Err(Failure::usage(format!("{} has no name: write {}/.", path.display(), path.display()))),
    }
}
