//! Recipes: what an image is made of, as a short TOML file (`docs/images.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::oci::reference::Reference;
use crate::{EngineError, ErrorKind};

/// The recipes that come with the program, by file name.
const BUILT_IN: [(&str, &str); 8] = [
    ("node.toml", include_str!("../../../../images/node.toml")),
    ("golang.toml", include_str!("../../../../images/golang.toml")),
    ("ruby.toml", include_str!("../../../../images/ruby.toml")),
    ("rust.toml", include_str!("../../../../images/rust.toml")),
    ("node-alpine.toml", include_str!("../../../../images/node-alpine.toml")),
    ("golang-alpine.toml", include_str!("../../../../images/golang-alpine.toml")),
    ("ruby-alpine.toml", include_str!("../../../../images/ruby-alpine.toml")),
    ("rust-alpine.toml", include_str!("../../../../images/rust-alpine.toml")),
];

const FILES_MAX: usize = 64;
const FILE_MAX: u64 = 256 * 1024;
const NAME_MAX: usize = 63;
const ALIASES_MAX: usize = 8;
const PACKAGES_MAX: usize = 400;
const PACKAGE_MAX: usize = 100;
const SCRIPT_MAX: usize = 64 * 1024;
const ENV_MAX: usize = 64;
const ENV_NAME_MAX: usize = 128;
const ENV_VALUE_MAX: usize = 4096;

/// Bytes of all names and values. They stand before each script, and together they must fit into one argument of a program (128 KiB).
const ENV_BYTES_MAX: usize = 8 * 1024;

/// Recipes on top of each other at most: the kernel and the mount options bound how many layers an overlay may have.
const DEPTH_MAX: usize = 5;

/// One recipe file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    pub name: String,
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The Debian release that the image starts from. Exactly one of this, `oci` and `from` is set.
    pub suite: Option<String>,
    /// The image of a registry that the image starts from.
    pub oci: Option<String>,
    /// The recipe that the image starts from.
    pub from: Option<String>,
    #[serde(default)]
    pub packages: Vec<String>,
    #[serde(default)]
    pub script: String,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Who it is from.
    #[serde(skip)]
    pub origin: Origin,
}

/// Who a recipe is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// It comes with the program.
    #[default]
    BuiltIn,
    /// The operator has put it into the folder of recipes.
    Folder,
    /// It was added by `boxyard image add`.
    Added,
}

impl Recipe {
    /// Reads and checks one recipe; the error is a sentence about what to change.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut recipe: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        recipe.check()?;
        recipe.packages.sort_unstable();
        recipe.packages.dedup();
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        name(&self.name).map_err(|why| format!("`name` {why}"))?;
        at_most("aliases", self.aliases.len(), ALIASES_MAX)?;
        for alias in &self.aliases {
            name(alias).map_err(|why| format!("the alias {alias:?} {why}"))?;
        }
        match (&self.suite, &self.oci, &self.from) {
            (Some(suite), None, None) => name(suite).map_err(|why| format!("`suite` {why}"))?,
            (None, Some(oci), None) => {
                Reference::parse(oci).map_err(|why| format!("`oci`: {why}"))?;
            }
            (None, None, Some(from)) => name(from).map_err(|why| format!("`from` {why}"))?,
            (None, None, None) => {
                return Err("one of `suite` (a Debian release), `oci` (an image of a registry) and `from` (another recipe) is needed".into());
            }
            _ => return Err("`suite`, `oci` and `from` exclude each other: keep one".into()),
        }
        at_most("packages", self.packages.len(), PACKAGES_MAX)?;
        for package in &self.packages {
            if !is_package(package) {
                return Err(format!("{package:?} in `packages` is no name of a package"));
            }
        }
        if self.script.len() > SCRIPT_MAX {
            return Err(format!("`script` is longer than {SCRIPT_MAX} bytes"));
        }
        if self.script.contains('\0') {
            return Err("`script` has a NUL in it".into());
        }
        at_most("env", self.env.len(), ENV_MAX)?;
        if self.env.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > ENV_BYTES_MAX {
            return Err(format!("the names and values in `env` are longer than {ENV_BYTES_MAX} bytes together"));
        }
        for (key, value) in &self.env {
            if !is_variable(key) {
                return Err(format!("{key:?} in `env` is no name of a variable"));
            }
            if value.len() > ENV_VALUE_MAX || value.contains(['\0', '\n']) {
                return Err(format!(
                    "the value of {key} in `env` is over {ENV_VALUE_MAX} bytes or has a line break or NUL"
                ));
            }
        }
        Ok(())
    }
}

fn at_most(field: &str, count: usize, max: usize) -> Result<(), String> {
    if count > max { Err(format!("`{field}` has {count} entries; at most {max} are allowed")) } else { Ok(()) }
}

/// The rule for names of images, which is that for runtimes too.
pub(super) fn name(text: &str) -> Result<(), String> {
    let fits = (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if fits {
        Ok(())
    } else {
        Err(format!(
            "must be 1 to {NAME_MAX} of the letters a-z, digits, `.`, `_` and `-`, the first a letter or digit"
        ))
    }
}

/// Debian's rule for package names, with an optional `:arch` or `=version`. Names become arguments of apt, for which a `-` in front is an
/// option and one at the end means removal.
fn is_package(text: &str) -> bool {
    text.len() <= PACKAGE_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:=~".contains(&b))
        && !text.ends_with('-')
}

pub(super) fn is_variable(text: &str) -> bool {
    text.len() <= ENV_NAME_MAX
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// All recipes of a server: the built-in ones and the user's, checked against each other.
#[derive(Debug, Clone)]
pub(super) struct Recipes {
    recipes: BTreeMap<String, Recipe>,
    aliases: BTreeMap<String, String>,
}

impl Recipes {
    /// Reads the built-in recipes and the `*.toml` files in `dir`. A user's recipe replaces a built-in one of its name and takes over
    /// names and aliases that it claims.
    pub fn read(dir: Option<&Path>) -> Result<Self, EngineError> {
        let mut all = Self { recipes: BTreeMap::new(), aliases: BTreeMap::new() };
        for (file, text) in BUILT_IN {
            let recipe = Recipe::parse(text)
                .map_err(|why| EngineError::broken(format!("reading the built-in recipe {file}"), why))?;
            all.aliases.extend(recipe.aliases.iter().map(|alias| (alias.clone(), recipe.name.clone())));
            all.recipes.insert(recipe.name.clone(), recipe);
        }
        let mut users = BTreeSet::new();
        for (path, text) in dir.map(files).transpose()?.unwrap_or_default() {
            let doing = || format!("reading the recipe {path}");
            let mut recipe = Recipe::parse(&text).map_err(|why| EngineError::broken(doing(), why))?;
            recipe.origin = Origin::Folder;
            for claimed in std::iter::once(&recipe.name).chain(&recipe.aliases) {
                if !users.insert(claimed.clone()) {
                    return Err(EngineError::broken(
                        doing(),
                        format!("the name `{claimed}` is taken by another of your recipes"),
                    ));
                }
                all.aliases.remove(claimed);
            }
            all.aliases.retain(|_, target| *target != recipe.name);
            all.aliases.extend(recipe.aliases.iter().map(|alias| (alias.clone(), recipe.name.clone())));
            all.recipes.insert(recipe.name.clone(), recipe);
        }
        for recipe in all.recipes.values() {
            all.chain(recipe)
                .map_err(|why| EngineError::broken(format!("reading the recipe `{}`", recipe.name), why))?;
        }
        Ok(all)
    }

    /// These and the recipes that were added, which lie in `dir`. They take nothing from others: one that does not fit any more, because
    /// its name was taken meanwhile or what it stands on is gone, is left out and named in the log.
    pub fn with_added(&self, dir: &Path) -> Result<Self, EngineError> {
        let mut all = self.clone();
        let mut waiting: Vec<Recipe> = Vec::new();
        for (path, text) in files(dir)? {
            match Recipe::parse(&text).and_then(|recipe| self.check_free(&recipe).map(|()| recipe)) {
                Ok(recipe) => waiting.push(Recipe { origin: Origin::Added, ..recipe }),
                Err(why) => tracing::warn!(path, why, "an added image is left out"),
            }
        }
        for recipe in &waiting {
            all.insert(recipe.clone());
        }
        for recipe in waiting {
            if let Err(why) = all.chain(&recipe).map(drop) {
                tracing::warn!(image = recipe.name, why, "an added image is left out");
                all.recipes.remove(&recipe.name);
                all.aliases.retain(|_, target| *target != recipe.name);
            }
        }
        Ok(all)
    }

    /// Adds one recipe.
    pub fn insert(&mut self, recipe: Recipe) {
        self.aliases.retain(|_, target| *target != recipe.name);
        self.aliases.extend(recipe.aliases.iter().map(|alias| (alias.clone(), recipe.name.clone())));
        self.recipes.insert(recipe.name.clone(), recipe);
    }

    /// Whether an added recipe may have its names: the error says which is taken. An earlier one of the same name it replaces.
    pub fn check_free(&self, recipe: &Recipe) -> Result<(), String> {
        for claimed in std::iter::once(&recipe.name).chain(&recipe.aliases) {
            let target = self.aliases.get(claimed).unwrap_or(claimed);
            match self.recipes.get(target) {
                Some(taken) if taken.name != recipe.name || taken.origin != Origin::Added => {
                    return Err(format!("the name `{claimed}` is taken by the image `{}`", taken.name));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The recipe called `name`, by its own name or an alias.
    pub fn get(&self, name: &str) -> Result<&Recipe, EngineError> {
        let target = self.aliases.get(name).map_or(name, String::as_str);
        self.recipes.get(target).ok_or_else(|| {
            let known = self.names().into_iter().collect::<Vec<_>>().join(", ");
            let name: String = name.chars().take(NAME_MAX).collect();
            EngineError::new(ErrorKind::NotFound, format!("finding an image named {name:?} (there are: {known})"))
        })
    }

    /// All names under which [`get`](Self::get) finds something.
    pub fn names(&self) -> BTreeSet<&str> {
        self.recipes.keys().chain(self.aliases.keys()).map(String::as_str).collect()
    }

    /// The other names under which [`get`](Self::get) finds the recipe.
    pub fn aliases_of(&self, name: &str) -> Vec<String> {
        self.aliases.iter().filter(|(_, target)| *target == name).map(|(alias, _)| alias.clone()).collect()
    }

    pub fn all(&self) -> impl Iterator<Item = &Recipe> {
        self.recipes.values()
    }

    /// The recipe and all that it stands on, the lowest first.
    pub fn chain<'a>(&'a self, recipe: &'a Recipe) -> Result<Vec<&'a Recipe>, String> {
        let mut chain = vec![recipe];
        let mut top = recipe;
        while let Some(from) = &top.from {
            let target = self.aliases.get(from).unwrap_or(from);
            top = self
                .recipes
                .get(target)
                .ok_or_else(|| format!("`from` names the recipe `{from}`, which does not exist"))?;
            if chain.iter().any(|seen| seen.name == top.name) {
                return Err(format!("`from` leads round in a circle through `{}`", top.name));
            }
            chain.push(top);
            if chain.len() > DEPTH_MAX {
                return Err(format!("more than {DEPTH_MAX} recipes on top of each other"));
            }
        }
        chain.reverse();
        Ok(chain)
    }
}

/// The user's recipe files as (path, text), in order of their names.
fn files(dir: &Path) -> Result<Vec<(String, String)>, EngineError> {
    let doing = || format!("reading the recipes in {}", dir.display());
    let broken = |error: std::io::Error| EngineError::broken(doing(), error);
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(broken)? {
        let path = entry.map_err(broken)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    if paths.len() > FILES_MAX {
        return Err(EngineError::broken(doing(), format!("{} files; at most {FILES_MAX} are read", paths.len())));
    }
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let doing = || format!("reading the recipe {}", path.display());
        let size = fs::metadata(&path).map_err(|error| EngineError::broken(doing(), error))?.len();
        if size > FILE_MAX {
            return Err(EngineError::broken(
                doing(),
                format!("the file has {size} bytes; at most {FILE_MAX} are allowed"),
            ));
        }
        let text = fs::read_to_string(&path).map_err(|error| EngineError::broken(doing(), error))?;
        files.push((path.display().to_string(), text));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_recipes_are_right() {
        let recipes = Recipes::read(None).unwrap();
        let names: Vec<_> = recipes.all().map(|recipe| recipe.name.as_str()).collect();
        let alpine = ["golang-alpine", "node-alpine", "ruby-alpine", "rust-alpine"];
        assert_eq!(names, ["golang", alpine[0], "node", alpine[1], "ruby", alpine[2], "rust", alpine[3]]);
        for runtime in boxyard_proto::names::RUNTIMES {
            assert!(recipes.get(runtime).is_ok(), "{runtime}");
        }
        for alias in ["python", "default"] {
            assert_eq!(recipes.get(alias).unwrap().name, "node");
        }
        let chain = recipes.chain(recipes.get("rust").unwrap()).unwrap();
        assert_eq!(chain.iter().map(|recipe| recipe.name.as_str()).collect::<Vec<_>>(), ["node", "rust"]);
    }

    #[test]
    fn wrong_recipes_are_refused_with_what_to_change() {
        let long = format!("name = 'a'\nsuite = 'x'\nscript = '{}'", "x".repeat(SCRIPT_MAX + 1));
        for (text, told) in [
            ("name = 'a'", "one of `suite`"),
            ("suite = 'trixie'", "missing field `name`"),
            ("name = 'a'\nsuite = 'x'\nfrom = 'y'", "exclude each other"),
            ("name = 'A b'\nsuite = 'x'", "`name` must be 1 to 63"),
            ("name = 'a'\nsuite = '-x'", "`suite` must be"),
            ("name = 'a'\nsuite = 'x'\noci = 'y'", "exclude each other"),
            ("name = 'a'\noci = 'y:z:w'", "`oci`"),
            ("name = 'a'\nsuite = 'x'\naliases = ['../b']", "the alias \"../b\""),
            ("name = 'a'\nsuite = 'x'\nimage = 'y'", "unknown field `image`"),
            ("name = 'a'\nsuite = 'x'\npackages = ['--purge']", "no name of a package"),
            ("name = 'a'\nsuite = 'x'\npackages = ['dpkg-']", "no name of a package"),
            ("name = 'a'\nsuite = 'x'\npackages = ['a,b']", "no name of a package"),
            ("name = 'a'\nsuite = 'x'\nenv = { 'A-B' = '' }", "no name of a variable"),
            ("name = 'a'\nsuite = 'x'\nenv = { A = \"a\\nb\" }", "the value of A"),
            ("name = 'a'\nsuite = 'x'\nscript = \"\\u0000\"", "NUL"),
            (&long, "longer than"),
            ("name = ", "TOML parse error at line 1"),
        ] {
            let why = Recipe::parse(text).unwrap_err();
            assert!(why.contains(told), "{text:?}: {why}");
        }
        Recipe::parse("name = 'a'\nsuite = 'x'\npackages = ['g++', 'libc6:amd64', 'jq=1.7~1-1']").unwrap();
    }

    fn read(files: &[(&str, &str)]) -> Result<Recipes, EngineError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Recipes::read(Some(dir.path()))
    }

    #[test]
    fn the_users_recipes_come_first() {
        let files = [
            ("a.toml", "name = 'node'\nsuite = 'forky'\n"),
            ("b.toml", "name = 'python'\nfrom = 'node'\n"),
            ("note.txt", "?"),
        ];
        let recipes = read(&files).unwrap();
        assert_eq!(recipes.get("node").unwrap().suite.as_deref(), Some("forky"));
        assert_eq!(recipes.get("python").unwrap().name, "python");
        assert_eq!(
            recipes.get("default").unwrap_err().kind,
            ErrorKind::NotFound,
            "the replaced recipe's alias is gone"
        );
    }

    #[test]
    fn recipes_that_do_not_fit_together_are_refused() {
        for (files, told) in [
            (&[("a.toml", "name = 'a'\nfrom = 'b'"), ("b.toml", "name = 'b'\nfrom = 'a'")][..], "circle"),
            (&[("a.toml", "name = 'a'\nfrom = 'gone'")][..], "does not exist"),
            (
                &[("a.toml", "name = 'a'\nsuite = 'x'"), ("b.toml", "name = 'b'\nsuite = 'x'\naliases = ['a']")][..],
                "taken by another",
            ),
        ] {
            let error = read(files).unwrap_err();
            assert!(error.source.as_ref().unwrap().to_string().contains(told), "{error:?}");
        }
    }
}
