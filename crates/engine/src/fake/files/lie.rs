//! What a box may answer whose `boxyard-init` was taken over.

use boxyard_proto::files::{Answer, ENTRIES_MAX, Entry, Failure, FileKind, Match, PathText, Stat};
use boxyard_proto::wire::{self, FRAME_MAX, Kind};
use bytes::Bytes;

use super::Work;

/// A way to lie about files, whatever is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// A file has ten bytes, and a hundred come.
    TooMuch,
    /// A file has a hundred bytes, and ten come.
    TooLittle,
    /// A file whose length is not told.
    NoLength,
    /// Bytes of a file that never end.
    Endless,
    /// A folder that never ends.
    EndlessList,
    /// A folder without entries that never ends.
    EndlessNothing,
    /// A search that never ends finding.
    EndlessMatches,
    /// A list that is longer than a list may be.
    LongList,
    /// A name that leads elsewhere.
    BadName,
    /// A path that is none.
    BadPath,
    /// No answer, ever.
    Silence,
    /// Half of an answer, and no more.
    Half,
    /// Bytes that are no frames.
    Junk,
    /// A frame that is longer than a frame may be.
    LongFrame,
    /// A frame that is no JSON although it says so.
    NoJson,
    /// Content that nobody asked for.
    Unasked,
    /// What is answered to other questions.
    OutOfTurn,
    /// An end where there has to be an answer.
    OnlyDone,
    /// A failure with a text that is long, and that would steer a terminal.
    LongFailure,
    /// It ends.
    Leaves,
    /// Figures that no file has.
    Figures,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::TooMuch,
        Self::TooLittle,
        Self::NoLength,
        Self::Endless,
        Self::EndlessList,
        Self::EndlessNothing,
        Self::EndlessMatches,
        Self::LongList,
        Self::BadName,
        Self::BadPath,
        Self::Silence,
        Self::Half,
        Self::Junk,
        Self::LongFrame,
        Self::NoJson,
        Self::Unasked,
        Self::OutOfTurn,
        Self::OnlyDone,
        Self::LongFailure,
        Self::Leaves,
        Self::Figures,
    ];
}

fn stat() -> Stat {
    Stat {
        kind: FileKind::File,
        size: 10,
        mode: u32::MAX,
        modified_ns: i64::MIN,
        inode: u64::MAX,
        uid: 0,
        gid: 0,
        target: None,
    }
}

fn entries(count: usize) -> Vec<Entry> {
    (0..count).map(|n| Entry { name: format!("f{n}").as_str().into(), stat: stat() }).collect()
}

impl Work {
    /// Answers so; says whether it goes on.
    pub(super) async fn tell_lie(&mut self, lie: Lie) -> bool {
        let opened = |length| Answer::Opened { stat: stat(), length };
        let done = Answer::Done { truncated: false };
        match lie {
            Lie::TooMuch => {
                self.say(&opened(Some(10))).await;
                self.send(&Bytes::from_static(&[b'x'; 100])).await;
                self.say(&done).await;
            }
            Lie::TooLittle => {
                self.say(&opened(Some(100))).await;
                self.send(&Bytes::from_static(&[b'x'; 10])).await;
                self.say(&done).await;
            }
            Lie::NoLength => self.say(&opened(None)).await,
            Lie::Endless => {
                self.say(&opened(Some(u64::MAX >> 1))).await;
                let piece = Bytes::from(vec![b'x'; FRAME_MAX / 4]);
                while !self.job.has_ended() && self.job.is_followed() {
                    self.send(&piece).await;
                }
            }
            Lie::EndlessList => {
                while !self.job.has_ended() && self.job.is_followed() {
                    self.say(&Answer::Entries { entries: entries(ENTRIES_MAX) }).await;
                }
            }
            Lie::EndlessNothing => {
                while !self.job.has_ended() && self.job.is_followed() {
                    self.say(&Answer::Entries { entries: Vec::new() }).await;
                }
            }
            Lie::EndlessMatches => {
                let found =
                    Match { path: "/x".into(), kind: FileKind::File, line: Some(0), text: Some("x".repeat(900)) };
                while !self.job.has_ended() && self.job.is_followed() {
                    self.say(&Answer::Matches { matches: vec![found.clone(); ENTRIES_MAX] }).await;
                }
            }
            Lie::LongList => self.say(&Answer::Entries { entries: entries(ENTRIES_MAX + 1) }).await,
            Lie::BadName => {
                let entry = Entry { name: "../../etc/passwd".into(), stat: stat() };
                self.say(&Answer::Entries { entries: vec![entry] }).await;
                self.say(&done).await;
            }
            Lie::BadPath => {
                let found = |path| Match { path, kind: FileKind::Other, line: None, text: None };
                let matches = vec![found("relative".into()), found(PathText::Bytes { base64: "?".into() })];
                self.say(&Answer::Matches { matches }).await;
                self.say(&done).await;
            }
            Lie::Silence => std::future::pending().await,
            Lie::Half => {
                let frame = wire::json_frame(&done);
                self.job.say(Kind::Out, Bytes::copy_from_slice(frame.get(..8).unwrap_or_default())).await;
                std::future::pending().await
            }
            Lie::Junk => self.job.say(Kind::Out, vec![0xa5; 100_000].into()).await,
            Lie::LongFrame => self.job.say(Kind::Out, Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 0])).await,
            Lie::NoJson => {
                self.job.say(Kind::Out, Bytes::copy_from_slice(&wire::header(Kind::Json, 3))).await;
                self.job.say(Kind::Out, Bytes::from_static(b"{{{")).await;
            }
            Lie::Unasked => {
                self.send(&Bytes::from_static(b"surprise")).await;
                self.say(&done).await;
            }
            Lie::OutOfTurn => {
                self.say(&Answer::Watching { truncated: true }).await;
                self.say(&Answer::Stat { stat: stat() }).await;
                self.say(&opened(Some(1))).await;
            }
            Lie::OnlyDone => self.say(&done).await,
            Lie::LongFailure => {
                let message = "\x1b]0;mine\x07".repeat(10_000);
                self.say(&Answer::Failed { kind: Failure::NotFound, message }).await;
            }
            Lie::Leaves => return false,
            Lie::Figures => {
                self.say(&Answer::Stat { stat: stat() }).await;
                self.say(&done).await;
            }
        }
        true
    }
}
