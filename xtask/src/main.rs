//! `cargo xtask`: everything that is done with this repository besides `cargo build`.
//!
//! Each task is one file. Tasks call the programs a person would call and print the calls, so that each can be repeated by hand.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod dist;
mod host;
mod openapi;
mod policy;
mod sdk;
mod shell;
mod test;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Boxyard's own tasks", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build Boxyard and start a server on this host, installing what is missing
    Up(up::Arguments),
    /// Run every test there is, real boxes and the published SDKs included
    Test(test::Arguments),
    /// What continuous integration runs: `test`, without questions
    Ci,
    /// Measure, print a table and write target/bench.json
    Bench(bench::Arguments),
    /// Write openapi.json anew from the code
    Openapi,
    /// Check licences, banned crates and sources of all dependencies against deny.toml
    Deny,
    /// Make a release archive in target/dist
    Dist,
    /// Pass standard input on, and tell how to use the server once it is ready; `up` starts this
    #[command(hide = true)]
    Greet(up::Greeting),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Up(arguments) => up::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Ci => test::run(&test::Arguments::everything()),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Openapi => openapi::write(),
        Task::Deny => policy::check(),
        Task::Dist => dist::run(),
        Task::Greet(greeting) => up::greet(&greeting),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
