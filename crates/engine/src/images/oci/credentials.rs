//! Passwords for private registries, from the configuration of the host's docker.
//!
//! Only what the file itself holds (`auths`) is used. Credential helpers (`credsStore`, `credHelpers`) are programs that the file names;
//! a server that runs as root does not run those.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

const FILE_MAX: u64 = 1024 * 1024;

/// A name and a password. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

/// What is known of how to get into a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    /// With this.
    Login(Login),
    /// A credential helper would know.
    Helper,
    /// Nothing is known.
    Nothing,
}

#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

/// Where docker keeps its configuration, for the user that this process runs as.
pub(super) fn default_file() -> PathBuf {
    if let Some(folder) = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()) {
        return PathBuf::from(folder).join("config.json");
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map_or_else(|| "/root".into(), PathBuf::from);
    home.join(".docker/config.json")
}

/// How to get into `registry` (`docker.io`, `registry.test:5000`). Read each time: logins come and go.
pub(super) fn access(file: &Path, registry: &str) -> io::Result<Access> {
    let about = |text: String| io::Error::other(format!("{}: {text}", file.display()));
    match fs::metadata(file) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Access::Nothing);
        }
        Err(error) => return Err(about(error.to_string())),
        Ok(meta) if meta.len() > FILE_MAX => return Err(about("it is too long".into())),
        Ok(_) => {}
    }
    let text = fs::read(file).map_err(|error| about(error.to_string()))?;
    // Not serde's own words: they may quote the text.
    let config: File = serde_json::from_slice(&text)
        .map_err(|error| about(format!("not understood at line {}, column {}", error.line(), error.column())))?;
    let wanted = plain(registry);
    for (_, auth) in config.auths.iter().filter(|(name, _)| plain(name) == wanted) {
        if let Some(login) = login(auth).map_err(|why| about(format!("the entry for {registry} {why}")))? {
            return Ok(Access::Login(login));
        }
    }
    let helped = config.store.is_some() || config.helpers.keys().any(|name| plain(name) == wanted);
    Ok(if helped { Access::Helper } else { Access::Nothing })
}

/// Docker writes registries as hosts or as addresses of their first API.
fn plain(name: &str) -> String {
    let name = name.trim_start_matches("https://").trim_start_matches("http://");
    let host = name.split('/').next().unwrap_or_default().to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

fn login(auth: &Auth) -> Result<Option<Login>, &'static str> {
    if let Some(encoded) = auth.auth.as_deref().filter(|encoded| !encoded.is_empty()) {
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_| "is not base64")?;
        let decoded = String::from_utf8(decoded).map_err(|_| "is not text")?;
        let (user, password) = decoded.split_once(':').ok_or("has no password")?;
        return Ok(Some(Login { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() }));
    }
    Ok(match (&auth.username, &auth.password) {
        (Some(user), Some(password)) => Some(Login { user: user.clone(), password: password.clone() }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_found_under_each_name_of_a_registry_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        assert_eq!(access(&file, "r.test").unwrap(), Access::Nothing);
        let me = STANDARD.encode("me:pass:word");
        let text = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{me}"}},"r.test:5000":{{"username":"u","password":"p"}},
               "kept.test":{{}},"bad.test":{{"auth":"%"}}}},"credHelpers":{{"helped.test":"gcloud"}},"other":1}}"#
        );
        fs::write(&file, text).unwrap();
        let Access::Login(login) = access(&file, "docker.io").unwrap() else { panic!("there is a login") };
        assert_eq!((login.user.as_str(), login.password.as_str()), ("me", "pass:word"));
        assert_eq!(format!("{login:?}"), "Login(…)");
        assert!(matches!(access(&file, "r.test:5000").unwrap(), Access::Login(_)));
        assert_eq!(access(&file, "r.test").unwrap(), Access::Nothing);
        assert_eq!(access(&file, "kept.test").unwrap(), Access::Nothing);
        assert_eq!(access(&file, "helped.test").unwrap(), Access::Helper);
        assert!(access(&file, "bad.test").is_err());
        fs::write(&file, r#"{"auths":{"r.test":{"auth":["c2VjcmV0"]}}}"#).unwrap();
        assert!(!access(&file, "r.test").unwrap_err().to_string().contains("c2VjcmV0"));
    }
}
