//! Slots: one number per box, from which its uids, its address and the name of its network interface follow.

use std::collections::{BTreeMap, BTreeSet};

use boxyard_proto::BoxId;

/// Which box has which slot.
///
/// Free slots are given out in turn, so that an address or a range of uids that was just given back is the last to be used again:
/// whatever still remembers it (a connection, a keyring, an interface that the kernel has not removed yet) has time to go.
#[derive(Debug)]
pub(super) struct Slots {
    count: u32,
    next: u32,
    taken: BTreeSet<u32>,
    /// Those of the taken that no box has: they are not to be had before they are [freed](Self::free).
    retired: BTreeSet<u32>,
    by_box: BTreeMap<BoxId, u32>,
}

impl Slots {
    /// `count` slots, all free, to be given out from `first` on. After a restart nobody knows which one was given back last, so a
    /// random `first` is the best there is.
    pub(super) fn new(count: u32, first: u32) -> Self {
        Self {
            count,
            next: first.checked_rem(count).unwrap_or_default(),
            taken: BTreeSet::new(),
            retired: BTreeSet::new(),
            by_box: BTreeMap::new(),
        }
    }

    /// The slot of `id`, if it has one.
    pub(super) fn get(&self, id: &BoxId) -> Option<u32> {
        self.by_box.get(id).copied()
    }

    /// Every box that has a slot.
    pub(super) fn boxes(&self) -> impl Iterator<Item = &BoxId> {
        self.by_box.keys()
    }

    /// Gives `id` a slot: the one it has, or a free one. `None` when all are taken.
    pub(super) fn take(&mut self, id: &BoxId) -> Option<u32> {
        if let Some(slot) = self.get(id) {
            return Some(slot);
        }
        let slot = (self.next..self.count).chain(0..self.next).find(|slot| !self.taken.contains(slot))?;
        self.next = (slot + 1) % self.count;
        self.insert(id, slot);
        Some(slot)
    }

    /// Gives `id` another slot than it has, if one is free.
    pub(super) fn change(&mut self, id: &BoxId) {
        let old = self.by_box.remove(id);
        let new = self.take(id);
        match (old, new) {
            (Some(old), Some(_)) => {
                self.retired.insert(old);
            }
            (Some(old), None) => self.insert(id, old),
            (None, _) => {}
        }
    }

    /// Notes that `id` has `slot` since an earlier life of this server. False when it cannot be: another box has it, or it is beyond
    /// the count that the configuration allows now.
    pub(super) fn restore(&mut self, id: &BoxId, slot: u32) -> bool {
        if slot >= self.count || self.taken.contains(&slot) || self.by_box.contains_key(id) {
            return false;
        }
        self.insert(id, slot);
        true
    }

    /// Takes the slot of `id` back, and retires it.
    pub(super) fn give_back(&mut self, id: &BoxId) {
        if let Some(slot) = self.by_box.remove(id) {
            self.retired.insert(slot);
        }
    }

    /// The slots that no box has and that are not free.
    pub(super) fn retired(&self) -> Vec<u32> {
        self.retired.iter().copied().collect()
    }

    /// Makes a retired slot free.
    pub(super) fn free(&mut self, slot: u32) {
        if self.retired.remove(&slot) {
            self.taken.remove(&slot);
        }
    }

    fn insert(&mut self, id: &BoxId, slot: u32) {
        self.taken.insert(slot);
        self.by_box.insert(id.clone(), slot);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Deed {
        Take(u64),
        GiveBack(u64),
        Free,
        Restore(u64, u32),
    }

    fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let deed = prop_oneof![
            3 => (0u64..12).prop_map(Deed::Take),
            2 => (0u64..12).prop_map(Deed::GiveBack),
            1 => Just(Deed::Free),
            1 => (0u64..12, 0u32..10).prop_map(|(id, slot)| Deed::Restore(id, slot)),
        ];
        prop::collection::vec(deed, 0..200)
    }

    proptest! {
        #[test]
        fn no_two_boxes_share_a_slot_and_every_slot_is_found(count in 1u32..9, first: u32, deeds in deeds()) {
            let mut slots = Slots::new(count, first);
            let mut model: BTreeMap<BoxId, u32> = BTreeMap::new();
            for deed in deeds {
                match deed {
                    Deed::Take(id) => {
                        let id = BoxId::from_entropy(id);
                        let full = model.len() + slots.retired().len() == count as usize && !model.contains_key(&id);
                        let slot = slots.take(&id);
                        prop_assert_eq!(slot.is_none(), full);
                        if let Some(slot) = slot {
                            prop_assert!(slot < count);
                            model.insert(id, slot);
                        }
                    }
                    Deed::GiveBack(id) => {
                        let id = BoxId::from_entropy(id);
                        slots.give_back(&id);
                        model.remove(&id);
                    }
                    Deed::Free => {
                        for slot in slots.retired() {
                            prop_assert!(!model.values().any(|taken| *taken == slot));
                            slots.free(slot);
                        }
                    }
                    Deed::Restore(id, slot) => {
                        let id = BoxId::from_entropy(id);
                        if slots.restore(&id, slot) {
                            prop_assert!(model.insert(id, slot).is_none());
                        }
                    }
                }
                let distinct: BTreeSet<_> = model.values().collect();
                prop_assert_eq!(distinct.len(), model.len());
                for (id, slot) in &model {
                    prop_assert_eq!(slots.get(id), Some(*slot));
                }
                prop_assert_eq!(slots.boxes().count(), model.len());
            }
        }
    }

    #[test]
    fn a_slot_given_back_is_the_last_to_be_used_again() {
        let mut slots = Slots::new(4, 6);
        let ids: Vec<_> = (0..5).map(BoxId::from_entropy).collect();
        assert_eq!(slots.take(&ids[0]), Some(2));
        slots.give_back(&ids[0]);
        assert_eq!(slots.retired(), [2]);
        slots.free(2);
        let order: Vec<_> = ids[1..5].iter().map(|id| slots.take(id)).collect();
        assert_eq!(order, [Some(3), Some(0), Some(1), Some(2)]);
        assert_eq!(slots.take(&ids[0]), None);
        slots.change(&ids[1]);
        assert_eq!(slots.get(&ids[1]), Some(3), "there is no other");
        slots.give_back(&ids[2]);
        slots.change(&ids[1]);
        assert_eq!(slots.get(&ids[1]), Some(3), "one that is retired is not to be had");
        slots.free(0);
        slots.free(1);
        slots.change(&ids[1]);
        assert_eq!(slots.retired(), [3]);
        slots.free(3);
        assert_eq!((slots.get(&ids[1]), slots.take(&ids[0])), (Some(0), Some(3)));
    }
}
