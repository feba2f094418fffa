//! Requests as they are sent, and what they do to a disk.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test names what it wants; everything else is a failure")]

mod archives;
mod basics;
mod full;
mod jail;
mod races;
mod search;
mod watch;
