//! Certificate authorities that the host's administrator has added; boxes trust them too where the server is told so.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::EngineError;

/// Where Debian looks for authorities besides its own, on the host and in images.
pub(super) const FOLDER: &str = "usr/local/share/ca-certificates";

/// The bundle that `update-ca-certificates` writes.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Variables by which programs with a bundle of their own are told of Debian's.
const VARIABLES: [&str; 6] =
    ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"];

const FILES_MAX: usize = 200;
const BYTES_MAX: u64 = 1024 * 1024;
const DEPTH_MAX: usize = 4;

/// The host's added authorities: the content of each file, in an order that does not depend on their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Certificates(Vec<Vec<u8>>);

impl Certificates {
    /// Reads every `*.crt` in `folder` and below. A folder that is not there has none.
    pub fn read(folder: &Path) -> Result<Self, EngineError> {
        let mut found = Vec::new();
        let mut left = BYTES_MAX;
        let mut folders = vec![(folder.to_owned(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let broken = |error: std::io::Error| {
                EngineError::broken(format!("reading the host's certificates in {}", folder.display()), error)
            };
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(broken(error)),
            };
            for entry in entries {
                let path = entry.map_err(broken)?.path();
                // A dangling link is nobody's authority.
                let Ok(meta) = fs::metadata(&path) else { continue };
                if meta.is_dir() && depth < DEPTH_MAX {
                    folders.push((path, depth + 1));
                } else if meta.is_file() && path.extension().is_some_and(|extension| extension == "crt") {
                    if found.len() == FILES_MAX || meta.len() > left {
                        let why = format!("more than {FILES_MAX} files or {BYTES_MAX} bytes");
                        return Err(EngineError::broken("reading the host's certificates", why));
                    }
                    left -= meta.len();
                    let bytes = fs::read(&path).map_err(broken)?;
                    if is_certificate(&bytes) {
                        found.push(bytes);
                    } else {
                        tracing::warn!(path = %path.display(), "not a certificate alone, so boxes do not get it");
                    }
                }
            }
        }
        found.sort();
        found.dedup();
        Ok(Self(found))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contents(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// Writes the certificates into the tree at `root`, which no box has touched yet.
    pub fn write(&self, root: &Path) -> std::io::Result<()> {
        let folder = root.join(FOLDER);
        fs::create_dir_all(&folder)?;
        for bytes in &self.0 {
            let digest = Sha256::digest(bytes);
            let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            fs::write(folder.join(format!("host-{name}.crt")), bytes)?;
        }
        Ok(())
    }

    /// What processes in boxes need to be told.
    pub fn variables() -> impl Iterator<Item = (String, String)> {
        VARIABLES.into_iter().map(|name| (name.to_owned(), BUNDLE.to_owned()))
    }
}

/// PEM, or the DER that update-ca-certificates takes too; never a file that also holds a private key.
fn is_certificate(bytes: &[u8]) -> bool {
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    !has(b"PRIVATE KEY") && (has(b"-----BEGIN CERTIFICATE-----") || bytes.starts_with(&[0x30, 0x82]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

    #[test]
    fn the_order_and_names_of_files_do_not_matter_and_keys_stay_home() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let other = PEM.replace("MA", "MB");
        fs::write(one.path().join("a.crt"), PEM).unwrap();
        fs::write(one.path().join("b.crt"), &other).unwrap();
        fs::create_dir(two.path().join("deep")).unwrap();
        fs::write(two.path().join("deep/z.crt"), PEM).unwrap();
        fs::write(two.path().join("c.crt"), &other).unwrap();
        fs::write(two.path().join("note.txt"), PEM).unwrap();
        fs::write(two.path().join("key.crt"), format!("{PEM}-----BEGIN PRIVATE KEY-----\n")).unwrap();
        let read = Certificates::read(one.path()).unwrap();
        assert_eq!(read, Certificates::read(two.path()).unwrap());
        assert_eq!(read.contents().len(), 2);
    }

    #[test]
    fn a_host_without_any_has_none() {
        assert!(Certificates::read(Path::new("/nonexistent/ca")).unwrap().is_empty());
    }
}
