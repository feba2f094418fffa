//! The life of a box, as two total functions without I/O.
//!
//! ```text
//!             create              pause                   stop
//!   (none) ──▶ Creating ──▶ Ready ──────▶ Pausing ──▶ Paused ──▶ Stopping ──▶ Stopped     (Ready ──▶ Stopping: it died)
//!                 │           ▲ │  save                │  ▲                    │  ▲
//!                 │           │ └─▶ Saving{from} ◀─────┘◀─┴────────────────────┘◀─┘ save
//!                 │           └───── Resuming{from} ◀── resume, from Paused and from Stopped
//!                 ▼
//!              Failed ◀── the engine says "gone", from any of them
//!                 └──▶ Deleting ──▶ Deleted
//! ```
//!
//! [`ask`] decides what a request leads to, [`hear`] what a report of the engine leads to. The happy path is a request that gives a new
//! phase and a [`Deed`]; the keeper stores the phase, does the deed, and hears of its end. It fails in two ways: a request is
//! [`Refused`], or a deed fails, which puts the box where it was before (pause, resume, save), leaves it to be tried again (remove), or
//! makes it [`Phase::Failed`] (create).
//!
//! Every phase either rests or has exactly one deed ([`Phase::deed`]), so that a server which finds a phase in the store knows what to
//! do again.

use std::fmt;

/// Where a box stands in its life. The text form ([`fmt::Display`], [`Phase::parse`]) is what the store keeps: never change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The engine is making it, or its image.
    Creating,
    /// It takes work.
    Ready,
    /// The engine is pausing it.
    Pausing,
    /// Its processes stand still and keep their memory.
    Paused,
    /// The engine is ending its processes.
    Stopping,
    /// It has its disk and no processes.
    Stopped,
    /// The engine is resuming it.
    Resuming {
        /// Where it goes back to if that fails.
        from: Asleep,
    },
    /// The engine is saving its disk.
    Saving {
        /// Where it goes back to afterwards.
        from: Resting,
    },
    /// The engine is removing it; nobody can work in it or see it in a list any more.
    Deleting,
    /// Nothing of it exists but its record. Final.
    Deleted,
    /// It could not be made, or was lost. It can only be deleted.
    Failed,
}

/// A phase from which a box can be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resting {
    /// [`Phase::Ready`].
    Ready,
    /// [`Phase::Paused`].
    Paused,
    /// [`Phase::Stopped`].
    Stopped,
}

/// A phase from which a box can be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asleep {
    /// [`Phase::Paused`].
    Paused,
    /// [`Phase::Stopped`].
    Stopped,
}

/// What somebody wants of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// That it takes work.
    Work,
    /// That its processes stand still.
    Pause,
    /// That it gives up the memory of its processes, which stand still.
    Stop,
    /// That its disk is saved.
    Save,
    /// That it is no more.
    Delete,
}

/// A call of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// `Engine::create`.
    Create,
    /// `Engine::pause`.
    Pause,
    /// `Engine::stop`.
    Stop,
    /// `Engine::resume`.
    Resume,
    /// `Engine::save`.
    Save,
    /// `Engine::remove`.
    Remove,
}

impl Deed {
    /// What it does, as the end of "the box could not be …".
    pub fn done_to(self) -> &'static str {
        match self {
            Self::Create => "made",
            Self::Pause => "paused",
            Self::Stop => "stopped",
            Self::Resume => "resumed",
            Self::Save => "saved",
            Self::Remove => "removed",
        }
    }
}

/// What a request that is not refused leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Store this phase, then do its deed.
    Go(Phase, Deed),
    /// It is so already, or is becoming so.
    Already,
}

/// Why a request leads to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Something else is being done; ask again when the phase has changed.
    Busy,
    /// The box failed and can only be deleted.
    Failed,
    /// The box is being deleted or is deleted.
    Gone,
}

/// What the engine says of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The phase's deed is done.
    Done,
    /// The phase's deed failed.
    Failed,
    /// The box does not exist.
    Gone,
    /// The box has no processes any more, though nobody has ended them. Means nothing while a deed is being done, whose own end tells.
    Died,
}

/// What `wanted` leads to in `phase`.
///
/// # Errors
/// The request leads to nothing, now or ever.
pub fn ask(phase: Phase, wanted: Wanted) -> Result<Asked, Refused> {
    match (wanted, phase) {
        (Wanted::Work, Phase::Ready) => Ok(Asked::Already),
        (Wanted::Work, Phase::Paused) => Ok(Asked::Go(Phase::Resuming { from: Asleep::Paused }, Deed::Resume)),
        (Wanted::Work, Phase::Stopped) => Ok(Asked::Go(Phase::Resuming { from: Asleep::Stopped }, Deed::Resume)),
        (
            Wanted::Work,
            Phase::Creating | Phase::Pausing | Phase::Stopping | Phase::Resuming { .. } | Phase::Saving { .. },
        ) => Err(Refused::Busy),

        (Wanted::Pause, Phase::Ready) => Ok(Asked::Go(Phase::Pausing, Deed::Pause)),
        (Wanted::Pause, Phase::Pausing | Phase::Paused | Phase::Stopping | Phase::Stopped) => Ok(Asked::Already),
        (Wanted::Pause, Phase::Creating | Phase::Resuming { .. } | Phase::Saving { .. }) => Err(Refused::Busy),

        (Wanted::Stop, Phase::Paused) => Ok(Asked::Go(Phase::Stopping, Deed::Stop)),
        (Wanted::Stop, Phase::Stopping | Phase::Stopped) => Ok(Asked::Already),
        // What runs in a box is stopped only after it was paused.
        (
            Wanted::Stop,
            Phase::Creating | Phase::Ready | Phase::Pausing | Phase::Resuming { .. } | Phase::Saving { .. },
        ) => Err(Refused::Busy),

        (Wanted::Save, Phase::Ready) => Ok(Asked::Go(Phase::Saving { from: Resting::Ready }, Deed::Save)),
        (Wanted::Save, Phase::Paused) => Ok(Asked::Go(Phase::Saving { from: Resting::Paused }, Deed::Save)),
        (Wanted::Save, Phase::Stopped) => Ok(Asked::Go(Phase::Saving { from: Resting::Stopped }, Deed::Save)),
        (
            Wanted::Save,
            Phase::Creating | Phase::Pausing | Phase::Stopping | Phase::Resuming { .. } | Phase::Saving { .. },
        ) => Err(Refused::Busy),

        // Whatever is being done is given up: the engine mends half-done work when it removes the box.
        (
            Wanted::Delete,
            Phase::Creating
            | Phase::Ready
            | Phase::Pausing
            | Phase::Paused
            | Phase::Stopping
            | Phase::Stopped
            | Phase::Resuming { .. }
            | Phase::Saving { .. }
            | Phase::Failed,
        ) => Ok(Asked::Go(Phase::Deleting, Deed::Remove)),
        (Wanted::Delete, Phase::Deleting | Phase::Deleted) => Ok(Asked::Already),

        (Wanted::Work | Wanted::Pause | Wanted::Stop | Wanted::Save, Phase::Failed) => Err(Refused::Failed),
        (Wanted::Work | Wanted::Pause | Wanted::Stop | Wanted::Save, Phase::Deleting | Phase::Deleted) => {
            Err(Refused::Gone)
        }
    }
}

/// The phase that follows `phase` upon `report`. The same phase again means: with a deed, do it again; without, nothing.
pub fn hear(phase: Phase, report: Report) -> Phase {
    match (phase, report) {
        (Phase::Creating, Report::Done) => Phase::Ready,
        (Phase::Creating, Report::Failed) => Phase::Failed,
        (Phase::Pausing, Report::Done) => Phase::Paused,
        (Phase::Pausing, Report::Failed) => Phase::Ready,
        (Phase::Stopping, Report::Done) => Phase::Stopped,
        (Phase::Stopping, Report::Failed) => Phase::Paused,
        (Phase::Resuming { .. }, Report::Done) => Phase::Ready,
        (Phase::Resuming { from }, Report::Failed) => from.phase(),
        (Phase::Saving { from }, Report::Done | Report::Failed) => from.phase(),
        (Phase::Deleting, Report::Done | Report::Gone) => Phase::Deleted,
        (Phase::Deleting, Report::Failed) => Phase::Deleting,
        (
            Phase::Creating
            | Phase::Ready
            | Phase::Pausing
            | Phase::Paused
            | Phase::Stopping
            | Phase::Stopped
            | Phase::Resuming { .. }
            | Phase::Saving { .. }
            | Phase::Failed,
            Report::Gone,
        ) => Phase::Failed,
        // What is left of them is cleared away, and then the box is as one that was stopped.
        (Phase::Ready | Phase::Paused, Report::Died) => Phase::Stopping,
        (
            Phase::Creating
            | Phase::Pausing
            | Phase::Stopping
            | Phase::Stopped
            | Phase::Resuming { .. }
            | Phase::Saving { .. }
            | Phase::Deleting
            | Phase::Failed,
            Report::Died,
        )
        | (Phase::Ready | Phase::Paused | Phase::Stopped | Phase::Failed, Report::Done | Report::Failed) => phase,
        (Phase::Deleted, Report::Done | Report::Failed | Report::Gone | Report::Died) => Phase::Deleted,
    }
}

impl Resting {
    /// The phase itself.
    pub fn phase(self) -> Phase {
        match self {
            Self::Ready => Phase::Ready,
            Self::Paused => Phase::Paused,
            Self::Stopped => Phase::Stopped,
        }
    }
}

impl Asleep {
    /// The phase itself.
    pub fn phase(self) -> Phase {
        match self {
            Self::Paused => Phase::Paused,
            Self::Stopped => Phase::Stopped,
        }
    }
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 14] = [
        Self::Creating,
        Self::Ready,
        Self::Pausing,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Resuming { from: Asleep::Paused },
        Self::Resuming { from: Asleep::Stopped },
        Self::Saving { from: Resting::Ready },
        Self::Saving { from: Resting::Paused },
        Self::Saving { from: Resting::Stopped },
        Self::Deleting,
        Self::Deleted,
        Self::Failed,
    ];

    /// What is being done in this phase, if anything is.
    pub fn deed(self) -> Option<Deed> {
        match self {
            Self::Creating => Some(Deed::Create),
            Self::Pausing => Some(Deed::Pause),
            Self::Stopping => Some(Deed::Stop),
            Self::Resuming { .. } => Some(Deed::Resume),
            Self::Saving { .. } => Some(Deed::Save),
            Self::Deleting => Some(Deed::Remove),
            Self::Ready | Self::Paused | Self::Stopped | Self::Deleted | Self::Failed => None,
        }
    }

    /// Whether programs in the box can do their work, if only after the moment that a save takes.
    pub fn is_awake(self) -> bool {
        match self {
            Self::Ready | Self::Saving { from: Resting::Ready } => true,
            Self::Creating
            | Self::Pausing
            | Self::Paused
            | Self::Stopping
            | Self::Stopped
            | Self::Resuming { .. }
            | Self::Saving { from: Resting::Paused | Resting::Stopped }
            | Self::Deleting
            | Self::Deleted
            | Self::Failed => false,
        }
    }

    /// Whether what ran in the box when it was paused has ended, or is being ended.
    pub fn is_stopped(self) -> bool {
        match self {
            Self::Stopping
            | Self::Stopped
            | Self::Resuming { from: Asleep::Stopped }
            | Self::Saving { from: Resting::Stopped } => true,
            Self::Creating
            | Self::Ready
            | Self::Pausing
            | Self::Paused
            | Self::Resuming { from: Asleep::Paused }
            | Self::Saving { from: Resting::Ready | Resting::Paused }
            | Self::Deleting
            | Self::Deleted
            | Self::Failed => false,
        }
    }

    /// Whether the box is gone for its users: being removed, or removed.
    pub fn is_gone(self) -> bool {
        match self {
            Self::Deleting | Self::Deleted => true,
            Self::Creating
            | Self::Ready
            | Self::Pausing
            | Self::Paused
            | Self::Stopping
            | Self::Stopped
            | Self::Resuming { .. }
            | Self::Saving { .. }
            | Self::Failed => false,
        }
    }

    /// Reads the text form; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }

    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Resuming { from: Asleep::Paused } => "resuming",
            Self::Resuming { from: Asleep::Stopped } => "resuming from stopped",
            Self::Saving { from: Resting::Ready } => "saving from ready",
            Self::Saving { from: Resting::Paused } => "saving from paused",
            Self::Saving { from: Resting::Stopped } => "saving from stopped",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Ask(Wanted),
        Hear(Report),
    }

    fn phase() -> impl Strategy<Value = Phase> {
        prop::sample::select(Phase::ALL.to_vec())
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop::sample::select(vec![Wanted::Work, Wanted::Pause, Wanted::Stop, Wanted::Save, Wanted::Delete])
                .prop_map(Step::Ask),
            prop::sample::select(vec![Report::Done, Report::Failed, Report::Gone, Report::Died]).prop_map(Step::Hear),
        ]
    }

    fn take(phase: Phase, step: Step) -> Phase {
        match step {
            Step::Ask(wanted) => match ask(phase, wanted) {
                Ok(Asked::Go(next, _)) => next,
                Ok(Asked::Already) | Err(_) => phase,
            },
            Step::Hear(report) => hear(phase, report),
        }
    }

    proptest! {
        #[test]
        fn a_deed_that_is_done_ends_its_phase_for_good(steps in prop::collection::vec(step(), 0..60)) {
            let mut phase = Phase::Creating;
            for step in steps {
                phase = take(phase, step);
            }
            if phase.deed().is_some() {
                let after = hear(phase, Report::Done);
                prop_assert_ne!(after, phase);
                prop_assert_eq!(after.deed(), None, "a deed leads to rest, not to another deed");
            }
        }

        #[test]
        fn whatever_happens_a_deleted_box_stays_deleted(steps in prop::collection::vec(step(), 0..60)) {
            let mut phase = Phase::Creating;
            let mut gone = false;
            for step in steps {
                let before = phase;
                phase = take(phase, step);
                gone |= phase.is_gone();
                prop_assert_eq!(gone, phase.is_gone(), "nothing comes back from deletion");
                if before == Phase::Deleted {
                    prop_assert_eq!(phase, Phase::Deleted);
                }
                if before == Phase::Failed {
                    prop_assert!(phase == Phase::Failed || phase == Phase::Deleting);
                }
            }
        }

        #[test]
        fn a_new_phase_comes_with_its_own_deed(phase in phase(), step in step()) {
            if let Step::Ask(wanted) = step && let Ok(Asked::Go(next, deed)) = ask(phase, wanted) {
                prop_assert_ne!(next, phase);
                prop_assert_eq!(next.deed(), Some(deed));
            }
        }

        #[test]
        fn any_box_can_be_deleted_at_any_moment(steps in prop::collection::vec(step(), 0..60)) {
            let mut phase = Phase::Creating;
            for step in steps {
                phase = take(phase, step);
            }
            prop_assert!(ask(phase, Wanted::Delete).is_ok());
            let deleting = take(phase, Step::Ask(Wanted::Delete));
            prop_assert_eq!(hear(deleting, Report::Done), Phase::Deleted);
        }

        #[test]
        fn work_is_only_taken_when_ready(phase in phase()) {
            prop_assert_eq!(ask(phase, Wanted::Work) == Ok(Asked::Already), phase == Phase::Ready);
        }

        #[test]
        fn a_box_that_is_stopped_was_paused_or_has_died_and_comes_back_through_a_start(steps in prop::collection::vec(step(), 0..60)) {
            let mut phase = Phase::Creating;
            for step in steps {
                let before = phase;
                phase = take(phase, step);
                if phase.is_stopped() && !before.is_stopped() {
                    let died = matches!(step, Step::Hear(Report::Died));
                    prop_assert!(before == Phase::Paused || (before == Phase::Ready && died));
                }
                if before.is_stopped() && phase.is_awake() {
                    prop_assert_eq!(before, Phase::Resuming { from: Asleep::Stopped });
                }
                prop_assert!(!(phase.is_stopped() && phase.is_awake()));
            }
        }

        #[test]
        fn a_deed_that_fails_puts_a_box_where_it_was(phase in phase(), wanted in prop::sample::select(
            vec![Wanted::Work, Wanted::Pause, Wanted::Stop, Wanted::Save],
        )) {
            if let Ok(Asked::Go(next, _)) = ask(phase, wanted) {
                prop_assert_eq!(hear(next, Report::Failed), phase);
            }
        }

        #[test]
        fn no_text_breaks_the_parser(text: String) {
            if let Some(phase) = Phase::parse(&text) {
                prop_assert_eq!(phase.as_str(), text);
            }
        }
    }

    #[test]
    fn stored_texts_read_back_and_are_those_the_store_knows() {
        for phase in Phase::ALL {
            assert_eq!(Phase::parse(phase.as_str()), Some(phase));
        }
        assert_eq!(Phase::parse("resuming"), Some(Phase::Resuming { from: Asleep::Paused }), "of the first version");
        assert_eq!(Phase::Deleting.as_str(), "deleting");
        assert_eq!(Phase::Deleted.as_str(), "deleted");
    }
}
