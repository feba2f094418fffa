//! Public keys of hardware tokens (`sk-…`). The token is pretended: what it signs is what OpenSSH's PROTOCOL.u2f says, the private key lies in
//! memory.

use std::sync::Arc;

use reqwest::StatusCode;
use russh::client::AuthResult;
use russh::keys::agent::AgentIdentity;
use russh::keys::signature::Signer;
use russh::keys::ssh_encoding::Encode;
use russh::keys::ssh_key::public::{EcdsaPublicKey, KeyData, SkEcdsaSha2NistP256, SkEd25519};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey, PublicKey};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{door_with, refused};

/// What a token's keys are bound to.
const APPLICATION: &str = "ssh:";
/// Somebody has touched it.
const TOUCHED: u8 = 1;

/// A token with one key.
#[derive(Clone)]
struct Token {
    key: Arc<PrivateKey>,
    public: PublicKey,
    /// The application that it really signs for.
    application: &'static str,
}

impl Token {
    fn new(algorithm: Algorithm) -> Self {
        let key = PrivateKey::random(&mut rand::rng(), algorithm).expect("a key");
        let data = key.public_key().key_data();
        let public = match (data.ed25519(), data.ecdsa()) {
            (Some(key), None) => KeyData::SkEd25519(SkEd25519::new(*key, APPLICATION)),
            (None, Some(EcdsaPublicKey::NistP256(key))) => {
                KeyData::SkEcdsaSha2NistP256(SkEcdsaSha2NistP256::new(*key, APPLICATION))
            }
            _ => panic!("no token has {data:?}"),
        };
        Self { key: Arc::new(key), public: PublicKey::new(public, "of a token"), application: APPLICATION }
    }
}

impl russh::Signer for Token {
    type Error = russh::AgentAuthError;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        _: Option<HashAlg>,
        mut message: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        let trailer = [&[TOUCHED][..], &7_u32.to_be_bytes()].concat();
        let mut signed = Sha256::digest(self.application).to_vec();
        signed.extend(&trailer);
        signed.extend(Sha256::digest(&message));
        let signature = self.key.try_sign(&signed).expect("a signature");
        let mut blob = Vec::new();
        self.public.algorithm().as_str().encode(&mut blob).expect("room");
        signature.as_bytes().encode(&mut blob).expect("room");
        blob.extend(trailer);
        blob.encode(&mut message).expect("room");
        Ok(message)
    }
}

#[tokio::test]
async fn keys_of_hardware_tokens_open_boxes() {
    let yard = door_with(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    for algorithm in [Algorithm::Ed25519, Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }] {
        let token = Token::new(algorithm.clone());
        let login = async |mut with: Token| {
            let mut ssh = yard.ssh().await;
            let key = token.public.clone();
            ssh.handle.authenticate_publickey_with(&*id, key, None, &mut with).await.expect("an answer")
        };
        assert_eq!(login(token.clone()).await, refused(), "nobody knows it");
        let line = token.public.to_openssh().expect("a line");
        let added = client.post("/v2/ssh-keys", json!({"public_key": line})).await;
        assert_eq!(added.status, StatusCode::OK, "{added:?}");
        assert!(added.json()["algorithm"].as_str().is_some_and(|name| name.starts_with("sk-")), "{added:?}");
        assert_eq!(login(token.clone()).await, AuthResult::Success, "{algorithm:?}");
        // Not every signature will do: one by another key, one for another application.
        let other = Token { key: Token::new(algorithm.clone()).key, ..token.clone() };
        assert_eq!(login(other).await, refused(), "{algorithm:?}");
        assert_eq!(login(Token { application: "web:", ..token.clone() }).await, refused(), "{algorithm:?}");
    }
}
