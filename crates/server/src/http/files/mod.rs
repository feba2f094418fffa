//! Files of a box.
//!
//! Everything is done inside the box, by a process of the box's user; nothing on this host opens a path of a box. Content passes through
//! as fast as the slower side takes it, and none of it is held here.
//!
//! One file a concern: [`read`] and [`download`] bring files out, [`write`] and [`upload`] in; [`list`] and [`search`] tell what is there,
//! [`watch`] what changes. [`change`] has what moves no content.

use std::sync::Arc;

use crate::boxes::{FileWork, Kept};
use crate::http::Http;
use crate::http::error::ApiError;

pub(super) mod change;
pub(super) mod download;
#[cfg(any(test, feature = "fuzzing"))]
pub mod exercise;
mod given;
mod incoming;
pub(super) mod list;
mod parts;
mod range;
pub(super) mod read;
pub(super) mod search;
mod told;
mod transfer;
pub(super) mod upload;
pub(super) mod watch;
pub(super) mod write;

/// Begins work on the files of the box with this id or name.
async fn begin(http: &Arc<Http>, kept: &Kept) -> Result<FileWork, ApiError> {
    Ok(http.boxes.files(kept).await?)
}
