//! SSH tokens: passwords of one box each, for a time. Whoever has one can log in to that box and do nothing else with the account.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boxyard_proto::api::ssh::{TOKEN_SECONDS_DEFAULT, TOKEN_SECONDS_MAX, TOKEN_SECONDS_MIN, TOKENS_MAX};
use boxyard_proto::{AccountId, BoxId, SshTokenId};

use crate::config::Secret;
use crate::keys::{hash_key, now_ms};
use crate::ssh_keys::{InvalidSshKey, check_label};
use crate::store::{NewSshToken, SshTokenRow, Store, StoreError};

/// What every token begins with, so that it is told from an API key.
pub const PREFIX: &str = "boxssh_";

/// Why a token was not made or revoked. Texts are fit for users.
#[derive(Debug, thiserror::Error)]
pub enum SshTokenError {
    /// It would live too short or too long.
    #[error("expires_in must be {TOKEN_SECONDS_MIN} to {TOKEN_SECONDS_MAX} seconds")]
    Lifetime,
    /// Its label breaks a rule.
    #[error(transparent)]
    Label(#[from] InvalidSshKey),
    /// The account has as many live tokens as it may have.
    #[error("an account can have at most {TOKENS_MAX} live SSH tokens; revoke some or wait until they expire")]
    TooMany,
    /// The box is no more.
    #[error("Box not found")]
    BoxNotFound,
    /// The box has no such live token.
    #[error("SSH token not found")]
    NotFound,
    /// The database failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for SshTokenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::TooMany,
            StoreError::NotFound => Self::BoxNotFound,
            error @ (StoreError::NameTaken
            | StoreError::IdTaken
            | StoreError::Closed
            | StoreError::Busy
            | StoreError::Newer { .. }
            | StoreError::Broken { .. }) => Self::Store(error),
        }
    }
}

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its id, which is no secret.
    pub id: SshTokenId,
    /// The token. Whoever gets it must keep it; the store only has its hash.
    pub token: Secret,
    /// From when on it lets nobody in: milliseconds since 1970.
    pub expires_at: i64,
}

/// Makes a token's text: `boxssh_` and 256 random bits in URL-safe base 64.
fn new_token() -> Secret {
    Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())))
}

/// What the store knows of a token: its SHA-256, as of an API key. Fast on purpose, see `store/keys.rs`.
pub fn hash_token(token: &str) -> [u8; 32] {
    hash_key(token)
}

/// Makes a token for one box, which lives for `expires_in` seconds, or an hour.
///
/// # Errors
/// The time or the label breaks a rule, the account has too many tokens, the box is no more, or the database fails.
pub async fn create(
    store: &Store,
    account: &AccountId,
    box_id: &BoxId,
    expires_in: Option<u64>,
    label: Option<String>,
) -> Result<Made, SshTokenError> {
    let seconds = expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT);
    if !(TOKEN_SECONDS_MIN..=TOKEN_SECONDS_MAX).contains(&seconds) {
        return Err(SshTokenError::Lifetime);
    }
    if let Some(label) = &label {
        check_label("label", label)?;
    }
    let (id, token, now) = (SshTokenId::from_entropy(rand::random()), new_token(), now_ms());
    let lives = i64::try_from(seconds).map_err(|_| SshTokenError::Lifetime)?.saturating_mul(1000);
    let expires_at = now.saturating_add(lives);
    let row = NewSshToken {
        id: id.clone(),
        account: account.clone(),
        box_id: box_id.clone(),
        hash: hash_token(token.expose()),
        label,
        created_at: now,
        expires_at,
    };
    store.insert_ssh_token(row, TOKENS_MAX).await?;
    Ok(Made { id, token, expires_at })
}

/// The box's tokens that let somebody in still, the oldest first.
///
/// # Errors
/// The database fails.
pub async fn list(store: &Store, box_id: &BoxId) -> Result<Vec<SshTokenRow>, SshTokenError> {
    Ok(store.ssh_tokens(box_id, now_ms()).await?)
}

/// Revokes a live token of the box for ever. Sessions that are open stay so.
///
/// # Errors
/// The box has no such live token, or the database fails.
pub async fn revoke(store: &Store, box_id: &BoxId, id: &str) -> Result<(), SshTokenError> {
    let Ok(id) = id.parse::<SshTokenId>() else { return Err(SshTokenError::NotFound) };
    if store.revoke_ssh_token(box_id, id, now_ms()).await? { Ok(()) } else { Err(SshTokenError::NotFound) }
}
