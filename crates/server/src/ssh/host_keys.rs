//! The keys that the door proves itself with: made by the first start, kept with the data, read by later starts.
//!
//! Clients remember them and warn when they change, so nothing here ever replaces a key that is there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{self, LineEnding};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey};

use super::identity::HostKey;

/// Bytes of a key's file at most; ours have a few hundred.
const FILE_MAX: u64 = 16 * 1024;

/// Every key there is, the preferred one first, by the name of its file.
const KEYS: [(&str, Algorithm); 2] =
    [("host_ed25519", Algorithm::Ed25519), ("host_ecdsa", Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 })];

/// Why there are no host keys.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// A file or its folder cannot be read or written.
    #[error("cannot use the SSH host key {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else. It is not replaced: clients that know the key would warn of an attack.
    #[error(
        "{path} does not hold an SSH host key of the kind {kind} in OpenSSH's format, without a passphrase: bring it back from a \
         backup, or remove it to have a new one made, of which every client will warn"
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// The algorithm that belongs there.
        kind: String,
        /// What is wrong with it.
        source: ssh_key::Error,
    },
    /// A key could not be made.
    #[error("cannot make an SSH host key")]
    Make(#[source] ssh_key::Error),
}

/// The door's private keys.
#[derive(Debug)]
pub struct HostKeys {
    /// In the order of [`KEYS`].
    keys: Vec<PrivateKey>,
}

impl HostKeys {
    /// The keys to offer, the preferred one first: Ed25519, and ECDSA where the operator wants it.
    pub(super) fn offered(&self, ecdsa: bool) -> Vec<PrivateKey> {
        self.keys.iter().filter(|key| ecdsa || key.algorithm() == Algorithm::Ed25519).cloned().collect()
    }
}

/// Makes the keys that are missing and reads the others. For the server, which holds the lock of the data directory.
///
/// # Errors
/// A key cannot be read, written or made.
pub fn load_or_make(data_dir: &Path) -> Result<HostKeys, HostKeyError> {
    let folder = folder(data_dir);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|source| HostKeyError::File { path: folder.clone(), source })?;
    let keys = KEYS.into_iter().map(|(name, algorithm)| {
        let path = folder.join(name);
        if let Some(key) = load(&path, &algorithm)? {
            return Ok(key);
        }
        let key = PrivateKey::random(&mut rand::rng(), algorithm).map_err(HostKeyError::Make)?;
        let text = key.to_openssh(LineEnding::LF).map_err(HostKeyError::Make)?;
        keep(&path, text.as_bytes()).map_err(|source| HostKeyError::File { path, source })?;
        Ok(key)
    });
    Ok(HostKeys { keys: keys.collect::<Result<_, _>>()? })
}

/// The public halves of the keys that are there, the preferred one first; the ECDSA key whether the door offers it or not. Makes
/// and changes nothing, so it may be called beside a running server, by a user who may read the data.
///
/// # Errors
/// A key cannot be read.
pub fn read(data_dir: &Path) -> Result<Vec<HostKey>, HostKeyError> {
    let mut shown = Vec::new();
    for (name, algorithm) in KEYS {
        if let Some(key) = load(&folder(data_dir).join(name), &algorithm)? {
            shown.push(show(&key)?);
        }
    }
    Ok(shown)
}

/// The public half of a key.
pub(super) fn show(key: &PrivateKey) -> Result<HostKey, HostKeyError> {
    let public = ssh_key::PublicKey::new(key.public_key().key_data().clone(), "");
    Ok(HostKey {
        algorithm: public.algorithm().to_string(),
        public_key: public.to_openssh().map_err(HostKeyError::Make)?,
        fingerprint: public.fingerprint(HashAlg::Sha256).to_string(),
    })
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("ssh")
}

/// The key in a file, if there is the file.
fn load(path: &Path, algorithm: &Algorithm) -> Result<Option<PrivateKey>, HostKeyError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(HostKeyError::File { path: path.to_owned(), source }),
    };
    let mut text = Vec::new();
    let read = file.take(FILE_MAX).read_to_end(&mut text);
    read.map_err(|source| HostKeyError::File { path: path.to_owned(), source })?;
    let wrong = |source| HostKeyError::Content { path: path.to_owned(), kind: algorithm.to_string(), source };
    let key = PrivateKey::from_openssh(&text).map_err(wrong)?;
    if key.is_encrypted() {
        return Err(wrong(ssh_key::Error::Encrypted));
    }
    if key.algorithm() != *algorithm {
        return Err(wrong(ssh_key::Error::AlgorithmUnknown));
    }
    Ok(Some(key))
}

/// Writes a file that is there whole or not at all, whenever the server or the host dies.
fn keep(path: &Path, text: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn keys_are_made_once_and_only_for_their_owner() {
        let data = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(read(data.path()).expect("nothing to read"), []);
        let made = load_or_make(data.path()).expect("first start");
        let again = load_or_make(data.path()).expect("second start");
        assert_eq!(made.offered(true), again.offered(true));
        assert_eq!(made.offered(true).len(), 2);
        let kinds: Vec<_> = made.offered(false).iter().map(|key| key.algorithm().to_string()).collect();
        assert_eq!(kinds, ["ssh-ed25519"]);
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&data.path().join("ssh")), 0o700);
        assert_eq!(mode(&data.path().join("ssh/host_ed25519")), 0o600);
        assert_eq!(mode(&data.path().join("ssh/host_ecdsa")), 0o600);
        assert_eq!(fs::read_dir(data.path().join("ssh")).expect("the folder").count(), 2, "nothing unfinished is left");
    }

    #[test]
    fn what_is_shown_is_what_openssh_shows() {
        let data = tempfile::tempdir().expect("a temporary folder");
        load_or_make(data.path()).expect("keys");
        let shown = read(data.path()).expect("the keys");
        assert_eq!(shown.len(), 2);
        for (key, name) in shown.iter().zip(["host_ed25519", "host_ecdsa"]) {
            let keygen = |arguments: &[&str]| {
                let path = data.path().join("ssh").join(name);
                let output = Command::new("ssh-keygen").args(arguments).arg(path).output().expect("run ssh-keygen");
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).expect("text")
            };
            assert_eq!(keygen(&["-l", "-f"]).split(' ').nth(1), Some(key.fingerprint.as_str()));
            assert_eq!(keygen(&["-y", "-f"]).trim_end(), key.public_key);
            assert!(key.public_key.starts_with(&format!("{} ", key.algorithm)));
        }
    }

    #[test]
    fn a_start_that_was_killed_half_way_is_finished_by_the_next() {
        let data = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(data.path().join("ssh")).expect("the folder");
        fs::write(data.path().join("ssh/host_ed25519.new"), "-----BEGIN OPENSSH PRIV").expect("write");
        load_or_make(data.path()).expect("keys");
        assert_eq!(read(data.path()).expect("the keys").len(), 2);
    }

    #[test]
    fn a_key_that_cannot_be_read_is_never_replaced() {
        let data = tempfile::tempdir().expect("a temporary folder");
        load_or_make(data.path()).expect("keys");
        let ssh = data.path().join("ssh");
        // Garbage, a key of another kind, a key cut short, an empty file.
        let other = fs::read(ssh.join("host_ecdsa")).expect("the other key");
        let own = fs::read(ssh.join("host_ed25519")).expect("the key");
        for content in [b"garbage".as_slice(), &other, &own[..own.len() / 2], b""] {
            fs::write(ssh.join("host_ed25519"), content).expect("write");
            let refused = load_or_make(data.path()).expect_err("must be refused").to_string();
            assert!(
                refused.contains("host_ed25519 does not hold an SSH host key of the kind ssh-ed25519"),
                "{refused}"
            );
            assert_eq!(fs::read(ssh.join("host_ed25519")).expect("still there"), content);
        }
        fs::remove_file(ssh.join("host_ed25519")).expect("remove");
        fs::create_dir(ssh.join("host_ed25519")).expect("a folder in its place");
        assert!(matches!(load_or_make(data.path()), Err(HostKeyError::File { .. })));
    }
}
