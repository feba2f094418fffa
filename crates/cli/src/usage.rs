//! `boxyard usage`.

use std::process::ExitCode;

use boxyard_proto::api::boxes::BoxData;
use boxyard_proto::api::usage::BoxUsage;
use clap::Args;
use reqwest::Method;

use crate::client::{ClientOptions, box_argument};
use crate::failure::{FAILED, Failure};
use crate::output::{print, table};

#[derive(Debug, Args)]
pub(crate) struct Usage {
    /// Ids or names of boxes [default: all of the account]
    #[arg(value_name = "BOX", value_parser = box_argument)]
    boxes: Vec<String>,
    /// Print the server's JSON, one object a line, each with its box
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Usage {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let boxes = if self.boxes.is_empty() {
            let all: Vec<BoxData> = client.call(client.request(Method::GET, &[])).await?;
            all.into_iter().map(|data| data.name.unwrap_or_else(|| data.id.to_string())).collect()
        } else {
            self.boxes
        };
        let mut code = ExitCode::SUCCESS;
        let mut told = Vec::new();
        for name in boxes {
            // One that fails, or was deleted meanwhile, does not keep the others from being told.
            match client.call::<BoxUsage>(client.request(Method::GET, &[&name, "usage"])).await {
                Ok(usage) => told.push((name, usage)),
                Err(failure) => {
                    failure.about(&name).tell();
                    code = ExitCode::from(FAILED);
                }
            }
        }
        let printed = if self.json {
            let line =
                |(name, usage): &(String, BoxUsage)| serde_json::json!({"box": name, "usage": usage}).to_string();
            print(&told.iter().map(line).collect::<Vec<_>>().join("\n"))?
        } else {
            let heading = ["BOX", "MEMORY", "DISK", "PIDS", "CPU TIME", "RECEIVED", "SENT", "OOM KILLS"];
            print(&table(heading, &told.into_iter().map(row).collect::<Vec<_>>()))?
        };
        Ok(if code == ExitCode::SUCCESS { printed } else { code })
    }
}

fn row((name, usage): (String, BoxUsage)) -> [String; 8] {
    let limits = usage.limits;
    [
        name,
        format!("{} / {}", bytes(usage.memory_bytes), bytes(limits.memory_bytes)),
        format!("{} / {}", bytes(usage.disk_bytes), bytes(limits.disk_bytes)),
        format!("{} / {}", usage.pids, limits.pids),
        seconds(usage.cpu_ns),
        bytes(usage.network_received),
        bytes(usage.network_sent),
        usage.oom_kills.to_string(),
    ]
}

/// Bytes with three digits or so, in powers of a thousand as sizes are configured.
fn bytes(count: u64) -> String {
    let units = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    match units.into_iter().find(|(_, unit)| count >= *unit) {
        None => format!("{count} B"),
        Some((name, unit)) => {
            let (whole, tenth) = (count / unit, count % unit * 10 / unit);
            if whole >= 100 || tenth == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
        }
    }
}

fn seconds(ns: u64) -> String {
    let tenths = ns / 100_000_000;
    let (whole, tenth) = (tenths / 10, tenths % 10);
    match whole {
        0..60 => format!("{whole}.{tenth}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        let said = [0, 999, 1000, 1_550, 25_000_000, 123_900_000, 4_000_000_000, u64::MAX].map(bytes);
        assert_eq!(said, ["0 B", "999 B", "1 kB", "1.5 kB", "25 MB", "123 MB", "4 GB", "18446744 TB"]);
        let said = [0, 1_260_000_000, 61_000_000_000, 7_380_000_000_000].map(seconds);
        assert_eq!(said, ["0.0s", "1.2s", "1m01s", "2h03m"]);
    }
}
