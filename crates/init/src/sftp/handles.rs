//! What a client has open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Dir;
use rustix::io::Errno;

use super::status::{self, Refusal};

/// Handles of a session at most.
pub const HANDLES_MAX: usize = 256;

/// Bytes of a handle: its place and its number.
pub const HANDLE_LENGTH: usize = 8;

/// Something open.
#[derive(Debug)]
pub enum Open {
    /// A file, or whatever else is read and written.
    File {
        /// Its descriptor.
        fd: OwnedFd,
        /// Whether everything is written at its end, wherever the client says.
        appends: bool,
    },
    /// A folder that is being listed.
    Folder(Box<Dir>),
}

impl Open {
    /// Its descriptor, whatever it is.
    pub fn fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        match self {
            Self::File { fd, .. } => Ok(fd.as_fd()),
            Self::Folder(folder) => folder.fd(),
        }
    }
}

/// Everything open, each under a handle that is not used again for something else.
#[derive(Debug, Default)]
pub struct Handles {
    places: Vec<Option<(u32, Open)>>,
    next: u32,
}

impl Handles {
    /// Refuses when there is no room for one more.
    pub fn check_room(&self) -> Result<(), Refusal> {
        if self.places.iter().flatten().count() < HANDLES_MAX {
            Ok(())
        } else {
            Err(Refusal::new(status::FAILURE, "Too many open handles"))
        }
    }

    /// Keeps `open` and returns its handle.
    pub fn insert(&mut self, open: Open) -> Result<[u8; HANDLE_LENGTH], Refusal> {
        self.check_room()?;
        let place = self.places.iter().position(Option::is_none).unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.places[place] = Some((number, open));
        let mut handle = [0; HANDLE_LENGTH];
        handle[..4].copy_from_slice(&u32::try_from(place).unwrap_or(u32::MAX).to_be_bytes());
        handle[4..].copy_from_slice(&number.to_be_bytes());
        Ok(handle)
    }

    fn place(&mut self, handle: &[u8]) -> Option<&mut Option<(u32, Open)>> {
        let (&place, number) = handle.split_first_chunk::<4>()?;
        let number = u32::from_be_bytes(number.try_into().ok()?);
        let place = self.places.get_mut(usize::try_from(u32::from_be_bytes(place)).ok()?)?;
        place.as_ref().is_some_and(|(its, _)| *its == number).then_some(place)
    }

    /// What is open under `handle`.
    pub fn get(&mut self, handle: &[u8]) -> Result<&mut Open, Refusal> {
        match self.place(handle) {
            Some(Some((_, open))) => Ok(open),
            Some(None) | None => Err(unknown()),
        }
    }

    /// Forgets `handle` and returns what was open under it.
    pub fn remove(&mut self, handle: &[u8]) -> Result<Open, Refusal> {
        self.place(handle).and_then(Option::take).map(|(_, open)| open).ok_or_else(unknown)
    }

    /// The descriptors of two files.
    pub fn files(&mut self, one: &[u8], other: &[u8]) -> Result<[(BorrowedFd<'_>, bool); 2], Refusal> {
        let place = |this: &mut Self, handle: &[u8]| match this.get(handle)? {
            Open::File { .. } => Ok(u32::from_be_bytes([handle[0], handle[1], handle[2], handle[3]])),
            Open::Folder(_) => Err(unknown()),
        };
        let places = [place(self, one)?, place(self, other)?];
        let file = |place: u32| match self.places.get(usize::try_from(place).unwrap_or(usize::MAX)) {
            Some(Some((_, Open::File { fd, appends }))) => Ok((fd.as_fd(), *appends)),
            Some(_) | None => Err(unknown()),
        };
        Ok([file(places[0])?, file(places[1])?])
    }
}

fn unknown() -> Refusal {
    Refusal::new(status::FAILURE, "No such handle")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Open {
        Open::File { fd: std::fs::File::open("/dev/null").expect("open").into(), appends: false }
    }

    #[test]
    fn a_handle_is_good_until_it_is_closed_and_never_means_something_else() {
        let mut handles = Handles::default();
        let first = handles.insert(file()).expect("room");
        assert!(handles.get(&first).is_ok());
        handles.remove(&first).expect("open");
        let second = handles.insert(file()).expect("room");
        assert_eq!(first[..4], second[..4], "the place is used again");
        assert!(handles.get(&first).is_err() && handles.remove(&first).is_err() && handles.get(&second).is_ok());
        for wrong in [&b""[..], b"\0", b"\0\0\0\0\0\0\0", b"\0\0\0\0\0\0\0\0\0", &[0xff; 8]] {
            assert!(handles.get(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn there_are_only_so_many() {
        let mut handles = Handles::default();
        let all: Vec<_> = (0..HANDLES_MAX).map(|_| handles.insert(file()).expect("room")).collect();
        assert_eq!(handles.insert(file()).expect_err("full").code, status::FAILURE);
        handles.remove(&all[7]).expect("open");
        handles.insert(file()).expect("room again");
    }
}
