//! `boxyard ssh-config`: what ssh, and all that uses its configuration, needs to know of boxes.

use std::fmt::Write;
use std::process::ExitCode;

use boxyard_proto::api::boxes::{BoxData, BoxStatus};
use boxyard_proto::names::check_box_name;
use clap::Args;
use reqwest::Method;

use crate::client::{Client, box_argument};
use crate::door::{Door, DoorOptions};
use crate::failure::Failure;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct SshConfig {
    /// Ids or names of the boxes; all of the account's when missing
    #[arg(value_name = "BOX", value_parser = box_argument)]
    boxes: Vec<String>,
    #[command(flatten)]
    door: DoorOptions,
}

impl SshConfig {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.door.client.connect()?;
        let door = self.door.find(&client).await?;
        let boxes = if self.boxes.is_empty() {
            client.call(client.request(Method::GET, &[])).await?
        } else {
            let mut boxes = Vec::new();
            for id in &self.boxes {
                boxes.push(show(&client, id).await.map_err(|failure| failure.about(id))?);
            }
            boxes
        };
        print(config(&door, &boxes).trim_end())
    }
}

async fn show(client: &Client, id: &str) -> Result<BoxData, Failure> {
    let found: BoxData = client.call(client.request(Method::GET, &[id])).await?;
    if found.status == BoxStatus::Deleted { Err(Failure::plain("the box is deleted")) } else { Ok(found) }
}

/// A block for each box, under its name and its id.
fn config(door: &Door, boxes: &[BoxData]) -> String {
    let mut text = String::from(
        "# Boxes, as boxyard ssh-config knows them. For ~/.ssh/config, or a file of its own for ssh -F.\n\
         # Password: an API key, or a token of boxyard ssh-token create. Without one: boxyard ssh-key add ~/.ssh/id_ed25519.pub\n\
         # Host keys: boxyard ssh-fingerprint --known-hosts >> ~/.ssh/known_hosts\n",
    );
    // Writing to a text does not fail.
    for key in &door.host_keys {
        let _ = writeln!(text, "#   {} {}", key.fingerprint, key.algorithm);
    }
    for row in boxes {
        // What is no name of a box would be something else to ssh.
        let name = row.name.as_deref().filter(|name| check_box_name(name).is_ok());
        text.push('\n');
        match name {
            Some(name) if is_domain(name) => text.push_str(NO_ALIAS),
            Some(_) | None => {}
        }
        text.push_str("Host");
        if let Some(name) = name.filter(|name| !is_domain(name)) {
            let _ = write!(text, " {name}");
        }
        let (id, Door { host, port, .. }) = (&row.id, door);
        let _ = writeln!(text, " {id}\n    HostName {host}\n    Port {port}\n    User {id}");
    }
    text
}

const NO_ALIAS: &str = "# The box's name has a dot and may be that of a host: only its id is an alias.\n";

/// Whether a box's name may be the name of a host somewhere. Whoever names a box `github.com` must not get what others push there.
fn is_domain(name: &str) -> bool {
    name.contains('.')
}
