//! `boxyard pause` and `boxyard resume`.

use std::process::ExitCode;

use boxyard_proto::api::boxes::MessageBody;
use clap::Args;
use reqwest::Method;

use crate::client::{ClientOptions, box_argument};
use crate::failure::{FAILED, Failure};

/// Boxes to pause or to resume.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// Ids or names of the boxes
    #[arg(required = true, value_name = "BOX", value_parser = box_argument)]
    boxes: Vec<String>,
    #[command(flatten)]
    client: ClientOptions,
}

impl Pause {
    pub(crate) async fn pause(self) -> Result<ExitCode, Failure> {
        self.each("pause").await
    }

    pub(crate) async fn resume(self) -> Result<ExitCode, Failure> {
        self.each("resume").await
    }

    async fn each(self, verb: &str) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let mut code = ExitCode::SUCCESS;
        // One at a time, so that each that fails is told; the others are done all the same.
        for id in &self.boxes {
            let done: Result<MessageBody, _> = client.call(client.request(Method::POST, &[id, verb])).await;
            if let Err(failure) = done {
                failure.about(id).tell();
                code = ExitCode::from(FAILED);
            }
        }
        Ok(code)
    }
}
