//! OpenSSH's own server in a box, to hold the tests against.
//!
//! It runs inside the box as the box's root, so whatever a test does meets the same files, network, limits and users as through our door.
//! Its users are named as our door's: by the box, with the account's API key as password.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::door::{Door, HostKey};
use crate::Server;

/// Whether tests are to be held against OpenSSH's server.
pub fn wanted() -> bool {
    std::env::var_os("BOXYARD_TEST_SSH").is_some_and(|value| value == "reference")
}

/// Installs and starts the server, if it is not there, and tells where it is.
const START: &str = r#"
set -eu
if ! [ -e /run/reference ]; then
  apt-get -qq update >&2
  apt-get -qq install --yes --no-install-recommends openssh-server openssh-sftp-server >&2
  for user in $USERS; do
    useradd --badname --non-unique --uid 1000 --gid 1000 --no-create-home --home-dir /workspace/home --shell /bin/bash "$user" 2>&1
    echo "$user:$SECRET" | chpasswd
  done
  mkdir -p /run/sshd
  cat > /etc/ssh/sshd_config <<'END'
Port 2222
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/authorized
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
StreamLocalBindUnlink no
MaxSessions 100
MaxStartups 200
PerSourcePenalties no
PrintMotd yes
UsePAM no
StrictModes no
END
  echo "box $(hostname)" > /etc/motd
  chmod 600 /etc/shadow
  touch /run/reference
  /usr/sbin/sshd -E /var/log/sshd
fi
ip -4 -o address show dev eth0 | awk '{print $4}' | cut -d/ -f1
cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub
ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -d ' ' -f 2
"#;

/// Starts it in the box, where it is not running yet.
///
/// # Errors
/// It cannot be installed or started.
pub fn door(server: &Server, id: &str, folder: &Path) -> Result<Door> {
    let record = server.call("GET", &format!("/v2/box/{id}"), None)?.ok()?;
    let (id, name) = (record["id"].as_str().unwrap_or(id), record["name"].as_str().unwrap_or_default());
    let key = &server.client().key;
    let script = format!("USERS='{id} {name}' SECRET='{key}'\n{START}");
    let said = server.sh(id, &format!("sudo bash -c {}", quoted(&script)))?;
    let [.., address, key, fingerprint] = said.lines().collect::<Vec<_>>()[..] else {
        anyhow::bail!("the reference server said {said}");
    };
    let address = SocketAddr::new(address.parse().context("the box's address")?, 2222);
    let algorithm = key.split(' ').next().unwrap_or_default().to_owned();
    let key = HostKey { algorithm, public_key: key.to_owned(), fingerprint: fingerprint.to_owned() };
    Door::new(address, vec![key], &folder.join(id))
}

/// A word for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
