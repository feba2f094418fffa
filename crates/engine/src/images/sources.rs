//! Where the host gets its Debian packages from. Images and the boxes made from them use the same mirror.

use std::fs;
use std::path::{Path, PathBuf};

use crate::EngineError;

/// The archive's keys, on Debian hosts and in Debian images alike.
pub(super) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const FILE_MAX: u64 = 1024 * 1024;

/// Names that Debian gives to releases besides their code names.
const RELEASE_WORDS: [&str; 5] = ["oldstable", "stable", "testing", "unstable", "sid"];

/// Code names of releases that hosts may run or that sources may still name.
const CODE_NAMES: [&str; 6] = ["bullseye", "bookworm", "trixie", "forky", "duke", "buster"];

/// The mirror of Debian that the host is configured to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    /// Address of the archive itself.
    pub main: String,
    /// Address of the archive of security updates, if the host has one.
    pub security: Option<String>,
}

impl Mirror {
    /// Reads the host's apt sources under `etc_apt` (`/etc/apt`).
    pub fn of_host(etc_apt: &Path) -> Result<Self, EngineError> {
        let doing = || format!("finding the host's Debian mirror in {}", etc_apt.display());
        let mut entries = Vec::new();
        for path in source_files(etc_apt) {
            let text = match fs::metadata(&path).map(|meta| meta.len()) {
                Ok(size) if size <= FILE_MAX => {
                    fs::read_to_string(&path).map_err(|error| EngineError::broken(doing(), error))?
                }
                _ => continue,
            };
            let deb822 = path.extension().is_some_and(|extension| extension == "sources");
            entries.extend(if deb822 { parse_deb822(&text) } else { parse_lines(&text) });
        }
        Self::choose(&entries).ok_or_else(|| {
            EngineError::broken(doing(), "there is no entry of type `deb` with an http(s) address, a Debian release and the component `main`; add one")
        })
    }

    fn choose(entries: &[Entry]) -> Option<Self> {
        let usable = |wanted: fn(&str) -> bool| {
            let of_debian =
                entries.iter().filter(|entry| entry.main_component && entry.suites.iter().any(|suite| wanted(suite)));
            of_debian.flat_map(|entry| &entry.uris).find_map(|uri| address(uri))
        };
        Some(Self { main: usable(is_main)?, security: usable(is_security) })
    }

    /// The sources of `suite` on this mirror, each as (address, suites).
    pub fn of_suite(&self, suite: &str) -> Vec<(&str, Vec<String>)> {
        if matches!(suite, "sid" | "unstable") {
            return vec![(&self.main, vec![suite.to_owned()])];
        }
        let mut sources = vec![(self.main.as_str(), vec![suite.to_owned(), format!("{suite}-updates")])];
        if let Some(security) = &self.security {
            sources.push((security, vec![format!("{suite}-security")]));
        }
        sources
    }

    /// The text of a `debian.sources` for boxes. Credentials in the host's addresses stay on the host.
    pub fn deb822(&self, suite: &str) -> String {
        let stanza = |(uri, suites): (&str, Vec<String>)| {
            let suites = suites.join(" ");
            format!(
                "Types: deb\nURIs: {}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n",
                without_credentials(uri)
            )
        };
        self.of_suite(suite).into_iter().map(stanza).collect::<Vec<_>>().join("\n")
    }

    /// The same as lines for mmdebstrap, credentials included.
    pub fn lines(&self, suite: &str) -> Vec<String> {
        let line = |uri: &str, suite: &str| format!("deb [signed-by={KEYRING}] {uri} {suite} main");
        let sources = self.of_suite(suite);
        sources.iter().flat_map(|(uri, suites)| suites.iter().map(|suite| line(uri, suite))).collect()
    }
}

/// `/etc/apt/sources.list` and the files beside it, in apt's order.
fn source_files(etc_apt: &Path) -> Vec<PathBuf> {
    let parts = fs::read_dir(etc_apt.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut parts: Vec<_> = parts
        .filter(|path| path.extension().is_some_and(|extension| extension == "list" || extension == "sources"))
        .collect();
    parts.sort();
    let first = etc_apt.join("sources.list");
    first.is_file().then_some(first).into_iter().chain(parts).collect()
}

/// One entry of type `deb`.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    main_component: bool,
}

/// The format of `*.sources`: stanzas of `Field: values`, continued on lines that begin with a blank.
fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(stanza(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((field, value)) = line.split_once(':') {
            fields.push((field.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn stanza(fields: &[(String, String)]) -> Option<Entry> {
    let words = |name: &str| -> Vec<String> {
        let values = fields.iter().filter(|(field, _)| field == name);
        values.flat_map(|(_, value)| value.split_whitespace()).map(str::to_owned).collect()
    };
    let off =
        words("enabled").iter().any(|word| matches!(word.to_ascii_lowercase().as_str(), "no" | "false" | "0" | "off"));
    if off || !words("types").iter().any(|word| word == "deb") {
        return None;
    }
    let main_component = words("components").iter().any(|component| component == "main");
    Some(Entry { uris: words("uris"), suites: words("suites"), main_component })
}

/// The format of `*.list`: `deb [options] address suite components`.
fn parse_lines(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let rest = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '[']))?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (uri, suite) = (words.next()?, words.next()?);
        Some(Entry { uris: vec![uri], suites: vec![suite], main_component: words.any(|component| component == "main") })
    };
    text.lines().filter_map(entry).collect()
}

fn is_release(name: &str) -> bool {
    RELEASE_WORDS.contains(&name) || CODE_NAMES.contains(&name)
}

fn is_main(suite: &str) -> bool {
    is_release(suite)
}

fn is_security(suite: &str) -> bool {
    suite.strip_suffix("-security").is_some_and(is_release)
}

/// The http(s) address that apt would use for `uri`, without a slash at its end; for a list of mirrors, the first of the list.
fn address(uri: &str) -> Option<String> {
    if let Some(list) = uri.strip_prefix("mirror+file:") {
        let path = Path::new(list.strip_prefix("//").unwrap_or(list));
        let small = fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= FILE_MAX);
        let text = small.then(|| fs::read_to_string(path).ok())??;
        return text.lines().filter_map(|line| line.split_whitespace().next()).find_map(plain_address);
    }
    plain_address(uri)
}

/// Only what can stand in a sources file without changing its meaning.
fn plain_address(uri: &str) -> Option<String> {
    let web = uri.starts_with("http://") || uri.starts_with("https://");
    let clean = uri.len() <= 500 && uri.bytes().all(|b| b.is_ascii_graphic() && !b"[]\"'\\#".contains(&b));
    (web && clean).then(|| uri.trim_end_matches('/').to_owned())
}

/// `https://name:password@mirror/debian` without the name and password.
pub(super) fn without_credentials(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb
# an older address
URIs: http://mirror.test/debian/
Suites: bookworm bookworm-updates
Components: main

Types: deb deb-src
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components:
 main
 contrib

Enabled: no
Types: deb
URIs: http://other.test/debian
Suites: trixie
Components: main
";

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn reads_stanzas() {
        let etc = host(&[("sources.list.d/debian.sources", DEB822)]);
        let mirror = Mirror::of_host(etc.path()).unwrap();
        assert_eq!(mirror.main, "http://mirror.test/debian");
        assert_eq!(mirror.security.as_deref(), Some("http://mirror.test/debian-security"));
    }

    #[test]
    fn reads_lines_and_passes_over_what_is_not_debian() {
        let lines = "# deb http://off.test/debian trixie main
deb-src http://src.test/debian trixie main
deb [arch=amd64 signed-by=/k.gpg] https://vendor.test/apt nodistro main
deb cdrom:[Debian]/ trixie main
deb [signed-by=/k.gpg] https://me:secret@mirror.test/debian trixie main contrib # good
deb https://mirror.test/debian-security trixie-security main
";
        let etc = host(&[("sources.list", lines), ("sources.list.d/z.sources", DEB822)]);
        let mirror = Mirror::of_host(etc.path()).unwrap();
        assert_eq!(mirror.main, "https://me:secret@mirror.test/debian");
        assert_eq!(mirror.security.as_deref(), Some("https://mirror.test/debian-security"));
        assert_eq!(mirror.lines("trixie").len(), 3);
        let inside = mirror.deb822("trixie");
        assert!(inside.contains("URIs: https://mirror.test/debian\nSuites: trixie trixie-updates\n"), "{inside}");
        assert!(!inside.contains("secret"));
    }

    #[test]
    fn follows_a_list_of_mirrors() {
        let etc = host(&[("mirrors.list", "https://near.test/debian priority:1\nhttps://far.test/debian\n")]);
        let line = format!("deb mirror+file:{} trixie main\n", etc.path().join("mirrors.list").display());
        fs::write(etc.path().join("sources.list"), line).unwrap();
        assert_eq!(
            Mirror::of_host(etc.path()).unwrap(),
            Mirror { main: "https://near.test/debian".into(), security: None }
        );
    }

    #[test]
    fn says_what_is_missing() {
        let etc = host(&[("sources.list", "deb http://ubuntu.test/ubuntu noble main\n")]);
        let error = Mirror::of_host(etc.path()).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("component `main`"));
    }
}
