//! What all sockets of a box share: how many there may be, and the connections that wait to be taken.
//!
//! Each connection of the engine's costs at most two descriptors more than itself when it carries a socket, or three when it listens;
//! with the bounds below and those of the other jobs this stays far below what PID 1 may have open. Where the host allows less, what
//! finds no descriptor is refused.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use boxyard_proto::wire::{ACCEPT_SECONDS, INCOMING_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::stream::Stream;

/// Look-ups of names at once; more wait for their turn.
const LOOK_UPS: usize = 16;

/// Listening connections at once.
const LISTENERS: usize = 128;

/// Connections that wait to be accepted at once, of all listeners together. More stay in the kernel's queues.
const INCOMING_ALL: usize = 1024;

/// The bounds, the numbers and the waiting.
#[derive(Debug)]
pub struct Sockets {
    /// Places for look-ups of names.
    pub look_ups: Arc<Semaphore>,
    listeners: Arc<Semaphore>,
    incoming: Arc<Semaphore>,
    /// How long a connection waits to be accepted.
    patience: Duration,
    last: Cell<u64>,
    queues: RefCell<BTreeMap<u64, BTreeMap<u64, Waiting>>>,
}

/// A connection that nobody has accepted yet.
#[derive(Debug)]
struct Waiting {
    stream: Stream,
    until: Instant,
    _place: Place,
}

/// A place for one more waiting connection, given back when it is taken or dropped.
#[derive(Debug)]
pub struct Place {
    _of_listener: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Sockets {
    /// None yet.
    pub fn new() -> Self {
        Self::with_patience(Duration::from_secs(ACCEPT_SECONDS))
    }

    /// None yet, and connections that wait this long to be accepted.
    pub fn with_patience(patience: Duration) -> Self {
        Self {
            look_ups: Arc::new(Semaphore::new(LOOK_UPS)),
            listeners: Arc::new(Semaphore::new(LISTENERS)),
            incoming: Arc::new(Semaphore::new(INCOMING_ALL)),
            patience,
            last: Cell::new(0),
            queues: RefCell::default(),
        }
    }

    /// A number that nothing else has ever had.
    pub fn number(&self) -> u64 {
        let number = self.last.get() + 1;
        self.last.set(number);
        number
    }

    /// A place for one more listener, if there is one.
    pub fn queue(self: &Rc<Self>) -> Option<Queue> {
        let place = Arc::clone(&self.listeners).try_acquire_owned().ok()?;
        let number = self.number();
        self.queues.borrow_mut().insert(number, BTreeMap::new());
        let places = Arc::new(Semaphore::new(INCOMING_MAX));
        Some(Queue { sockets: Rc::clone(self), number, places, _place: place })
    }

    /// Takes the waiting connection of this number, if it still waits.
    pub fn take(&self, connection: u64) -> Option<Stream> {
        let mut queues = self.queues.borrow_mut();
        queues.values_mut().find_map(|queue| queue.remove(&connection)).map(|waiting| waiting.stream)
    }
}

/// The waiting connections of one listener, dropped with it.
#[derive(Debug)]
pub struct Queue {
    sockets: Rc<Sockets>,
    number: u64,
    places: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
}

impl Queue {
    /// Its own number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Waits for room for another connection.
    pub async fn place(&self) -> Place {
        let mine = Arc::clone(&self.places).acquire_owned().await;
        let all = Arc::clone(&self.sockets.incoming).acquire_owned().await;
        match (mine, all) {
            (Ok(of_listener), Ok(of_all)) => Place { _of_listener: of_listener, _of_all: of_all },
            // Nobody ever closes them.
            (Err(_), _) | (_, Err(_)) => std::future::pending().await,
        }
    }

    /// Lets `stream` wait; returns its number.
    pub fn enter(&self, stream: Stream, place: Place) -> u64 {
        let number = self.sockets.number();
        let until = Instant::now() + self.sockets.patience;
        self.with(|waiting| waiting.insert(number, Waiting { stream, until, _place: place }));
        number
    }

    /// Drops the connections that have waited for too long. Returns when that is to be done again.
    pub fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        self.with(|waiting| {
            // All wait equally long, so the lowest number is always the next.
            while let Some(first) = waiting.first_entry() {
                if first.get().until > now {
                    return Some(first.get().until);
                }
                first.remove();
            }
            None
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<u64, Waiting>) -> T) -> T {
        change(self.sockets.queues.borrow_mut().entry(self.number).or_default())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.sockets.queues.borrow_mut().remove(&self.number);
    }
}
