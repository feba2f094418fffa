//! Output that is held in memory for an answer: bounded for each command, and for all commands together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What memory is given out in. The first of each command is free: most need no more, and the number of commands is bounded too.
const UNIT: usize = 64 * 1024;

/// The memory that held output may take.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    each: usize,
}

impl Budget {
    /// At most `each` bytes for one command, and about `all` bytes for all.
    pub(super) fn new(each: usize, all: usize) -> Self {
        let units = (all / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), each }
    }

    /// Room for one command's output, of which at most `most` bytes are of use.
    pub(super) fn output_up_to(&self, most: usize) -> Output {
        Self { each: self.each.min(most), ..self.clone() }.output()
    }

    /// Room for one command's output.
    pub(super) fn output(&self) -> Output {
        let share = Share { permits: None, bytes: UNIT };
        Output { out: Vec::new(), err: Vec::new(), truncated: false, elsewhere: 0, budget: self.clone(), share }
    }
}

/// A share of the budget. It is given back when this is dropped, so it is kept for as long as the output is.
#[derive(Debug, Default)]
pub struct Share {
    permits: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

/// What a command wrote, as far as it is held.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
    /// Whether there was more.
    pub(super) truncated: bool,
    /// Bytes that are held elsewhere and count like those here.
    elsewhere: usize,
    budget: Budget,
    pub(super) share: Share,
}

/// Which of a command's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Output {
    /// Whether there is room in the budget for so many bytes that are held elsewhere for as long as the share is.
    pub(super) fn hold_elsewhere(&mut self, bytes: usize) -> bool {
        let total = self.out.len() + self.err.len() + self.elsewhere;
        let fits = self.room_for(total + bytes) >= total + bytes;
        if fits {
            self.elsewhere += bytes;
        }
        fits
    }

    /// Appends what fits: both outputs together stay below the command's cap and within what is left of the budget.
    pub(super) fn hold(&mut self, stream: Stream, bytes: &[u8]) {
        let total = self.out.len() + self.err.len();
        let wanted = bytes.len().min(self.budget.each.saturating_sub(total));
        let before = total + self.elsewhere;
        let fits = wanted.min(self.room_for(before + wanted) - before);
        let output = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        output.extend_from_slice(&bytes[..fits]);
        self.truncated |= fits < bytes.len();
    }

    /// Takes more of the budget if `total` bytes need it; returns how many bytes there is room for, at least as many as are held.
    fn room_for(&mut self, total: usize) -> usize {
        let missing = total.saturating_sub(self.share.bytes).div_ceil(UNIT);
        // A wish for more than there can ever be is as good as refused.
        let units = u32::try_from(missing).unwrap_or(u32::MAX);
        if missing > 0
            && let Ok(permits) = Arc::clone(&self.budget.units).try_acquire_many_owned(units)
        {
            self.share.bytes += missing * UNIT;
            match &mut self.share.permits {
                Some(held) => held.merge(permits),
                none => *none = Some(permits),
            }
        }
        self.share.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_of_a_command_share_its_cap() {
        let budget = Budget::new(10, 10 * UNIT);
        let mut output = budget.output();
        output.hold(Stream::Out, b"123456");
        output.hold(Stream::Err, b"abcd");
        assert!(!output.truncated);
        output.hold(Stream::Err, b"e");
        assert_eq!(
            (output.out.as_slice(), output.err.as_slice(), output.truncated),
            (&b"123456"[..], &b"abcd"[..], true)
        );
    }

    #[test]
    fn commands_together_hold_no_more_than_the_budget_and_give_it_back() {
        let budget = Budget::new(100 * UNIT, 4 * UNIT);
        let much = vec![b'x'; 5 * UNIT];
        let mut first = budget.output();
        first.hold(Stream::Out, &much);
        assert_eq!((first.out.len(), first.truncated), (5 * UNIT, false), "four units, and the first is free");
        let mut second = budget.output();
        second.hold(Stream::Out, &much);
        assert_eq!((second.out.len(), second.truncated), (UNIT, true));
        let share = first.share;
        assert_eq!(budget.units.available_permits(), 0, "it is kept until the answer is sent");
        drop(share);
        second.hold(Stream::Err, &much[..UNIT]);
        assert_eq!(second.err.len(), UNIT);
        drop(second);
        assert_eq!(budget.units.available_permits(), 4);
    }
}
