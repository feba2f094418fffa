//! Which contexts a box has, which it had, and how many there may be.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boxyard_proto::ContextId;
use prometheus_client::metrics::gauge::Gauge;

use super::ContextError;
use super::context::Context;

/// Contexts of one box that have ended and are remembered.
const ENDED_MAX: usize = 32;
/// The contexts of one box.
#[derive(Default)]
pub(in crate::boxes) struct Contexts(Mutex<Held>);

#[derive(Default)]
pub(super) struct Held {
    /// The oldest first.
    pub(super) live: Vec<Arc<Context>>,
    /// Those whose first interpreter is being started.
    starting: usize,
    /// The last that ended, and why.
    ended: VecDeque<(ContextId, String)>,
}

impl Contexts {
    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        // What it guards is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one off the list, if it is on it.
    pub(super) fn end(&self, id: &ContextId, why: &str) {
        let mut held = self.lock();
        let before = held.live.len();
        held.live.retain(|context| context.facts.id != *id);
        if held.live.len() == before {
            return;
        }
        if held.ended.len() == ENDED_MAX {
            held.ended.pop_front();
        }
        held.ended.push_back((id.clone(), why.to_owned()));
    }

    pub(super) fn find(&self, text: &str) -> Result<Arc<Context>, ContextError> {
        let held = self.lock();
        let found = held.live.iter().find(|context| context.facts.id.as_str() == text);
        if let Some(found) = found {
            return Ok(Arc::clone(found));
        }
        match held.ended.iter().rev().find(|(id, _)| id.as_str() == text) {
            Some((id, why)) => Err(ContextError::Over { id: id.clone(), why: why.clone() }),
            None => Err(ContextError::NotFound),
        }
    }
}

/// A place among a box's contexts for one that is being started; given back when this is dropped.
pub(super) struct Berth<'a>(&'a Contexts);

impl<'a> Berth<'a> {
    pub(super) fn take(contexts: &'a Contexts, most: usize) -> Result<Self, ContextError> {
        let mut held = contexts.lock();
        if held.live.len() + held.starting >= most {
            return Err(ContextError::TooMany(most));
        }
        held.starting += 1;
        Ok(Self(contexts))
    }
}

impl Drop for Berth<'_> {
    fn drop(&mut self) {
        self.0.lock().starting -= 1;
    }
}

/// Counts a context for as long as this lives.
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
