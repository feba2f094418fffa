//! Where settings come from: flags, environment, file.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::value::{Secret, Setting};
use super::{DATA_DIR, FILE_NAME, SYSTEM_FILE};

/// Bytes of a configuration file at most.
const FILE_MAX: u64 = 1024 * 1024;

/// Texts by name: the environment, or a test's idea of one.
pub trait Strings {
    /// The text with this name, if there is one.
    ///
    /// # Errors
    /// The text is not UTF-8.
    fn get(&self, name: &str) -> Result<Option<String>, ConfigError>;

    /// The names that there are.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Environment;

impl Strings for Environment {
    fn get(&self, name: &str) -> Result<Option<String>, ConfigError> {
        match std::env::var(name) {
            Ok(text) => Ok(Some(text)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(ConfigError(format!("{name} is not UTF-8 text"))),
        }
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl Strings for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Result<Option<String>, ConfigError> {
        Ok(Self::get(self, name).cloned())
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// Reads whole files: the disk, or a test's idea of one.
pub trait Files {
    /// The text of a file; `None` when there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or is too long.
    fn read(&self, path: &Path) -> io::Result<Option<String>>;
}

/// The file system of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSystem;

impl Files for FileSystem {
    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(FILE_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_MAX {
            return Err(io::Error::other(format!("longer than {FILE_MAX} bytes")));
        }
        Ok(Some(text))
    }
}

impl Files for BTreeMap<PathBuf, String> {
    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        Ok(self.get(path).cloned())
    }
}

/// What was given on the command line: the configuration file, and settings by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// The configuration file, if one was named.
    pub config: Option<PathBuf>,
    /// Settings by key, for example `data_dir`.
    pub settings: BTreeMap<&'static str, String>,
}

/// A wrong configuration. The text says what is wrong where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

/// All sources of settings, read but not understood.
pub(super) struct Layers<'a> {
    flags: &'a Flags,
    env: &'a dyn Strings,
    file: Option<SettingsFile>,
    /// Every key that was asked for: those there are.
    asked: RefCell<BTreeSet<String>>,
}

struct SettingsFile {
    path: PathBuf,
    /// By key; a value that is no array is a list of one.
    settings: BTreeMap<String, Written>,
}

#[derive(Clone)]
enum Written {
    One(String),
    Many(Vec<String>),
}

enum Place {
    Flag(String),
    Variable(String),
    File(PathBuf, String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(key) => write!(f, "--{}", key.replace(['_', '.'], "-")),
            Self::Variable(name) => f.write_str(name),
            Self::File(path, key) => write!(f, "{}: {key}", path.display()),
        }
    }
}

impl<'a> Layers<'a> {
    pub(super) fn read(flags: &'a Flags, env: &'a dyn Strings, files: &dyn Files) -> Result<Self, ConfigError> {
        let mut layers = Self { flags, env, file: None, asked: RefCell::default() };
        let named = match &flags.config {
            Some(path) => Some(path.clone()),
            None => env.get("BOXYARD_CONFIG")?.filter(|path| !path.is_empty()).map(PathBuf::from),
        };
        layers.file = match named {
            Some(path) => {
                let text = read_file(files, &path)?;
                let text =
                    text.ok_or_else(|| ConfigError(format!("there is no configuration file {}", path.display())))?;
                Some(SettingsFile::parse(path, &text)?)
            }
            None => {
                let data_dir = layers.get("data_dir")?.unwrap_or_else(|| PathBuf::from(DATA_DIR));
                let mut found = None;
                for path in [PathBuf::from(SYSTEM_FILE), data_dir.join(FILE_NAME)] {
                    if let Some(text) = read_file(files, &path)? {
                        found = Some(SettingsFile::parse(path, &text)?);
                        break;
                    }
                }
                found
            }
        };
        Ok(layers)
    }

    /// The setting with this key, from the first source that has it.
    pub(super) fn get<T: Setting>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        match self.find(key)? {
            None => Ok(None),
            Some((Written::One(text), place)) => understand(&text, &place).map(Some),
            Some((Written::Many(_), place)) => Err(ConfigError(format!("{place} must be one value: {}", T::EXPECTED))),
        }
    }

    /// The list of settings with this key: an array in the file, separated by commas elsewhere. Empty when no source has it.
    pub(super) fn list<T: Setting>(&self, key: &str) -> Result<Vec<T>, ConfigError> {
        let Some((written, place)) = self.find(key)? else { return Ok(Vec::new()) };
        let texts = match written {
            Written::Many(texts) => texts,
            Written::One(text) => {
                text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
            }
        };
        texts.iter().map(|text| understand(text, &place)).collect()
    }

    /// A secret, which only the environment may hold: flags show in process lists, and files get copied.
    pub(super) fn secret(&self, key: &str) -> Result<Option<Secret>, ConfigError> {
        let name = variable(key);
        if let Some(file) = &self.file
            && file.settings.contains_key(key)
        {
            let path = file.path.display();
            return Err(ConfigError(format!(
                "{path}: {key} is a secret and must not be in a file; set {name} instead"
            )));
        }
        Ok(self.env.get(&name)?.filter(|text| !text.is_empty()).map(Secret::new))
    }

    fn find(&self, key: &str) -> Result<Option<(Written, Place)>, ConfigError> {
        self.asked.borrow_mut().insert(key.to_owned());
        if let Some(text) = self.flags.settings.get(key) {
            return Ok(Some((Written::One(text.clone()), Place::Flag(key.to_owned()))));
        }
        let name = variable(key);
        // An empty variable is an unset one: that is how units and compose files switch one off.
        if let Some(text) = self.env.get(&name)?.filter(|text| !text.is_empty()) {
            return Ok(Some((Written::One(text), Place::Variable(name))));
        }
        let Some(file) = &self.file else { return Ok(None) };
        let written = file.settings.get(key).cloned();
        Ok(written.map(|written| (written, Place::File(file.path.clone(), key.to_owned()))))
    }

    /// The keys in the file.
    pub(super) fn keys(&self) -> Vec<&str> {
        self.file.iter().flat_map(|file| file.settings.keys()).map(String::as_str).collect()
    }

    /// The names of the environment's variables that are not empty.
    pub(super) fn variables(&self) -> Vec<String> {
        let set = |name: &String| !self.env.get(name).is_ok_and(|text| text.is_none_or(|text| text.is_empty()));
        self.env.names().into_iter().filter(set).collect()
    }

    /// Refuses a file with keys that nobody asked for: most of them are mistyped.
    pub(super) fn refuse_unknown_keys(&self) -> Result<(), ConfigError> {
        let asked = self.asked.borrow();
        let Some(file) = &self.file else { return Ok(()) };
        let Some(unknown) = file.settings.keys().find(|key| !asked.contains(key.as_str())) else { return Ok(()) };
        let nearest = asked.iter().map(|key| (distance(key, unknown), key)).min();
        let hint = match nearest {
            Some((distance, key)) if distance <= 3 => format!("did you mean {key}?"),
            Some(_) | None => format!("there are {}", asked.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
        };
        Err(ConfigError(format!("{}: unknown setting {unknown}; {hint}", file.path.display())))
    }

    /// Every key that was asked for.
    #[cfg(test)]
    pub(super) fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }
}

/// The environment variable of a setting.
pub(super) fn variable(key: &str) -> String {
    format!("BOXYARD_{}", key.to_ascii_uppercase().replace(['.', '-'], "_"))
}

fn understand<T: Setting>(text: &str, place: &Place) -> Result<T, ConfigError> {
    T::read(text.trim()).ok_or_else(|| {
        let shown: String = without_login(text).chars().take(80).collect();
        ConfigError(format!("{place} is '{shown}' and must be {}", T::EXPECTED))
    })
}

/// An address without the name and the password that somebody has written into it.
fn without_login(text: &str) -> std::borrow::Cow<'_, str> {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://…@{rest}").into(),
        None => text.into(),
    }
}

fn read_file(files: &dyn Files, path: &Path) -> Result<Option<String>, ConfigError> {
    files.read(path).map_err(|error| ConfigError(format!("cannot read {}: {error}", path.display())))
}

impl SettingsFile {
    fn parse(path: PathBuf, text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table =
            text.parse().map_err(|error| ConfigError(format!("{} is not valid TOML: {error}", path.display())))?;
        let mut settings = BTreeMap::new();
        flatten(&table, "", &mut settings).map_err(|problem| ConfigError(format!("{}: {problem}", path.display())))?;
        Ok(Self { path, settings })
    }
}

fn flatten(table: &toml::Table, prefix: &str, settings: &mut BTreeMap<String, Written>) -> Result<(), String> {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            toml::Value::Table(table) => flatten(table, &format!("{key}."), settings)?,
            toml::Value::Array(values) => {
                let texts = values.iter().map(|value| plain(value, &key)).collect::<Result<_, _>>()?;
                settings.insert(key, Written::Many(texts));
            }
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => {
                let text = plain(value, &key)?;
                settings.insert(key, Written::One(text));
            }
        }
    }
    Ok(())
}

fn plain(value: &toml::Value, key: &str) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(flag) => Ok(flag.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            Err(format!("{key} has a {} where a plain value is expected", value.type_str()))
        }
    }
}

/// How many single-letter changes lead from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(80).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 1..row.len() {
            let change = diagonal + usize::from(b[j - 1] != letter);
            diagonal = row[j];
            row[j] = change.min(row[j] + 1).min(row[j - 1] + 1);
        }
    }
    row[b.len()]
}
