//! Building the two programs.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::shell;

/// How programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quickly, with checks inside: what tests run on.
    Dev,
    /// For use and for measuring.
    Release,
}

impl Profile {
    /// The folder that holds the programs built so.
    pub fn programs(self) -> PathBuf {
        let name = match self {
            Self::Dev => "debug",
            Self::Release => "release",
        };
        shell::target().join(triple()).join(name)
    }
}

/// The target that `.cargo/config.toml` names, which is part of every path of a built program.
pub fn triple() -> String {
    let config = std::fs::read_to_string(shell::root().join(".cargo/config.toml")).unwrap_or_default();
    let named = config.lines().find_map(|line| line.strip_prefix("target = \"")?.strip_suffix('"'));
    std::env::var("CARGO_BUILD_TARGET").ok().or_else(|| named.map(str::to_owned)).unwrap_or_default()
}

/// What programs for tests have more than others: points at which they can be killed.
pub const TEST_FEATURES: [&str; 2] = ["--features", "boxyard-cli/fail-points"];

/// Builds `boxyard` and `boxyard-init`.
///
/// # Errors
/// Building failed.
pub fn programs(profile: Profile) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--locked", "--package", "boxyard-cli", "--package", "boxyard-init"];
    match profile {
        Profile::Release => arguments.push("--release"),
        Profile::Dev => arguments.extend(TEST_FEATURES),
    }
    shell::run(&mut shell::cargo(&arguments))?;
    let folder = profile.programs();
    for program in ["boxyard", "boxyard-init"] {
        ensure!(folder.join(program).is_file(), "{} was built and is not there", folder.join(program).display());
    }
    if profile == Profile::Release {
        has_no_fail_points(&std::fs::read(folder.join("boxyard"))?)?;
    }
    Ok(folder)
}

/// Whether a program for use cannot be told to die.
fn has_no_fail_points(program: &[u8]) -> Result<()> {
    const VARIABLE: &[u8] = b"BOXYARD_FAIL_POINT";
    let found = program.windows(VARIABLE.len()).any(|bytes| bytes == VARIABLE);
    ensure!(!found, "boxyard was built for release with fail points, which are for tests only");
    Ok(())
}

/// Bytes that `boxyard-init` may have: it is started once for every box.
const INIT_MAX: u64 = 3 * 1024 * 1024;

/// Builds `boxyard-init` for release and checks what later work must not lose: it is static, and small.
///
/// # Errors
/// It is not, or building failed.
pub fn check_init() -> Result<()> {
    shell::run(&mut shell::cargo(&["build", "--locked", "--release", "--package", "boxyard-init"]))?;
    let path = Profile::Release.programs().join("boxyard-init");
    let program = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let size = program.len() as u64;
    ensure!(size < INIT_MAX, "boxyard-init has {size} bytes, more than the {INIT_MAX} allowed");
    ensure!(!needs_interpreter(&program)?, "boxyard-init is not static: it asks for a dynamic loader");
    println!("boxyard-init: static, {size} bytes");
    Ok(())
}

/// Whether an ELF program asks for a dynamic loader (it has a program header of type `PT_INTERP`).
fn needs_interpreter(program: &[u8]) -> Result<bool> {
    const PT_INTERP: u32 = 3;
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF program");
    let number = |at: usize, bytes: usize| -> Result<usize> {
        let field = program.get(at..at + bytes).context("the ELF header is cut")?;
        Ok(field.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let (table, entry, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        if number(table + index * entry, 4)? == PT_INTERP as usize {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_fail_points_is_not_shipped() {
        assert!(has_no_fail_points(b"\x7fELF and so on").is_ok());
        assert!(has_no_fail_points(b"\x7fELF, BOXYARD_FAIL_POINT, and so on").is_err());
    }

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        // `sh` is dynamic on every Debian; this test itself is static by .cargo/config.toml.
        assert!(needs_interpreter(&std::fs::read("/bin/sh").unwrap()).unwrap());
        assert!(!needs_interpreter(&std::fs::read(std::env::current_exe().unwrap()).unwrap()).unwrap());
        assert!(needs_interpreter(b"#!/bin/sh").is_err());
        assert!(needs_interpreter(b"\x7fELF\x02\x01").is_err());
    }
}
