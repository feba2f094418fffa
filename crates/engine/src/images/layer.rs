//! Layers: the steps in which an image is built, each named by a hash of everything that goes into it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::certificates::Certificates;
use super::recipe::Recipe;
use super::sources::{Mirror, without_credentials};

/// Part of every key: raise it when the code below changes what comes out of the same recipe.
const FORMAT: &str = "boxyard layer 1";

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    /// 64 hexadecimal digits: a hash of the content and of the layer below.
    pub key: String,
    /// Key of the layer below.
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
    /// The host's added certificate authorities.
    Certificates(Certificates),
    /// What a script does to the layers below. `doing` is for people and no part of the key.
    Script { doing: &'static str, script: String },
}

impl Content {
    /// What the step does, as a fragment: "installing packages".
    pub fn doing(&self) -> &'static str {
        match self {
            Self::Base { .. } => "installing Debian",
            Self::Certificates(_) => "adding the host's certificate authorities",
            Self::Script { doing, .. } => doing,
        }
    }
}

/// The layers of a recipe, lowest first, and the variables of its image. `chain` is the recipe and what it stands on, lowest first.
pub(super) fn plan(
    chain: &[&Recipe],
    mirror: &Mirror,
    certificates: &Certificates,
) -> (Vec<Layer>, BTreeMap<String, String>) {
    let mut layers: Vec<Layer> = Vec::new();
    let mut env = BTreeMap::new();
    for recipe in chain {
        let mut push = |content: Content| {
            let parent = layers.last().map(|layer: &Layer| layer.key.clone());
            layers.push(Layer { key: key(parent.as_deref(), &content), parent, recipe: recipe.name.clone(), content });
        };
        let packages = recipe.packages.clone();
        if let Some(suite) = &recipe.suite {
            push(Content::Base { suite: suite.clone(), packages, mirror: mirror.clone() });
            if !certificates.is_empty() {
                push(Content::Certificates(certificates.clone()));
                env.extend(Certificates::variables());
            }
            env.extend(recipe.env.clone());
        } else {
            env.extend(recipe.env.clone());
            if !packages.is_empty() {
                let install = format!(
                    "apt-get update\napt-get install --yes --no-install-recommends -- {}\napt-get clean\n",
                    packages.join(" ")
                );
                push(Content::Script { doing: "installing packages", script: with_env(&env, &install) });
            }
        }
        if !recipe.script.trim().is_empty() {
            push(Content::Script { doing: "running the recipe's script", script: with_env(&env, &recipe.script) });
        }
    }
    (layers, env)
}

/// The script as it is run: strict, in `/`, with the image's variables and without questions.
fn with_env(env: &BTreeMap<String, String>, script: &str) -> String {
    let mut text = String::from("set -euo pipefail\numask 022\ncd /\nexport DEBIAN_FRONTEND=noninteractive\n");
    for (name, value) in env {
        let quoted = value.replace('\'', r"'\''");
        let _ = writeln!(text, "export {name}='{quoted}'");
    }
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
        Content::Certificates(certificates) => {
            field(b"certificates");
            for bytes in certificates.contents() {
                field(bytes);
            }
        }
        Content::Script { script, .. } => {
            field(b"script");
            field(script.as_bytes());
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
