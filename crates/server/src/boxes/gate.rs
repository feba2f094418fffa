//! The gate of a box, at which leases are counted without asking its keeper.

use std::sync::atomic::{AtomicU64, Ordering};

/// Leases of one box at most: fewer than the connections that `boxyard-init` takes at once (512), some of which end runs.
pub(super) const LEASES_MAX: u64 = 480;

/// Counts leases, and gives none while it is closed. One number: the highest bit says open, the others count.
pub(super) struct Gate(AtomicU64);

const OPEN: u64 = 1 << 63;

impl Gate {
    pub(super) fn new(open: bool) -> Self {
        Self(AtomicU64::new(if open { OPEN } else { 0 }))
    }

    pub(super) fn open(&self) {
        self.0.fetch_or(OPEN, Ordering::AcqRel);
    }

    pub(super) fn close(&self) {
        self.0.fetch_and(!OPEN, Ordering::AcqRel);
    }

    /// Closes it if there are no leases, and says whether it did.
    pub(super) fn close_if_unused(&self) -> bool {
        self.0.compare_exchange(OPEN, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Lets in what was in before, open or not.
    pub(super) fn enter_again(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn enter(&self) -> Entered {
        let enter = |value: u64| (value & OPEN != 0 && value & !OPEN < LEASES_MAX).then(|| value + 1);
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter) {
            Ok(_) => Entered::Yes,
            Err(value) if value & OPEN != 0 => Entered::Full,
            Err(_) => Entered::Closed,
        }
    }

    /// Says whether this was the last lease.
    pub(super) fn leave(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) & !OPEN == 1
    }

    pub(super) fn leases(&self) -> u64 {
        self.0.load(Ordering::Acquire) & !OPEN
    }
}

/// What came of asking for a lease.
pub(super) enum Entered {
    Yes,
    Full,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_gives_no_lease_and_keeps_count_of_those_it_gave() {
        let gate = Gate::new(false);
        assert!(matches!(gate.enter(), Entered::Closed));
        gate.open();
        assert!(matches!((gate.enter(), gate.enter()), (Entered::Yes, Entered::Yes)));
        gate.close();
        assert!(matches!(gate.enter(), Entered::Closed));
        assert_eq!(gate.leases(), 2);
        assert!(!gate.leave());
        assert!(gate.leave());
        gate.open();
        assert!(matches!(gate.enter(), Entered::Yes));
        assert!(!gate.close_if_unused(), "something works");
        assert!(gate.leave());
        assert!(gate.close_if_unused());
        gate.enter_again();
        assert!(!gate.close_if_unused() && gate.leave(), "what goes on counts");
        gate.open();
        for _ in 0..LEASES_MAX {
            assert!(matches!(gate.enter(), Entered::Yes));
        }
        assert!(matches!(gate.enter(), Entered::Full));
    }
}
