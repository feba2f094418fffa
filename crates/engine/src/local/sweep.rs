//! Addresses of boxes that are gone, until nothing remembers them.
//!
//! ```text
//!   removed, or started with another slot ─▶ slot retired ─▶ its link is gone ─▶ the host's connections of it forgotten ─▶ slot free
//!   stopped ─▶ the host's connections of it forgotten
//! ```
//! For some hundredths of a second after a box's last process the kernel still sends for its dead sockets, which makes entries in the
//! host's table of connections anew. So they are forgotten when the link is gone, and only then another box gets the address. That is done
//! for many boxes at a time: going through the table takes milliseconds, whoever it is for.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use boxyard_proto::BoxId;
use tokio::time::{sleep, timeout};

use super::host::Host;
use super::network::{self, Whose};

/// How long addresses are gathered; about as long as the kernel takes to remove a link.
const GATHER: Duration = Duration::from_millis(200);
/// How often a link that the kernel does not remove is waited for; then its slot is free all the same, and whoever gets it removes it.
const ROUNDS: u32 = 50;
/// How long who needs a slot waits for one that is retired.
const WAIT: Duration = Duration::from_secs(10);

impl Host {
    /// Notes that a box was stopped and keeps its slot.
    pub(super) fn has_stopped(&self, id: &BoxId) {
        self.stopped().insert(id.clone());
        self.retiring.notify_one();
    }

    /// Takes the slot of a box that is gone back. Another gets it after a while.
    pub(super) fn retire(&self, id: &BoxId) {
        self.slots().give_back(id);
        self.retiring.notify_one();
    }

    /// Gives the box another slot than it has, if one is free.
    pub(super) fn change_slot(&self, id: &BoxId) {
        self.slots().change(id);
        self.retiring.notify_one();
    }

    /// The slot of the box, a new one if it has none. `None` when all are taken.
    pub(super) async fn take_slot(&self, id: &BoxId) -> Option<u32> {
        let taking = async {
            loop {
                // Before the look, so that none is missed that comes free after it.
                let mut freed = std::pin::pin!(self.freed.notified());
                freed.as_mut().enable();
                let (slot, more) = {
                    let mut slots = self.slots();
                    (slots.take(id), !slots.retired().is_empty())
                };
                if slot.is_some() || !more {
                    return slot;
                }
                freed.await;
            }
        };
        timeout(WAIT, taking).await.ok().flatten()
    }

    /// Frees retired slots, for as long as this is polled.
    pub(super) async fn sweep_slots(self: Arc<Self>) {
        let mut round = 0;
        loop {
            self.retiring.notified().await;
            sleep(GATHER).await;
            round = if self.sweep_now(round >= ROUNDS).await {
                0
            } else {
                self.retiring.notify_one();
                round + 1
            };
        }
    }

    /// Frees the retired slots whose links are gone, or all of them. Says whether none is left.
    pub(super) async fn sweep_now(&self, all: bool) -> bool {
        let retired = self.slots().retired();
        let links = Path::new("/sys/class/net");
        let gone = |slot: &u32| all || !links.join(network::interface(self.instance.tag(), *slot)).exists();
        let (ready, left): (Vec<u32>, Vec<u32>) = retired.into_iter().partition(gone);
        let stopped = std::mem::take(&mut *self.stopped());
        // One that runs again has connections of its own.
        let stopped = stopped.iter().filter(|id| !self.cgroups.is_there(id)).filter_map(|id| self.slots().get(id));
        let addresses: BTreeSet<Ipv4Addr> =
            ready.iter().copied().chain(stopped).filter_map(|slot| network::address(self.range, slot)).collect();
        if !addresses.is_empty() {
            network::forget_connections(Whose::These(addresses)).await;
        }
        let mut slots = self.slots();
        for slot in &ready {
            slots.free(*slot);
        }
        drop(slots);
        self.freed.notify_waiters();
        left.is_empty()
    }

    /// Forgets connections of boxes that an earlier server removed and did not live to clear up after.
    pub(super) async fn forget_strangers(&self) {
        let own = {
            let slots = self.slots();
            let of = |id| network::address(self.range, slots.get(id)?);
            // The gateway's connections are those of boxes.
            slots.boxes().filter_map(of).chain(self.range.address(1)).collect()
        };
        network::forget_connections(Whose::OfRangeBut(self.range, own)).await;
    }
}
