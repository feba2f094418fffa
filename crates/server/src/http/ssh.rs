//! The SSH door: where it is, public keys, and tokens. Extensions of this server beside the routes of the real service.

use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::ssh::{
    AddSshKey, CreateSshToken, CreatedSshToken, SshDoor, SshHostKey, SshKeyData, SshKeys, SshTokenData, SshTokens,
};

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::{Json, Path};
use crate::{ssh_keys, ssh_tokens};

/// Tells where the SSH door is and how to recognise it
///
/// 404 when this server has none.
#[utoipa::path(get, path = "/v2/ssh", tag = "ssh", responses((status = 200, body = SshDoor), Refusals))]
pub(super) async fn door(State(http): State<Arc<Http>>, _: Caller) -> Result<axum::Json<SshDoor>, ApiError> {
    let identity = http.ssh.as_ref().ok_or_else(ApiError::no_ssh_door)?;
    let host_keys = identity.host_keys.iter().map(|key| SshHostKey {
        algorithm: key.algorithm.clone(),
        public_key: key.public_key.clone(),
        fingerprint: key.fingerprint.clone(),
    });
    Ok(axum::Json(SshDoor {
        address: identity.address.ip().to_string(),
        port: identity.address.port(),
        host_keys: host_keys.collect(),
    }))
}

/// Lists the account's SSH public keys, the oldest first
#[utoipa::path(get, path = "/v2/ssh-keys", tag = "ssh", responses((status = 200, body = SshKeys), Refusals))]
pub(super) async fn list_keys(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
) -> Result<axum::Json<SshKeys>, ApiError> {
    let keys = ssh_keys::list(&http.store, &account).await?;
    Ok(axum::Json(SshKeys { keys: keys.into_iter().map(ssh_keys::data).collect() }))
}

/// Adds an SSH public key, which opens all boxes of the account
///
/// Adding a key that the account has already changes nothing and answers with it as it is. An account can have 100 keys.
#[utoipa::path(post, path = "/v2/ssh-keys", tag = "ssh", request_body = AddSshKey,
    responses((status = 200, body = SshKeyData), Refusals))]
pub(super) async fn add_key(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Json(request): Json<AddSshKey>,
) -> Result<axum::Json<SshKeyData>, ApiError> {
    let line = request.public_key.ok_or_else(|| ApiError::bad_request("public_key is required"))?;
    let row = ssh_keys::add(&http.store, &account, &line, request.label).await?;
    Ok(axum::Json(ssh_keys::data(row)))
}

/// Removes an SSH public key
///
/// Sessions that are open stay so.
#[utoipa::path(delete, path = "/v2/ssh-keys/{id}", tag = "ssh",
    params(("id" = String, Path, description = "Id or fingerprint (`SHA256:…`, percent-encoded) of the key")),
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn remove_key(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    ssh_keys::remove(&http.store, &account, &id).await?;
    Ok(axum::Json(MessageBody { message: "SSH key removed".into() }))
}

/// Makes an SSH token: a password of this box only, for a time
///
/// The token is told this once. An account can have 1000 live ones.
#[utoipa::path(post, path = "/v2/box/{id}/ssh-tokens", tag = "ssh",
    params(("id" = String, Path, description = "Id or name of the box")), request_body = CreateSshToken,
    responses((status = 200, body = CreatedSshToken), Refusals))]
pub(super) async fn create_token(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<CreateSshToken>,
) -> Result<axum::Json<CreatedSshToken>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let made = ssh_tokens::create(&http.store, &account, kept.id(), request.expires_in, request.label).await?;
    Ok(axum::Json(CreatedSshToken {
        id: made.id,
        token: made.token.expose().to_owned(),
        box_id: kept.id().clone(),
        expires_at: made.expires_at / 1000,
    }))
}

/// Lists a box's live SSH tokens, the oldest first
#[utoipa::path(get, path = "/v2/box/{id}/ssh-tokens", tag = "ssh",
    params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = SshTokens), Refusals))]
pub(super) async fn list_tokens(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<SshTokens>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let tokens = ssh_tokens::list(&http.store, kept.id()).await?.into_iter().map(|row| SshTokenData {
        id: row.id,
        box_id: kept.id().clone(),
        label: row.label,
        created_at: row.created_at / 1000,
        expires_at: row.expires_at / 1000,
    });
    Ok(axum::Json(SshTokens { tokens: tokens.collect() }))
}

/// Revokes an SSH token
///
/// Sessions that are open stay so.
#[utoipa::path(delete, path = "/v2/box/{id}/ssh-tokens/{token_id}", tag = "ssh",
    params(("id" = String, Path, description = "Id or name of the box"),
        ("token_id" = String, Path, description = "Id of the token")),
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn revoke_token(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path((id, token_id)): Path<(String, String)>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    ssh_tokens::revoke(&http.store, kept.id(), &token_id).await?;
    Ok(axum::Json(MessageBody { message: "SSH token revoked".into() }))
}
