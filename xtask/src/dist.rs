//! `cargo xtask dist`: a release archive.

use anyhow::{Context as _, Result};

use crate::build::{self, Profile};
use crate::shell;

/// Files of the repository that go with the programs.
const BESIDE: &[&str] = &["LICENSE", "README.md", "SECURITY.md", "openapi.json"];

/// Builds the programs and packs them.
///
/// # Errors
/// Building or packing failed.
pub fn run() -> Result<()> {
    let programs = build::programs(Profile::Release)?;
    let name = format!("boxyard-{}-{}", env!("CARGO_PKG_VERSION"), build::triple());
    let dist = shell::target().join("dist");
    let folder = dist.join(&name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let built = ["boxyard", "boxyard-init"].map(|program| programs.join(program));
    let beside = BESIDE.iter().map(|file| shell::root().join(file));
    for file in built.into_iter().chain(beside) {
        let target = folder.join(file.file_name().unwrap_or_default());
        std::fs::copy(&file, target).with_context(|| format!("copying {}", file.display()))?;
    }
    let archive = format!("{name}.tar.gz");
    // The same programs give the same archive: order, owner and times are fixed.
    let arguments = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "-czf", &archive, &name];
    shell::run(shell::command("tar", &arguments).current_dir(&dist))?;
    println!("{}", dist.join(archive).display());
    Ok(())
}
