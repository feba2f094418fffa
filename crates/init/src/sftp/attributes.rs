//! What is known or wanted of a file (draft-ietf-secsh-filexfer-02, section 5).

use rustix::fs::Stat;

use super::answers::Answers;
use super::packet::Reader;

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;

/// The attributes that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Bytes.
    pub size: Option<u64>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// Mode, in answers with the type of the file.
    pub permissions: Option<u32>,
    /// Last access and last change of content, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    /// Reads them. Those that somebody has added are skipped.
    pub fn read(from: &mut Reader<'_>) -> Option<Self> {
        let flags = from.u32()?;
        let mut attributes = Self::default();
        if flags & SIZE != 0 {
            attributes.size = Some(from.u64()?);
        }
        if flags & OWNER != 0 {
            attributes.owner = Some((from.u32()?, from.u32()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.permissions = Some(from.u32()?);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((from.u32()?, from.u32()?));
        }
        if flags & EXTENDED != 0 {
            // Each takes eight bytes at least, so this ends with the packet whatever the count says.
            for _ in 0..from.u32()? {
                from.string()?;
                from.string()?;
            }
        }
        Some(attributes)
    }

    /// Writes them.
    pub fn write(&self, to: &mut Answers) {
        let flag = |there: bool, flag: u32| if there { flag } else { 0 };
        to.put_u32(
            flag(self.size.is_some(), SIZE)
                | flag(self.owner.is_some(), OWNER)
                | flag(self.permissions.is_some(), PERMISSIONS)
                | flag(self.times.is_some(), TIMES),
        );
        if let Some(size) = self.size {
            to.put_u64(size);
        }
        if let Some((user, group)) = self.owner {
            to.put_u32(user);
            to.put_u32(group);
        }
        if let Some(permissions) = self.permissions {
            to.put_u32(permissions);
        }
        if let Some((access, change)) = self.times {
            to.put_u32(access);
            to.put_u32(change);
        }
    }

    /// The mode's bits that can be set.
    pub fn mode(&self) -> Option<u32> {
        self.permissions.map(|permissions| permissions & 0o7777)
    }
}

impl From<&Stat> for Attributes {
    fn from(stat: &Stat) -> Self {
        // Four bytes are all the protocol has; it ends in 2106.
        let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
        Self {
            size: Some(u64::try_from(stat.st_size).unwrap_or(0)),
            owner: Some((stat.st_uid, stat.st_gid)),
            permissions: Some(stat.st_mode),
            times: Some((seconds(stat.st_atime), seconds(stat.st_mtime))),
        }
    }
}
