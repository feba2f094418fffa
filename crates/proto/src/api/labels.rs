//! Labels of a box.

use serde::{Deserialize, Serialize};

/// Body of `POST /v2/box/{id}/config/labels`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct AddLabel {
    /// The label to add. Required.
    pub label: Option<String>,
}

/// Answer of adding and removing a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Labels {
    /// What was done.
    pub message: String,
    /// All labels of the box, in the order they were added.
    pub labels: Vec<String>,
}
