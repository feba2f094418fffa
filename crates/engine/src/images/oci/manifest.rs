//! What registries say of images: indexes, manifests and configurations (OCI image specification 1.1, Docker's second schema).
//!
//! All of it is read after its digest has been checked, but whoever made the image may have put anything into it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::limits::OciLimits;
use super::reference::Digest;

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Variables of an image at most, and bytes of their names and values. Together with a script they have to fit into one argument of a
/// program (128 KiB).
const ENV_MAX: usize = 256;
const ENV_BYTES_MAX: usize = 32 * 1024;

/// Variables that say who is at work and where. In a box the server sets them.
const NOT_TAKEN: [&str; 8] = ["HOME", "HOSTNAME", "LOGNAME", "OLDPWD", "PWD", "SHELL", "TERM", "USER"];

/// A thing in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

/// What a manifest's address answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Manifests for several platforms, and the one for this host.
    Index(Descriptor),
    /// The configuration and the layers, lowest first.
    Manifest(Descriptor, Vec<Descriptor>),
}

/// Any of the kinds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Any {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// This host as registries call it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Reads an index or a manifest.
pub(super) fn answer(bytes: &[u8], limits: &OciLimits) -> Result<Answer, String> {
    let any: Any = serde_json::from_slice(bytes).map_err(|error| format!("the manifest is not understood: {error}"))?;
    if any.schema_version != 2 {
        return Err(format!("the manifest is of version {}; only 2 is understood", any.schema_version));
    }
    match (any.manifests, any.config, any.layers) {
        (Some(manifests), None, None) => choose(&manifests).map(Answer::Index),
        (None, Some(config), Some(layers)) => {
            check_layers(&layers, limits)?;
            if config.size > limits.config_bytes {
                return Err(format!(
                    "its configuration has {} bytes; at most {} are taken",
                    config.size, limits.config_bytes
                ));
            }
            Ok(Answer::Manifest(config, layers))
        }
        _ => Err(format!("it is no image but {:?}", any.media_type.unwrap_or_default())),
    }
}

/// The manifest for this host's platform.
fn choose(manifests: &[Descriptor]) -> Result<Descriptor, String> {
    let fits = |found: &&Descriptor| {
        found.platform.as_ref().is_some_and(|platform| {
            let plain = match platform.variant.as_deref() {
                None | Some("" | "v1") => true,
                Some(variant) => platform.architecture == "arm64" && variant == "v8",
            };
            platform.os == "linux" && platform.architecture == architecture() && plain
        })
    };
    manifests.iter().find(fits).cloned().ok_or_else(|| {
        let there: Vec<String> = manifests
            .iter()
            .filter_map(|found| found.platform.as_ref())
            .filter(|platform| platform.os != "unknown")
            .take(20)
            .map(|platform| format!("{}/{}", platform.os, platform.architecture))
            .collect();
        format!("it is not made for linux/{}; it is for: {}", architecture(), there.join(", "))
    })
}

fn check_layers(layers: &[Descriptor], limits: &OciLimits) -> Result<(), String> {
    if layers.is_empty() || layers.len() > limits.layers {
        return Err(format!("it has {} layers; 1 to {} are taken", layers.len(), limits.layers));
    }
    for layer in layers {
        if layer.media_type.contains("foreign") || layer.media_type.contains("nondistributable") {
            return Err("one of its layers may not be distributed by registries".into());
        }
        if !layer.media_type.is_empty() && !layer.media_type.contains("tar") {
            return Err(format!("a layer of it is no tar archive but {:?}", layer.media_type));
        }
    }
    let sum = layers.iter().try_fold(0_u64, |sum, layer| sum.checked_add(layer.size));
    match sum {
        Some(sum) if sum <= limits.compressed_bytes => Ok(()),
        _ => Err(format!("its layers have more than {} bytes", limits.compressed_bytes)),
    }
}

/// What is taken of an image's configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ImageConfig {
    /// Hashes of the layers unpacked, lowest first.
    pub diff_ids: Vec<Digest>,
    pub env: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawConfig {
    architecture: String,
    os: String,
    #[serde(default)]
    config: Option<RawProcess>,
    rootfs: RawRoot,
}

#[derive(Deserialize)]
struct RawProcess {
    #[serde(default, rename = "Env")]
    env: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawRoot {
    diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads the configuration of an image with this many layers.
    pub fn read(bytes: &[u8], layers: usize) -> Result<Self, String> {
        let raw: RawConfig =
            serde_json::from_slice(bytes).map_err(|error| format!("its configuration is not understood: {error}"))?;
        if raw.os != "linux" || raw.architecture != architecture() {
            return Err(format!(
                "it is made for {}/{}, this host is linux/{}",
                raw.os,
                raw.architecture,
                architecture()
            ));
        }
        if raw.rootfs.diff_ids.len() != layers {
            return Err(format!(
                "its configuration speaks of {} layers, its manifest of {layers}",
                raw.rootfs.diff_ids.len()
            ));
        }
        let env = raw.config.and_then(|config| config.env).unwrap_or_default();
        Ok(Self { diff_ids: raw.rootfs.diff_ids, env: variables(&env)? })
    }
}

/// Those of the variables that have a name as shells allow it; nobody could set the others in a shell either.
fn variables(list: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    for entry in list {
        let Some((name, value)) = entry.split_once('=') else { continue };
        if crate::images::recipe::is_variable(name) && !value.contains('\0') && !NOT_TAKEN.contains(&name) {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if env.len() > ENV_MAX || bytes > ENV_BYTES_MAX {
        return Err(format!(
            "it sets {} variables of {bytes} bytes; at most {ENV_MAX} and {ENV_BYTES_MAX} are taken",
            env.len()
        ));
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: &serde_json::Value) -> Result<Answer, String> {
        answer(value.to_string().as_bytes(), &OciLimits::default())
    }

    fn digest(text: &str) -> String {
        Digest::of(text.as_bytes()).to_string()
    }

    #[test]
    fn the_manifest_for_this_host_is_chosen() {
        let entry = |name: &str, os: &str, architecture: &str, variant: Option<&str>| json!({"digest": digest(name), "size": 1, "platform": {"os": os, "architecture": architecture, "variant": variant}});
        let ours = architecture();
        let index = json!({"schemaVersion": 2, "manifests": [
            entry("windows", "windows", ours, None), entry("other", "linux", "riscv64", None),
            entry("newer", "linux", ours, Some("v3")), entry("ours", "linux", ours, None),
            entry("attestation", "unknown", "unknown", None), {"digest": digest("none"), "size": 1},
        ]});
        let Answer::Index(chosen) = of(&index).unwrap() else { panic!("an index") };
        assert_eq!(chosen.digest.to_string(), digest("ours"));
        let index = json!({"schemaVersion": 2, "manifests": [entry("x", "linux", "riscv64", None)]});
        assert!(of(&index).unwrap_err().ends_with("it is for: linux/riscv64"));
    }

    #[test]
    fn manifests_beyond_their_bounds_are_refused() {
        let layer = |size: u64| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest("l"), "size": size});
        let config = json!({"digest": digest("c"), "size": 10});
        let manifest = |layers: Vec<serde_json::Value>| json!({"schemaVersion": 2, "config": config, "layers": layers});
        assert!(matches!(of(&manifest(vec![layer(1); 127])), Ok(Answer::Manifest(_, layers)) if layers.len() == 127));
        for (wrong, told) in [
            (manifest(vec![]), "1 to 127"),
            (manifest(vec![layer(1); 128]), "1 to 127"),
            (manifest(vec![layer(u64::MAX); 2]), "more than"),
            (
                manifest(vec![
                    json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": digest("l"), "size": 1}),
                ]),
                "distributed",
            ),
            (manifest(vec![json!({"mediaType": "application/vnd.wasm", "digest": digest("l"), "size": 1})]), "no tar"),
            (
                json!({"schemaVersion": 2, "config": {"digest": digest("c"), "size": 1 << 30}, "layers": [layer(1)]}),
                "configuration has",
            ),
            (json!({"schemaVersion": 1, "config": config, "layers": [layer(1)]}), "version 1"),
            (json!({"schemaVersion": 2}), "no image"),
            (json!({"schemaVersion": 2, "manifests": [], "config": config, "layers": []}), "no image"),
            (
                json!({"schemaVersion": 2, "config": {"digest": "sha256:../../x", "size": 1}, "layers": []}),
                "not understood",
            ),
        ] {
            let why = of(&wrong).unwrap_err();
            assert!(why.contains(told), "{wrong}: {why}");
        }
    }

    #[test]
    fn variables_are_taken_but_for_those_that_the_server_sets() {
        let config = |env: Vec<&str>| {
            let value = json!({"architecture": architecture(), "os": "linux", "config": {"Env": env, "User": "x"},
                "rootfs": {"type": "layers", "diff_ids": [digest("a")]}});
            ImageConfig::read(value.to_string().as_bytes(), 1)
        };
        let read =
            config(vec!["PATH=/opt/bin:/bin", "EMPTY=", "HOME=/x", "A=b=c", "no", "1A=x", "LINES=a\nb"]).unwrap();
        let pairs: Vec<_> = read.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("A", "b=c"), ("EMPTY", ""), ("LINES", "a\nb"), ("PATH", "/opt/bin:/bin")]);
        let long = format!("A={}", "x".repeat(ENV_BYTES_MAX));
        assert!(config(vec![&long]).is_err());
        let value = json!({"architecture": "s390x", "os": "linux", "rootfs": {"diff_ids": []}});
        assert!(ImageConfig::read(value.to_string().as_bytes(), 0).unwrap_err().contains("s390x"));
    }
}
