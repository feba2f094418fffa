//! Unpacking tar archives, whoever wrote them.
//!
//! Every name is looked up from the folder that is unpacked into, by the kernel and through no link, so neither names nor links that
//! earlier entries have planted lead out of it.

mod entries;
mod place;

use std::io::{self, BufRead, Read};

use boxyard_proto::files::PathText;
use flate2::bufread::MultiGzDecoder;
use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;

pub use self::entries::Entries;
use self::place::Place;
use super::channel::Channel;
use super::jail::{FOLDER, Jail};
use super::path::Path;
use super::refusal::Refusal;
use super::session::{Done, Outcome};
use super::walk::{Last, Missing};

/// Bytes that are unpacked at once.
const BUFFER: usize = 256 * 1024;

/// How a gzip stream begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Unpacks the content that comes into the folder at `path`.
pub fn unpack(jail: &Jail, path: &PathText, channel: &mut Channel<'_>) -> Outcome {
    let place = match Path::try_from(path).and_then(|path| place(jail, &path)) {
        Ok(place) => place,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut comes = Comes { channel, broken: None };
    let unpacked = all(place, &mut comes);
    match comes.broken {
        Some(error) => Err(error),
        None => Ok(unpacked),
    }
}

/// The folder to unpack into, made if it is missing.
fn place(jail: &Jail, path: &Path) -> Result<Place, Refusal> {
    match jail.open(path, FOLDER) {
        Ok(folder) => return Ok(Place::new(folder)),
        Err(refusal) if refusal == Errno::NOENT.into() => {}
        Err(refusal) => return Err(refusal),
    }
    let spot = jail.spot(path, Last::Follow, Missing::Make)?;
    match mkdirat(&spot.folder, spot.name.as_slice(), Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Place::new(jail.open(path, FOLDER)?))
}

fn all(mut place: Place, comes: &mut Comes<'_, '_>) -> Result<Done, Refusal> {
    let mut first = Vec::new();
    comes.take(GZIP.len() as u64).read_to_end(&mut first).map_err(damaged)?;
    let is_gzip = first == GZIP;
    let whole = io::Cursor::new(first).chain(comes);
    let unpacked = if is_gzip {
        entries(&mut place, io::BufReader::with_capacity(BUFFER, MultiGzDecoder::new(whole)))
    } else {
        entries(&mut place, whole)
    };
    place.dress();
    let begun = place.begun;
    unpacked.map_err(|refusal| if begun { refusal.after("what came before has been unpacked") } else { refusal })
}

fn entries(place: &mut Place, from: impl BufRead) -> Result<Done, Refusal> {
    let mut entries = Entries::new(from);
    let mut truncated = false;
    while let Some(entry) = entries.next()? {
        truncated |= !place.put(&entry, &mut entries)?;
    }
    Ok(Done { truncated })
}

/// What reading an archive fails with.
pub fn damaged(_: io::Error) -> Refusal {
    Refusal::invalid("the archive is damaged or ends too early")
}

/// A request's content.
struct Comes<'c, 'a> {
    channel: &'c mut Channel<'a>,
    /// What is no fault of the archive.
    broken: Option<io::Error>,
}

impl Read for Comes<'_, '_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let count = there.len().min(room.len());
        if let (Some(room), Some(there)) = (room.get_mut(..count), there.get(..count)) {
            room.copy_from_slice(there);
        }
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Comes<'_, '_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.channel.peek_content() {
            Ok(there) => Ok(there),
            Err(error) => {
                let kind = error.kind();
                self.broken = Some(error);
                Err(kind.into())
            }
        }
    }

    fn consume(&mut self, count: usize) {
        self.channel.take_content(count);
    }
}
