//! `boxyard snapshot` and `boxyard fork`: saved disks, and boxes that start as copies of others. See `archive` for those in files.

use std::process::ExitCode;

use boxyard_proto::SnapshotId;
use boxyard_proto::api::boxes::BoxData;
use boxyard_proto::api::snapshots::{
    CreateSnapshot, DeleteSnapshots, DeletedSnapshots, RestoreBox, SnapshotData, SnapshotStatus, Snapshots,
};
use clap::{Args, Subcommand};
use reqwest::Method;

use crate::archive::{Export, Import};
use crate::client::{ClientOptions, box_argument};
use crate::create::finish;
use crate::failure::{FAILED, Failure};
use crate::output::{note, print, table, time};
use crate::poll::{not_made, until_made};

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Save a box's disk and print the snapshot's id
    Create(Create),
    /// List snapshots, of all boxes or of one
    List(List),
    /// Delete snapshots; boxes made from them live on
    Delete(Delete),
    /// Write a snapshot into a file, for this server or another
    Export(Export),
    /// Make a snapshot from such a file and print its id
    Import(Import),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// What to call it; the box's name or id when missing
    #[arg(long)]
    name: Option<String>,
    /// Do not wait for a snapshot that takes long
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Id or name of the box; the id when it is deleted
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: Option<String>,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Ids of the snapshots, as `boxyard snapshot list` shows them
    #[arg(required_unless_present = "all", value_name = "ID")]
    ids: Vec<SnapshotId>,
    /// All snapshots of the account
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Fork {
    /// Id or name of the box to copy
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// Name of the new box
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

impl Snapshot {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Delete(delete) => delete.run().await,
            Self::Export(export) => export.run().await,
            Self::Import(import) => import.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let body = CreateSnapshot { name: self.name };
        let made: SnapshotData =
            client.call(client.request(Method::POST, &[&self.id, "snapshots"]).json(&body)).await?;
        if made.status == SnapshotStatus::Creating && !self.no_wait {
            note(&format!("{} is being made", made.id));
            let is_ready = async || {
                let request = client.request(Method::GET, &[made.box_id.as_str(), "snapshots"]);
                let list: Snapshots = client.call(request).await?;
                let now = list.snapshots.into_iter().find(|row| row.id == made.id).map(|row| row.status);
                match now {
                    Some(SnapshotStatus::Creating) => Ok(false),
                    Some(SnapshotStatus::Ready) => Ok(true),
                    Some(SnapshotStatus::Error | SnapshotStatus::Deleted) | None => Err(not_made(made.id.as_str())),
                }
            };
            until_made(made.id.as_str(), is_ready).await?;
        }
        print(made.id.as_str())
    }
}

impl List {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let request = match &self.id {
            Some(id) => client.request(Method::GET, &[id, "snapshots"]),
            None => client.request(Method::GET, &["snapshots"]),
        };
        if self.json {
            let list: serde_json::Value = client.call(request).await?;
            return print(&format!("{:#}", list["snapshots"]));
        }
        let list: Snapshots = client.call(request).await?;
        let rows: Vec<_> = list
            .snapshots
            .into_iter()
            .map(|row| {
                [
                    row.id.to_string(),
                    row.name,
                    row.box_id.to_string(),
                    row.status.as_str().into(),
                    row.size_bytes.to_string(),
                    time(row.created_at.saturating_mul(1000)),
                ]
            })
            .collect();
        print(&table(["ID", "NAME", "BOX", "STATUS", "BYTES", "MADE"], &rows))
    }
}

impl Delete {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        if self.all {
            let request = client.request_with(Method::DELETE, &["snapshots"], &[("all", "true")]);
            let deleted: DeletedSnapshots = client.call(request.json(&DeleteSnapshots::default())).await?;
            note(&format!("{} deleted", deleted.deleted));
            return Ok(ExitCode::SUCCESS);
        }
        let mut code = ExitCode::SUCCESS;
        // One at a time, so that each that fails is told; the others go all the same.
        for id in &self.ids {
            let body = DeleteSnapshots { ids: Some(vec![id.to_string()]) };
            let request = client.request(Method::DELETE, &["snapshots"]).json(&body);
            let failure = match client.call::<DeletedSnapshots>(request).await {
                Ok(DeletedSnapshots { deleted: 0 }) => Failure::plain("Snapshot not found"),
                Ok(_) => continue,
                Err(failure) => failure,
            };
            failure.about(id.as_str()).tell();
            code = ExitCode::from(FAILED);
        }
        Ok(code)
    }
}

impl Fork {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let body = RestoreBox { name: self.name, ..RestoreBox::default() };
        let made: BoxData = client.call(client.request(Method::POST, &[&self.id, "fork"]).json(&body)).await?;
        finish(&client, &made, false).await
    }
}
