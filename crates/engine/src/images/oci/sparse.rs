//! Maps of files with holes, as GNU tar stores them: in the header (old), in an extended header (0.1), or before the content (1.0).

use std::io;

use super::pax::decimal;
use super::tar::{BLOCK, number};

/// Pieces of one file at most.
pub(super) const PIECES_MAX: usize = 65_536;

/// Bytes of a file that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where in the file they begin.
    pub offset: u64,
    pub length: u64,
}

/// Adds the pairs of a header or of a block after it: twelve digits each, ended by an empty one.
pub(super) fn old_map(field: &[u8], pieces: &mut Vec<Piece>) -> Result<(), String> {
    for pair in field.as_chunks::<24>().0 {
        if pair[0] == 0 || pair[12] == 0 {
            break;
        }
        let read = |half: &[u8]| number(half).map_err(|_| "a map of holes that is none".to_owned());
        push(pieces, read(&pair[..12])?, read(&pair[12..])?)?;
    }
    Ok(())
}

/// The map of format 0.1: `offset,length,offset,length…`.
pub(super) fn listed_map(text: &[u8]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut numbers = text.split(|byte| *byte == b',');
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or("a map of holes that ends in the middle")?;
        push(&mut pieces, decimal(offset)?, decimal(length)?)?;
    }
    Ok(pieces)
}

/// The map of format 1.0: before the content, decimal numbers in lines, the count of pairs first, filling whole blocks. Returns also how
/// many bytes it took.
pub(super) fn leading_map(read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<(Vec<Piece>, u64)> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let none = || bad("a map of holes that is none".into());
    let mut taken = 0;
    let mut block = [0_u8; BLOCK];
    let mut at = BLOCK;
    let mut line = || -> io::Result<u64> {
        let mut digits = Vec::new();
        loop {
            if at == BLOCK {
                let mut have = 0;
                while have < BLOCK {
                    match read(&mut block[have..])? {
                        0 => return Err(none()),
                        count => have += count,
                    }
                }
                taken += BLOCK as u64;
                at = 0;
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return decimal(&digits).map_err(bad),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(none()),
            }
        }
    };
    let count = line()?;
    if count > PIECES_MAX as u64 {
        return Err(bad(format!("a file of more than {PIECES_MAX} pieces")));
    }
    let mut pieces = Vec::new();
    for _ in 0..count {
        let (offset, length) = (line()?, line()?);
        push(&mut pieces, offset, length).map_err(bad)?;
    }
    Ok((pieces, taken))
}

fn push(pieces: &mut Vec<Piece>, offset: u64, length: u64) -> Result<(), String> {
    if pieces.len() == PIECES_MAX {
        return Err(format!("a file of more than {PIECES_MAX} pieces"));
    }
    pieces.push(Piece { offset, length });
    Ok(())
}

/// Whether the pieces follow each other within `size` and are exactly the `stored` bytes of the archive.
pub(super) fn check(pieces: &[Piece], size: u64, stored: u64) -> Result<(), String> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for piece in pieces {
        let after = piece.offset.checked_add(piece.length).filter(|after| piece.offset >= end && *after <= size);
        end = after.ok_or("a map of holes that contradicts itself")?;
        sum += piece.length;
    }
    if sum == stored { Ok(()) } else { Err("a map of holes that does not fit the file".into()) }
}
