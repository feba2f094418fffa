//! One hundred boxes at once.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use boxyard_real_tests::{Footprint, Server, until};

const BOXES: usize = 100;
const SETTLE: Duration = Duration::from_secs(60);

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
    // A deleted box is gone for its owner at once; what it was made of goes right after.
    until("all boxes to be gone from the host", SETTLE, || {
        Ok(Footprint::of(server.lane())?.differences(&BTreeSet::new()).is_empty().then_some(()))
    })
    .with_context(|| format!("{:#?}", Footprint::of(server.lane()).map(|left| left.differences(&BTreeSet::new()))))
}

/// Does `work` for each number below `count`, all at the same time.
fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?).collect()
    })
}
