//! Who may still come in: how many boxes there may be, and how much may be promised to them.
//!
//! ```text
//!   create ──▶ Admission::admit ──▶ judge(policy, promised, room) ──▶ Place, given back when it is dropped
//! ```
//! Two sorts of rules. What is *promised* (boxes, memory limits, disk limits) is counted under one lock, so that however many ask at
//! once, never more is given than there is. What is *left* on the host (memory, free disk) is read for each box and bound to be a
//! moment old: it keeps a host that is full already from being filled further.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxyard_engine::{Engine, Limits};
use boxyard_proto::AccountId;
use tokio::time::timeout;

use super::chain;
use crate::config::{Config, Overcommit};

/// Where the kernel tells of memory.
const MEMINFO: &str = "/proc/meminfo";

/// How long the engine may take to say how much disk there is. A box is not kept from being made by a question.
const DISK_DEADLINE: Duration = Duration::from_secs(5);

/// How much there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    boxes: u32,
    boxes_per_account: Option<u32>,
    overcommit: Overcommit,
}

/// What a host has, in bytes. `None` is what could not be found out, and refuses nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Room {
    memory: Option<u64>,
    memory_left: Option<u64>,
    disk: Option<u64>,
    disk_left: Option<u64>,
}

/// What boxes have been promised, all together.
#[derive(Debug, Default)]
struct Promised {
    boxes: u32,
    of_account: HashMap<AccountId, u32>,
    memory: u64,
    disk: u64,
}

/// What one box asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    memory: u64,
    disk: u64,
}

/// Why no further box comes in. Texts are fit for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// There are as many boxes as this server allows.
    #[error("the limit of {0} boxes is reached; delete some first")]
    Boxes(u32),
    /// The account has as many boxes as one may have.
    #[error("the account's quota of {0} boxes is reached; delete some first")]
    Account(u32),
    /// The boxes that there are may use all the memory that this host promises.
    #[error("this host has promised all its memory to boxes; delete some, ask for a smaller size, or try again later")]
    Memory,
    /// Hardly any memory is left on the host.
    #[error("this host is short of memory now; delete boxes that use much of it, or try again later")]
    MemoryLeft,
    /// The boxes that there are may use all the disk that this host promises.
    #[error("this host has promised all its disk to boxes; delete some, or ask for a smaller size")]
    Disk,
    /// Hardly any disk is left on the host.
    #[error("this host is short of disk space now; delete boxes that use much of it, or try again later")]
    DiskLeft,
}

impl Full {
    /// Whether it is for the host's sake, and not for a limit that somebody set to a number of boxes.
    pub fn is_of_host(self) -> bool {
        match self {
            Self::Boxes(_) | Self::Account(_) => false,
            Self::Memory | Self::MemoryLeft | Self::Disk | Self::DiskLeft => true,
        }
    }
}

/// Whether a new box may come in beside those that there are.
fn judge(policy: &Policy, promised: &Promised, room: Room, account: &AccountId, share: Share) -> Result<(), Full> {
    if promised.boxes >= policy.boxes {
        return Err(Full::Boxes(policy.boxes));
    }
    let of_account = promised.of_account.get(account).copied().unwrap_or(0);
    if let Some(most) = policy.boxes_per_account.filter(|most| of_account >= *most) {
        return Err(Full::Account(most));
    }
    let disk = room.disk.map(|disk| policy.overcommit.disk.times(disk));
    if disk.is_some_and(|most| promised.disk.saturating_add(share.disk) > most) {
        return Err(Full::Disk);
    }
    judge_disk_left(policy, room)?;
    judge_start(policy, promised, room, share)
}

/// Whether there is disk left for anybody.
fn judge_disk_left(policy: &Policy, room: Room) -> Result<(), Full> {
    if room.disk_left.is_some_and(|left| left < policy.overcommit.disk_floor) {
        return Err(Full::DiskLeft);
    }
    Ok(())
}

/// Whether a box may be started: a new one, or one that was stopped and has had no memory since.
fn judge_start(policy: &Policy, promised: &Promised, room: Room, share: Share) -> Result<(), Full> {
    let memory = room.memory.map(|memory| policy.overcommit.memory.times(memory));
    if memory.is_some_and(|most| promised.memory.saturating_add(share.memory) > most) {
        return Err(Full::Memory);
    }
    if room.memory_left.is_some_and(|left| left < policy.overcommit.memory_floor) {
        return Err(Full::MemoryLeft);
    }
    Ok(())
}

/// Lets boxes in. Clones share what is promised.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    policy: Policy,
    engine: Arc<dyn Engine>,
    promised: Arc<Mutex<Promised>>,
}

/// A box's place among those that there may be, with the memory and the disk that it was promised. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Admission,
    account: AccountId,
    share: Share,
    /// A stopped box has no memory.
    asleep: bool,
}

impl Admission {
    pub(super) fn new(config: &Config, engine: Arc<dyn Engine>) -> Self {
        let policy = Policy {
            boxes: config.boxes_max,
            boxes_per_account: config.boxes_max_per_account,
            overcommit: config.overcommit,
        };
        Self { policy, engine, promised: Arc::default() }
    }

    /// A place for a new box.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn admit(&self, account: &AccountId, limits: Limits) -> Result<Place, Full> {
        let (room, share) = (self.room().await, Share::of(limits));
        let mut promised = self.lock();
        judge(&self.policy, &promised, room, account, share)?;
        Ok(self.give(&mut promised, account, share, false))
    }

    /// Whether boxes may be saved: with its disk saved, a box may write as much as its limit once more.
    ///
    /// # Errors
    /// Hardly any disk is left.
    pub(super) async fn admit_snapshot(&self) -> Result<(), Full> {
        judge_disk_left(&self.policy, self.room().await)
    }

    /// A place for a box that is there already: with lower limits than before, boxes may be more than they allow, and are not turned out.
    pub(super) fn readmit(&self, account: &AccountId, limits: Limits, asleep: bool) -> Place {
        self.give(&mut self.lock(), account, Share::of(limits), asleep)
    }

    fn give(&self, promised: &mut Promised, account: &AccountId, share: Share, asleep: bool) -> Place {
        promised.boxes = promised.boxes.saturating_add(1);
        let of_account = promised.of_account.entry(account.clone()).or_default();
        *of_account = of_account.saturating_add(1);
        promised.disk = promised.disk.saturating_add(share.disk);
        if !asleep {
            promised.memory = promised.memory.saturating_add(share.memory);
        }
        Place { admission: self.clone(), account: account.clone(), share, asleep }
    }

    /// Whether a box could be started if boxes gave back `freed` bytes of the memory that is promised to them.
    pub(super) async fn would_fit(&self, limits: Limits, freed: u64) -> bool {
        let (room, share) = (Room { memory_left: None, ..self.room().await }, Share::of(limits));
        let memory = self.lock().memory.saturating_sub(freed);
        judge_start(&self.policy, &Promised { memory, ..Promised::default() }, room, share).is_ok()
    }

    async fn room(&self) -> Room {
        let mut room = Room::default();
        match std::fs::read_to_string(MEMINFO) {
            Ok(text) => (room.memory, room.memory_left) = (meminfo(&text, "MemTotal"), meminfo(&text, "MemAvailable")),
            Err(error) => tracing::warn!(error = chain(&error), "cannot find out how much memory there is"),
        }
        match timeout(DISK_DEADLINE, self.engine.disk_room()).await {
            Ok(Ok(disk)) => (room.disk, room.disk_left) = (Some(disk.bytes), Some(disk.left)),
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "cannot find out how much disk there is"),
            Err(_) => tracing::warn!("it takes too long to find out how much disk there is"),
        }
        room
    }

    // The sums are whole after every statement, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Gives the memory of a box back whose processes were ended.
    pub(super) fn sleep(&mut self) {
        if !std::mem::replace(&mut self.asleep, true) {
            let mut promised = self.admission.lock();
            promised.memory = promised.memory.saturating_sub(self.share.memory);
        }
    }

    /// Takes memory for a box that is to be started, unless it has it still, and says whether it did.
    ///
    /// # Errors
    /// There is none left.
    pub(super) async fn wake(&mut self) -> Result<bool, Full> {
        if !self.asleep {
            return Ok(false);
        }
        let room = self.admission.room().await;
        let mut promised = self.admission.lock();
        judge_start(&self.admission.policy, &promised, room, self.share)?;
        promised.memory = promised.memory.saturating_add(self.share.memory);
        self.asleep = false;
        Ok(true)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sleep();
        let mut promised = self.admission.lock();
        promised.boxes = promised.boxes.saturating_sub(1);
        promised.disk = promised.disk.saturating_sub(self.share.disk);
        if let Some(of_account) = promised.of_account.get_mut(&self.account) {
            *of_account = of_account.saturating_sub(1);
            if *of_account == 0 {
                promised.of_account.remove(&self.account);
            }
        }
    }
}

impl Share {
    fn of(limits: Limits) -> Self {
        Self { memory: limits.memory_bytes, disk: limits.disk_bytes }
    }
}

/// Bytes of memory that the host has available.
///
/// # Errors
/// The kernel does not say.
pub(super) fn memory_left() -> io::Result<u64> {
    let text = std::fs::read_to_string(MEMINFO)?;
    meminfo(&text, "MemAvailable").ok_or_else(|| io::Error::other("no MemAvailable in /proc/meminfo"))
}

/// The bytes of one line of the kernel's table, `MemTotal:       24000000 kB` (proc_meminfo(5)).
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use boxyard_engine::fake::FakeEngine;

    use super::*;
    use crate::config::Factor;

    const SHARE: Share = Share { memory: 4, disk: 5 };

    fn policy() -> Policy {
        let overcommit =
            Overcommit { memory: Factor::whole(2), memory_floor: 10, disk: Factor::whole(3), disk_floor: 20 };
        Policy { boxes: 100, boxes_per_account: None, overcommit }
    }

    fn limits() -> Limits {
        Limits { cpu_millis: 1, memory_bytes: SHARE.memory, pids: 1, disk_bytes: SHARE.disk }
    }

    fn admission(policy: Policy) -> Admission {
        Admission { policy, engine: FakeEngine::new(), promised: Arc::default() }
    }

    #[test]
    fn each_limit_is_reached_exactly_and_named() {
        let (mine, theirs) = (AccountId::from_entropy(1), AccountId::from_entropy(2));
        let room = Room { memory: Some(20), memory_left: Some(10), disk: Some(10), disk_left: Some(20) };
        let promised = Promised { boxes: 4, of_account: HashMap::from([(mine.clone(), 4)]), memory: 16, disk: 20 };
        let ask = |policy: &Policy, promised: &Promised, room| judge(policy, promised, room, &mine, SHARE);
        assert_eq!(ask(&policy(), &promised, room), Ok(()));

        let few = Policy { boxes: 4, ..policy() };
        assert_eq!(ask(&few, &promised, room), Err(Full::Boxes(4)));
        let few = Policy { boxes_per_account: Some(4), ..policy() };
        assert_eq!(ask(&few, &promised, room), Err(Full::Account(4)));
        assert_eq!(judge(&few, &promised, room, &theirs, SHARE), Ok(()));

        // Two times 20 bytes of memory and three times 10 of disk; the next box asks for 4 and 5.
        for (memory, disk, expected) in
            [(36, 25, Ok(())), (37, 25, Err(Full::Memory)), (36, 26, Err(Full::Disk)), (u64::MAX, 0, Err(Full::Memory))]
        {
            let promised = Promised { memory, disk, ..Promised::default() };
            assert_eq!(ask(&policy(), &promised, room), expected, "{memory} {disk}");
        }
        for (room, expected) in [
            (Room { memory_left: Some(9), ..room }, Err(Full::MemoryLeft)),
            (Room { disk_left: Some(19), ..room }, Err(Full::DiskLeft)),
            (Room::default(), Ok(())),
        ] {
            assert_eq!(ask(&policy(), &promised, room), expected, "{room:?}");
        }
    }

    #[test]
    fn a_stopped_box_that_starts_needs_memory_and_nothing_else() {
        let room = Room { memory: Some(20), memory_left: Some(10), disk: Some(0), disk_left: Some(0) };
        let promised = |memory| Promised { boxes: 1000, memory, disk: 1000, ..Promised::default() };
        assert_eq!(judge_start(&policy(), &promised(36), room, SHARE), Ok(()));
        assert_eq!(judge_start(&policy(), &promised(37), room, SHARE), Err(Full::Memory));
    }

    #[tokio::test]
    async fn what_is_given_back_is_what_was_taken() {
        let admission = admission(Policy { boxes: 2, ..policy() });
        let account = AccountId::from_entropy(1);
        let sums = |admission: &Admission| {
            let promised = admission.lock();
            (promised.boxes, promised.memory, promised.disk, promised.of_account.len())
        };
        let mut first = admission.readmit(&account, limits(), false);
        let second = admission.readmit(&account, limits(), true);
        assert_eq!(sums(&admission), (2, 4, 10, 1));
        first.sleep();
        first.sleep();
        assert_eq!(sums(&admission), (2, 0, 10, 1));
        first.admission.policy.overcommit.memory_floor = 0;
        assert_eq!(first.wake().await, Ok(true), "two times the memory of this machine is more than 4 bytes");
        assert_eq!(first.wake().await, Ok(false), "it is awake");
        assert_eq!(sums(&admission), (2, 4, 10, 1));
        let third = admission.readmit(&account, limits(), false);
        assert_eq!(sums(&admission), (3, 8, 15, 1), "boxes that are there are not turned out");
        drop((first, second, third));
        assert_eq!(sums(&admission), (0, 0, 0, 0));
    }

    #[tokio::test]
    async fn this_machine_tells_how_much_it_has() {
        let room = admission(policy()).room().await;
        assert!(room.memory >= room.memory_left && room.memory_left.is_some(), "{room:?}");
        assert!(room.disk >= room.disk_left && room.disk_left.is_some(), "{room:?}");
        let text = "MemTotal:       24000000 kB\nMemTotalX: 1 kB\nOdd: x kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_576_000_000));
        assert_eq!((meminfo(text, "Odd"), meminfo(text, "MemFree"), meminfo("", "MemTotal")), (None, None, None));
    }
}
