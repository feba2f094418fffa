//! What people do first in a new box: install something from somewhere.

#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use boxyard_real_tests::Server;
use serde_json::json;

#[test]
fn apt_get_installs_packages() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(&id, "sudo apt-get update && sudo apt-get install -y jq")?;
    ensure!(server.sh(&id, "echo '{\"a\":[1,2]}' | jq -c .a")? == "[1,2]");
    // jq may be in the image; this one is not.
    ensure!(server.exec(&id, "command -v tree")?.code != 0, "choose a package that the image lacks");
    server.sh(&id, "sudo apt-get install -y tree")?;
    ensure!(server.sh(&id, "mkdir -p a/b && tree --noreport a")?.contains("b"));
    // Nothing of it is in the image that other boxes share.
    let other = server.create()?;
    ensure!(server.exec(&other, "command -v tree")?.code != 0, "a package of one box is in another");
    Ok(())
}

#[test]
fn pip_and_npm_install_packages() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(&id, "pip install --quiet six && python3 -c 'import six; print(six.__version__)'")?;
    server.sh(&id, "npm init -y > /dev/null && npm install --no-audit --no-fund is-odd")?;
    ensure!(server.sh(&id, "node -e 'console.log(require(\"is-odd\")(3))'")? == "true");
    Ok(())
}

#[test]
fn tls_to_a_site_of_the_internet_is_verified_and_works() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    // Whatever mirror apt uses here is a site that this machine can reach.
    let url =
        "$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -o 'https\\?://[^ /]*' | head -n 1)";
    server.sh(&id, &format!("curl --silent --show-error --output /dev/null --max-time 30 {url}/"))?;
    Ok(())
}

#[test]
fn every_runtime_has_what_it_promises() -> Result<()> {
    let server = Server::start()?;
    let programs = boxyard_real_tests::server::programs()?;
    for (runtime, check) in [
        ("node", "node --version && npm --version"),
        ("python", "python3 --version && python --version && pip --version"),
        ("golang", "go version"),
        ("ruby", "ruby --version"),
        ("rust", "rustc --version && cargo --version"),
    ] {
        boxyard_real_tests::lane::build_shared_image(&programs, runtime)?;
        let id = server.create_with(&json!({ "runtime": runtime }))?;
        server.sh(&id, check)?;
        server.sh(&id, "git --version && curl --version && sudo -n true && id boxuser")?;
        server.delete(&id)?;
    }
    Ok(())
}
