//! `cargo xtask test`: every test there is.
//!
//! Everything that is compiled for tests is compiled once, in the dev profile: the real-box tests run the same programs that the other
//! tests were built with. Only `boxyard-init` is built for release too, because its size is a promise. A step that fails does not keep
//! the others from running; the last line counts them all.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::build::{self, Profile};
use crate::host::{self, Consent};
use crate::{policy, sdk, shell};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Only tests whose name contains this; the checks that are no tests are left out
    filter: Option<String>,
    /// Install missing host packages without asking
    #[arg(long, short)]
    yes: bool,
}

impl Arguments {
    /// What continuous integration wants.
    pub fn everything() -> Self {
        Self { filter: None, yes: true }
    }
}

/// Tests that passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

/// What is counted so far.
#[derive(Debug, Default)]
struct Tally {
    count: Count,
    failures: Vec<String>,
}

impl Tally {
    /// Runs one check that is no test, and counts it as one.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) -> bool {
        let count = |done: Result<()>| match done {
            Ok(()) => (Count { passed: 1, failed: 0 }, None),
            Err(error) => (Count { passed: 0, failed: 1 }, Some(format!("{error:#}"))),
        };
        self.step(name, || count(check()))
    }

    /// Runs a set of tests that counts itself.
    fn tests(&mut self, name: &str, tests: impl FnOnce() -> Result<Count>) -> bool {
        self.step(name, || match tests() {
            Ok(count) if count.failed > 0 => (count, Some(format!("{} failed", count.failed))),
            Ok(count) => (count, None),
            Err(error) => (Count { passed: 0, failed: 1 }, Some(format!("{error:#}"))),
        })
    }

    fn step(&mut self, name: &str, step: impl FnOnce() -> (Count, Option<String>)) -> bool {
        println!("\n== {name}");
        let began = Instant::now();
        let (count, failure) = step();
        self.count.passed += count.passed;
        self.count.failed += count.failed;
        let seconds = began.elapsed().as_secs();
        match &failure {
            None => println!("== {name}: good, {seconds} s"),
            Some(failure) => println!("== {name}: {failure}, {seconds} s"),
        }
        self.failures.extend(failure.as_ref().map(|failure| format!("{name}: {failure}")));
        failure.is_none()
    }
}

/// Runs everything.
///
/// # Errors
/// Something failed, or this machine cannot run it.
pub fn run(arguments: &Arguments) -> Result<()> {
    let consent = if arguments.yes { Consent::Given } else { Consent::Ask };
    // As the caller, while we are: what is downloaded belongs to them.
    shell::run(&mut shell::cargo(&["fetch", "--locked"]))?;
    host::become_root(&[])?;
    let ran = run_as_root(arguments.filter.as_deref(), consent);
    host::hand_back(&[&shell::target(), &shell::root().join("tests/sdk/ts/node_modules")])?;
    ran
}

fn run_as_root(filter: Option<&str>, consent: Consent) -> Result<()> {
    let began = Instant::now();
    host::install(&[host::BUILD, host::SERVER, host::TEST].concat(), consent)?;
    let mut tally = Tally::default();
    if filter.is_none() {
        checks(&mut tally);
    }
    if tally.check("programs", || build::programs(Profile::Dev).map(|_| ())) {
        tally.tests("unit and integration tests", || workspace_tests(filter, Real::Without));
        if filter.is_none() {
            tally.tests("documentation tests", || cargo_test(&["--doc", "--workspace"]));
            tally.check("boxyard-init", build::check_init);
        }
        let ready = tally.check("SDKs", || {
            sdk::install_typescript()?;
            sdk::install_python()?;
            sdk::install_langchain()
        }) && tally.check("SSH clients", sdk::install_ssh_clients)
            && tally.check("default image", default_image);
        if ready {
            tally.tests("real boxes", || workspace_tests(filter, Real::Only));
        }
    }
    println!();
    for failure in &tally.failures {
        println!("FAILED {failure}");
    }
    let Count { passed, failed } = tally.count;
    println!("took {} s", began.elapsed().as_secs());
    println!("{passed} passed, {failed} failed");
    ensure!(failed == 0 && tally.failures.is_empty(), "{failed} failed");
    ensure!(passed > 0, "nothing was run");
    Ok(())
}

/// What needs no test to run.
fn checks(tally: &mut Tally) {
    tally.check("format", || shell::run(&mut shell::cargo(&["fmt", "--all", "--check"])));
    tally.check("lints", || {
        let lints = ["clippy", "--locked", "--workspace", "--all-targets"];
        let deny = ["--", "--deny", "warnings"];
        shell::run(&mut shell::cargo(&[&lints[..], &build::TEST_FEATURES, &deny].concat()))
    });
    tally.check("dependencies", policy::check);
}

/// Builds the default image where all test servers find it; it is built once on a machine.
fn default_image() -> Result<()> {
    println!("the first time on a machine this takes some minutes");
    boxyard_real_tests::lane::build_shared_image(&Profile::Dev.programs(), "node").map(|_| ())
}

/// Whether the tests on real boxes are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Real {
    Only,
    Without,
}

/// Runs the workspace's tests by cargo-nextest, or by `cargo test` where there is none.
fn workspace_tests(filter: Option<&str>, real: Real) -> Result<Count> {
    if shell::find("cargo-nextest").is_none() {
        eprintln!(
            "cargo-nextest is not installed: `cargo test` runs the tests, slower and without ending those that hang"
        );
        let which: &[&str] = match real {
            // One test at a time: they work a whole machine.
            Real::Only => &["--package", "boxyard-real-tests", "--"],
            Real::Without => &["--workspace", "--exclude", "boxyard-real-tests", "--lib", "--bins", "--tests", "--"],
        };
        let threads: &[&str] = if real == Real::Only { &["--test-threads", "1"] } else { &[] };
        return cargo_test(&[&build::TEST_FEATURES, which, threads, filter.as_slice()].concat());
    }
    let set = match real {
        Real::Only => "package(boxyard-real-tests)",
        Real::Without => "not package(boxyard-real-tests)",
    };
    let mut nextest =
        shell::cargo(&["nextest", "run", "--locked", "--workspace", "--profile", "ci", "--no-tests", "pass"]);
    // As the programs were built: else the tests of the program would build it anew without its fail points.
    nextest.args(build::TEST_FEATURES);
    nextest.args(["--filterset", set]).args(filter);
    nextest.envs(places());
    // nextest keeps its own files below the root, wherever cargo builds.
    let report = shell::root().join("target/nextest/ci/junit.xml");
    // An older report must not be taken for this run's.
    match std::fs::remove_file(&report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => bail!("removing {}: {error}", report.display()),
        _ => {}
    }
    let ran = shell::run(&mut nextest);
    let count = std::fs::read_to_string(&report).ok().and_then(|report| reported(&report));
    match (ran, count) {
        (Ok(()), None) if filter.is_some() => Ok(Count::default()),
        (Ok(()), Some(count)) => Ok(count),
        (Err(_), Some(count)) if count.failed > 0 => Ok(count),
        (Ok(()), None) => bail!("{} was not written", report.display()),
        (Err(error), _) => Err(error),
    }
}

/// Where tests find what was built and installed for them.
fn places() -> [(&'static str, PathBuf); 4] {
    [
        ("BOXYARD_TEST_PROGRAMS", Profile::Dev.programs()),
        ("BOXYARD_TEST_PYTHON", sdk::python()),
        ("BOXYARD_TEST_LANGCHAIN_PYTHON", sdk::langchain_python()),
        ("BOXYARD_TEST_SSH_PYTHON", sdk::ssh_python()),
    ]
}

/// Reads the counts in the head of a JUnit report.
fn reported(report: &str) -> Option<Count> {
    let head = report.lines().find(|line| line.trim_start().starts_with("<testsuites "))?;
    let number =
        |name: &str| -> Option<u64> { head.split_once(&format!(" {name}=\""))?.1.split('"').next()?.parse().ok() };
    let failed = number("failures")? + number("errors")?;
    Some(Count { passed: number("tests")?.checked_sub(failed)?, failed })
}

/// Runs `cargo test`, passes its output on, and adds up what it says.
fn cargo_test(arguments: &[&str]) -> Result<Count> {
    let mut command: Command = shell::cargo(&["test", "--locked", "--no-fail-fast"]);
    command.args(arguments);
    command.envs(places());
    eprintln!("$ {}", shell::spelled(&command));
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let said = child.stdout.take().context("cargo has no standard output")?;
    let mut count = Count::default();
    for line in BufReader::new(said).lines() {
        let line = line?;
        writeln!(std::io::stdout(), "{line}")?;
        if let Some(more) = result(&line) {
            count = Count { passed: count.passed + more.passed, failed: count.failed + more.failed };
        }
    }
    let status = child.wait()?;
    ensure!(status.success() || count.failed > 0, "cargo test failed ({status})");
    Ok(count)
}

/// Reads a line such as `test result: ok. 5 passed; 0 failed; …`.
fn result(line: &str) -> Option<Count> {
    let mut parts = line.strip_prefix("test result: ")?.split_once(". ")?.1.split("; ");
    let passed = parts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = parts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some(Count { passed, failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runners_counts_are_understood() {
        let line = "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(result(line), Some(Count { passed: 5, failed: 2 }));
        assert_eq!(result("test result of nothing"), None);
        let report = "<?xml version=\"1.0\"?>\n<testsuites name=\"nextest-run\" tests=\"4\" failures=\"1\" errors=\"0\" time=\"1\">";
        assert_eq!(reported(report), Some(Count { passed: 3, failed: 1 }));
        assert_eq!(reported("<html>"), None);
    }

    #[test]
    fn a_failing_step_is_counted_and_named() {
        let mut tally = Tally::default();
        assert!(tally.check("good", || Ok(())));
        assert!(!tally.check("bad", || bail!("went wrong")));
        assert!(!tally.tests("mixed", || Ok(Count { passed: 3, failed: 1 })));
        assert_eq!(tally.count, Count { passed: 4, failed: 2 });
        assert_eq!(tally.failures, ["bad: went wrong", "mixed: 1 failed"]);
    }
}
