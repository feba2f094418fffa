//! `cargo xtask openapi`: the description of the API, made from the code.

use anyhow::Result;

use crate::shell;

/// Writes `openapi.json` anew. The test that otherwise compares it does the writing.
///
/// # Errors
/// The server does not build.
pub fn write() -> Result<()> {
    let test = ["test", "--locked", "--package", "boxyard-server", "--test", "it", "openapi"];
    shell::run(shell::cargo(&test).env("BOXYARD_OVERWRITE", "1"))
}
