//! The server dies at every step of every deed. Whatever was acknowledged is there afterwards and works, nothing is there that belongs to
//! nothing, nothing is shown that is not whole, and what was broken off can be done again.
//!
//! A deed is done again and again: with the server dying at the first fail point that it passes, at the second, and so on, until it
//! passes the deed alive. So every step is walked without anybody having to list the steps of a deed; but every point that the programs
//! have must have been died at when all deeds are through.

#![forbid(unsafe_code)]

mod deeds;
mod starts;
mod yard;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use boxyard_real_tests::FailPoints;

use yard::Yard;

#[test]
fn nothing_is_lost_orphaned_or_phantom_wherever_the_server_dies() -> Result<()> {
    let mut died = BTreeSet::new();
    let mut yard = Yard::open("btrfs")?;
    deeds::all(&mut yard)?;
    starts::starts(&mut yard)?;
    starts::by_time(&mut yard)?;
    deeds::missed(&mut yard)?;
    starts::at_first_start(&mut yard)?;
    died.append(&mut yard.died);
    drop(yard);
    let mut yard = Yard::open("dir")?;
    deeds::copies(&mut yard)?;
    died.append(&mut yard.died);

    let all: BTreeSet<String> = FailPoints::all()?.into_iter().collect();
    let never: Vec<_> = all.difference(&died).collect();
    ensure!(never.is_empty(), "points that no deed passes; let one here, or remove them: {never:?}");
    let unnamed: Vec<_> = died.difference(&all).collect();
    ensure!(unnamed.is_empty(), "points that are to be listed in boxyard-engine's fail.rs: {unnamed:?}");
    Ok(())
}
