//! `boxyard delete`.

use std::process::ExitCode;

use clap::Args;
use reqwest::Method;

use crate::client::{ClientOptions, box_argument};
use crate::failure::{FAILED, Failure};

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Ids or names of the boxes
    #[arg(required = true, value_name = "BOX", value_parser = box_argument)]
    boxes: Vec<String>,
    #[command(flatten)]
    client: ClientOptions,
}

impl Delete {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let mut code = ExitCode::SUCCESS;
        // One at a time, so that each that fails is told; the others go all the same.
        for id in &self.boxes {
            let deleted: Result<serde_json::Value, _> = client.call(client.request(Method::DELETE, &[id])).await;
            if let Err(failure) = deleted {
                failure.about(id).tell();
                code = ExitCode::from(FAILED);
            }
        }
        Ok(code)
    }
}
