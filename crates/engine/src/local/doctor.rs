//! What this host lacks.

use super::LocalConfig;

/// One thing that boxes need of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is checked, in a few words.
    pub name: &'static str,
    /// Whether the host has it.
    pub ok: bool,
    /// What is wrong, if something is.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// Looks at the host. Changes nothing.
pub fn check_host(_config: &LocalConfig) -> Vec<Check> {
    Vec::new()
}
