//! Finding files by name and content. It takes time in proportion to what is searched, whatever the patterns, and stops at bounds.

mod content;
mod glob;
mod pattern;

#[cfg(any(test, feature = "fuzzing"))]
pub mod exercise;

use std::io;
use std::time::{Duration, Instant};

use boxyard_proto::files::{Answer, ENTRIES_MAX, FileKind, Match, PathText, SEARCH_DEFAULT, SEARCH_MAX, Search};
use rustix::fs::OFlags;

use self::content::Content;
use self::pattern::Pattern;
use super::channel::Channel;
use super::jail::{Jail, kind};
use super::list::length;
use super::path::{Path, child};
use super::refusal::Refusal;
use super::session::{Done, Outcome};
use super::stat;
use super::tree::{Step, Tree};

/// How long one search may take.
const TIME: Duration = Duration::from_secs(10);

/// Bytes of content that are read at most.
const BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Files and folders that are looked at at most.
const LOOKS: u64 = 2_000_000;

/// Bytes of matches in an answer, counted as they are at the longest in JSON, at which no more are added.
const ANSWER: usize = 512 * 1024;

/// Tells what is found.
pub fn search(jail: &Jail, ask: &Search, channel: &mut Channel<'_>) -> Outcome {
    within(Bounds { until: Instant::now() + TIME, bytes: BYTES, looks: LOOKS }, jail, ask, channel)
}

/// Tells what is found before a bound is met.
fn within(mut bounds: Bounds, jail: &Jail, ask: &Search, channel: &mut Channel<'_>) -> Outcome {
    let (wanted, mut tree) = match Wanted::new(jail, ask) {
        Ok(wanted) => wanted,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let limit = if ask.limit == 0 { SEARCH_DEFAULT } else { ask.limit.min(SEARCH_MAX) };
    let mut found = Found { channel, left: limit, matches: Vec::new(), bytes: 0, is_over: false };
    let looked = wanted.look(&mut tree, &mut bounds, &mut found)?;
    found.tell()?;
    let truncated = tree.truncated || found.is_over || bounds.are_met();
    Ok(looked.map(|()| Done { truncated }))
}

/// What is looked for.
struct Wanted {
    path: Path,
    name: Option<Name>,
    content: Option<Pattern>,
    hidden: bool,
}

/// What a name has to be.
struct Name {
    is: Pattern,
    /// It is about the path below the folder.
    of_path: bool,
}

/// How much more may be done.
pub struct Bounds {
    until: Instant,
    bytes: u64,
    looks: u64,
}

impl Bounds {
    /// Counts bytes that were read.
    pub fn read(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }

    /// Whether one of them is met.
    pub fn are_met(&self) -> bool {
        self.bytes == 0 || self.looks == 0 || Instant::now() >= self.until
    }
}

impl Wanted {
    fn new(jail: &Jail, ask: &Search) -> Result<(Self, Tree), Refusal> {
        let path = ask.path.as_ref().ok_or_else(|| Refusal::invalid("the path is missing"))?;
        let path = Path::try_from(path)?;
        let name = ask.name.as_deref().filter(|name| !name.is_empty()).map(|glob| {
            let is = Pattern::of_names(glob.trim_start_matches('/'), ask.ignore_case)?;
            Ok::<_, Refusal>(Name { is, of_path: glob.contains('/') })
        });
        let content = ask.content.as_deref().filter(|content| !content.is_empty());
        let content = content.map(|text| Pattern::of_lines(text, ask.regex, ask.ignore_case));
        let (name, content) = (name.transpose()?, content.transpose()?);
        let folder = jail.open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK)?;
        Ok((Self { path, name, content, hidden: ask.hidden }, Tree::new(folder)?))
    }

    fn look(&self, tree: &mut Tree, bounds: &mut Bounds, found: &mut Found<'_, '_>) -> io::Result<Result<(), Refusal>> {
        let mut content = Content::new();
        loop {
            let (name, stat) = match tree.step() {
                Ok(Some(Step::Entry { name, stat })) => (name, stat),
                Ok(Some(Step::End)) => continue,
                Ok(None) => return Ok(Ok(())),
                Err(refusal) => return Ok(Err(refusal)),
            };
            bounds.looks -= 1;
            if found.is_over || bounds.are_met() {
                return Ok(Ok(()));
            }
            if !self.hidden && name.starts_with(b".") {
                continue;
            }
            let path = tree.path().to_vec();
            let fits =
                self.name.as_ref().is_none_or(|wanted| wanted.is.is_in(if wanted.of_path { &path } else { &name }));
            let sort = kind(&stat);
            if fits {
                match &self.content {
                    None => found.add(self.path.child(&path), stat::told(&stat).kind, None)?,
                    Some(wanted) if sort.is_file() => {
                        content.search(tree.folder(), &name, wanted, bounds, |line, text| {
                            found.add(child(self.path.bytes(), &path), FileKind::File, Some((line, text)))?;
                            Ok(!found.is_over)
                        })?;
                    }
                    Some(_) => {}
                }
            }
            // What cannot be read is not found.
            if sort.is_dir() && tree.enter(&name).is_err() {
                tree.truncated = true;
            }
        }
    }
}

/// What was found and is not told yet.
struct Found<'c, 'a> {
    channel: &'c mut Channel<'a>,
    left: u32,
    matches: Vec<Match>,
    bytes: usize,
    /// There would have been one more.
    is_over: bool,
}

impl Found<'_, '_> {
    fn add(&mut self, path: Vec<u8>, kind: FileKind, line: Option<(u64, String)>) -> io::Result<()> {
        if self.left == 0 {
            self.is_over = true;
            return Ok(());
        }
        self.left -= 1;
        let path = PathText::new(&path);
        let (line, text) = line.unzip();
        // A byte takes six in JSON at most.
        self.bytes += 6 * (length(&path) + text.as_ref().map_or(0, String::len));
        self.matches.push(Match { path, kind, line, text });
        if self.matches.len() == ENTRIES_MAX || self.bytes >= ANSWER { self.tell() } else { Ok(()) }
    }

    fn tell(&mut self) -> io::Result<()> {
        self.bytes = 0;
        let matches = std::mem::take(&mut self.matches);
        if matches.is_empty() { Ok(()) } else { self.channel.say(&Answer::Matches { matches }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::testing::World;

    #[test]
    fn every_bound_ends_a_search_and_that_is_said() {
        let world = World::new();
        for name in ["a", "b", "c"] {
            world.make_file(&format!("w/{name}"), "x\n".repeat(1000));
        }
        let ask = Search { path: Some(world.path("w/")), content: Some("y".into()), ..Search::default() };
        let done = |bounds| {
            let (mut input, mut output) = (&b""[..], Vec::new());
            within(bounds, &world.jail(), &ask, &mut Channel::new(&mut input, &mut output))
                .expect("memory")
                .expect("done")
        };
        let bounds = || Bounds { until: Instant::now() + TIME, bytes: BYTES, looks: LOOKS };
        assert!(!done(bounds()).truncated);
        for met in [
            Bounds { until: Instant::now(), ..bounds() },
            Bounds { bytes: 1500, ..bounds() },
            Bounds { looks: 2, ..bounds() },
        ] {
            assert!(done(met).truncated);
        }
    }
}
