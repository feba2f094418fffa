//! What a btrfs says of itself in the file that it lies in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a btrfs says of itself at the beginning of its device.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::local) struct Superblock {
    /// Bytes of its device.
    pub(in crate::local) bytes: u64,
}

impl Superblock {
    /// Reads it; nothing when there is no btrfs.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::local) fn read(image: &Path) -> io::Result<Option<Self>> {
        const PLACE: u64 = 64 << 10;
        const MAGIC: u64 = 64;
        const TOTAL_BYTES: u64 = 112;
        let file = File::open(image)?;
        let word = |at: u64| {
            let mut bytes = [0; 8];
            match file.read_exact_at(&mut bytes, PLACE + at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([0; 8]),
                read => read.map(|()| bytes),
            }
        };
        let is_btrfs = word(MAGIC)? == *b"_BHRfS_M";
        Ok(is_btrfs.then_some(Self { bytes: u64::from_le_bytes(word(TOTAL_BYTES)?) }))
    }

    /// Whether a file of this length is too short for it: then what lay in its end is lost, and making it longer again does not mend it.
    pub(in crate::local) fn is_cut(&self, length: u64) -> bool {
        length < self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_file_system_says_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for length in [0, 1000, 1 << 20] {
            std::fs::write(file.path(), vec![0; length]).unwrap();
            assert_eq!(Superblock::read(file.path()).unwrap(), None);
        }
        let (file, path) = (file.as_file(), file.path());
        file.write_all_at(b"_BHRfS_M", 65_600).unwrap();
        file.write_all_at(&(7_u64 << 30).to_le_bytes(), 65_648).unwrap();
        assert_eq!(Superblock::read(path).unwrap(), Some(Superblock { bytes: 7 << 30 }));
        let superblock = Superblock { bytes: 7 };
        assert_eq!([6, 7, 8].map(|length| superblock.is_cut(length)), [true, false, false]);
    }
}
