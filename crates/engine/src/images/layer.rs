//! Layers: the steps in which an image is built, each named by a hash of everything that goes into it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::certificates::Certificates;
use super::oci::Blob;
use super::oci::pin::{Pin, PinnedLayer};
use super::oci::reference::Digest as OciDigest;
use super::recipe::Recipe;
use super::sources::{Mirror, without_credentials};

/// Part of every key: raise it when the code below changes what comes out of the same recipe.
const FORMAT: &str = "boxyard layer 1";

/// Part of the keys of unpacked layers of registries: raise it when unpacking changes what comes out of the same archive.
const UNPACK_FORMAT: &str = "unpacked 1";

/// The same for layers of images that came with snapshots.
const IMPORT_FORMAT: &str = "imported 1";

/// What makes an image of a registry one that boxes can start from.
const FIT: &str = include_str!("fit.sh");

/// Adds certificate authorities where there may be no program for that.
const TRUST: &str = include_str!("trust.sh");

/// Installs packages with whatever the image has for that.
const INSTALL: &str = include_str!("install.sh");

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    /// 64 hexadecimal digits: a hash of the content and of the layer below. Those of registries' images do not depend on what is below,
    /// so that images share them.
    pub key: String,
    /// Names all that is below: the key of the layer there, or, above the layers of a registry's image, a hash of all of theirs.
    pub parent: Option<String>,
    /// The recipe that asks for it.
    pub recipe: String,
    pub content: Content,
}

/// What a layer is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A Debian release with packages, straight from the mirror.
    Base { suite: String, packages: Vec<String>, mirror: Mirror },
    /// A layer of an image of a registry.
    Oci { blob: Blob, diff_id: OciDigest },
    /// The host's added certificate authorities, and the script that has programs trust them.
    Certificates(Certificates, &'static str),
    /// What a script does to the layers below. `doing` is for people and no part of the key.
    Script { doing: &'static str, script: String },
}

impl Content {
    /// What the step does, as a fragment: "installing packages".
    pub fn doing(&self) -> &'static str {
        match self {
            Self::Base { .. } => "installing Debian",
            Self::Oci { .. } => "pulling layers",
            Self::Certificates(..) => "adding the host's certificate authorities",
            Self::Script { doing, .. } => doing,
        }
    }
}

/// What the lowest recipe of a chain stands on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ground<'a> {
    Debian(&'a Mirror),
    Oci(&'a Pin),
}

/// The layers of a recipe, lowest first, and the variables of its image. `chain` is the recipe and what it stands on, lowest first.
pub(super) fn plan(
    chain: &[&Recipe],
    ground: Ground<'_>,
    certificates: &Certificates,
) -> (Vec<Layer>, BTreeMap<String, String>) {
    let mut layers: Vec<Layer> = Vec::new();
    let mut env = BTreeMap::new();
    let mut parent: Option<String> = None;
    for (index, recipe) in chain.iter().enumerate() {
        let mut push = |parent: &mut Option<String>, content: Content| {
            let below = parent.take();
            let key = key(below.as_deref(), &content);
            *parent = Some(key.clone());
            layers.push(Layer { key, parent: below, recipe: recipe.name.clone(), content });
        };
        let packages = recipe.packages.clone();
        let script = |env: &BTreeMap<String, String>, text: &str| match ground {
            Ground::Debian(_) => with_env(env, text),
            Ground::Oci(_) => on_oci(env, text),
        };
        let installed = match ground {
            Ground::Debian(mirror) if index == 0 => {
                let suite = recipe.suite.clone().unwrap_or_default();
                push(&mut parent, Content::Base { suite, packages: packages.clone(), mirror: mirror.clone() });
                if !certificates.is_empty() {
                    push(&mut parent, Content::Certificates(certificates.clone(), DEBIAN_TRUST));
                    env.extend(Certificates::variables());
                }
                true
            }
            Ground::Oci(pin) if index == 0 => {
                let mut keys = Vec::new();
                for layer in distinct(&pin.layers) {
                    let blob = Blob { digest: layer.digest.clone(), size: layer.size };
                    // Each by itself: nothing is below it.
                    parent = None;
                    push(&mut parent, Content::Oci { blob, diff_id: layer.diff_id.clone() });
                    keys.extend(parent.clone());
                }
                parent = Some(stack(&keys));
                env.extend(pin.env.clone());
                let fit = Content::Script { doing: "preparing the image for boxes", script: FIT.to_owned() };
                push(&mut parent, fit);
                if !certificates.is_empty() {
                    push(&mut parent, Content::Certificates(certificates.clone(), TRUST));
                    env.extend(Certificates::variables());
                }
                false
            }
            Ground::Debian(_) | Ground::Oci(_) => false,
        };
        env.extend(recipe.env.clone());
        if !packages.is_empty() && !installed {
            let install = match ground {
                Ground::Debian(_) => format!(
                    "apt-get update\napt-get install --yes --no-install-recommends -- {}\napt-get clean\n",
                    packages.join(" ")
                ),
                Ground::Oci(_) => format!("set -- {}\n{INSTALL}", packages.join(" ")),
            };
            push(&mut parent, Content::Script { doing: "installing packages", script: script(&env, &install) });
        }
        if !recipe.script.trim().is_empty() {
            let text = script(&env, &recipe.script);
            push(&mut parent, Content::Script { doing: "running the recipe's script", script: text });
        }
    }
    (layers, env)
}

/// The layers without those that come again further up. The upper one has all that the lower has, and hides what it hid; and overlay does
/// not take the same folder twice.
fn distinct(layers: &[PinnedLayer]) -> Vec<&PinnedLayer> {
    let again =
        |index: usize, layer: &PinnedLayer| layers[index + 1..].iter().any(|upper| upper.diff_id == layer.diff_id);
    layers.iter().enumerate().filter(|(index, layer)| !again(*index, layer)).map(|(_, layer)| layer).collect()
}

/// One name for several layers on top of each other.
fn stack(keys: &[String]) -> String {
    let mut hash = Sha256::new();
    hash.update(FORMAT);
    for key in keys {
        hash.update(key);
    }
    OciDigest::finish(hash).hex().to_owned()
}

/// The key of a layer that came with a snapshot: of its content, and of whose it is.
pub(super) fn imported(diff_id: &OciDigest, owner: &str) -> String {
    stack(&[IMPORT_FORMAT.to_owned(), diff_id.hex().to_owned(), owner.to_owned()])
}

/// Has Debian's programs trust what was added.
const DEBIAN_TRUST: &str = "umask 022\nexec update-ca-certificates\n";

/// The script as it is run: strict, in `/`, with the image's variables and without questions.
fn begin(env: &BTreeMap<String, String>) -> String {
    let mut text = String::from("set -euo pipefail\numask 022\ncd /\nexport DEBIAN_FRONTEND=noninteractive\n");
    for (name, value) in env {
        let quoted = value.replace('\'', r"'\''");
        let _ = writeln!(text, "export {name}='{quoted}'");
    }
    text
}

/// The same over an image of a registry, of which little is known.
fn on_oci(env: &BTreeMap<String, String>, script: &str) -> String {
    let mut text = begin(env);
    text.push_str(script);
    text.push_str("\nfor folder in /tmp /var/tmp; do\n  rm -rf \"$folder\"/* \"$folder\"/.[!.]*\ndone\n");
    text
}

fn with_env(env: &BTreeMap<String, String>, script: &str) -> String {
    let mut text = begin(env);
    text.push_str(script);
    // What the build itself has left behind.
    text.push_str(
        "\nfind /tmp /var/tmp /var/log/apt -mindepth 1 -delete\nrm -f /var/log/dpkg.log /var/log/alternatives.log\n",
    );
    text
}

fn key(parent: Option<&str>, content: &Content) -> String {
    let mut hash = Sha256::new();
    // Each field with its length, so that no two lists of fields read the same.
    let mut field = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(bytes);
    };
    field(FORMAT.as_bytes());
    field(parent.unwrap_or_default().as_bytes());
    match content {
        Content::Base { suite, packages, mirror } => {
            field(b"base");
            field(std::env::consts::ARCH.as_bytes());
            field(suite.as_bytes());
            field(without_credentials(&mirror.main).as_bytes());
            field(without_credentials(mirror.security.as_deref().unwrap_or_default()).as_bytes());
            for package in packages {
                field(package.as_bytes());
            }
        }
        Content::Oci { diff_id, .. } => {
            field(b"oci");
            field(UNPACK_FORMAT.as_bytes());
            field(diff_id.hex().as_bytes());
        }
        Content::Certificates(certificates, script) => {
            field(b"certificates");
            for bytes in certificates.contents() {
                field(bytes);
            }
            if *script != DEBIAN_TRUST {
                field(script.as_bytes());
            }
        }
        Content::Script { script, .. } => {
            field(b"script");
            field(script.as_bytes());
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
