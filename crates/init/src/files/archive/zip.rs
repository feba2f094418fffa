//! Zip archives (PKWARE's APPNOTE 6.3): what is only known after a file's content is said after it, so that nothing is kept but the list
//! at the end.

use std::io::{self, Write};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use rustix::fs::Stat;

use super::content::Content;
use super::{LEVEL, Packer};

/// The most that the numbers of the first versions can say.
const FOUR_BYTES: u64 = 0xffff_ffff;

/// Bytes from which on a file gets the larger numbers: compressed it may be a little longer than it is.
const LARGE: u64 = 0xf000_0000;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// "Sizes and checksum come after the content", and "the name is UTF-8".
const SAID_AFTER: u16 = 1 << 3;
const UTF8: u16 = 1 << 11;

/// An archive that is being written.
pub struct Zip<W: Write> {
    to: Counted<W>,
    /// One for all files: it is large.
    deflate: Compress,
    /// The list at the end.
    list: Vec<u8>,
    entries: u64,
}

/// Something in the archive.
struct Entry<'a> {
    path: &'a [u8],
    stat: &'a Stat,
    method: u16,
    flags: u16,
    is_large: bool,
}

/// What is known after the content.
#[derive(Default)]
struct Sums {
    crc: u32,
    packed: u64,
    size: u64,
}

impl<W: Write> Zip<W> {
    /// An empty one.
    pub fn new(to: W) -> Self {
        let deflate = Compress::new(Compression::new(LEVEL), false);
        Self { to: Counted { to, count: 0 }, deflate, list: Vec::new(), entries: 0 }
    }

    /// Adds what has its content at hand.
    fn whole(&mut self, path: &[u8], stat: &Stat, content: &[u8]) -> io::Result<()> {
        let entry = Entry { path, stat, method: STORED, flags: utf8(path), is_large: false };
        let mut crc = Crc::new();
        crc.update(content);
        let size = content.len() as u64;
        let sums = Sums { crc: crc.sum(), packed: size, size };
        let offset = self.begin(&entry, &sums)?;
        self.to.write_all(content)?;
        self.note(&entry, &sums, offset);
        Ok(())
    }

    /// Begins something; tells where.
    fn begin(&mut self, entry: &Entry<'_>, sums: &Sums) -> io::Result<u64> {
        let offset = self.to.count;
        let mut extra = entry.time();
        if entry.is_large {
            extra.extend(large(&[0, 0]));
        }
        let mut header = b"PK\x03\x04".to_vec();
        header.extend(entry.common(sums));
        header.extend(short(extra.len()));
        header.extend(entry.path);
        header.extend(extra);
        self.to.write_all(&header)?;
        Ok(offset)
    }

    /// Adds something to the list at the end.
    fn note(&mut self, entry: &Entry<'_>, sums: &Sums, offset: u64) {
        // In this order, and only those that do not fit into four bytes.
        let numbers: Vec<u64> = if entry.is_large {
            [sums.size, sums.packed].into_iter().chain((offset > LARGE).then_some(offset)).collect()
        } else {
            (offset > LARGE).then_some(offset).into_iter().collect()
        };
        let mut extra = entry.time();
        if !numbers.is_empty() {
            extra.extend(large(&numbers));
        }
        self.list.extend(b"PK\x01\x02");
        // Made by the first version with large numbers, on Unix.
        self.list.extend([45, 3]);
        self.list.extend(entry.common(sums));
        self.list.extend(short(extra.len()));
        // No comment, first disk, no internal attributes.
        self.list.extend([0; 6]);
        // Mode, and whether it is a folder as MS-DOS has it.
        let folder = if entry.path.ends_with(b"/") { 0x10 } else { 0 };
        self.list.extend(((entry.stat.st_mode << 16) | folder).to_le_bytes());
        self.list.extend(four(if offset > LARGE { FOUR_BYTES } else { offset }));
        self.list.extend(entry.path);
        self.list.extend(extra);
        self.entries += 1;
    }
}

impl<W: Write> Packer for Zip<W> {
    fn folder(&mut self, path: &[u8], stat: &Stat) -> io::Result<()> {
        self.whole(&[path, b"/"].concat(), stat, b"")
    }

    fn link(&mut self, path: &[u8], stat: &Stat, target: &[u8]) -> io::Result<()> {
        // As Info-ZIP does it: the mode says that it is a link.
        self.whole(path, stat, target)
    }

    fn file(&mut self, path: &[u8], stat: &Stat, content: &mut Content) -> io::Result<()> {
        if content.size == 0 {
            return self.whole(path, stat, b"");
        }
        let is_large = content.size >= LARGE;
        let entry = Entry { path, stat, method: DEFLATED, flags: SAID_AFTER | utf8(path), is_large };
        let offset = self.begin(&entry, &Sums::default())?;
        let start = self.to.count;
        self.deflate.reset();
        let mut deflated = Deflated { deflate: &mut self.deflate, to: &mut self.to, crc: Crc::new() };
        content.copy(0, content.size, &mut deflated)?;
        deflated.give(b"", true)?;
        let crc = deflated.crc.sum();
        let sums = Sums { crc, packed: self.to.count - start, size: content.size };
        let mut after = b"PK\x07\x08".to_vec();
        after.extend(sums.crc.to_le_bytes());
        for number in [sums.packed, sums.size] {
            if is_large {
                after.extend(number.to_le_bytes());
            } else {
                after.extend(four(number));
            }
        }
        self.to.write_all(&after)?;
        self.note(&entry, &sums, offset);
        Ok(())
    }

    fn same(&mut self, _path: &[u8], _stat: &Stat, _first: &[u8]) -> io::Result<bool> {
        Ok(false)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let (offset, length) = (self.to.count, self.list.len() as u64);
        let mut end = Vec::new();
        if offset > LARGE || length > LARGE || self.entries >= 0xffff {
            end.extend(b"PK\x06\x06");
            end.extend(44_u64.to_le_bytes());
            end.extend([45, 3, 45, 0]);
            end.extend([0; 8]);
            for number in [self.entries, self.entries, length, offset] {
                end.extend(number.to_le_bytes());
            }
            end.extend(b"PK\x06\x07");
            end.extend([0; 4]);
            end.extend((offset + length).to_le_bytes());
            end.extend(1_u32.to_le_bytes());
        }
        let entries = u16::try_from(self.entries).unwrap_or(u16::MAX);
        end.extend(b"PK\x05\x06\0\0\0\0");
        end.extend(entries.to_le_bytes());
        end.extend(entries.to_le_bytes());
        end.extend(four(length.min(FOUR_BYTES)));
        end.extend(four(if offset > LARGE { FOUR_BYTES } else { offset }));
        end.extend([0; 2]);
        self.to.write_all(&self.list)?;
        self.to.write_all(&end)?;
        self.to.flush()
    }
}

impl Entry<'_> {
    /// What the header and the list say alike, from the version needed to the name's length.
    fn common(&self, sums: &Sums) -> Vec<u8> {
        let mut bytes = Vec::new();
        let version: u16 = if self.is_large { 45 } else { 20 };
        let (time, date) = dos_time(self.stat.st_mtime);
        for number in [version, self.flags, self.method, time, date] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(sums.crc.to_le_bytes());
        for size in [sums.packed, sums.size] {
            bytes.extend(four(if self.is_large { FOUR_BYTES } else { size }));
        }
        bytes.extend(short(self.path.len()));
        bytes
    }

    /// The time of the last change in seconds, as Info-ZIP tells it. It ends in 2038; what is beyond has only MS-DOS' time.
    fn time(&self) -> Vec<u8> {
        let Ok(time) = i32::try_from(self.stat.st_mtime) else { return Vec::new() };
        let mut extra = b"UT\x05\x00\x01".to_vec();
        extra.extend(time.to_le_bytes());
        extra
    }
}

/// The extra field of numbers of eight bytes.
fn large(numbers: &[u64]) -> Vec<u8> {
    let mut extra = vec![1, 0];
    extra.extend(short(8 * numbers.len()));
    extra.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    extra
}

fn utf8(path: &[u8]) -> u16 {
    if std::str::from_utf8(path).is_ok() { UTF8 } else { 0 }
}

/// A length of two bytes: paths and extra fields are far below.
fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes()
}

fn four(number: u64) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}

/// Seconds since 1970 as time and date of MS-DOS, in UTC: from 1980 to 2107.
fn dos_time(seconds: i64) -> (u16, u16) {
    /// The first and the last moment that there is.
    const RANGE: (i64, i64) = (315_532_800, 4_354_819_198);
    let seconds = seconds.clamp(RANGE.0, RANGE.1);
    let (days, within) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years that begin in March, from the year 0.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let number = |number: i64| u16::try_from(number).unwrap_or(0);
    let time = number(((within / 3600) << 11) | ((within / 60 % 60) << 5) | ((within % 60) / 2));
    (time, number(((year - 1980) << 9) | (month << 5) | day))
}

/// Counts what is written.
struct Counted<W> {
    to: W,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Compresses what is written, and sums it up.
struct Deflated<'a, W> {
    deflate: &'a mut Compress,
    to: &'a mut Counted<W>,
    crc: Crc,
}

impl<W: Write> Deflated<'_, W> {
    /// Gives bytes to the compressor, all of them, and writes what it makes of them.
    fn give(&mut self, mut bytes: &[u8], is_last: bool) -> io::Result<()> {
        let flush = if is_last { FlushCompress::Finish } else { FlushCompress::None };
        let mut room = [0; 16 * 1024];
        loop {
            let before = (self.deflate.total_in(), self.deflate.total_out());
            let status = self.deflate.compress(bytes, &mut room, flush)?;
            let taken = usize::try_from(self.deflate.total_in() - before.0).unwrap_or(usize::MAX);
            let made = usize::try_from(self.deflate.total_out() - before.1).unwrap_or(usize::MAX);
            self.to.write_all(room.get(..made).unwrap_or_default())?;
            bytes = bytes.get(taken..).unwrap_or_default();
            let is_through = if is_last { status == Status::StreamEnd } else { bytes.is_empty() && made < room.len() };
            if is_through {
                return Ok(());
            }
        }
    }
}

impl<W: Write> Write for Deflated<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc.update(bytes);
        self.give(bytes, false)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_ms_dos_has_them() {
        let told = |seconds| {
            let (time, date) = dos_time(seconds);
            ((date >> 9) + 1980, date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2)
        };
        assert_eq!(told(0), (1980, 1, 1, 0, 0, 0));
        assert_eq!(told(951_827_696), (2000, 2, 29, 12, 34, 56));
        assert_eq!(told(1_735_689_599), (2024, 12, 31, 23, 59, 58));
        assert_eq!(told(i64::MAX), (2107, 12, 31, 23, 59, 58));
    }
}
