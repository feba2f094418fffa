//! One hundred boxes at once.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use boxyard_real_tests::{Footprint, Server};

const BOXES: usize = 100;

#[test]
fn a_hundred_boxes_are_made_used_and_deleted_at_once() -> Result<()> {
    let server = Server::start()?;
    let ids: BTreeSet<String> = at_once(BOXES, |_| server.create())?.into_iter().collect();
    ensure!(ids.len() == BOXES, "only {} different ids", ids.len());
    ensure!(server.ids()? == ids);
    let named: Vec<String> = ids.iter().cloned().collect();
    at_once(BOXES, |n| {
        let id = &named[n];
        let said = server.sh(id, "hostname; echo kept > file; id -u; sudo id -u; cat file")?;
        ensure!(said == format!("{id}\n1000\n0\nkept"), "{id} said {said}");
        Ok(())
    })?;
    let wrong = Footprint::of(server.lane())?.differences(&ids);
    ensure!(wrong.is_empty(), "{wrong:#?}");
    at_once(BOXES, |n| server.delete(&named[n]))?;
    ensure!(server.list()?.is_empty());
    let wrong = Footprint::of(server.lane())?.differences(&BTreeSet::new());
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// Does `work` for each number below `count`, all at the same time.
fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?).collect()
    })
}
