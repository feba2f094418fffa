//! Sizes: what boxes may use, by names that the operator chooses.

use std::collections::{BTreeMap, BTreeSet};

use boxyard_engine::Limits as BoxLimits;
use boxyard_proto::names::{InvalidName, Size, unknown_size};

use super::layers::{ConfigError, Layers};
use super::value::{Bytes, Cpus};

/// Sizes of the operator's own at most.
const OTHERS_MAX: usize = 32;

/// What must be said of a size of one's own. With it, what makes it one: in the environment, `BOXYARD_SIZES_NAME_` goes before each.
const FIELDS: [&str; 4] = ["cpus", "memory", "pids", "disk"];

const GB: u64 = 1_000_000_000;

/// What boxes of each size may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Boxes of size `small`.
    pub small: BoxLimits,
    /// Boxes of size `medium`.
    pub medium: BoxLimits,
    /// Boxes of size `large`.
    pub large: BoxLimits,
    /// Sizes of the operator's own.
    pub others: BTreeMap<Size, BoxLimits>,
}

impl Sizes {
    /// What boxes of this size may use, if there is such a size.
    pub fn of(&self, size: Size) -> Option<BoxLimits> {
        match size {
            Size::SMALL => Some(self.small),
            Size::MEDIUM => Some(self.medium),
            Size::LARGE => Some(self.large),
            other => self.others.get(&other).copied(),
        }
    }

    /// The size with this name, and what boxes of it may use.
    ///
    /// # Errors
    /// There is none; the text names those that there are.
    pub fn find(&self, name: &str) -> Result<(Size, BoxLimits), InvalidName> {
        let size = Size::parse(name).ok();
        let found = size.and_then(|size| Some((size, self.of(size)?)));
        found.ok_or_else(|| unknown_size(&self.names()))
    }

    fn names(&self) -> Vec<Size> {
        [Size::SMALL, Size::MEDIUM, Size::LARGE].into_iter().chain(self.others.keys().copied()).collect()
    }

    pub(super) fn read(layers: &Layers<'_>) -> Result<Self, ConfigError> {
        let of = |size: Size, times: u32| {
            let share = GB * u64::from(times);
            let read = partly(layers, size)?;
            Ok::<_, ConfigError>(BoxLimits {
                cpu_millis: read.cpu_millis.unwrap_or(2000 * times),
                memory_bytes: read.memory_bytes.unwrap_or(4 * share),
                pids: read.pids.unwrap_or(1024 * times),
                disk_bytes: read.disk_bytes.unwrap_or(5 * share),
            })
        };
        let (small, medium, large) = (of(Size::SMALL, 1)?, of(Size::MEDIUM, 2)?, of(Size::LARGE, 4)?);
        let mut sizes = Self { small, medium, large, others: BTreeMap::new() };
        for name in names(layers) {
            let size = Size::parse(&name).map_err(|why| ConfigError(format!("sizes.{}: {why}", shown(&name))))?;
            if sizes.of(size).is_none() {
                sizes.others.insert(size, own(layers, size)?);
            }
        }
        if sizes.others.len() > OTHERS_MAX {
            return Err(ConfigError(format!(
                "there are {} sizes, and {OTHERS_MAX} at most beside small, medium and large",
                sizes.others.len()
            )));
        }
        Ok(sizes)
    }
}

/// A size of the operator's own, of which nothing goes without saying.
fn own(layers: &Layers<'_>, size: Size) -> Result<BoxLimits, ConfigError> {
    let read = partly(layers, size)?;
    let lacks = |field: &str| {
        ConfigError(format!(
            "sizes.{size} lacks {field}: a size beside small, medium and large needs {}",
            FIELDS.join(", ")
        ))
    };
    let [cpus, memory, pids, disk] = FIELDS;
    Ok(BoxLimits {
        cpu_millis: read.cpu_millis.ok_or_else(|| lacks(cpus))?,
        memory_bytes: read.memory_bytes.ok_or_else(|| lacks(memory))?,
        pids: read.pids.ok_or_else(|| lacks(pids))?,
        disk_bytes: read.disk_bytes.ok_or_else(|| lacks(disk))?,
    })
}

/// What is said of a size.
struct Partly {
    cpu_millis: Option<u32>,
    memory_bytes: Option<u64>,
    pids: Option<u32>,
    disk_bytes: Option<u64>,
}

fn partly(layers: &Layers<'_>, size: Size) -> Result<Partly, ConfigError> {
    let [cpus, memory, pids, disk] = FIELDS.map(|field| format!("sizes.{size}.{field}"));
    Ok(Partly {
        cpu_millis: layers.get(&cpus)?.map(|Cpus(millis)| millis),
        memory_bytes: layers.get(&memory)?.map(|Bytes(bytes)| bytes),
        pids: layers.get(&pids)?,
        disk_bytes: layers.get(&disk)?.map(|Bytes(bytes)| bytes),
    })
}

/// Names of sizes of which anything is said. Not checked.
fn names(layers: &Layers<'_>) -> BTreeSet<String> {
    let of_key = |key: &str| Some(key.strip_prefix("sizes.")?.rsplit_once('.')?.0.to_owned());
    let of_variable = |variable: &str| {
        let rest = variable.strip_prefix("BOXYARD_SIZES_")?;
        let (name, field) = rest.rsplit_once('_')?;
        let known = FIELDS.iter().any(|known| known.to_ascii_uppercase() == field);
        known.then(|| name.to_ascii_lowercase().replace('_', "-"))
    };
    let (keys, variables) = (layers.keys(), layers.variables());
    keys.iter().filter_map(|key| of_key(key)).chain(variables.iter().filter_map(|name| of_variable(name))).collect()
}

fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}
