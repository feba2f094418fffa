//! Variables of an account, which every box gets that it makes afterwards. Values go in and never come out.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What stands for every value in an answer.
pub const MASK: &str = "***";

/// Answer of `GET /v2/box/settings/env`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccountEnv {
    /// The names of the variables, each with `***` for its value.
    #[cfg_attr(feature = "openapi", schema(example = json!({"API_TOKEN": "***"})))]
    pub env_vars: BTreeMap<String, String>,
}

/// Body of `PUT /v2/box/settings/env`. `Debug` does not show the values.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ReplaceAccountEnv {
    /// All variables from now on; `{}` clears them. Required.
    pub env_vars: Option<BTreeMap<String, String>>,
}

/// Body of `PUT /v2/box/settings/env/{key}`. `Debug` does not show the value.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct SetAccountVariable {
    /// The variable's value, which may be empty. Required.
    pub value: Option<String>,
}

impl fmt::Debug for ReplaceAccountEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.env_vars.as_ref().map(|env| env.keys().collect::<Vec<_>>());
        f.debug_struct("ReplaceAccountEnv").field("names", &names).finish_non_exhaustive()
    }
}

impl fmt::Debug for SetAccountVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetAccountVariable").finish_non_exhaustive()
    }
}
