//! Who it is, and which box is meant.
//!
//! The user name is a box's id or name; what comes with it says whose box. Whatever is wrong, the client hears the same: `russh` makes
//! every refusal take the same time, far longer than any look-up. What was wrong is told to the figures, and to the log of the box if
//! its *id* was named; names mean something only together with an account.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use boxyard_proto::api::logs::LogLevel;
use boxyard_proto::{AccountId, BoxId};
use russh::keys::{Algorithm, HashAlg, PublicKey};
use tokio::time::Instant;

use super::Shared;
use super::source::Source;
use super::throttle::Throttle;
use crate::boxes::{Kept, chain, now_ms};
use crate::keys::hash_key;
use crate::metrics;
use crate::store::{Store, StoreError};

/// Bytes of a user name at most. Ids and names of boxes are shorter.
const USER_BYTES_MAX: usize = 128;
/// Bytes of a password at most. Keys and tokens are not longer.
const PASSWORD_BYTES_MAX: usize = 512;
/// Bits of an RSA key: fewer are too weak, more are only good for keeping us busy.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;
/// Questions of one connection at most. Refusals are counted by `russh`; this is for those who only ever ask whether a key would do.
const QUESTIONS_MAX: u32 = 64;

/// A login that was let in.
#[derive(Debug, Clone)]
pub(super) struct Login {
    /// The box.
    pub(super) kept: Kept,
    /// How: `password`, `publickey` or `token`.
    pub(super) method: &'static str,
}

/// What was wrong.
#[derive(Debug)]
enum Refused {
    /// The user name or the password is longer than any of ours.
    Malformed,
    /// There were too many failures; nothing was looked up.
    Throttled,
    /// The key or token is not known here.
    Unknown,
    /// The token has expired.
    Expired,
    /// The secret is right, and its account has no such box, or the token is for another.
    NoBox,
    /// Two accounts of the public key have a box of this name.
    Ambiguous,
    /// The look-up failed.
    Store(StoreError),
}

impl Refused {
    /// A word for the figures.
    fn word(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Throttled => "throttled",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::NoBox => "no_box",
            Self::Ambiguous => "ambiguous",
            Self::Store(_) => "store",
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The attempts of one connection to log in.
#[derive(Debug)]
pub(super) struct Auth {
    shared: Arc<Shared>,
    store: Store,
    throttle: Arc<Throttle>,
    address: IpAddr,
    source: Source,
    questions: u32,
    /// Whether one was let in.
    arrived: bool,
    /// The box whose id was named with a key that we do not know, while nothing else has been said of this connection.
    unheard: Option<(BoxId, AccountId)>,
}

impl Auth {
    /// Nothing has been tried.
    pub(super) fn new(shared: Arc<Shared>, store: Store, throttle: Arc<Throttle>, peer: SocketAddr) -> Self {
        let address = peer.ip().to_canonical();
        let source = Source::of(address);
        Self { shared, store, throttle, address, source, questions: 0, arrived: false, unheard: None }
    }

    /// Whether one more question may be asked.
    pub(super) fn one_more(&mut self) -> bool {
        self.questions += 1;
        self.questions <= QUESTIONS_MAX
    }

    /// The box that this user name and this API key or token open.
    pub(super) async fn password(&mut self, user: &str, password: &str) -> Option<Login> {
        let named = self.named(user);
        let checked = self.check_password(user, password, named.as_ref()).await;
        self.conclude("password", named, checked)
    }

    /// Whether a signature by this key could let anybody in. The box plays no part: somebody who only has a public key, which is no
    /// secret, must not find out about boxes.
    pub(super) async fn offered(&mut self, user: &str, key: &PublicKey, algorithm: &Algorithm) -> bool {
        match self.accounts(user, key, algorithm).await {
            Ok(_) => true,
            Err(refused) => {
                if let Refused::Store(error) = &refused {
                    tracing::error!(error = chain(error), "an SSH key could not be looked up");
                }
                self.unheard = self.named(user);
                false
            }
        }
    }

    /// The box that this user name and this key, whose possession has been proved, open.
    pub(super) async fn public_key(&mut self, user: &str, key: &PublicKey, algorithm: &Algorithm) -> Option<Login> {
        let how = format!("publickey ({})", key.fingerprint(HashAlg::Sha256));
        let checked = match self.accounts(user, key, algorithm).await {
            Ok(accounts) => self.only_box(&accounts, user),
            Err(refused) => Err(refused),
        };
        self.conclude(&how, self.named(user), checked)
    }

    async fn check_password(
        &self,
        user: &str,
        password: &str,
        named: Option<&(BoxId, AccountId)>,
    ) -> Result<Login, Refused> {
        if user.len() > USER_BYTES_MAX || password.len() > PASSWORD_BYTES_MAX {
            return Err(Refused::Malformed);
        }
        if !self.throttle.may_try(self.source, named.map(|(_, account)| account), Instant::now()) {
            return Err(Refused::Throttled);
        }
        // As in a header, what is around it is not part of it.
        let hash = hash_key(password.trim());
        // Both, whatever the first says: what is asked does not depend on what is right.
        let (key, token) = tokio::join!(self.store.find_key(hash), self.store.find_ssh_token(hash));
        let (key, token) = (key?, token?);
        let find = |account: &AccountId| self.shared.boxes.find(account, user).map_err(|_| Refused::NoBox);
        if let Some((_, account)) = key {
            return Ok(Login { kept: find(&account)?, method: "password" });
        }
        let token = token.ok_or(Refused::Unknown)?;
        let kept = find(&token.account)?;
        if *kept.id() != token.box_id {
            return Err(Refused::NoBox);
        }
        if token.expires_at <= now_ms() {
            return Err(Refused::Expired);
        }
        Ok(Login { kept, method: "token" })
    }

    /// The accounts that have this key.
    async fn accounts(&self, user: &str, key: &PublicKey, algorithm: &Algorithm) -> Result<Vec<AccountId>, Refused> {
        if user.len() > USER_BYTES_MAX {
            return Err(Refused::Malformed);
        }
        if self.throttle.away(self.source, Instant::now()).is_some() {
            return Err(Refused::Throttled);
        }
        if !fit(key, algorithm) {
            return Err(Refused::Unknown);
        }
        let key = key.to_bytes().map_err(|_| Refused::Malformed)?;
        let accounts = self.store.accounts_of_ssh_key(key).await?;
        if accounts.is_empty() { Err(Refused::Unknown) } else { Ok(accounts) }
    }

    fn only_box(&self, accounts: &[AccountId], user: &str) -> Result<Login, Refused> {
        let mut found = accounts.iter().filter_map(|account| self.shared.boxes.find(account, user).ok());
        let kept = found.next().ok_or(Refused::NoBox)?;
        // The same account may have the key twice.
        if found.any(|other| other.id() != kept.id()) {
            return Err(Refused::Ambiguous);
        }
        Ok(Login { kept, method: "publickey" })
    }

    /// The live box whose id is the user name, and its account. Not for answering the client.
    fn named(&self, user: &str) -> Option<(BoxId, AccountId)> {
        let id: BoxId = user.parse().ok()?;
        let account = self.shared.boxes.owner_of(&id)?;
        Some((id, account))
    }

    /// Counts and logs what came out.
    fn conclude(
        &mut self,
        how: &str,
        named: Option<(BoxId, AccountId)>,
        checked: Result<Login, Refused>,
    ) -> Option<Login> {
        self.unheard = None;
        let (address, now) = (self.address, Instant::now());
        match checked {
            Ok(login) => {
                self.arrived = true;
                let id = login.kept.id();
                self.throttle.succeeded(self.source, login.kept.account(), now);
                self.shared.metrics.ssh_logins.get_or_create(&metrics::Login { method: login.method }).inc();
                let how = if login.method == "token" { "token" } else { how };
                tracing::info!(%id, %address, how, "SSH login");
                self.shared.boxes.log(id, LogLevel::Info, format!("SSH login by {how} from {address}"));
                Some(login)
            }
            Err(refused) => {
                let id = named.as_ref().map(|(id, _)| id.as_str());
                let reason = refused.word();
                self.shared.metrics.ssh_login_failures.get_or_create(&metrics::Reason { reason }).inc();
                match &refused {
                    Refused::Store(error) => tracing::error!(error = chain(error), "an SSH login could not be checked"),
                    // Those who are throttled make no noise, and who is sent away does not make it worse for himself.
                    Refused::Throttled => {
                        tracing::debug!(id, %address, reason, "SSH login refused");
                        if self.throttle.away(self.source, now).is_none() {
                            // The account is being tried. For its boxes an address is sent away as soon as for boxes that there are not,
                            // or who is sent away when would tell which boxes there are.
                            self.throttle.failed(self.source, None, now);
                        }
                    }
                    Refused::Malformed | Refused::Unknown | Refused::Expired | Refused::NoBox | Refused::Ambiguous => {
                        // Not the user name: people type their secrets there by mistake.
                        tracing::info!(id, %address, how, reason, "SSH login refused");
                        self.throttle.failed(self.source, named.as_ref().map(|(_, account)| account), now);
                    }
                }
                if !matches!(refused, Refused::Throttled)
                    && let Some((id, account)) = &named
                {
                    self.tell_owner(id, account, how);
                }
                None
            }
        }
    }

    /// Writes a failure into the box's log, unless there are too many.
    fn tell_owner(&self, id: &BoxId, account: &AccountId, how: &str) {
        if self.throttle.may_log(account, Instant::now()) {
            let message = format!("SSH login by {how} refused from {}", self.address);
            self.shared.boxes.log(id, LogLevel::Warn, message);
        }
    }
}

/// A client that only has keys that we do not know leaves without having tried one: its failure is told at the end. And whoever has not
/// logged in has cost us a connection for nothing.
impl Drop for Auth {
    fn drop(&mut self) {
        if !self.arrived {
            self.throttle.idled(self.source, Instant::now());
        }
        if let Some((id, account)) = self.unheard.take() {
            let reason = Refused::Unknown.word();
            self.shared.metrics.ssh_login_failures.get_or_create(&metrics::Reason { reason }).inc();
            self.tell_owner(&id, &account, "publickey");
        }
    }
}

/// Whether a key and the way it signs are strong enough. The algorithm must not be `ssh-rsa`, which signs with SHA-1.
fn fit(key: &PublicKey, algorithm: &Algorithm) -> bool {
    match (key.algorithm(), algorithm) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { hash: Some(_) }) => {
            key.key_data().rsa().is_some_and(|key| RSA_BITS.contains(&key.key_size()))
        }
        (own @ (Algorithm::Ed25519 | Algorithm::Ecdsa { .. }), asked) => own == *asked,
        // `russh` verifies these; that the token was touched is for the token to see to.
        (own @ (Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256), asked) => own == *asked,
        _ => false,
    }
}
