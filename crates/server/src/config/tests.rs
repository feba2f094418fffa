use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::layers::{Layers, variable};
use super::value::{Bytes, Cpus, HostEntry, Resolver, Setting, Span};
use super::*;

const PROGRAM: &str = "/usr/local/bin/boxyard";

#[derive(Default)]
struct Host {
    flags: Flags,
    env: BTreeMap<String, String>,
    files: BTreeMap<PathBuf, String>,
}

impl Host {
    fn flag(mut self, key: &'static str, value: &str) -> Self {
        self.flags.settings.insert(key, value.into());
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.into());
        self
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.flags, &self.env, &self.files, Path::new(PROGRAM))
    }

    fn refusal(&self) -> String {
        self.load().expect_err("must be refused").to_string()
    }
}

#[test]
fn an_empty_host_gets_the_documented_defaults() {
    let config = Host::default().load().expect("defaults");
    assert_eq!(config.data_dir, Path::new("/var/lib/boxyard"));
    assert_eq!(config.database(), Path::new("/var/lib/boxyard/boxyard.db"));
    assert_eq!(config.http.to_string(), "127.0.0.1:7070");
    assert_eq!(config.ssh.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:2222"));
    assert_eq!((config.metrics, config.bootstrap_key, config.ssh_ecdsa), (None, None, false));
    assert_eq!(config.init, Path::new("/usr/local/bin/boxyard-init"));
    assert_eq!(config.network.range.to_string(), "198.18.0.0/15");
    assert_eq!(config.limits.output_cap, 64 << 20);
    assert_eq!(config.sizes.small.memory_bytes, 4_000_000_000);
    assert_eq!(config.sizes.large.cpu_millis, 8000);
    assert_eq!(config.storage, Storage { kind: StorageChoice::Auto, pool_size: None });
    assert_eq!(config.logs_keep, Duration::from_hours(7 * 24));
    assert_eq!((config.boxes_max_per_account, config.boxes_deleted_keep), (None, Duration::from_hours(30 * 24)));
    assert_eq!((config.overcommit.memory.times(2), config.overcommit.disk_floor), (128, 1_000_000_000));
    assert_eq!(config.idle_pause_after, Some(Duration::from_hours(1)));
    assert_eq!((config.pause_keep_memory_for, config.pause_memory_floor), (Duration::from_mins(10), 512 << 20));
}

#[test]
fn flags_go_before_environment_before_file() {
    let host = Host::default().file(
        "/etc/boxyard/boxyard.toml",
        "http = '127.0.0.1:1'\nssh = '127.0.0.1:2'\nmetrics = '127.0.0.1:3'\n[limits]\nbody_cap = '1MiB'\n",
    );
    let host = host.env("BOXYARD_SSH", "127.0.0.1:20").env("BOXYARD_METRICS", "127.0.0.1:30");
    let host = host.flag("metrics", "127.0.0.1:300").env("BOXYARD_LIMITS_BODY_CAP", "");
    let config = host.load().expect("all are right");
    assert_eq!(config.http.port(), 1);
    assert_eq!(config.ssh.map(|address| address.port()), Some(20));
    assert_eq!(config.metrics.map(|address| address.port()), Some(300));
    assert_eq!(config.limits.body_cap, 1 << 20, "an empty variable counts for nothing");
}

#[test]
fn the_ssh_door_can_be_turned_off() {
    let host = Host::default().file(SYSTEM_FILE, "ssh = '127.0.0.1:2'\nssh_ecdsa = true\n");
    let config = host.load().expect("an address");
    assert_eq!((config.ssh.map(|address| address.port()), config.ssh_ecdsa), (Some(2), true));
    let host = host.env("BOXYARD_SSH", "off");
    assert_eq!(host.load().expect("off").ssh, None);
    assert_eq!(
        host.flag("ssh", "no").refusal(),
        "--ssh is 'no' and must be an address with a port such as 127.0.0.1:2222 or [::]:2222, or off"
    );
}

#[test]
fn the_file_is_the_named_one_or_lies_in_a_usual_place() {
    let boxes = |max: u32| format!("[boxes]\nmax = {max}\n");
    let host = Host::default().file("/srv/yard/boxyard.toml", &boxes(1)).env("BOXYARD_DATA_DIR", "/srv/yard");
    assert_eq!(host.load().expect("in the data directory").boxes_max, 1);
    let host = host.file(SYSTEM_FILE, &boxes(2));
    assert_eq!(host.load().expect("in /etc").boxes_max, 2);
    let host = host.file("/a.toml", &boxes(3)).env("BOXYARD_CONFIG", "/a.toml");
    assert_eq!(host.load().expect("named by the environment").boxes_max, 3);
    let mut host = host.file("/b.toml", &boxes(4));
    host.flags.config = Some("/b.toml".into());
    assert_eq!(host.load().expect("named by a flag").boxes_max, 4);
    host.flags.config = Some("/c.toml".into());
    assert_eq!(host.refusal(), "there is no configuration file /c.toml");
}

#[test]
fn every_kind_of_value_is_read() {
    let host = Host::default().file(
        SYSTEM_FILE,
        r#"
        trust_host_cas = false
        [network]
        range = "10.77.0.0/16"
        deny = ["192.0.2.0/24", "203.0.113.9"]
        dns = ["192.0.2.53", "[2001:db8::1]:5353"]
        hosts = ["Registry.Example.=192.0.2.7"]
        [images]
        registry_mirrors = ["docker.io=https://one.example/hub/", "docker.io=http://two.example:5000"]
        insecure_registries = ["Two.Example:5000"]
        unpacked_max = "8GiB"
        [sizes.small]
        cpus = 0.5
        memory = "512MiB"
        [boxes]
        max_per_account = 3
        deleted_keep = "1d"
        [overcommit]
        memory = 1.5
        [logs]
        keep = "36h"
        [log]
        format = "json"
        [store]
        synchronous = "full"
        "#,
    );
    let host = host.env("BOXYARD_NETWORK_ALLOW", "192.0.2.1, 192.0.2.2,");
    let config = host.load().expect("all are right");
    assert!(!config.trust_host_cas);
    assert_eq!(config.images.registry_mirrors["docker.io"], ["https://one.example/hub", "http://two.example:5000"]);
    assert_eq!(config.images.insecure_registries, ["two.example:5000"]);
    assert_eq!((config.images.unpacked_max, config.images.download_max), (8 << 30, 16 << 30));
    let texts = |ranges: &[AddressRange]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&config.network.deny), ["192.0.2.0/24", "203.0.113.9/32"]);
    assert_eq!(texts(&config.network.allow), ["192.0.2.1/32", "192.0.2.2/32"]);
    let dns: Vec<_> = config.network.dns.iter().map(ToString::to_string).collect();
    assert_eq!(dns, ["192.0.2.53:53", "[2001:db8::1]:5353"]);
    assert_eq!(config.network.hosts["registry.example"].to_string(), "192.0.2.7");
    assert_eq!((config.sizes.small.cpu_millis, config.sizes.small.memory_bytes), (500, 512 << 20));
    assert_eq!(config.sizes.small.pids, 1024, "what is not set keeps its default");
    assert_eq!(config.logs_keep, Duration::from_hours(36));
    assert_eq!((config.boxes_max_per_account, config.boxes_deleted_keep), (Some(3), Duration::from_hours(24)));
    assert_eq!((config.overcommit.memory.times(3), config.overcommit.memory.times(u64::MAX)), (4, u64::MAX));
    assert_eq!((config.log.format, config.synchronous), (LogFormat::Json, Synchronous::Full));
}

#[test]
fn sizes_of_ones_own_come_from_the_file_and_the_environment() {
    let host = Host::default().file(
        SYSTEM_FILE,
        "[sizes.tiny]\ncpus = 0.25\nmemory = '256MiB'\npids = 64\ndisk = '1GB'\n[sizes.extra-large]\ncpus = 16\npids = 9",
    );
    assert_eq!(
        host.refusal(),
        "sizes.extra-large lacks memory: a size beside small, medium and large needs cpus, memory, pids, disk"
    );
    let host = host.env("BOXYARD_SIZES_EXTRA_LARGE_MEMORY", "64GB").env("BOXYARD_SIZES_EXTRA_LARGE_DISK", "50GB");
    let host = host.env("BOXYARD_SIZES_EXTRA_LARGE_PIDS", "10").env("BOXYARD_SIZES_GONE_CPUS", "");
    let sizes = host.load().expect("two sizes").sizes;
    let (tiny, limits) = sizes.find("tiny").expect("tiny");
    assert_eq!((tiny.as_str(), limits.cpu_millis, limits.memory_bytes), ("tiny", 250, 256 << 20));
    assert_eq!((limits.pids, limits.disk_bytes), (64, 1_000_000_000));
    let (_, limits) = sizes.find("extra-large").expect("extra-large");
    assert_eq!((limits.cpu_millis, limits.memory_bytes, limits.pids), (16_000, 64_000_000_000, 10));
    for name in ["gone", "huge", "", "Small", "extra_large", "../small"] {
        let refusal = sizes.find(name).expect_err(name).to_string();
        assert_eq!(refusal, "size must be one of small, medium, large, extra-large, tiny");
    }
}

#[test]
fn sizes_have_names_and_are_not_too_many() {
    let file = |text: &str| Host::default().file(SYSTEM_FILE, text).refusal();
    assert!(file("[sizes.Big]\ncpus = 1").starts_with("sizes.Big: the name of a size must have 1 to 31 characters"));
    assert!(file("[sizes.'a.b']\ncpus = 1").starts_with("sizes.a.b: the name"));
    assert!(Host::default().env("BOXYARD_SIZES__CPUS", "1").refusal().starts_with("sizes.: the name"));
    assert!(file("[sizes]\ncpus = 1").starts_with("/etc/boxyard/boxyard.toml: unknown setting sizes.cpus;"));
    let whole = "cpus = 1\nmemory = 1\npids = 1\ndisk = 1\n";
    assert_eq!(
        file(&format!("[sizes.tiny]\n{whole}dsk = 2")),
        "/etc/boxyard/boxyard.toml: unknown setting sizes.tiny.dsk; did you mean sizes.tiny.disk?"
    );
    assert_eq!(
        file(&format!("[sizes.tiny]\n{}", whole.replace("cpus = 1", "cpus = 0"))),
        "/etc/boxyard/boxyard.toml: sizes.tiny.cpus is '0' and must be a number of CPUs from 0.01 to 4096, with at most three \
         decimals, such as 2 or 0.5"
    );
    let many: String = (0..33).map(|n| format!("[sizes.s{n}]\n{whole}")).collect();
    assert_eq!(file(&many), "there are 33 sizes, and 32 at most beside small, medium and large");
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_its_cure() {
    let file = |text: &str| Host::default().file(SYSTEM_FILE, text).refusal();
    assert_eq!(
        file("[network]\nrnge = '10.0.0.0/8'"),
        "/etc/boxyard/boxyard.toml: unknown setting network.rnge; did you mean network.range?"
    );
    assert!(file("[colours]\nfront = 'red'").starts_with(
        "/etc/boxyard/boxyard.toml: unknown setting colours.front; there are boxes.deleted_keep, boxes.max, boxes.max_per_account, \
         contexts.idle, contexts.output_cap, contexts.per_box, contexts.results_cap, data_dir, git.github_hosts, git.timeout, http,"
    ));
    assert_eq!(
        file("http = 7070"),
        "/etc/boxyard/boxyard.toml: http is '7070' and must be an address with a port such as 127.0.0.1:7070 or [::]:7070"
    );
    assert_eq!(file("http = ['127.0.0.1:1']").split(':').nth(1), Some(" http must be one value"));
    assert!(file("http = ").contains("is not valid TOML"));
    for mirror in ["docker.io", "docker.io=mirror.example", "docker.io=https://u:p@mirror.example", "a/b=https://c"] {
        assert!(
            file(&format!("[images]\nregistry_mirrors = ['{mirror}']")).contains("must be a registry and the address")
        );
    }
    let with_password = file("[images]\nregistry_mirrors = ['docker.io=https://u:p4ss@mirror.example']");
    assert!(with_password.contains("…@mirror.example") && !with_password.contains("p4ss"), "{with_password}");
    assert!(file("[limits]\nbody_cap = -1").contains("limits.body_cap is '-1' and must be a size"));
    let refusal = Host::default().env("BOXYARD_BOXES_MAX", "many").refusal();
    assert_eq!(refusal, "BOXYARD_BOXES_MAX is 'many' and must be a whole number above 0");
    assert_eq!(Host::default().flag("data_dir", "yard").refusal(), "--data-dir is 'yard' and must be an absolute path");
}

#[test]
fn the_bootstrap_key_comes_from_the_environment_and_is_never_shown() {
    let host = Host::default().env("BOXYARD_BOOTSTRAP_KEY", "correct horse battery");
    let config = host.load().expect("a key");
    assert_eq!(config.bootstrap_key.as_ref().map(Secret::expose), Some("correct horse battery"));
    assert!(!format!("{config:?}").contains("horse"));
    let refusal = Host::default().file(SYSTEM_FILE, "bootstrap_key = 'correct horse battery'").refusal();
    assert!(refusal.contains("set BOXYARD_BOOTSTRAP_KEY instead") && !refusal.contains("horse"), "{refusal}");
}

#[test]
fn every_setting_is_documented() {
    let page = include_str!("../../../../docs/configuration.md");
    let host = Host::default();
    let layers = Layers::read(&host.flags, &host.env, &host.files).expect("nothing to read");
    Config::from_layers(&layers, Path::new(PROGRAM)).expect("defaults");
    for key in layers.asked() {
        assert!(page.contains(&format!("| `{key}` | `{}` |", variable(&key))), "docs/configuration.md lacks {key}");
    }
}

#[test]
fn wrong_values_are_refused() {
    for text in ["", "MiB", "0", "1.5GB", "1 XB", "99999999999999999999", "99999999TiB", "-1"] {
        assert_eq!(Bytes::read(text), None, "{text}");
    }
    for text in ["", "s", "1w", "1.5s", "99999999d"] {
        assert_eq!(Span::read(text), None, "{text}");
    }
    for text in ["", ".", "0", "0.0001", "0.005", "5000", "1e3", "-1", "1.2.3"] {
        assert_eq!(Cpus::read(text), None, "{text}");
    }
    for text in ["", ".", "0", "0.05", "100001", "1.0001", "-1", "x"] {
        assert_eq!(Factor::read(text), None, "{text}");
    }
    for text in ["", "10.0.0.1/8", "10.0.0.0/33", "::/0", "10.0.0.0/"] {
        assert_eq!(AddressRange::read(text), None, "{text}");
    }
    for text in ["", "a", "=1.2.3.4", "a..b=1.2.3.4", "a=b", "a b=1.2.3.4"] {
        assert_eq!(HostEntry::read(text), None, "{text}");
    }
    assert_eq!(Resolver::read("dns.example"), None);
    assert_eq!(AddressRange::read("0.0.0.0/0").map(|range| range.to_string()).as_deref(), Some("0.0.0.0/0"));
}

proptest! {
    #[test]
    fn no_file_makes_the_parser_fall(text in "\\PC{0,200}") {
        let _ = Host::default().file(SYSTEM_FILE, &text).load();
    }

    #[test]
    fn no_value_makes_the_parser_fall(text in "\\PC{0,40}") {
        let _ = (Bytes::read(&text), Span::read(&text), Cpus::read(&text), Resolver::read(&text));
        let _ = (AddressRange::read(&text), HostEntry::read(&text), Factor::read(&text));
    }
}
