//! The firewall: one nftables table of our own, the same for every box.
//!
//! It names no box. What comes from a box is known by the name of the interface, and that a box's address is the right one is asked
//! of the routing table: every box has one route, to its own address. So making and removing boxes never touches the rules.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::local::cidr::Cidr;

/// How long `nft` may take. It waits for other users of the rule set.
const NFT_DEADLINE: Duration = Duration::from_secs(30);

/// New connections that one box may have open at once. The table of connections is shared by the whole host; its default size on a
/// small host is 65,536.
const CONNECTIONS_MAX: u32 = 4096;

/// Destinations that are closed to boxes unless the operator opens them: what is private, special, or not in use, and so either the
/// operator's own or nothing. The documentation ranges (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24) are not here: nobody's own
/// network has them, and closed test networks use them as their internet.
const CLOSED: [Cidr; 11] = [
    Cidr::new(Ipv4Addr::new(0, 0, 0, 0), 8),
    Cidr::new(Ipv4Addr::new(10, 0, 0, 0), 8),
    Cidr::new(Ipv4Addr::new(100, 64, 0, 0), 10),
    Cidr::new(Ipv4Addr::new(127, 0, 0, 0), 8),
    Cidr::new(Ipv4Addr::new(169, 254, 0, 0), 16),
    Cidr::new(Ipv4Addr::new(172, 16, 0, 0), 12),
    Cidr::new(Ipv4Addr::new(192, 0, 0, 0), 24),
    Cidr::new(Ipv4Addr::new(192, 168, 0, 0), 16),
    Cidr::new(Ipv4Addr::new(198, 18, 0, 0), 15),
    Cidr::new(Ipv4Addr::new(224, 0, 0, 0), 4),
    Cidr::new(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// What the table is made from.
#[derive(Debug, Clone)]
pub(super) struct Rules<'a> {
    /// The instance's tag.
    pub(super) tag: &'a str,
    /// The boxes' addresses.
    pub(super) range: Cidr,
    /// The only address of the host that boxes may talk to.
    pub(super) gateway: Ipv4Addr,
    /// Closed even if `allow` says otherwise.
    pub(super) deny: &'a [Cidr],
    /// Open even if closed by default.
    pub(super) allow: &'a [Cidr],
}

impl Rules<'_> {
    /// Loads the table; one that is there is replaced in the same transaction. Connections go on.
    ///
    /// # Errors
    /// `nft` is missing or refuses.
    pub(super) async fn load(&self) -> std::io::Result<()> {
        nft(&self.script()).await
    }

    /// The table as a script for `nft`.
    pub(super) fn script(&self) -> String {
        let Self { tag, range, gateway, .. } = self;
        let boxes = format!("by{tag}-*");
        let denied = set("denied", self.deny.iter());
        let allowed = set("allowed", self.allow.iter());
        let closed = set("closed", CLOSED.iter().chain([range]));
        // `add` before `delete` makes the deletion right whether the table is there or not.
        format!(
            r#"add table inet boxyard_{tag}
delete table inet boxyard_{tag}
table inet boxyard_{tag} {{
{denied}{allowed}{closed}  set connections {{
    type ipv4_addr
    size 65535
    flags dynamic
  }}
  chain source {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{boxes}" fib saddr . iif oif 0 drop
  }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    iifname "{boxes}" jump to_host
  }}
  chain to_host {{
    ct state established,related accept
    ip daddr {gateway} udp dport 53 jump counted
    ip daddr {gateway} tcp dport 53 jump counted
    ip daddr {gateway} icmp type echo-request jump counted
    drop
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    iifname "{boxes}" jump from_box
    oifname "{boxes}" jump to_box
  }}
  chain from_box {{
    meta nfproto != ipv4 drop
    oifname "{boxes}" drop
    ct state established,related accept
    ip daddr @denied drop
    ip daddr @allowed jump counted
    ip daddr @closed drop
    jump counted
  }}
  chain counted {{
    ct state new add @connections {{ ip saddr ct count over {CONNECTIONS_MAX} }} drop
    accept
  }}
  chain to_box {{
    ct state established,related accept
    drop
  }}
  chain outward {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {range} oifname != "{boxes}" masquerade
  }}
}}
"#
        )
    }
}

fn set<'a>(name: &str, ranges: impl Iterator<Item = &'a Cidr>) -> String {
    let elements: Vec<_> = ranges.map(Cidr::to_string).collect();
    let mut text = format!("  set {name} {{\n    type ipv4_addr\n    flags interval\n    auto-merge\n");
    if !elements.is_empty() {
        // Writing to a String does not fail.
        let _ = writeln!(text, "    elements = {{ {} }}", elements.join(", "));
    }
    text.push_str("  }\n");
    text
}

/// Removes the table of the instance `tag`.
///
/// # Errors
/// `nft` is missing or refuses.
pub(in crate::local) async fn unload(tag: &str) -> std::io::Result<()> {
    nft(&format!("add table inet boxyard_{tag}\ndelete table inet boxyard_{tag}\n")).await
}

/// Where `nft` is. Root's `PATH` lacks the folder after a plain `su`.
pub(in crate::local) fn program() -> &'static str {
    let usual = ["/usr/sbin/nft", "/usr/local/sbin/nft", "/sbin/nft"];
    usual.into_iter().find(|path| Path::new(path).exists()).unwrap_or("nft")
}

/// Runs `nft` on a script, as one transaction.
async fn nft(script: &str) -> std::io::Result<()> {
    let run = async {
        let mut child = Command::new(program())
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| std::io::Error::new(error.kind(), format!("starting nft, of nftables: {error}")))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = timeout(NFT_DEADLINE, run).await.map_err(|_| std::io::Error::other("nft does not end"))??;
    if output.status.success() {
        return Ok(());
    }
    let text: String = String::from_utf8_lossy(&output.stderr).chars().take(2000).collect();
    Err(std::io::Error::other(format!("nft refused the rules: {}", text.trim())))
}
