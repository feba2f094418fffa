//! The shape of every refusal.

use serde::{Deserialize, Serialize};

/// Body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// What is wrong, and what to do about it. Clients show it as it stands.
    pub error: String,
}
