//! What comes in: one buffer that is read into in large pieces and cut into packets without copying.

use std::io;
use std::os::fd::BorrowedFd;

use crate::pipes::again;

/// Bytes of a packet at most, without the length before it: OpenSSH's `SFTP_MAX_MSG_LENGTH`, and a little for clients that count the
/// data alone.
pub const PACKET_MAX: usize = 256 * 1024 + 1024;

/// Bytes of a packet's length.
const LENGTH: usize = 4;

/// Two packets of the largest size, so that one can be completed while the next is already coming.
const SIZE: usize = 2 * (PACKET_MAX + LENGTH);

/// A length that no client of ours would send. Nothing after it can be trusted.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong(pub u32);

/// Bytes that have come in and are not cut yet.
#[derive(Debug)]
pub struct Input {
    /// The kernel gives its memory only as far as it is used.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// An empty one.
    pub fn new() -> Self {
        Self { bytes: vec![0; SIZE], start: 0, end: 0 }
    }

    /// Takes the next packet, if all of it is there.
    pub fn cut(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let there = self.bytes.get(self.start..self.end).unwrap_or_default();
        let Some((&length, rest)) = there.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(length);
        match usize::try_from(length) {
            Ok(size) if size <= PACKET_MAX => Ok(rest.get(..size).inspect(|_| self.start += LENGTH + size)),
            Ok(_) | Err(_) => Err(TooLong(length)),
        }
    }

    /// Waits for more and reads what there is. Returns false at the end; a packet that has only begun then is lost.
    pub fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<bool> {
        self.take(|room| Ok(again(|| rustix::io::read(from, &mut *room))?))
    }

    /// Makes room and lets `read` fill it. There is always room: what is left after [`Self::cut`] is less than a packet.
    pub fn take(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start >= SIZE / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = self.bytes.get_mut(self.end..).unwrap_or_default();
        let limit = room.len();
        let count = read(room)?.min(limit);
        self.end += count;
        Ok(count > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(packets: &[Vec<u8>]) -> Vec<u8> {
        let length = |packet: &Vec<u8>| u32::try_from(packet.len()).expect("a short packet").to_be_bytes();
        packets.iter().flat_map(|packet| [length(packet).to_vec(), packet.clone()].concat()).collect()
    }

    /// Feeds `bytes` in pieces of at most `step` and returns the packets that come out.
    fn cut_all(bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let (mut input, mut left, mut packets) = (Input::new(), bytes, Vec::new());
        loop {
            while let Some(packet) = input.cut().expect("no packet is too long") {
                packets.push(packet.to_vec());
            }
            let more = input.take(|room| {
                let count = left.len().min(room.len()).min(step);
                room[..count].copy_from_slice(&left[..count]);
                left = &left[count..];
                Ok(count)
            });
            if !more.expect("reading a slice") {
                return packets;
            }
        }
    }

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            step in 1_usize..500,
        ) {
            prop_assert_eq!(cut_all(&framed(&packets), step), packets);
        }
    }

    #[test]
    fn the_largest_packets_fit_however_they_come() {
        let packets = vec![vec![1; PACKET_MAX], vec![2; 5], vec![3; PACKET_MAX], vec![4; PACKET_MAX], vec![]];
        for step in [1000, 65_536, PACKET_MAX + 1, usize::MAX] {
            assert!(cut_all(&framed(&packets), step) == packets, "in steps of {step}");
        }
    }

    #[test]
    fn a_longer_one_is_refused_at_its_length() {
        let mut input = Input::new();
        let length = u32::try_from(PACKET_MAX + 1).expect("short enough");
        let read = input.take(|room| {
            room[..4].copy_from_slice(&length.to_be_bytes());
            Ok(4)
        });
        assert!(read.expect("reading a slice"));
        assert_eq!(input.cut(), Err(TooLong(length)));
    }
}
