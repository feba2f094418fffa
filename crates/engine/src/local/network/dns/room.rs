//! How much clients may have under way: in all, and each.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

/// No client takes more than one in this many of the places that are left, its last one aside.
const SHARE: usize = 8;

/// A bounded number of places.
#[derive(Debug)]
pub(super) struct Room {
    total: usize,
    each: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    total: usize,
    by_client: HashMap<Ipv4Addr, usize>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    room: Arc<Room>,
    client: Ipv4Addr,
}

impl Room {
    /// Places for `total` in all, of which one client takes `each` at most.
    pub(super) fn new((total, each): (usize, usize)) -> Self {
        Self { total, each, inside: Mutex::default() }
    }

    /// A place for `client`, if there is one.
    pub(super) fn enter(self: &Arc<Self>, client: Ipv4Addr) -> Option<Ticket> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let own = inside.by_client.get(&client).copied().unwrap_or_default();
        // The fuller it is, the smaller is everybody's share, so that some who are greedy together leave places for others.
        let share = (self.total.saturating_sub(inside.total) / SHARE).max(1);
        if inside.total >= self.total || own >= self.each.min(share) {
            return None;
        }
        inside.total += 1;
        inside.by_client.insert(client, own + 1);
        Some(Ticket { room: Arc::clone(self), client })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.room.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.total = inside.total.saturating_sub(1);
        match inside.by_client.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                inside.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_the_places_of_all() {
        let room = Arc::new(Room::new((24, 2)));
        let (greedy, other) = (Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(2, 2, 2, 2));
        let first = room.enter(greedy).unwrap();
        let second = room.enter(greedy).unwrap();
        assert!(room.enter(greedy).is_none());
        let third = room.enter(other).unwrap();
        drop(first);
        let fourth = room.enter(greedy).unwrap();
        drop((second, third, fourth));
        let inside = room.inside.lock().unwrap();
        assert_eq!((inside.total, inside.by_client.len()), (0, 0));
    }
    #[test]
    fn greedy_clients_together_leave_places_for_those_who_come_late() {
        let room = Arc::new(Room::new((512, 64)));
        let mut held = Vec::new();
        for client in 0..16 {
            while let Some(ticket) = room.enter(Ipv4Addr::from_bits(client)) {
                held.push(ticket);
            }
        }
        let late = |number| room.enter(Ipv4Addr::new(9, 9, 9, number));
        let served: Vec<_> = (0..20).filter_map(late).collect();
        assert_eq!(served.len(), 20, "{} places were taken", held.len());
        held.extend((0..255).filter_map(late));
        assert!(held.len() + served.len() <= 512);
    }
}
