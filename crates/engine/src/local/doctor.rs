//! What this host lacks, and how to mend it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use boxyard_proto::launch::Launched;
use rustix::fs::{Access, access, statfs, statvfs};

mod disks;
mod pool;

use super::LocalConfig;
use super::cgroup;
use super::cidr::Cidr;
use super::network;
use super::storage::POOL_IMAGE;

/// Bytes that should be free for images and boxes: the default image and its build, and some room to work.
const DISK_WANTED: u64 = 4 << 30;

/// The first kernel in which overlay works on id-mapped layers.
const KERNEL: (u32, u32) = (5, 19);

/// File systems on which id-mapped mounts and overlay's writable layer work, by their magic numbers.
const FILE_SYSTEMS: [(i64, &str); 6] = [
    (0xEF53, "ext4"),
    (0x9123_683E, "btrfs"),
    (0x5846_5342, "xfs"),
    (0xF2F5_2010, "f2fs"),
    (0x0102_1994, "tmpfs"),
    (0xCA45_1A4E, "bcachefs"),
];

/// One thing that boxes need of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is checked, in a few words.
    pub name: &'static str,
    /// Whether the host has it.
    pub ok: bool,
    /// What is wrong; empty when nothing is.
    pub problem: String,
    /// What to do about it; empty when nothing is wrong.
    pub remedy: String,
}

/// What is wrong, and what to do about it.
type Verdict = Result<(), (String, String)>;

/// Looks at the host. Changes nothing, and may take some tenths of a second: it runs programs.
pub fn check_host(config: &LocalConfig) -> Vec<Check> {
    let mut verdicts: Vec<(&'static str, Verdict)> = vec![
        ("running as root", root()),
        ("kernel", kernel()),
        ("user namespaces", user_namespaces()),
        ("overlay file system", overlay()),
        ("data folder's file system", file_system(&config.data_dir)),
        ("disk space", disk_space(&config.data_dir)),
        ("boxes' disks", disks::check(config)),
        ("cgroups", cgroups()),
        ("nftables", nftables(config)),
        ("forwarding", forwarding()),
        ("other firewalls", other_firewalls()),
        ("answers to ARP", arp()),
        ("network range", network_range(config.network_range)),
        ("boxyard-init", init(&config.init)),
    ];
    let image = config.data_dir.join(POOL_IMAGE);
    if image.exists() {
        verdicts.extend(pool::check(config, &image));
    }
    let check = |(name, verdict)| match verdict {
        Ok(()) => Check { name, ok: true, problem: String::new(), remedy: String::new() },
        Err((problem, remedy)) => Check { name, ok: false, problem, remedy },
    };
    verdicts.into_iter().map(check).collect()
}

fn wrong(problem: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    Err((problem.into(), remedy.into()))
}

fn root() -> Verdict {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    wrong("this is not root", "run it as root, through sudo for example")
}

fn kernel() -> Verdict {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if version(&release) >= Some(KERNEL) {
        return Ok(());
    }
    let (major, minor) = KERNEL;
    wrong(format!("Linux {release} is too old"), format!("install Linux {major}.{minor} or newer; Debian 12 has 6.1"))
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|digits| digits.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn user_namespaces() -> Verdict {
    let file = "/proc/sys/user/max_user_namespaces";
    match fs::read_to_string(file) {
        Ok(text) if text.trim() != "0" => Ok(()),
        Ok(_) => wrong("user namespaces are switched off", format!("write 10000 or more to {file}")),
        Err(_) => wrong("the kernel has no user namespaces", "use a kernel with CONFIG_USER_NS"),
    }
}

fn overlay() -> Verdict {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let loaded = known.lines().any(|line| line.ends_with("\toverlay"));
    if loaded || run("modprobe", &["--dry-run", "--quiet", "overlay"]).is_ok() {
        return Ok(());
    }
    wrong("the kernel has no overlay file system", "modprobe overlay, or use a kernel with CONFIG_OVERLAY_FS")
}

/// The folder itself or the nearest above it that is there.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("/")).to_owned()
}

fn file_system(data: &Path) -> Verdict {
    let place = existing(data);
    let remedy = || {
        let names: Vec<_> = FILE_SYSTEMS.iter().map(|(_, name)| *name).collect();
        format!("put the data folder on one of {}", names.join(", "))
    };
    match statfs(&place) {
        Ok(stat) if FILE_SYSTEMS.iter().any(|(magic, _)| stat.f_type == *magic) => Ok(()),
        Ok(stat) => wrong(format!("{} is on a file system of type {:#x}", place.display(), stat.f_type), remedy()),
        Err(error) => wrong(format!("{}: {error}", place.display()), remedy()),
    }
}

fn disk_space(data: &Path) -> Verdict {
    let place = existing(data);
    let remedy = "make room there, or put the data folder elsewhere";
    match statvfs(&place) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free >= DISK_WANTED {
                return Ok(());
            }
            wrong(
                format!("{:.1} GiB are free at {}, {:.0} are wanted", gib(free), place.display(), gib(DISK_WANTED)),
                remedy,
            )
        }
        Err(error) => wrong(format!("{}: {error}", place.display()), remedy),
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn cgroups() -> Verdict {
    let missing = match cgroup::missing() {
        Ok(missing) => missing,
        Err(error) => return wrong(error.to_string(), "mount cgroup2 at /sys/fs/cgroup"),
    };
    if missing.is_empty() {
        return Ok(());
    }
    let remedy = match missing.contains(&"memory") {
        true => "boot with 'cgroup_enable=memory', or use a kernel that has the controllers",
        false => "use a kernel that has the controllers; in a container, let it have them",
    };
    wrong(format!("cgroup controllers are missing: {}", missing.join(", ")), remedy)
}

fn nftables(config: &LocalConfig) -> Verdict {
    let script = network::rules_script("0000", config.network_range, &config.network_deny, &config.network_allow);
    match feed(network::nft_program(), &["--check", "-f", "-"], &script) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            wrong("the program nft is missing", "apt-get install nftables")
        }
        Err(error) => wrong(
            format!("nft refuses our rules: {error}"),
            "use a kernel with nf_tables, nft_fib_inet, nft_connlimit and nft_masq",
        ),
    }
}

fn forwarding() -> Verdict {
    if access(network::FORWARDING, Access::WRITE_OK).is_err() || is_read_only(network::FORWARDING) {
        let on = fs::read_to_string(network::FORWARDING).is_ok_and(|text| text.trim() != "0");
        if !on {
            return wrong(format!("{} is 0 and cannot be written", network::FORWARDING), "switch IPv4 forwarding on");
        }
    }
    Ok(())
}

fn other_firewalls() -> Verdict {
    let Some(chain) = closed_by_others() else { return Ok(()) };
    wrong(
        format!("{chain} drops what it does not know, and so what boxes send (Docker and ufw set this up)"),
        "let boxes through it, our own rules still hold: iptables -I FORWARD -i by+ -j ACCEPT; iptables -I FORWARD -o by+ -j ACCEPT; \
         iptables -I INPUT -i by+ -j ACCEPT (with Docker: in DOCKER-USER instead of FORWARD)",
    )
}

/// The gateway's address is on another interface than the boxes' links, so the host must answer for it there.
fn arp() -> Verdict {
    let file = "/proc/sys/net/ipv4/conf/all/arp_ignore";
    match fs::read_to_string(file) {
        Ok(text) if text.trim() != "0" => wrong(format!("{file} is {}", text.trim()), format!("write 0 to {file}")),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn is_read_only(path: &str) -> bool {
    statvfs(path).is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// A chain of somebody else's that drops packets to or through this host by default and has no exception for boxes.
pub(super) fn closed_by_others() -> Option<String> {
    if let Ok(rules) = run(network::nft_program(), &["list", "ruleset"])
        && let Some(chain) = closed_chain(&rules)
    {
        return Some(chain);
    }
    // The older kind of rules, which nft does not list.
    let names = fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    let legacy = names.lines().any(|name| name == "filter").then(|| run("iptables-legacy", &["-S"]).ok()).flatten()?;
    let closed = ["FORWARD", "INPUT"].into_iter().find(|chain| legacy.contains(&format!("-P {chain} DROP")))?;
    (!legacy.contains("-i by")).then(|| format!("the chain {closed} of iptables-legacy"))
}

/// The same in the text that `nft list ruleset` prints.
fn closed_chain(rules: &str) -> Option<String> {
    let mut table = "";
    let mut closed = None;
    for line in rules.lines() {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        } else if table.contains("boxyard_") {
            continue;
        } else if line.contains("policy drop")
            && let Some(hook) = ["forward", "input"].into_iter().find(|hook| line.contains(&format!("hook {hook} ")))
        {
            closed = Some(format!("the {hook} chain of nftables' table {table}"));
        } else if line.contains("iifname \"by") {
            // The operator has seen to it.
            return None;
        }
    }
    closed
}

fn network_range(range: Cidr) -> Verdict {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    match foreign_route(&routes, range) {
        None => Ok(()),
        Some(interface) => wrong(
            format!("{interface} has a route into {range}, the range for boxes"),
            "set network_range to a range that this host does not use",
        ),
    }
}

/// An interface, not of boxes, with a route that lies in `range` or holds it, the default route aside.
fn foreign_route(routes: &str, range: Cidr) -> Option<String> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let number = |index: usize| Some(u32::from_str_radix(fields.get(index)?, 16).ok()?.swap_bytes());
        let (first, mask) = (number(1)?, number(7)?);
        let prefix = u8::try_from(mask.count_ones()).ok().filter(|prefix| *prefix > 0)?;
        let route = Cidr::new(first.into(), prefix);
        let overlaps = route.address(0).is_some_and(|address| range.contains(address))
            || range.address(0).is_some_and(|address| route.contains(address));
        (overlaps && !fields[0].starts_with("by")).then(|| fields[0].to_owned())
    })
}

/// Asks it to launch nothing, which it must refuse in its own words.
fn init(program: &Path) -> Verdict {
    let remedy = "build it with 'cargo build --release -p boxyard-init', or say where it is";
    let named = |text: String| wrong(format!("{}: {text}", program.display()), remedy);
    match fs::metadata(program) {
        Err(error) => return named(error.to_string()),
        Ok(metadata) if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 => {
            return named("not a program".into());
        }
        Ok(_) => {}
    }
    match Command::new(program).arg("launch").env_clear().stdin(Stdio::null()).stderr(Stdio::null()).output() {
        Ok(output) => match serde_json::from_slice(&output.stdout) {
            Ok(Launched::Failed { .. }) => Ok(()),
            Ok(Launched::Ready { .. }) | Err(_) => named("does not answer as boxyard-init does".into()),
        },
        Err(error) => named(error.to_string()),
    }
}

fn run(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("{program} ended with {}", output.status)))
}

fn feed(program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        io::Write::write_all(&mut stdin, input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
        assert!(version("5.18-rc1") < Some(KERNEL) && version("5.19") == Some(KERNEL) && version("odd").is_none());
    }

    #[test]
    fn dockers_closed_chain_is_found_unless_boxes_are_let_through() {
        let ours = "table inet boxyard_ab12 {\n\tchain forward {\n\t\ttype filter hook forward priority -10; policy accept;\n\
                    \t\tiifname \"byab12-*\" jump from_box\n\t}\n}\n";
        let docker = |rule: &str| {
            format!(
                "table ip filter {{\n\tchain FORWARD {{\n\t\ttype filter hook forward priority filter; policy drop;\n\
                 \t\tcounter jump DOCKER-USER\n\t}}\n\tchain DOCKER-USER {{\n{rule}\t}}\n}}\n"
            )
        };
        assert_eq!(closed_chain(ours), None);
        let found = Some("the forward chain of nftables' table ip filter".to_owned());
        assert_eq!(closed_chain(&(ours.to_owned() + &docker(""))), found);
        assert_eq!(closed_chain(&(docker("") + ours)), found);
        assert_eq!(closed_chain(&docker("\t\tiifname \"by*\" counter accept\n")), None);
    }

    #[test]
    fn routes_into_the_range_are_found() {
        let routes = |destination: &str, mask: &str| {
            format!("Iface\tDestination\n{destination}\t0\t1\t0\t0\t0\t{mask}\t0\t0\t0\n")
        };
        let range = "198.18.0.0/15".parse().unwrap();
        assert_eq!(foreign_route(&routes("tun0\t000112C6", "00FFFFFF"), range), Some("tun0".into()), "198.18.1.0/24");
        assert_eq!(foreign_route(&routes("tun0\t000000C6", "000000FF"), range), Some("tun0".into()), "198.0.0.0/8");
        assert_eq!(foreign_route(&routes("eth0\t000200C0", "00FFFFFF"), range), None, "192.0.2.0/24");
        assert_eq!(foreign_route(&routes("eth0\t00000000", "00000000"), range), None, "the default route");
        assert_eq!(foreign_route(&routes("byab12-0\t020012C6", "FFFFFFFF"), range), None, "a box");
    }
}
