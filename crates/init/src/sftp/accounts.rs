//! The names of users and groups, out of the box's own `/etc/passwd` and `/etc/group`. Who wrote them may have written anything.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;

use rustix::fs::{Mode, OFlags};

use crate::guard::Guard;

/// Bytes read of each file.
const FILE_MAX: u64 = 1024 * 1024;

/// Lines taken of each file.
const ENTRIES_MAX: usize = 10_000;

/// Bytes of a name at most. Nothing makes longer ones; their entries are ignored.
const NAME_MAX: usize = 64;

/// Bytes of a home folder's path at most.
const HOME_MAX: usize = 4095;

/// Who there is.
#[derive(Debug, Default)]
pub struct Accounts {
    users: BTreeMap<u32, Vec<u8>>,
    groups: BTreeMap<u32, Vec<u8>>,
    homes: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Accounts {
    /// Reads both files. One that is not there names nobody.
    pub fn of_box(guard: &Guard) -> Self {
        Self::new(&file(guard, b"/etc/passwd"), &file(guard, b"/etc/group"))
    }

    /// Reads both files' contents.
    fn new(passwd: &[u8], group: &[u8]) -> Self {
        let mut accounts = Self::default();
        // An earlier entry wins, as in the C library.
        for (name, id, fields) in entries(passwd) {
            accounts.users.entry(id).or_insert_with(|| name.to_vec());
            if let Some(home) = fields.get(5).filter(|home| home.starts_with(b"/") && home.len() <= HOME_MAX) {
                accounts.homes.entry(name.to_vec()).or_insert_with(|| home.to_vec());
            }
        }
        for (name, id, _) in entries(group) {
            accounts.groups.entry(id).or_insert_with(|| name.to_vec());
        }
        accounts
    }

    /// The name of the user `id`, or the number.
    pub fn user(&self, id: u32) -> Cow<'_, [u8]> {
        named(&self.users, id)
    }

    /// The name of the group `id`, or the number.
    pub fn group(&self, id: u32) -> Cow<'_, [u8]> {
        named(&self.groups, id)
    }

    /// The name of the user `id`, if there is such a user.
    pub fn user_name(&self, id: u32) -> Option<&[u8]> {
        self.users.get(&id).map(Vec::as_slice)
    }

    /// The name of the group `id`, if there is such a group.
    pub fn group_name(&self, id: u32) -> Option<&[u8]> {
        self.groups.get(&id).map(Vec::as_slice)
    }

    /// The home folder of the user of this name; no name means the user that we are.
    pub fn home(&self, name: &[u8]) -> Option<&[u8]> {
        let name = if name.is_empty() { self.user_name(rustix::process::geteuid().as_raw())? } else { name };
        self.homes.get(name).map(Vec::as_slice)
    }
}

fn named(names: &BTreeMap<u32, Vec<u8>>, id: u32) -> Cow<'_, [u8]> {
    names.get(&id).map_or_else(|| Cow::Owned(id.to_string().into_bytes()), |name| Cow::Borrowed(name.as_slice()))
}

/// Name, id and all fields of each entry: the id is the third field in both files.
fn entries(content: &[u8]) -> impl Iterator<Item = (&[u8], u32, Vec<&[u8]>)> {
    content.split(|&byte| byte == b'\n').take(ENTRIES_MAX).filter_map(|line| {
        let fields: Vec<_> = line.splitn(8, |&byte| byte == b':').collect();
        let name = *fields.first().filter(|name| !name.is_empty() && name.len() <= NAME_MAX)?;
        let id = std::str::from_utf8(fields.get(2)?).ok()?.parse().ok()?;
        Some((name, id, fields))
    })
}

fn file(guard: &Guard, path: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    // Without a wait for a writer, should it be a pipe.
    if let Ok(fd) = guard.open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
        // What could be read counts.
        let _ = std::fs::File::from(fd).take(FILE_MAX).read_to_end(&mut content);
    }
    content
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_homes_are_found_and_nonsense_is_not() {
        let passwd = b"root:x:0:0:root:/root:/bin/bash\nboxuser:x:1000:1000::/home/boxuser:/bin/bash\n\
            other:x:1000:1000::/elsewhere:/bin/sh\n:x:5:5::/:\nbad:x:-1:0::/:\nrelative:x:7:7::home:\nshort:x\n\n\xff\xfe:x:8:8::/\xff:";
        let accounts = Accounts::new(passwd, b"root:x:0:\nbox users:x:1000:boxuser,other\n");
        assert_eq!(&*accounts.user(1000), b"boxuser");
        assert_eq!(&*accounts.group(1000), b"box users");
        assert_eq!((&*accounts.user(5), &*accounts.user(4_294_967_295)), (&b"5"[..], &b"4294967295"[..]));
        assert_eq!(accounts.home(b"other"), Some(&b"/elsewhere"[..]));
        assert_eq!(accounts.home(b"\xff\xfe"), Some(&b"/\xff"[..]));
        assert_eq!((accounts.home(b"relative"), accounts.home(b"nobody")), (None, None));
        assert_eq!((accounts.user_name(7), accounts.group_name(7)), (Some(&b"relative"[..]), None));
    }

    proptest! {
        #[test]
        fn any_files_are_read(passwd: Vec<u8>, group: Vec<u8>, id: u32) {
            let accounts = Accounts::new(&passwd, &group);
            prop_assert!(accounts.user(id).len() <= NAME_MAX && accounts.group(id).len() <= NAME_MAX);
        }
    }
}
