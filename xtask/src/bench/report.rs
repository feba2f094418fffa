//! What was measured, as a table and as a file.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::shell;

/// The durations of many like events.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The smallest duration that `percent` of all are no longer than, in milliseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(index).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e3)
    }
}

/// One row.
#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    unit: &'static str,
    /// How many events were measured.
    n: usize,
    /// The median, or the only value.
    median: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p95: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<f64>,
    /// What the median may be at most (or at least, where more is better).
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// What a figure is to reach on the development machine.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

/// Where and on what it was measured.
#[derive(Debug, Serialize)]
struct Conditions {
    commit: String,
    date: String,
    machine: String,
    kernel: String,
    system: String,
    cpus: usize,
    memory_mib: u64,
    data_file_system: String,
    programs: &'static str,
    quick: bool,
    /// How many processes wanted a CPU in the minute before: what else the machine was doing.
    load_before: String,
}

/// All that is measured in one run.
#[derive(Debug, Serialize)]
pub struct Report {
    conditions: Conditions,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Report {
    /// Notes the conditions.
    ///
    /// # Errors
    /// The machine does not tell them.
    pub fn begin(quick: bool) -> Result<Self> {
        let said = |program: &str, arguments: &[&str]| {
            shell::output(&mut shell::command(program, arguments)).unwrap_or_else(|_| "unknown".into())
        };
        let line = |path: &str, prefix: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let found = text
                .lines()
                .find_map(|line| line.strip_prefix(prefix))
                .map(|rest| rest.trim_matches([' ', '\t', ':', '"']));
            found.unwrap_or("unknown").to_owned()
        };
        let memory = line("/proc/meminfo", "MemTotal");
        let dirty = if said("git", &["status", "--porcelain"]).is_empty() { "" } else { " with changes" };
        let conditions = Conditions {
            commit: said("git", &["rev-parse", "--short=12", "HEAD"]) + dirty,
            date: said("date", &["--utc", "+%Y-%m-%d %H:%M UTC"]),
            machine: line("/proc/cpuinfo", "model name"),
            kernel: said("uname", &["-r"]),
            system: line("/etc/os-release", "PRETTY_NAME="),
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
            data_file_system: said("stat", &["--file-system", "--format=%T", "/var/tmp"]),
            programs: "release",
            quick,
            load_before: fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
        };
        Ok(Self { conditions, figures: Vec::new(), notes: Vec::new() })
    }

    /// Adds the durations of like events, in milliseconds.
    pub fn times(&mut self, what: &str, samples: &Samples, goal: Option<Goal>) {
        let (median, p95, p99) = (samples.percentile(50), samples.percentile(95), samples.percentile(99));
        let met = goal.map(|goal| goal.met(median));
        let (what, n) = (what.to_owned(), samples.0.len());
        self.figures.push(Figure { what, unit: "ms", n, median, p95: Some(p95), p99: Some(p99), goal, met });
    }

    /// Adds one value.
    pub fn value(&mut self, what: &str, unit: &'static str, n: usize, value: f64, goal: Option<Goal>) {
        let met = goal.map(|goal| goal.met(value));
        self.figures.push(Figure { what: what.to_owned(), unit, n, median: value, p95: None, p99: None, goal, met });
    }

    /// Adds a sentence about how something was measured, or why it was not.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The median of a figure that was added.
    pub fn median(&self, what: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.what == what).map(|figure| figure.median)
    }

    pub fn is_empty(&self) -> bool {
        self.figures.is_empty()
    }

    /// Prints the table and writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(&self) -> Result<()> {
        let c = &self.conditions;
        println!("\nBoxyard {} ({} build), {}", c.commit, c.programs, c.date);
        println!(
            "{} × {}, {} MiB, {}, Linux {}, data on {}",
            c.cpus, c.machine, c.memory_mib, c.system, c.kernel, c.data_file_system
        );
        println!("load average of the minute before: {}\n", c.load_before);
        println!("{:56} {:>6} {:>10} {:>10} {:>10}  {:>12}", "what", "n", "median", "p95", "p99", "goal");
        for figure in &self.figures {
            let cell = |value: Option<f64>| value.map(|value| format!("{value:.2}")).unwrap_or_default();
            let goal = match (figure.goal, figure.met) {
                (Some(Goal::AtMost(limit)), Some(met)) => format!("≤ {limit} {}", if met { "✓" } else { "MISSED" }),
                (Some(Goal::AtLeast(limit)), Some(met)) => format!("≥ {limit} {}", if met { "✓" } else { "MISSED" }),
                _ => String::new(),
            };
            let (what, n, unit) = (&figure.what, figure.n, figure.unit);
            let median = format!("{:.2}", figure.median);
            println!(
                "{:56} {n:>6} {median:>10} {:>10} {:>10}  {goal:>12}",
                format!("{what}, {unit}"),
                cell(figure.p95),
                cell(figure.p99)
            );
        }
        println!();
        for note in &self.notes {
            println!("* {note}");
        }
        let path = shell::target().join("bench.json");
        fs::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_samples() {
        let mut samples = Samples::default();
        for ms in (1..=100).rev() {
            samples.push(Duration::from_millis(ms));
        }
        let near = |value: f64, expected: f64| (value - expected).abs() < 1e-9;
        assert!(
            near(samples.percentile(50), 50.0)
                && near(samples.percentile(95), 95.0)
                && near(samples.percentile(99), 99.0)
        );
        assert!(Samples::default().percentile(50).is_nan());
        assert!(Goal::AtMost(12.0).met(12.0) && !Goal::AtLeast(400.0).met(399.0));
    }
}
