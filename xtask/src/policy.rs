//! `cargo xtask deny`: licences, banned crates and sources of every dependency, against `deny.toml`.
//!
//! The rules are cargo-deny's own file, so that cargo-deny can be run on it too; but compiling cargo-deny takes longer than all of our
//! tests, and these three checks need no more than what cargo itself tells.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

/// One dependency, as `cargo tree` tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    licence: String,
    /// Where it comes from, when that is not the default registry.
    source: Option<String>,
}

/// What `deny.toml` says, as far as it is checked here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    licences: BTreeSet<String>,
    banned: BTreeSet<String>,
}

/// Checks all dependencies, and prints what breaks a rule.
///
/// # Errors
/// A dependency breaks a rule, or the rules or dependencies cannot be read.
pub fn check() -> Result<()> {
    let rules = Rules::read(&std::fs::read_to_string(shell::root().join("deny.toml")).context("reading deny.toml")?)?;
    // `cargo metadata` would also tell of crates that only a feature nobody has switched on would bring.
    let tree =
        ["tree", "--locked", "--workspace", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}\t{l}"];
    let targets = ["--target", "x86_64-unknown-linux-gnu", "--target", "aarch64-unknown-linux-gnu"];
    let tree = shell::output(shell::cargo(&tree).args(targets))?;
    let packages: BTreeSet<Package> =
        tree.lines().filter(|line| !line.is_empty()).map(Package::read).collect::<Result<_>>()?;
    let broken: Vec<String> = packages.iter().filter_map(|package| rules.broken_by(package)).collect();
    for line in &broken {
        println!("{line}");
    }
    ensure!(broken.is_empty(), "{} dependencies break the rules of deny.toml", broken.len());
    println!("{} packages follow the rules of deny.toml", packages.len());
    if shell::find("cargo-deny").is_some() {
        shell::run(&mut shell::cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]))?;
    }
    Ok(())
}

impl Package {
    /// Reads `NAME vVERSION[ (proc-macro)][ (SOURCE)]`, a tab, and the licence.
    fn read(line: &str) -> Result<Self> {
        // Such a line repeats one that came before.
        let line = line.trim_end_matches(" (*)");
        let (package, licence) = line.split_once('\t').with_context(|| format!("'{line}' has no licence column"))?;
        let mut words = package.splitn(3, ' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else { bail!("'{line}' names no package") };
        let notes =
            words.next().unwrap_or_default().split_terminator(')').map(|note| note.trim_start_matches([' ', '(']));
        let mut sources = notes.filter(|note| !matches!(*note, "proc-macro" | ""));
        let (name, version, licence) = (name.to_owned(), version.to_owned(), licence.to_owned());
        Ok(Self { name, version, licence, source: sources.next_back().map(str::to_owned) })
    }
}

impl Rules {
    /// Reads the lists `allow` of `[licenses]` and `deny` of `[bans]`, one entry a line.
    fn read(text: &str) -> Result<Self> {
        let mut rules = Self::default();
        let mut section = "";
        let mut list = "";
        for line in text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim()) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name;
            } else if let Some(name) = line.strip_suffix(" = [") {
                list = name;
            } else if line == "]" {
                list = "";
            } else if let Some(entry) = line.split('"').nth(1) {
                match (section, list) {
                    ("licenses", "allow") => rules.licences.insert(entry.to_owned()),
                    ("bans", "deny") => rules.banned.insert(entry.to_owned()),
                    _ => false,
                };
            }
        }
        ensure!(
            !rules.licences.is_empty() && !rules.banned.is_empty(),
            "deny.toml has no list of licences, or of bans"
        );
        Ok(rules)
    }

    fn broken_by(&self, package: &Package) -> Option<String> {
        let Package { name, version, licence, source } = package;
        match source.as_deref() {
            // Our own crates.
            Some(path) if path.starts_with('/') => return None,
            Some(other) => return Some(format!("{name} {version} comes from {other}, which is no registry")),
            None => {}
        }
        if self.banned.contains(name) {
            return Some(format!("{name} {version} is banned; deny.toml says why"));
        }
        match self.allows(licence) {
            Ok(true) => None,
            Ok(false) => Some(format!("{name} {version} is under '{licence}', which deny.toml does not allow")),
            Err(error) => Some(format!("{name} {version}: {error:#}")),
        }
    }

    /// Whether the licence expression can be met by allowed licences alone.
    fn allows(&self, expression: &str) -> Result<bool> {
        // A slash is the old way to write OR.
        let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let mut words = spaced.split_whitespace().peekable();
        let met = self.either(&mut words)?;
        ensure!(words.next().is_none(), "'{expression}' is no licence expression");
        Ok(met)
    }

    fn either<'a>(&self, words: &mut Words<'a, impl Iterator<Item = &'a str>>) -> Result<bool> {
        let mut met = self.both(words)?;
        while words.next_if_eq(&"OR").is_some() {
            met |= self.both(words)?;
        }
        Ok(met)
    }

    fn both<'a>(&self, words: &mut Words<'a, impl Iterator<Item = &'a str>>) -> Result<bool> {
        let mut met = self.one(words)?;
        while words.next_if_eq(&"AND").is_some() {
            met &= self.one(words)?;
        }
        Ok(met)
    }

    fn one<'a>(&self, words: &mut Words<'a, impl Iterator<Item = &'a str>>) -> Result<bool> {
        match words.next() {
            Some("(") => {
                let met = self.either(words)?;
                ensure!(words.next() == Some(")"), "a bracket is not closed");
                Ok(met)
            }
            Some(licence) if licence != ")" => {
                let mut licence = licence.to_owned();
                if words.next_if_eq(&"WITH").is_some() {
                    let exception = words.next().context("no exception after WITH")?;
                    licence = format!("{licence} WITH {exception}");
                }
                Ok(self.licences.contains(&licence))
            }
            _ => bail!("a licence is missing"),
        }
    }
}

type Words<'a, I> = std::iter::Peekable<I>;

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::read(
            "[licenses]\nallow = [\n  \"MIT\",\n  \"Apache-2.0 WITH LLVM-exception\",\n]\n[bans]\ndeny = [\n  { crate = \"ring\", reason = \"no\" }, # why\n]\n",
        )
        .unwrap()
    }

    #[test]
    fn licence_expressions_are_understood() {
        let rules = rules();
        for (expression, allowed) in [
            ("MIT", true),
            ("GPL-3.0-or-later", false),
            ("MIT OR GPL-3.0-or-later", true),
            ("MIT/GPL-3.0-or-later", true),
            ("MIT AND GPL-3.0-or-later", false),
            ("(MIT OR X) AND (X OR MIT)", true),
            ("Apache-2.0 WITH LLVM-exception OR X", true),
            ("Apache-2.0", false),
        ] {
            assert_eq!(rules.allows(expression).unwrap(), allowed, "{expression}");
        }
        assert!(rules.allows("MIT OR").is_err());
        assert!(rules.allows("(MIT").is_err());
        assert!(rules.allows("MIT MIT").is_err());
    }

    #[test]
    fn each_rule_is_applied_to_foreign_packages_only() {
        let broken = |line: &str| rules().broken_by(&Package::read(line).unwrap());
        assert_eq!(broken("serde v1.0.0\tMIT"), None);
        assert_eq!(broken("serde_derive v1.0.0 (proc-macro)\tMIT"), None);
        assert_eq!(broken("boxyard-proto v0.1.0 (/work/crates/proto)\tApache-2.0"), None);
        assert!(broken("ring v0.17.0\tMIT").is_some());
        assert!(broken("serde v1.0.0\tGPL-2.0-only").is_some());
        assert!(broken("serde v1.0.0\t").is_some());
        assert!(broken("serde v1.0.0 (git+https://example.invalid/serde#1234)\tMIT").is_some());
        assert!(broken("macros v1.0.0 (proc-macro) (https://example.invalid/x#1234)\tMIT").is_some());
    }

    #[test]
    fn our_own_rules_can_be_read() {
        let text = std::fs::read_to_string(shell::root().join("deny.toml")).unwrap();
        let rules = Rules::read(&text).unwrap();
        assert!(rules.banned.contains("ring") && rules.licences.contains("MIT"));
    }
}
