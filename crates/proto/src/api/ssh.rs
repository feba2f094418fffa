//! The SSH door: where it is, and who may come in. Extensions of this server; the real service has no such routes.

use serde::{Deserialize, Serialize};

use crate::ids::{BoxId, SshKeyId, SshTokenId};

/// Bytes of a public key's line at most.
pub const PUBLIC_KEY_MAX: usize = 16 * 1024;
/// Characters of a key's or a token's label at most; also of the comment in a public key's line.
pub const LABEL_CHARS_MAX: usize = 200;
/// Keys of one account at most.
pub const KEYS_MAX: u32 = 100;
/// Live tokens of one account at most.
pub const TOKENS_MAX: u32 = 1000;
/// Seconds for which a token lives at least.
pub const TOKEN_SECONDS_MIN: u64 = 60;
/// Seconds for which a token lives at most: 30 days.
pub const TOKEN_SECONDS_MAX: u64 = 30 * 24 * 3600;
/// Seconds for which a token lives when nothing is asked for.
pub const TOKEN_SECONDS_DEFAULT: u64 = 3600;

/// Answer of `GET /v2/ssh`: where the SSH door is, and how to recognise it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshDoor {
    /// The IP address that it listens on: `0.0.0.0` or `::` when it is all of the host's.
    pub address: String,
    /// Its TCP port.
    pub port: u16,
    /// What it proves itself with, the preferred one first.
    pub host_keys: Vec<SshHostKey>,
}

/// The public half of a host key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshHostKey {
    /// Its algorithm's name in SSH.
    #[cfg_attr(feature = "openapi", schema(example = "ssh-ed25519"))]
    pub algorithm: String,
    /// Algorithm and base 64, as in `known_hosts` after the host.
    pub public_key: String,
    /// `SHA256:` and the base 64 of its hash, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
}

/// Body of `POST /v2/ssh-keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct AddSshKey {
    /// One line as `ssh-keygen` writes it into a file `….pub`: algorithm, base 64, comment. Required.
    ///
    /// Ed25519, ECDSA over NIST P-256, P-384 and P-521, RSA of 2048 to 8192 bits, and the `sk-` kinds of hardware keys.
    pub public_key: Option<String>,
    /// What the key is called; the line's comment when missing. At most 200 characters.
    pub label: Option<String>,
}

/// A public key that opens all boxes of its account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshKeyData {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: SshKeyId,
    /// Its algorithm's name in SSH.
    #[cfg_attr(feature = "openapi", schema(example = "ssh-ed25519"))]
    pub algorithm: String,
    /// `SHA256:` and the base 64 of its hash, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// The key: algorithm and base 64.
    pub public_key: String,
    /// What it is called. Left out when it has no label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When it was added.
    pub created_at: i64,
}

/// Answer of `GET /v2/ssh-keys`, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshKeys {
    /// The account's keys.
    pub keys: Vec<SshKeyData>,
}

/// Body of `POST /v2/box/{id}/ssh-tokens`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct CreateSshToken {
    /// Seconds for which the token lets in, 60 to 2,592,000 (30 days); 3600 when missing.
    pub expires_in: Option<u64>,
    /// What the token is called. At most 200 characters.
    pub label: Option<String>,
}

/// A new token. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedSshToken {
    /// Its id, which is no secret.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: SshTokenId,
    /// The token: the password of this box's SSH. It is told this once.
    pub token: String,
    /// The only box that it opens.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "current-wasp-05510"))]
    pub box_id: BoxId,
    /// From when on it lets nobody in any more.
    pub expires_at: i64,
}

impl std::fmt::Debug for CreatedSshToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedSshToken").field("id", &self.id).field("box_id", &self.box_id).finish_non_exhaustive()
    }
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshTokenData {
    /// Its id, which is no secret.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: SshTokenId,
    /// The only box that it opens.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "current-wasp-05510"))]
    pub box_id: BoxId,
    /// What it is called. Left out when it has no label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When it was made.
    pub created_at: i64,
    /// From when on it lets nobody in any more.
    pub expires_at: i64,
}

/// Answer of `GET /v2/box/{id}/ssh-tokens`, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshTokens {
    /// The box's tokens that let somebody in still.
    pub tokens: Vec<SshTokenData>,
}
