//! The boxes that are not deleted, in memory: requests for them need no SQL.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use boxyard_proto::{AccountId, BoxId};

use super::kept::{Fixed, Kept};
use super::lifecycle::Phase;

/// All live boxes by id, and those with a name by account and name.
#[derive(Default)]
pub(super) struct Registry {
    boxes: RwLock<Boxes>,
    places: AtomicU64,
}

#[derive(Default)]
struct Boxes {
    by_id: HashMap<BoxId, Kept>,
    by_name: HashMap<(AccountId, String), BoxId>,
}

impl Registry {
    /// The place of the next box in the order of making.
    pub(super) fn next_place(&self) -> u64 {
        self.places.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn insert(&self, kept: Kept) {
        let fixed = &kept.shared.fixed;
        let mut boxes = self.write();
        if let Some(name) = &fixed.name
            && !kept.phase().is_gone()
        {
            boxes.by_name.insert((fixed.account.clone(), name.clone()), fixed.id.clone());
        }
        boxes.by_id.insert(fixed.id.clone(), kept);
    }

    /// The account's box with this id or name, whatever its phase. Boxes of others are as unknown as those that never were.
    pub(super) fn find(&self, account: &AccountId, id_or_name: &str) -> Option<Kept> {
        let boxes = self.read();
        let kept = match id_or_name.parse::<BoxId>() {
            Ok(id) => boxes.by_id.get(&id),
            Err(_) => {
                let id = boxes.by_name.get(&(account.clone(), id_or_name.to_owned()))?;
                boxes.by_id.get(id)
            }
        }?;
        (kept.account() == account).then(|| kept.clone())
    }

    pub(super) fn get(&self, id: &BoxId) -> Option<Kept> {
        self.read().by_id.get(id).cloned()
    }

    /// All of them, whatever their phase.
    pub(super) fn ids(&self) -> Vec<BoxId> {
        self.read().by_id.keys().cloned().collect()
    }

    /// Those in a phase that `wanted` says yes to.
    pub(super) fn all_in(&self, wanted: impl Fn(Phase) -> bool) -> Vec<Kept> {
        self.read().by_id.values().filter(|kept| wanted(kept.phase())).cloned().collect()
    }

    /// Whose box this is, unless it is being deleted.
    pub(super) fn owner_of(&self, id: &BoxId) -> Option<AccountId> {
        self.read().by_id.get(id).filter(|kept| !kept.phase().is_gone()).map(|kept| kept.account().clone())
    }

    /// The account's boxes, the newest first.
    pub(super) fn of_account(&self, account: &AccountId) -> Vec<Kept> {
        let mut boxes: Vec<Kept> =
            self.read().by_id.values().filter(|kept| kept.account() == account).cloned().collect();
        boxes.sort_unstable_by_key(|kept| {
            let fixed = &kept.shared.fixed;
            std::cmp::Reverse((fixed.created_at, fixed.place))
        });
        boxes
    }

    /// Gives the name of a box that is being deleted back.
    pub(super) fn free_name(&self, fixed: &Fixed) {
        let Some(name) = &fixed.name else { return };
        let mut boxes = self.write();
        let key = (fixed.account.clone(), name.clone());
        // Another box may have taken the name meanwhile.
        if boxes.by_name.get(&key) == Some(&fixed.id) {
            boxes.by_name.remove(&key);
        }
    }

    pub(super) fn remove(&self, fixed: &Fixed) {
        self.free_name(fixed);
        self.write().by_id.remove(&fixed.id);
    }

    // The maps are whole after every statement, so a panic elsewhere does not spoil them.
    fn read(&self) -> RwLockReadGuard<'_, Boxes> {
        self.boxes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Boxes> {
        self.boxes.write().unwrap_or_else(PoisonError::into_inner)
    }
}
