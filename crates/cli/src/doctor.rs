//! `boxyard doctor`: what this host lacks, and how to mend it.

use std::process::ExitCode;

use boxyard_engine::local::{Check, PoolGrowth, check_host, grow_pool};
use boxyard_server::config::{Config, bytes};
use clap::Args;
use indicatif::HumanBytes;

use crate::data::DataOptions;
use crate::failure::{FAILED, Failure};
use crate::host::local;
use crate::output::{note, print};

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Let the pool that boxes' disks lie in grow to this size, such as 100GB, also while the server runs; it never shrinks
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    grow_pool: Option<u64>,
    #[command(flatten)]
    data: DataOptions,
}

impl Doctor {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let config = self.data.load()?;
        match self.grow_pool {
            Some(size) => grow(&config, size).await,
            None => look(&config),
        }
    }
}

async fn grow(config: &Config, size: u64) -> Result<ExitCode, Failure> {
    let grown =
        grow_pool(&local(config), size).await.map_err(|error| Failure::failed("the pool stays as it is", error))?;
    note(&told(grown));
    Ok(ExitCode::SUCCESS)
}

fn told(PoolGrowth { from, to, in_use }: PoolGrowth) -> String {
    let (before, now) = (HumanBytes(from), HumanBytes(to));
    match (in_use, from == to) {
        (true, true) => format!("the pool has {now}"),
        (true, false) => format!("the pool has grown from {before} to {now}"),
        (false, _) => format!("the pool has {now} when the server starts next"),
    }
}

fn look(config: &Config) -> Result<ExitCode, Failure> {
    let checks = check_host(&local(config));
    let lacking = checks.iter().filter(|check| !check.ok).count();
    print(&report(&checks))?;
    Ok(ExitCode::from(if lacking == 0 { 0 } else { FAILED }))
}

fn report(checks: &[Check]) -> String {
    let mut lines = Vec::new();
    for check in checks {
        if check.ok {
            lines.push(format!("ok    {}", check.name));
        } else {
            lines.push(format!("LACKS {}: {}", check.name, check.problem));
            lines.extend(check.remedy.lines().map(|line| format!("      -> {line}")));
        }
    }
    let lacking = checks.iter().filter(|check| !check.ok).count();
    lines.push(match lacking {
        0 => "This host can run boxes.".into(),
        1 => "One thing is missing.".into(),
        _ => format!("{lacking} things are missing."),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_its_remedy() {
        let check = |name, problem: &str, remedy: &str| Check {
            name,
            ok: problem.is_empty(),
            problem: problem.into(),
            remedy: remedy.into(),
        };
        let good = check("kernel", "", "");
        assert_eq!(report(std::slice::from_ref(&good)), "ok    kernel\nThis host can run boxes.");
        let bad = check("nftables", "there is no nft", "apt-get install nftables\nor so");
        assert_eq!(
            report(&[good, bad]),
            "ok    kernel\nLACKS nftables: there is no nft\n      -> apt-get install nftables\n      -> or so\n\
             One thing is missing."
        );
    }
}
