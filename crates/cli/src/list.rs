//! `boxyard list`.

use std::process::ExitCode;

use boxyard_proto::api::boxes::{BoxData, BoxStatus};
use clap::Args;
use reqwest::Method;

use crate::client::ClientOptions;
use crate::failure::Failure;
use crate::output::{print, table, time};

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only boxes that carry this label
    #[arg(long)]
    label: Option<String>,
    /// Only boxes in this status; `deleted` lists deleted ones
    #[arg(long)]
    status: Option<String>,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl List {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let asked = [("label", &self.label), ("status", &self.status)];
        let query: Vec<_> = asked.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        let request = client.request_with(Method::GET, &[], &query);
        if self.json {
            let boxes: serde_json::Value = client.call(request).await?;
            return print(&format!("{boxes:#}"));
        }
        let boxes: Vec<BoxData> = client.call(request).await?;
        let rows: Vec<_> = boxes
            .into_iter()
            .map(|row| {
                [
                    row.id.to_string(),
                    row.name.unwrap_or_default(),
                    status(row.status).into(),
                    row.size.as_str().into(),
                    row.runtime,
                    time(row.created_at.saturating_mul(1000)),
                    row.labels.join(" "),
                ]
            })
            .collect();
        print(&table(["ID", "NAME", "STATUS", "SIZE", "RUNTIME", "MADE", "LABELS"], &rows))
    }
}

fn status(status: BoxStatus) -> &'static str {
    match status {
        BoxStatus::Creating => "creating",
        BoxStatus::Idle => "idle",
        BoxStatus::Running => "running",
        BoxStatus::Paused => "paused",
        BoxStatus::Error => "error",
        BoxStatus::Deleted => "deleted",
    }
}
