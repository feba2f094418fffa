//! What must hold for any bytes that a client could send, for the fuzz target `requests` and for ordinary tests.

use super::answers::Answers;
use super::attributes::Attributes;
use super::input::{Input, PACKET_MAX, TooLong};
use super::packet::{self, Extended, Packet, Request, kind};

/// Takes `bytes` as a client's whole stream, and as one packet.
///
/// # Panics
/// Something that must hold does not.
pub fn requests(bytes: &[u8]) {
    one_packet(bytes);
    let whole = stream(bytes, usize::MAX);
    // However the stream is torn, it says the same.
    let step = usize::from(bytes.first().copied().unwrap_or(0)) % 61 + 1;
    assert_eq!(whole, stream(bytes, step), "in steps of {step}");
}

/// Cuts a stream that comes in pieces of `step` bytes; returns its packets and the length that was too long, if one was.
fn stream(bytes: &[u8], step: usize) -> (Vec<Vec<u8>>, Option<u32>) {
    let (mut input, mut left, mut packets) = (Input::new(), bytes, Vec::new());
    loop {
        loop {
            match input.cut() {
                Ok(Some(packet)) => {
                    assert!(packet.len() <= PACKET_MAX);
                    one_packet(packet);
                    packets.push(packet.to_vec());
                }
                Ok(None) => break,
                Err(TooLong(length)) => return (packets, Some(length)),
            }
        }
        let more = input.take(|room| {
            assert!(!room.is_empty(), "there is always room for more");
            let count = left.len().min(room.len()).min(step);
            room[..count].copy_from_slice(&left[..count]);
            left = &left[count..];
            Ok(count)
        });
        if !more.expect("reading a slice does not fail") {
            return (packets, None);
        }
    }
}

fn one_packet(bytes: &[u8]) {
    let Packet::Request { id, request } = packet::parse(bytes) else { return };
    // What was understood can be said again, and is then understood in the same way.
    let Some(again) = packet(id, &request) else { return };
    assert!(again.len() <= bytes.len(), "nothing is read beyond the packet");
    assert_eq!(packet::parse(&again), Packet::Request { id, request });
}

/// A request as a client writes it, without the length before it. None for one that we do not know.
pub fn packet(id: u32, request: &Request<'_>) -> Option<Vec<u8>> {
    let (kind, fields) = fields(request)?;
    let mut to = Answers::new();
    to.put(&[kind]);
    to.put_u32(id);
    for field in fields {
        match field {
            Text(text) => to.put_string(text),
            Word(word) => to.put_u32(word),
            Long(long) => to.put_u64(long),
            Attrs(attributes) => attributes.write(&mut to),
        }
    }
    Some(to.pending().to_vec())
}

#[derive(Clone)]
enum Field<'a> {
    Text(&'a [u8]),
    Word(u32),
    Long(u64),
    Attrs(&'a Attributes),
}

use Field::{Attrs, Long, Text, Word};

fn fields<'a>(request: &'a Request<'_>) -> Option<(u8, Vec<Field<'a>>)> {
    Some(match request {
        Request::Open { path, flags, attributes } => (kind::OPEN, vec![Text(path), Word(*flags), Attrs(attributes)]),
        Request::Close { handle } => (kind::CLOSE, vec![Text(handle)]),
        Request::Read { handle, offset, length } => (kind::READ, vec![Text(handle), Long(*offset), Word(*length)]),
        Request::Write { handle, offset, data } => (kind::WRITE, vec![Text(handle), Long(*offset), Text(data)]),
        Request::Lstat { path } => (kind::LSTAT, vec![Text(path)]),
        Request::Fstat { handle } => (kind::FSTAT, vec![Text(handle)]),
        Request::Setstat { path, attributes } => (kind::SETSTAT, vec![Text(path), Attrs(attributes)]),
        Request::Fsetstat { handle, attributes } => (kind::FSETSTAT, vec![Text(handle), Attrs(attributes)]),
        Request::Opendir { path } => (kind::OPENDIR, vec![Text(path)]),
        Request::Readdir { handle } => (kind::READDIR, vec![Text(handle)]),
        Request::Remove { path } => (kind::REMOVE, vec![Text(path)]),
        Request::Mkdir { path, attributes } => (kind::MKDIR, vec![Text(path), Attrs(attributes)]),
        Request::Rmdir { path } => (kind::RMDIR, vec![Text(path)]),
        Request::Realpath { path } => (kind::REALPATH, vec![Text(path)]),
        Request::Stat { path } => (kind::STAT, vec![Text(path)]),
        Request::Rename { from, to } => (kind::RENAME, vec![Text(from), Text(to)]),
        Request::Readlink { path } => (kind::READLINK, vec![Text(path)]),
        Request::Symlink { target, link } => (kind::SYMLINK, vec![Text(target), Text(link)]),
        Request::Extended(extended) => {
            let (name, fields) = extended_fields(extended);
            (kind::EXTENDED, [vec![Text(name.as_bytes())], fields].concat())
        }
        Request::Unknown => return None,
    })
}

fn extended_fields<'a>(extended: &'a Extended<'_>) -> (&'static str, Vec<Field<'a>>) {
    match extended {
        Extended::PosixRename { from, to } => ("posix-rename@openssh.com", vec![Text(from), Text(to)]),
        Extended::Statvfs { path } => ("statvfs@openssh.com", vec![Text(path)]),
        Extended::Fstatvfs { handle } => ("fstatvfs@openssh.com", vec![Text(handle)]),
        Extended::Hardlink { from, to } => ("hardlink@openssh.com", vec![Text(from), Text(to)]),
        Extended::Fsync { handle } => ("fsync@openssh.com", vec![Text(handle)]),
        Extended::Lsetstat { path, attributes } => ("lsetstat@openssh.com", vec![Text(path), Attrs(attributes)]),
        Extended::Limits => ("limits@openssh.com", vec![]),
        Extended::ExpandPath { path } => ("expand-path@openssh.com", vec![Text(path)]),
        Extended::CopyData { from, from_offset, length, to, to_offset } => {
            ("copy-data", vec![Text(from), Long(*from_offset), Long(*length), Text(to), Long(*to_offset)])
        }
        Extended::HomeDirectory { user } => ("home-directory", vec![Text(user)]),
        Extended::UsersGroupsById { uids, gids } => ("users-groups-by-id@openssh.com", vec![Text(uids), Text(gids)]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    /// The parts that requests are made of; what a request has no use for stays unused.
    type Parts = (Vec<u8>, Vec<u8>, u64, u64, u32, Attributes);

    fn parts() -> impl Strategy<Value = Parts> {
        let name = || prop::collection::vec(1_u8.., 0..40);
        let attributes =
            (any::<Option<u64>>(), any::<Option<(u32, u32)>>(), any::<Option<u32>>(), any::<Option<(u32, u32)>>())
                .prop_map(|(size, owner, permissions, times)| Attributes { size, owner, permissions, times });
        (name(), name(), any::<u64>(), any::<u64>(), any::<u32>(), attributes)
    }

    /// One request of every sort.
    fn all(parts: &Parts) -> Vec<Request<'_>> {
        let (one, other, here, there, word, attributes) = parts;
        let (one, other, here, there, word, attributes) = (&one[..], &other[..], *here, *there, *word, *attributes);
        vec![
            Request::Open { path: one, flags: word, attributes },
            Request::Close { handle: one },
            Request::Read { handle: one, offset: here, length: word },
            Request::Write { handle: one, offset: here, data: other },
            Request::Lstat { path: one },
            Request::Fstat { handle: one },
            Request::Setstat { path: one, attributes },
            Request::Fsetstat { handle: one, attributes },
            Request::Opendir { path: one },
            Request::Readdir { handle: one },
            Request::Remove { path: one },
            Request::Mkdir { path: one, attributes },
            Request::Rmdir { path: one },
            Request::Realpath { path: one },
            Request::Stat { path: one },
            Request::Rename { from: one, to: other },
            Request::Readlink { path: one },
            Request::Symlink { target: one, link: other },
            Request::Extended(Extended::PosixRename { from: one, to: other }),
            Request::Extended(Extended::Statvfs { path: one }),
            Request::Extended(Extended::Fstatvfs { handle: one }),
            Request::Extended(Extended::Hardlink { from: one, to: other }),
            Request::Extended(Extended::Fsync { handle: one }),
            Request::Extended(Extended::Lsetstat { path: one, attributes }),
            Request::Extended(Extended::Limits),
            Request::Extended(Extended::ExpandPath { path: one }),
            Request::Extended(Extended::CopyData {
                from: one,
                from_offset: here,
                length: there,
                to: other,
                to_offset: there,
            }),
            Request::Extended(Extended::HomeDirectory { user: one }),
            Request::Extended(Extended::UsersGroupsById { uids: one, gids: other }),
        ]
    }

    fn framed(packets: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
        packets
            .flat_map(|packet| {
                [&u32::try_from(packet.len()).expect("a short packet").to_be_bytes(), &packet[..]].concat()
            })
            .collect()
    }

    fn run<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value)) {
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let run = runner.run(strategy, |value| {
            test(value);
            Ok(())
        });
        run.expect("it holds for all");
    }

    #[test]
    fn every_request_is_understood_as_it_was_meant_and_not_when_it_is_cut_short() {
        run(256, &(parts(), any::<u32>()), |(parts, id)| {
            for request in all(&parts) {
                let bytes = packet(id, &request).expect("a known one");
                for end in 0..bytes.len() {
                    let cut = packet::parse(&bytes[..end]);
                    assert!(
                        matches!(cut, Packet::Malformed { .. } | Packet::Broken),
                        "{request:?} up to {end}: {cut:?}"
                    );
                }
                // What comes after it does not matter.
                let longer = [&bytes[..], b"more"].concat();
                assert_eq!(packet::parse(&longer), Packet::Request { id, request: request.clone() });
                assert_eq!(packet::parse(&bytes), Packet::Request { id, request });
            }
        });
    }

    #[test]
    fn any_bytes_are_taken() {
        run(5_000, &prop::collection::vec(any::<u8>(), 0..200), |bytes| requests(&bytes));
    }

    #[test]
    fn real_sessions_with_anything_changed_in_them_are_taken() {
        // Which requests; then bytes to change, a piece to cut out, and a piece to say twice.
        let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 0..8);
        let session = (parts(), prop::collection::vec(any::<Index>(), 1..6), changes, any::<[Index; 3]>(), any::<u8>());
        run(15_000, &session, |(parts, which, changes, [from, to, at], what)| {
            let all = all(&parts);
            let packets = which.iter().map(|index| packet(7, index.get(&all)).expect("a known one"));
            let mut bytes = framed(packets);
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            let piece: Vec<u8> = bytes[from.min(to)..from.max(to)].to_vec();
            match what % 4 {
                0 => drop(bytes.drain(from.min(to)..from.max(to))),
                1 => drop({
                    let at = at.index(bytes.len());
                    bytes.splice(at..at, piece)
                }),
                _ => {}
            }
            requests(&bytes);
        });
    }

    #[test]
    fn names_that_the_kernel_would_not_take_are_malformed() {
        for (name, fits) in [(vec![b'a'; 4095], true), (vec![b'a'; 4096], false), (b"a\0b".to_vec(), false)] {
            let bytes = packet(1, &Request::Lstat { path: &name }).expect("a known one");
            assert_eq!(matches!(packet::parse(&bytes), Packet::Request { .. }), fits);
        }
    }

    #[test]
    fn attributes_that_somebody_added_are_skipped_and_counts_are_not_believed() {
        let mut bytes =
            packet(1, &Request::Mkdir { path: b"a", attributes: Attributes::default() }).expect("a known one");
        let flags = bytes.len() - 4;
        bytes[flags] = 0x80;
        let with = |count: u32, tail: &[u8]| [&bytes[..], &count.to_be_bytes(), tail].concat();
        let pair = b"\0\0\0\x01x\0\0\0\x02yz";
        assert!(matches!(packet::parse(&with(1, pair)), Packet::Request { .. }));
        assert_eq!(packet::parse(&with(2, pair)), Packet::Malformed { id: 1 });
        assert_eq!(packet::parse(&with(u32::MAX, pair)), Packet::Malformed { id: 1 });
    }
}
