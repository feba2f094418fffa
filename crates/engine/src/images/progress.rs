//! How far builds are, for progress bars and logs.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::lock;

/// How far a build is.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildProgress {
    /// The recipe that was asked for.
    pub image: String,
    /// The layer being built, from 1.
    pub step: usize,
    /// How many layers the image has.
    pub of: usize,
    /// What is being done, as a fragment: "installing Debian".
    pub doing: &'static str,
    /// How much of this step is done, from 0 to 1, where that is known.
    pub fraction: Option<f32>,
}

/// The latest step of any build, and how many builds there are.
#[derive(Debug)]
pub(super) struct Progress {
    pub latest: watch::Sender<Option<BuildProgress>>,
    builds: Mutex<usize>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { latest: watch::Sender::new(None), builds: Mutex::new(0) }
    }
}

impl Progress {
    pub fn begin(self: Arc<Self>) -> Shown {
        *lock(&self.builds) += 1;
        Shown(self)
    }

    pub fn show(&self, step: BuildProgress) {
        self.latest.send_replace(Some(step));
    }
}

/// A build that followers are told of, until this is dropped.
pub(super) struct Shown(Arc<Progress>);

impl Drop for Shown {
    fn drop(&mut self) {
        let mut builds = lock(&self.0.builds);
        *builds -= 1;
        if *builds == 0 {
            self.0.latest.send_replace(None);
        }
    }
}
