//! `boxyard-init disk`: does one thing to the file system that boxes' disks lie on, and ends.
//!
//! The server forbids itself the calls that this takes. What a launch needs of it is done in the launcher, which runs anyway.

mod pool;
mod subvolume;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use boxyard_proto::disk::{Answer, Order};

pub use self::subvolume::{Made, make};
use crate::trouble::{Doing, Trouble};

/// Bytes of an order at most.
const ORDER_MAX: u64 = 64 * 1024;

/// Reads an [`Order`] from standard input, does it and writes an [`Answer`] to standard output.
pub fn run() -> ExitCode {
    let (answer, code) = match read().and_then(obey) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(trouble) => (failed(&trouble), ExitCode::FAILURE),
    };
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    // A server that does not listen any more gives its order again.
    let _ = std::io::stdout().write_all(&line);
    code
}

fn read() -> Result<Order, Trouble> {
    let mut text = Vec::new();
    std::io::stdin().take(ORDER_MAX).read_to_end(&mut text).doing("reading the order")?;
    serde_json::from_slice(&text).map_err(|error| Trouble::new("reading the order", error.to_string()))
}

fn obey(order: Order) -> Result<Answer, Trouble> {
    match order {
        Order::Mount { image, at } => pool::mount(&image, &at)?,
        Order::Grow { image, at } => pool::grow(&image, &at)?,
        Order::Quotas { at, enable } => return pool::quotas(&at, enable),
        Order::Make(disk) => make(&disk)?.finish()?,
        Order::Limit { subvolume, limit } => subvolume::limit(&subvolume, limit)?,
        Order::Flush { subvolume, draft } => subvolume::flush(&subvolume, &draft)?,
        Order::Snapshot { subvolume, into, taken } => {
            let charged = subvolume::snapshot(&subvolume, &into, !taken)?;
            let bytes = charged.map(|bytes| (name(&subvolume), bytes)).into_iter().collect();
            return Ok(Answer::Sizes { bytes });
        }
        Order::Destroy { subvolume } => subvolume::destroy(&subvolume)?,
        Order::Freed { at } => subvolume::freed(&at)?,
        Order::Measure { subvolume } => {
            let bytes = BTreeMap::from([(name(&subvolume), subvolume::measure(&subvolume)?)]);
            return Ok(Answer::Sizes { bytes });
        }
        Order::Sizes { folder, name } => {
            return Ok(Answer::Sizes { bytes: subvolume::sizes(&folder, name.as_deref())? });
        }
    }
    Ok(Answer::Done)
}

fn name(subvolume: &Path) -> String {
    subvolume.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn failed(trouble: &Trouble) -> Answer {
    Answer::Failed {
        doing: trouble.doing.clone(),
        error: trouble.error.to_string(),
        errno: trouble.error.raw_os_error().unwrap_or(0),
    }
}
