//! What is in a folder of a box, and in those below it.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use boxyard_proto::api::files::FileList;
use reqwest::{Method, StatusCode};

use super::place::Remote;
use crate::client::{Client, read_json};
use crate::failure::Failure;

/// Files at most that are looked at: memory here.
const FILES_MAX: usize = 1_000_000;

/// Files by their paths below a folder.
#[derive(Debug, Default)]
pub(super) struct Files(HashMap<PathBuf, (u64, i64)>);

impl Files {
    /// Whether this file is there with this size and time, in seconds since 1970.
    pub(super) fn has(&self, path: &Path, size: u64, time: i64) -> bool {
        self.0.get(path).is_some_and(|there| *there == (size, time))
    }
}

/// All files below `folder`; none where it is not there.
pub(super) async fn files(client: &Client, folder: &Remote) -> Result<Files, Failure> {
    let mut files = Files::default();
    let mut folders = VecDeque::from([PathBuf::new()]);
    while let Some(below) = folders.pop_front() {
        // What is not UTF-8 is not looked at, and copied again.
        let Some(text) = below.to_str() else { continue };
        let path = if text.is_empty() { folder.path.clone() } else { folder.child(text).path };
        let mut after = String::new();
        loop {
            let query = [("folder", path.as_str()), ("after", after.as_str())];
            let answer = client.ask(folder.request(client, Method::GET, "list", &query)).await?;
            if answer.status() == StatusCode::NOT_FOUND {
                let failure = client.refusal(answer).await;
                if failure.text().starts_with("not found") {
                    break;
                }
                return Err(failure);
            }
            if !answer.status().is_success() {
                return Err(client.refusal(answer).await);
            }
            let list: FileList = read_json(answer).await?;
            for file in &list.files {
                let name = below.join(&file.name);
                if file.is_dir && file.target.is_none() {
                    folders.push_back(name);
                } else if let Ok(time) = file.mod_time.parse::<jiff::Timestamp>() {
                    files.0.insert(name, (file.size, time.as_second()));
                }
            }
            if files.0.len() + folders.len() > FILES_MAX {
                return Err(Failure::plain(
                    "there are too many files in the box to compare with; copy without --resume",
                ));
            }
            match list.files.last() {
                Some(last) if list.truncated && last.name != after => after.clone_from(&last.name),
                Some(_) | None => break,
            }
        }
    }
    Ok(files)
}
