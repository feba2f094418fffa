//! Variables of the account. What a refusal says never has a value in it, not even a wrong one: it might be a secret in the wrong place.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::api::account_env::{AccountEnv, MASK, ReplaceAccountEnv, SetAccountVariable};
use boxyard_proto::api::boxes::MessageBody;
use serde_json::Value;

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::{JsonObject, Path};

/// Lists the account's variables, without their values
#[utoipa::path(get, path = "/v2/box/settings/env", tag = "account", responses((status = 200, body = AccountEnv), Refusals))]
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
) -> Result<axum::Json<AccountEnv>, ApiError> {
    let names = http.boxes.account_env(&account).await?;
    let env_vars = names.into_iter().map(|name| (name, MASK.to_owned())).collect();
    Ok(axum::Json(AccountEnv { env_vars }))
}

/// Replaces all of the account's variables
///
/// Boxes that are made afterwards get them; a box's own variables go over them. Boxes that are there keep what they have.
#[utoipa::path(put, path = "/v2/box/settings/env", tag = "account", request_body = ReplaceAccountEnv,
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn replace(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    JsonObject(mut fields): JsonObject,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let env = match fields.remove("env_vars") {
        Some(Value::Object(variables)) => variables
            .into_iter()
            .map(|(name, value)| match value {
                Value::String(value) => Ok((name, value)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    let shown: String = name.chars().take(80).collect();
                    Err(ApiError::bad_request(format!("field 'env_vars': the value of '{shown}' must be a text")))
                }
            })
            .collect::<Result<BTreeMap<_, _>, _>>()?,
        Some(Value::Null) | None => {
            return Err(ApiError::bad_request("env_vars is required: all variables from now on, {} for none"));
        }
        Some(_) => return Err(ApiError::bad_request("field 'env_vars': it must be an object of texts")),
    };
    http.boxes.replace_account_env(&account, env).await?;
    Ok(axum::Json(MessageBody { message: "Environment variables replaced".into() }))
}

/// Sets one of the account's variables
///
/// Boxes that are made afterwards get it; a box's own variables go over it. Boxes that are there keep what they have.
#[utoipa::path(put, path = "/v2/box/settings/env/{key}", tag = "account",
    params(("key" = String, Path, description = "Name of the variable")), request_body = SetAccountVariable,
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn set(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(key): Path<String>,
    JsonObject(mut fields): JsonObject,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let value = match fields.remove("value") {
        Some(Value::String(value)) => value,
        Some(Value::Null) | None => return Err(ApiError::bad_request("value is required")),
        Some(_) => return Err(ApiError::bad_request("field 'value': it must be a text")),
    };
    http.boxes.set_account_variable(&account, key, value).await?;
    Ok(axum::Json(MessageBody { message: "Environment variable set".into() }))
}

/// Removes one of the account's variables
///
/// One that is not there is removed already. Boxes that are there keep what they have.
#[utoipa::path(delete, path = "/v2/box/settings/env/{key}", tag = "account",
    params(("key" = String, Path, description = "Name of the variable")),
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn unset(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(key): Path<String>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    http.boxes.unset_account_variable(&account, key).await?;
    Ok(axum::Json(MessageBody { message: "Environment variable removed".into() }))
}
