//! API keys: how they are made, recognised, and how the first one comes about.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boxyard_proto::{AccountId, KeyId};
use sha2::{Digest, Sha256};

use crate::config::Secret;
use crate::store::{Account, NewKey, Store, StoreError};

/// The account of the first key.
pub const DEFAULT_ACCOUNT: &str = "default";
/// What every key that we make begins with.
const PREFIX: &str = "box_";
/// Characters of 256 bits in base 64.
const RANDOM_CHARS: usize = 43;
/// Characters of an operator's own key.
const CHOSEN_CHARS: std::ops::RangeInclusive<usize> = 16..=512;
/// Characters of an account's name, and of a key's label, at most.
pub const NAME_CHARS_MAX: usize = 63;

/// Makes a new key: `box_` and 256 random bits in URL-safe base 64. Whoever gets it must keep it; the store only has its hash.
pub fn new_key() -> Secret {
    Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())))
}

/// What the store knows of a key: its SHA-256. Fast on purpose, see `store/keys.rs`.
pub fn hash_key(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Where the first key lies when the operator has not chosen one.
pub fn first_key_path(data_dir: &Path) -> PathBuf {
    data_dir.join("first-key")
}

/// How the first key came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstKey {
    /// The operator's own key opens the default account.
    Chosen,
    /// The operator's own key was revoked and stays so.
    Revoked,
    /// A key was made and lies in this file, readable for the server's user only.
    Made(PathBuf),
    /// There are keys already.
    Known,
}

/// Why there is no first key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operator's own key is too weak or cannot be sent in a header. The text says what to do; it does not show the key.
    #[error("BOXYARD_BOOTSTRAP_KEY {0}")]
    Unfit(&'static str),
    /// An account's or a key's name breaks a rule.
    #[error("{0} must have 1 to {NAME_CHARS_MAX} characters and none that are not printable")]
    Name(&'static str),
    /// The file of the first key cannot be read or written.
    #[error("cannot keep the first key in {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes sure that somebody can use the server: with `bootstrap`, that key opens the default account; without, the first start makes
/// a key and keeps it in [`first_key_path`]. Calling it again changes nothing.
///
/// # Errors
/// The bootstrap key is unfit, the file cannot be written, or the database fails.
pub async fn ensure_first_key(store: &Store, bootstrap: Option<&str>, data_dir: &Path) -> Result<FirstKey, KeyError> {
    if let Some(key) = bootstrap {
        check_chosen(key)?;
        if store.find_key(hash_key(key)).await?.is_some() {
            return Ok(FirstKey::Chosen);
        }
        let account = ensure_account(store, DEFAULT_ACCOUNT).await?;
        return match insert(store, key, account, Some("bootstrap")).await {
            Ok(_) => Ok(FirstKey::Chosen),
            Err(KeyError::Store(StoreError::IdTaken)) => Ok(FirstKey::Revoked),
            Err(error) => Err(error),
        };
    }
    if !store.keys().await?.is_empty() {
        return Ok(FirstKey::Known);
    }
    let path = first_key_path(data_dir);
    // The file comes first: a server that is killed in between finds it at its next start.
    let key = keep(&path).map_err(|source| KeyError::File { path: path.clone(), source })?;
    let account = ensure_account(store, DEFAULT_ACCOUNT).await?;
    insert(store, key.expose(), account, Some("first")).await?;
    Ok(FirstKey::Made(path))
}

/// Makes a key for an account, which is made where it is missing. The key is shown to its owner and then forgotten.
///
/// # Errors
/// A name breaks a rule, or the database fails.
pub async fn create_key(store: &Store, account: &str, label: Option<&str>) -> Result<(KeyId, Secret), KeyError> {
    check_name("an account's name", account)?;
    if let Some(label) = label {
        check_name("a label", label)?;
    }
    let account = ensure_account(store, account).await?;
    let key = new_key();
    let id = insert(store, key.expose(), account, label).await?;
    Ok((id, key))
}

/// Reads the first key, where there is one and this user may read it.
pub fn read_first_key(data_dir: &Path) -> Option<Secret> {
    read(&first_key_path(data_dir)).ok().flatten()
}

async fn insert(store: &Store, key: &str, account: AccountId, label: Option<&str>) -> Result<KeyId, KeyError> {
    let id = KeyId::from_entropy(rand::random());
    // Enough to recognise it by, too little to be of use.
    let prefix = key.chars().take((key.len() / 4).min(8)).collect();
    let label = label.map(str::to_owned);
    let row = NewKey { id: id.clone(), account, hash: hash_key(key), prefix, label, created_at: now_ms() };
    store.insert_key(row).await?;
    Ok(id)
}

async fn ensure_account(store: &Store, name: &str) -> Result<AccountId, StoreError> {
    let id = AccountId::from_entropy(rand::random());
    let row = Account { id: id.clone(), name: name.to_owned(), created_at: now_ms() };
    match store.insert_account(row).await {
        Ok(()) => Ok(id),
        Err(StoreError::NameTaken) => {
            let accounts = store.accounts().await?;
            accounts
                .into_iter()
                .find(|account| account.name == name)
                .map(|account| account.id)
                .ok_or(StoreError::NotFound)
        }
        Err(error) => Err(error),
    }
}

fn check_chosen(key: &str) -> Result<(), KeyError> {
    if !CHOSEN_CHARS.contains(&key.len()) {
        return Err(KeyError::Unfit("must have 16 to 512 characters"));
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(KeyError::Unfit("may contain printable ASCII characters without spaces only"));
    }
    Ok(())
}

fn check_name(what: &'static str, name: &str) -> Result<(), KeyError> {
    let right = !name.is_empty() && name.chars().count() <= NAME_CHARS_MAX && !name.chars().any(char::is_control);
    if right { Ok(()) } else { Err(KeyError::Name(what)) }
}

/// The key in the file, which is written first where it is missing.
fn keep(path: &Path) -> io::Result<Secret> {
    if let Some(key) = read(path)? {
        return Ok(key);
    }
    let key = new_key();
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    writeln!(file, "{}", key.expose())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(key)
}

fn read(path: &Path) -> io::Result<Option<Secret>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let key = text.trim();
    let random = key.strip_prefix(PREFIX).unwrap_or_default();
    let right = random.len() == RANDOM_CHARS
        && random.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if right { Ok(Some(Secret::new(key.to_owned()))) } else { Err(io::Error::other("it does not hold a key")) }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;
    use crate::store::StoreOptions;

    async fn yard() -> (TempDir, Store) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("test.db"), StoreOptions::default()).await.expect("open a store");
        (folder, store)
    }

    #[test]
    fn keys_are_long_and_all_different() {
        let (a, b) = (new_key(), new_key());
        assert_eq!(a.expose().len(), 47);
        assert!(a.expose().starts_with("box_"));
        assert_ne!(a, b);
        assert_ne!(hash_key(a.expose()), hash_key(b.expose()));
    }

    #[tokio::test]
    async fn the_first_start_makes_a_key_and_later_ones_keep_it() {
        let (folder, store) = yard().await;
        let made = ensure_first_key(&store, None, folder.path()).await.expect("first start");
        let path = folder.path().join("first-key");
        assert_eq!(made, FirstKey::Made(path.clone()));
        assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
        let key = read_first_key(folder.path()).expect("the key");
        assert!(store.find_key(hash_key(key.expose())).await.expect("find").is_some());

        assert_eq!(ensure_first_key(&store, None, folder.path()).await.expect("second start"), FirstKey::Known);
        assert_eq!(read_first_key(folder.path()), Some(key));
        assert_eq!(store.keys().await.expect("list").len(), 1);
    }

    #[tokio::test]
    async fn a_start_that_was_killed_after_the_file_is_finished_by_the_next() {
        let (folder, store) = yard().await;
        let key = new_key();
        fs::write(folder.path().join("first-key"), format!("{}\n", key.expose())).expect("write");
        ensure_first_key(&store, None, folder.path()).await.expect("start");
        assert!(store.find_key(hash_key(key.expose())).await.expect("find").is_some());
    }

    #[tokio::test]
    async fn a_chosen_key_works_until_it_is_revoked() {
        let (folder, store) = yard().await;
        let key = "correct-horse-battery";
        for _ in 0..2 {
            let first = ensure_first_key(&store, Some(key), folder.path()).await.expect("start");
            assert_eq!(first, FirstKey::Chosen);
        }
        let keys = store.keys().await.expect("list");
        assert_eq!(keys.iter().map(|key| key.prefix.as_str()).collect::<Vec<_>>(), ["corre"]);
        assert!(!first_key_path(folder.path()).exists());
        store.revoke_key(keys[0].id.clone(), 1).await.expect("revoke");
        let first = ensure_first_key(&store, Some(key), folder.path()).await.expect("start");
        assert_eq!(first, FirstKey::Revoked);
        assert_eq!(store.find_key(hash_key(key)).await.expect("find"), None);
    }

    #[tokio::test]
    async fn unfit_keys_and_names_are_refused_without_being_shown() {
        let (folder, store) = yard().await;
        for key in ["short", "fifteen-letters", "with a space in it", "with-umlaut-ü-in-it", &"x".repeat(513)] {
            let refused = ensure_first_key(&store, Some(key), folder.path()).await.expect_err("unfit");
            assert!(matches!(refused, KeyError::Unfit(_)) && !refused.to_string().contains(key), "{refused}");
        }
        for name in ["", "a\nb", &"x".repeat(64)] {
            assert!(matches!(create_key(&store, name, None).await, Err(KeyError::Name(_))), "{name:?}");
            assert!(matches!(create_key(&store, "a", Some(name)).await, Err(KeyError::Name(_))), "{name:?}");
        }
        assert!(store.keys().await.expect("list").is_empty());
    }

    #[tokio::test]
    async fn keys_of_one_account_share_it() {
        let (_folder, store) = yard().await;
        let (_, a) = create_key(&store, "team", Some("laptop")).await.expect("make a key");
        let (_, b) = create_key(&store, "team", None).await.expect("make another");
        let (_, c) = create_key(&store, "other", None).await.expect("make one for another account");
        let account = |key: Secret| {
            let store = store.clone();
            async move { store.find_key(hash_key(key.expose())).await.expect("find").expect("live").1 }
        };
        let (a, b, c) = (account(a).await, account(b).await, account(c).await);
        assert_eq!(a, b);
        assert_ne!(a, c);
    }
}
