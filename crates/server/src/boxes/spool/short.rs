//! How a short output is written where it takes no file: `start(8)`, then pieces as `stream and length(4) │ bytes`, little endian.

use super::reader::Tail;
use crate::boxes::output::Stream;

const ERR: u32 = 1 << 31;

/// Writes it.
pub(super) fn encode(Tail { start, bytes, pieces }: &Tail) -> Vec<u8> {
    let mut all = Vec::with_capacity(8 + bytes.len() + 4 * pieces.len());
    all.extend_from_slice(&start.to_le_bytes());
    let mut rest = bytes.as_slice();
    for (stream, length) in pieces {
        let (piece, left) = rest.split_at((*length as usize).min(rest.len()));
        let flag = if *stream == Stream::Err { ERR } else { 0 };
        all.extend_from_slice(&(length | flag).to_le_bytes());
        all.extend_from_slice(piece);
        rest = left;
    }
    all
}

/// What [`encode`] was given; `None` where that is not what it is.
pub(super) fn decode(all: &[u8]) -> Option<Tail> {
    let (start, mut rest) = all.split_first_chunk::<8>()?;
    let (mut bytes, mut pieces) = (Vec::with_capacity(rest.len()), Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length);
        let stream = if length & ERR == 0 { Stream::Out } else { Stream::Err };
        let length = length & !ERR;
        let (piece, behind) = behind.split_at_checked(length as usize)?;
        bytes.extend_from_slice(piece);
        pieces.push((stream, length));
        rest = behind;
    }
    rest.is_empty().then_some(Tail { start: u64::from_le_bytes(*start), bytes, pieces })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_rubbish_is_not() {
        let mut tail = Tail { start: 7, ..Tail::default() };
        tail.push(Stream::Out, b"out");
        tail.push(Stream::Err, b"er");
        let written = encode(&tail);
        assert_eq!(decode(&written).as_ref(), Some(&tail));
        assert_eq!(decode(&encode(&Tail::default())), Some(Tail::default()));
        for cut in 0..written.len() {
            assert!(decode(&written[..cut]).is_none_or(|tail| tail.bytes.len() < 5), "{cut}");
        }
    }
}
