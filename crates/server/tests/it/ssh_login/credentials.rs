//! Logins with public keys and tokens.

use std::sync::Arc;

use boxyard_proto::SshTokenId;
use boxyard_server::keys;
use boxyard_server::store::NewSshToken;
use reqwest::StatusCode;
use russh::client::AuthResult;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use serde_json::json;

use super::{door_with, log, refused};
use crate::support::{Client, KEY, box_id};

/// A new key, added to the account of `client`.
async fn add_key(client: &Client, algorithm: Algorithm) -> PrivateKey {
    let key = PrivateKey::random(&mut rand::rng(), algorithm).expect("a key");
    share_key(client, &key).await;
    key
}

async fn share_key(client: &Client, key: &PrivateKey) {
    let public = key.public_key().to_openssh().expect("text");
    let answer = client.post("/v2/ssh-keys", json!({"public_key": public})).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

async fn named_box(client: &Client, name: &str) -> String {
    client.post("/v2/box", json!({"name": name})).await.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn public_keys_open_the_boxes_of_their_accounts_only() {
    let yard = door_with(|config| config.limits.ssh_failures_per_minute = 100).await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let (id, theirs) = (named_box(&client, "dev").await, named_box(&stranger, "theirs").await);
    for algorithm in [
        Algorithm::Ed25519,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    ] {
        let key = add_key(&client, algorithm).await;
        assert_eq!(yard.ssh().await.key(&id, &key).await, AuthResult::Success);
        assert_eq!(yard.ssh().await.key("dev", &key).await, AuthResult::Success);
        for user in [theirs.as_str(), "theirs", "nothing", "no-such-00000"] {
            assert_eq!(yard.ssh().await.key(user, &key).await, refused(), "{user}");
        }
    }
    let told = log(&client, &id, 8).await;
    assert!(
        told.iter()
            .all(|line| line.starts_with("SSH login by publickey (SHA256:") && line.ends_with(") from 127.0.0.1")),
        "{told:?}"
    );
    let told = log(&stranger, &theirs, 4).await;
    assert!(told.iter().all(|line| line.ends_with(") refused from 127.0.0.1")), "{told:?}");

    // A key that two accounts have opens the boxes of both, except by a name that both have.
    let key = add_key(&client, Algorithm::Ed25519).await;
    share_key(&stranger, &key).await;
    for user in [id.as_str(), "dev", &theirs, "theirs"] {
        assert_eq!(yard.ssh().await.key(user, &key).await, AuthResult::Success, "{user}");
    }
    let same = named_box(&stranger, "dev").await;
    assert_eq!(yard.ssh().await.key("dev", &key).await, refused());
    assert_eq!(yard.ssh().await.key(&same, &key).await, AuthResult::Success);
}

#[tokio::test]
async fn rsa_keys_sign_with_sha2_or_not_at_all() {
    let yard = door_with(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    let pair = russh::keys::ssh_key::private::RsaKeypair::random(&mut rand::rng(), 2048).expect("a key");
    let key = Arc::new(PrivateKey::from(pair));
    share_key(&client, &key).await;
    for (hash, expected) in
        [(Some(HashAlg::Sha512), AuthResult::Success), (Some(HashAlg::Sha256), AuthResult::Success), (None, refused())]
    {
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&key), hash);
        let answer = yard.ssh().await.handle.authenticate_publickey(&*id, key).await.expect("an answer");
        assert_eq!(answer, expected, "{hash:?}");
    }
}

#[tokio::test]
async fn a_key_that_was_removed_opens_nothing() {
    let yard = door_with(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    let key = add_key(&client, Algorithm::Ed25519).await;
    assert_eq!(yard.ssh().await.key(&id, &key).await, AuthResult::Success);
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    let keys = client.get("/v2/ssh-keys").await.json();
    assert_eq!(keys["keys"][0]["fingerprint"], fingerprint);
    let key_id = keys["keys"][0]["id"].as_str().expect("an id");
    assert_eq!(client.delete(&format!("/v2/ssh-keys/{key_id}")).await.status, StatusCode::OK);
    assert_eq!(yard.ssh().await.key(&id, &key).await, refused());
}

#[tokio::test]
async fn a_known_key_says_nothing_of_boxes_before_it_has_signed() {
    let yard = door_with(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    let key = add_key(&client, Algorithm::Ed25519).await;
    // Whoever has the public half only can ask whether it would do, and cannot sign. The answer is the same for all boxes, those that
    // there are not too: the client goes on to sign.
    for user in [id.as_str(), "no-such-00000"] {
        let mut ssh = yard.ssh().await;
        let mut signer = Asked::default();
        let answer = ssh.handle.authenticate_publickey_with(user, key.public_key().clone(), None, &mut signer).await;
        assert!(answer.is_err() && signer.0, "{user}: asked to sign");
    }
    assert_eq!(log(&client, &id, 0).await, Vec::<String>::new());
}

/// A signer that cannot sign, and knows whether it was asked to.
#[derive(Default)]
struct Asked(bool);

impl russh::Signer for Asked {
    type Error = russh::AgentAuthError;

    async fn auth_sign(
        &mut self,
        _: &russh::keys::agent::AgentIdentity,
        _: Option<HashAlg>,
        _: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        self.0 = true;
        Err(russh::AgentAuthError::Send(russh::SendError {}))
    }
}

#[tokio::test]
async fn a_token_opens_its_one_box_until_it_is_revoked() {
    let yard = door_with(|_| {}).await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let (id, other) = (named_box(&client, "dev").await, named_box(&client, "other").await);
    let theirs = named_box(&stranger, "dev").await;
    let made = client.post("/v2/box/dev/ssh-tokens", json!({})).await.json();
    let (token, token_id) = (made["token"].as_str().expect("a token"), made["id"].as_str().expect("an id"));
    for user in [id.as_str(), "dev"] {
        assert_eq!(yard.login(user, token).await, AuthResult::Success);
    }
    for user in [other.as_str(), "other", &theirs, "nothing"] {
        assert_eq!(yard.login(user, token).await, refused(), "{user}");
    }
    let answer = client.delete(&format!("/v2/box/dev/ssh-tokens/{token_id}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(yard.login(&id, token).await, refused());
    let told = log(&client, &id, 3).await;
    assert_eq!(told[..2], ["SSH login by token from 127.0.0.1"; 2]);
    assert!(!told.join("\n").contains(token));
}

#[tokio::test]
async fn an_expired_token_opens_nothing() {
    let yard = door_with(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    let store = yard.store().await;
    let (_, account) = store.find_key(keys::hash_key(KEY)).await.expect("find").expect("the first key");
    for (seed, expires_at, expected) in [(1, i64::MAX, AuthResult::Success), (2, 1, refused())] {
        let token = format!("boxssh_{seed}");
        let row = NewSshToken {
            id: SshTokenId::from_entropy(seed),
            account: account.clone(),
            box_id: box_id(&id),
            hash: keys::hash_key(&token),
            label: None,
            created_at: 0,
            expires_at,
        };
        store.insert_ssh_token(row, 10).await.expect("insert");
        assert_eq!(yard.login(&id, &token).await, expected);
    }
}
