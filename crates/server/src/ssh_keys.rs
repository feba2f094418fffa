//! SSH public keys: which ones open boxes, and how a user's line becomes one.
//!
//! Everything here is public, except what people paste by mistake: a text that is refused never comes back in the refusal.

use boxyard_proto::api::ssh::{KEYS_MAX, LABEL_CHARS_MAX, PUBLIC_KEY_MAX, SshKeyData};
use boxyard_proto::{AccountId, SshKeyId};
use russh::keys::ssh_key::public::{KeyData, RsaPublicKey};
use russh::keys::ssh_key::{HashAlg, PublicKey};

use crate::keys::now_ms;
use crate::store::{SshKeyRow, Store, StoreError};

/// Bits of an RSA key: fewer can be broken, and more are not verified by the library that verifies them.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Bytes of an RSA key's public exponent at most, for the same reason.
const RSA_EXPONENT_BYTES_MAX: usize = 4;

/// What public keys begin with that this server takes.
pub const ALGORITHMS: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Why a text is no public key that opens boxes. Says what to do, and does not show the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSshKey(String);

impl InvalidSshKey {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Why a key was not added or removed. Texts are fit for users.
#[derive(Debug, thiserror::Error)]
pub enum SshKeyError {
    /// It is no key, or its label breaks a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidSshKey),
    /// The account has as many keys as it may have.
    #[error("an account can have at most {KEYS_MAX} SSH keys; remove one first")]
    TooMany,
    /// The account has no such key.
    #[error("SSH key not found")]
    NotFound,
    /// The database failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for SshKeyError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::TooMany,
            error @ (StoreError::NameTaken
            | StoreError::IdTaken
            | StoreError::NotFound
            | StoreError::Closed
            | StoreError::Busy
            | StoreError::Newer { .. }
            | StoreError::Broken { .. }) => Self::Store(error),
        }
    }
}

/// Reads one line as `ssh-keygen` writes it: algorithm, base 64, and perhaps a comment, which the key keeps.
///
/// # Errors
/// Says what is wrong: it is a private key, a certificate, not one line, or of an algorithm or a length that is not taken.
pub fn read_public_key(text: &str) -> Result<PublicKey, InvalidSshKey> {
    if looks_private(text) {
        return Err(InvalidSshKey::new(
            "this is a private key, which nobody else may have; give the public one, the content of the file that ends in .pub",
        ));
    }
    if text.len() > PUBLIC_KEY_MAX {
        return Err(InvalidSshKey::new(format!("a public key is one line of at most {PUBLIC_KEY_MAX} bytes")));
    }
    let line = text.trim();
    if line.contains("BEGIN SSH2 PUBLIC KEY") {
        return Err(InvalidSshKey::new("this public key has another format; convert it with ssh-keygen -i -f FILE"));
    }
    if line.contains(['\n', '\r']) {
        return Err(InvalidSshKey::new("a public key is one line; give one key at a time"));
    }
    if line.chars().any(|char| char.is_control() && char != '\t') {
        return Err(InvalidSshKey::new("the public key has control characters in it"));
    }
    let line = line.replace('\t', " ");
    let algorithm = line.split(' ').next().unwrap_or_default();
    if algorithm.contains("-cert-v01@") {
        return Err(InvalidSshKey::new("certificates are not supported; give the public key that was certified"));
    }
    if algorithm == "ssh-dss" {
        return Err(InvalidSshKey::new(
            "DSA keys are broken and not supported; make a new one with ssh-keygen -t ed25519",
        ));
    }
    if !ALGORITHMS.contains(&algorithm) {
        let options = line.split(' ').skip(1).any(|word| ALGORITHMS.contains(&word));
        let text = if options {
            "options before the key are not supported; give the line from the algorithm on".to_owned()
        } else {
            format!("a public key begins with one of {}", ALGORITHMS.join(", "))
        };
        return Err(InvalidSshKey::new(text));
    }
    // One space each, as the parser wants them; the comment keeps its own.
    let (algorithm, rest) = line.split_once(' ').unwrap_or((&line, ""));
    let rest = rest.trim_start();
    let (data, comment) = rest.split_once(' ').unwrap_or((rest, ""));
    let key = PublicKey::from_openssh(format!("{algorithm} {data} {}", comment.trim()).trim_end()).map_err(|_| {
        InvalidSshKey::new("the public key is damaged; copy the whole line of the file that ends in .pub")
    })?;
    match key.key_data() {
        KeyData::Rsa(key) => check_rsa(key)?,
        KeyData::Ed25519(_) | KeyData::Ecdsa(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {}
        KeyData::Dsa(_) | KeyData::Certificate(_) | KeyData::Other(_) | _ => {
            return Err(InvalidSshKey::new("keys of this kind are not supported"));
        }
    }
    Ok(key)
}

/// Whether a text is, or holds, a private key in one of the formats that people have: PEM, OpenSSH's (also without its first line), PuTTY's.
fn looks_private(text: &str) -> bool {
    // What the first bytes of OpenSSH's format, "openssh-key-v1", are in base 64.
    const OPENSSH: &str = "b3BlbnNzaC1rZXktdjE";
    text.contains("PRIVATE KEY") || text.contains("PuTTY-User-Key-File") || text.contains(OPENSSH)
}

fn check_rsa(key: &RsaPublicKey) -> Result<(), InvalidSshKey> {
    let modulus = key.n().as_positive_bytes().unwrap_or_default();
    let zeros = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = (modulus.len() * 8).saturating_sub(zeros);
    if !RSA_BITS.contains(&bits) {
        let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
        return Err(InvalidSshKey::new(format!(
            "the RSA key has {bits} bits; {least} to {most} are supported, or make a new one with ssh-keygen -t ed25519"
        )));
    }
    let odd = |bytes: &[u8]| bytes.last().is_some_and(|byte| byte % 2 == 1);
    let exponent = key.e().as_positive_bytes().unwrap_or_default();
    if !odd(modulus) || !odd(exponent) || exponent.len() > RSA_EXPONENT_BYTES_MAX || exponent == [1] {
        return Err(InvalidSshKey::new("the RSA key has numbers that no RSA key has"));
    }
    Ok(())
}

/// Checks a label: 1 to 200 characters, none of them a control character.
///
/// # Errors
/// Names `what`, which breaks the rule.
pub fn check_label(what: &str, label: &str) -> Result<(), InvalidSshKey> {
    let right = (1..=LABEL_CHARS_MAX).contains(&label.chars().count()) && !label.chars().any(char::is_control);
    if right {
        Ok(())
    } else {
        Err(InvalidSshKey::new(format!("{what} must have 1 to {LABEL_CHARS_MAX} characters and no control characters")))
    }
}

/// `SHA256:` and the base 64 of a key's hash, as `ssh-keygen -l` shows it.
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// Adds a key to an account. A key that is there already stays as it is, label and all, and is returned.
///
/// # Errors
/// The line is no key, a label breaks a rule, the account has too many keys, or the database fails.
pub async fn add(
    store: &Store,
    account: &AccountId,
    line: &str,
    label: Option<String>,
) -> Result<SshKeyRow, SshKeyError> {
    let key = read_public_key(line)?;
    let label = match label {
        Some(label) => {
            check_label("label", &label)?;
            Some(label)
        }
        None => {
            let comment = key.comment().as_str_lossy();
            if !comment.is_empty() {
                check_label("the key's comment", comment)?;
            }
            (!comment.is_empty()).then(|| comment.to_owned())
        }
    };
    let row = SshKeyRow {
        id: SshKeyId::from_entropy(rand::random()),
        account: account.clone(),
        key: key.to_bytes().map_err(|_| InvalidSshKey::new("the public key is damaged"))?,
        algorithm: key.algorithm().as_str().to_owned(),
        fingerprint: fingerprint(&key),
        label,
        created_at: now_ms(),
    };
    Ok(store.insert_ssh_key(row, KEYS_MAX).await?)
}

/// The account's keys, the oldest first.
///
/// # Errors
/// The database fails.
pub async fn list(store: &Store, account: &AccountId) -> Result<Vec<SshKeyRow>, SshKeyError> {
    Ok(store.ssh_keys(account).await?)
}

/// Removes the account's key with this id or fingerprint. It lets nobody in any more; sessions that are open stay so.
///
/// # Errors
/// There is no such key, or the database fails.
pub async fn remove(store: &Store, account: &AccountId, id_or_fingerprint: &str) -> Result<(), SshKeyError> {
    if store.remove_ssh_key(account, id_or_fingerprint).await? { Ok(()) } else { Err(SshKeyError::NotFound) }
}

/// A stored key as the API shows it.
pub fn data(row: SshKeyRow) -> SshKeyData {
    // What was stored was encoded from a key of the same kind.
    let public_key = PublicKey::from_bytes(&row.key).and_then(|key| key.to_openssh()).unwrap_or_default();
    SshKeyData {
        id: row.id,
        algorithm: row.algorithm,
        fingerprint: row.fingerprint,
        public_key,
        label: row.label,
        created_at: row.created_at / 1000,
    }
}

#[cfg(test)]
mod tests;
