//! Layers as they come: gzip, zstd or plain, with what they hash to unpacked and how much they may be.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest as _, Sha256};

use super::reference::Digest;

const BUFFER: usize = 256 * 1024;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Zstd's skippable frames begin with a byte of 0x50 to 0x5f and these (RFC 8878, section 3.1.2).
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Bytes that an image's layers may still unpack to. Shared by all that are unpacked at the same time.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    left: Arc<AtomicU64>,
    /// Whether there is no room on the disk for more; else nobody may have more.
    of_room: bool,
}

impl Allowance {
    pub fn new(bytes: u64) -> Self {
        Self::within(bytes, u64::MAX)
    }

    /// As many as are allowed, or for as many as there is room.
    pub fn within(allowed: u64, room: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(allowed.min(room))), of_room: room < allowed }
    }

    /// Takes `bytes` off.
    pub fn take(&self, bytes: u64) -> io::Result<()> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.map(drop).map_err(|_| match self.of_room {
            true => io::Error::new(io::ErrorKind::StorageFull, "this host is short of disk space now"),
            false => io::Error::new(io::ErrorKind::InvalidData, "the image unpacks to more than is allowed"),
        })
    }
}

/// A layer unpacked: hashed, and counted against the allowance.
pub(super) struct Unpacked<'a> {
    inner: Box<dyn Read + 'a>,
    hash: Sha256,
    allowance: Allowance,
}

impl<'a> Unpacked<'a> {
    /// Tells the compression by the first bytes, as all others do: media types lie.
    pub fn new(source: impl Read + 'a, allowance: Allowance) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(BUFFER, source);
        let start = source.fill_buf()?;
        let inner: Box<dyn Read> = if start.starts_with(&GZIP) {
            Box::new(MultiGzDecoder::new(source))
        } else if start.starts_with(&ZSTD) || (start.first() == Some(&0x50) && start[1..].starts_with(&ZSTD_SKIPPABLE))
        {
            Box::new(Frames { source, decoder: FrameDecoder::new(), within: false })
        } else {
            Box::new(source)
        };
        Ok(Self { inner: Box::new(BufReader::with_capacity(BUFFER, inner)), hash: Sha256::new(), allowance })
    }

    /// Reads what is left and says what all of it hashes to.
    pub fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Digest::finish(self.hash))
    }
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.allowance.take(count as u64)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Zstd, which may come in several frames.
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    within: bool,
}

impl<R: BufRead> Frames<R> {
    /// Begins the next frame; says whether there is one.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut Read::by_ref(&mut self.source).take(u64::from(length)), &mut io::sink())?;
                }
                Err(error) => return Err(broken(&error)),
            }
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.within {
                if !self.begin()? {
                    return Ok(0);
                }
                self.within = true;
            }
            if self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let some = BlockDecodingStrategy::UptoBytes(BUFFER);
                self.decoder.decode_blocks(&mut self.source, some).map_err(|error| broken(&error))?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            self.within = !self.decoder.is_finished();
        }
    }
}

fn broken(error: &FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the layer is no proper zstd: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn unpack(packed: &[u8], allowed: u64) -> io::Result<Digest> {
        Unpacked::new(packed, Allowance::new(allowed))?.finish()
    }

    #[test]
    fn every_compression_gives_the_same_and_bombs_are_cut() {
        let plain: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 1000).to_le_bytes()[0]).collect();
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
        let (head, tail) = plain.split_at(1_234_567);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], b"12345"].concat();
        for packed in [
            plain.clone(),
            gzip(&plain),
            [gzip(head), gzip(tail)].concat(),
            zstd(&plain),
            [zstd(head), skippable.clone(), zstd(tail), skippable.clone()].concat(),
            [skippable, zstd(&plain)].concat(),
        ] {
            assert_eq!(unpack(&packed, 3_000_000).unwrap(), Digest::of(&plain));
            assert!(unpack(&packed, 2_999_999).unwrap_err().to_string().contains("more than is allowed"));
        }
        for mut packed in [gzip(&plain), zstd(&plain)] {
            packed.truncate(packed.len() / 2);
            assert!(unpack(&packed, u64::MAX).is_err(), "half of it is not it");
        }
    }
}
