//! Who it is, and which box is meant.

use russh::keys::PublicKey;

use crate::boxes::Kept;

/// A login that was let in.
#[derive(Debug, Clone)]
pub(super) struct Login {
    /// The box.
    pub(super) kept: Kept,
    /// How: `password`, `publickey` or `token`.
    pub(super) method: &'static str,
}

/// The attempts of one connection to log in.
#[derive(Debug)]
pub(super) struct Auth {}

impl Auth {
    /// The box that this user name and this API key or token open.
    pub(super) async fn password(&mut self, _user: &str, _password: &str) -> Option<Login> {
        None
    }

    /// Whether a signature by this key would let the user in.
    pub(super) async fn offered(&mut self, _user: &str, _key: &PublicKey) -> bool {
        false
    }

    /// The box that this user name and this key, whose possession has been proved, open.
    pub(super) async fn public_key(&mut self, _user: &str, _key: &PublicKey) -> Option<Login> {
        None
    }
}
