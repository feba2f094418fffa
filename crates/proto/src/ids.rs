//! Identifiers: opaque texts that are unique across accounts and hosts.
//!
//! Nothing here is random: callers bring the entropy, so that this crate stays free of I/O.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not an identifier of the asked-for kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {kind}")]
pub struct InvalidId {
    /// What was expected, with its article: "a box id".
    pub kind: &'static str,
    /// The refused text, cut to a length that is fit for a message.
    pub text: String,
}

impl InvalidId {
    fn new(kind: &'static str, text: &str) -> Self {
        Self { kind, text: text.chars().take(80).collect() }
    }
}

/// Names one box, for ever: `adjective-animal-NNNNN`, for example `current-wasp-05510`.
///
/// It is the box's host name, its SSH user name and the first label of its public URLs, so it is always a valid lower-case DNS label
/// (at most 40 characters). The form is the one Upstash Box documents.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BoxId(String);

impl BoxId {
    /// Makes the id that belongs to `entropy`; equal entropy gives equal ids.
    pub fn from_entropy(entropy: u64) -> Self {
        let (number, rest) = (entropy % 100_000, entropy / 100_000);
        let adjective = pick(&ADJECTIVES, rest);
        let animal = pick(&ANIMALS, rest / ADJECTIVES.len() as u64);
        Self(format!("{adjective}-{animal}-{number:05}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` has the form of a box id, of an existing box or not. Box names must not have it.
    pub fn looks_like(text: &str) -> bool {
        let mut parts = text.split('-');
        let (Some(adjective), Some(animal), Some(number), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let word = |word: &str| (1..=16).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase());
        word(adjective) && word(animal) && number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit())
    }
}

fn pick<'a>(words: &[&'a str], entropy: u64) -> &'a str {
    let index = usize::try_from(entropy % words.len() as u64).unwrap_or_default();
    words[index]
}

impl FromStr for BoxId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if Self::looks_like(text) { Ok(Self(text.to_owned())) } else { Err(InvalidId::new("a box id", text)) }
    }
}

impl TryFrom<String> for BoxId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<BoxId> for String {
    fn from(id: BoxId) -> String {
        id.0
    }
}

impl fmt::Display for BoxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BoxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Declares an opaque id: a prefix, an underscore and 26 characters of base 32.
macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Makes the id that belongs to `entropy`; equal entropy gives equal ids.
            pub fn from_entropy(entropy: u128) -> Self {
                Self(format!(concat!($prefix, "_{}"), base32(entropy)))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let rest = text.strip_prefix(concat!($prefix, "_"));
                match rest {
                    Some(rest) if rest.len() == 26 && rest.bytes().all(|b| BASE32.contains(&b)) => Ok(Self(text.to_owned())),
                    Some(_) | None => Err(InvalidId::new($kind, text)),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

opaque_id!(
    /// Names one run: a command, a piece of code or an agent's task in a box. Also the name of its job inside the box.
    RunId, "run", "a run id"
);
opaque_id!(
    /// Names one account. Boxes, keys, runs and snapshots belong to exactly one; on the wire it is `customer_id`.
    AccountId, "acc", "an account id"
);
opaque_id!(
    /// Names one API key without being the secret: what `boxyard key list` shows and `boxyard key revoke` takes.
    KeyId, "key", "a key id"
);
opaque_id!(
    /// Names one SSH public key of an account: what `boxyard ssh-key list` shows.
    SshKeyId, "sshkey", "an SSH key's id"
);
opaque_id!(
    /// Names one SSH token without being the secret: what `boxyard ssh-token list` shows.
    SshTokenId, "sshtok", "an SSH token's id"
);
opaque_id!(
    /// Names one snapshot of a box's disk.
    SnapshotId, "snap", "a snapshot id"
);

opaque_id!(
    /// Names one context: an interpreter that goes on in a box between the pieces of code that it runs.
    ContextId, "ctx", "a context id"
);

/// Crockford's base 32 in lower case: no i, l, o, u.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn base32(mut value: u128) -> String {
    let mut text = [b'0'; 26];
    for place in text.iter_mut().rev() {
        *place = BASE32[usize::try_from(value & 31).unwrap_or_default()];
        value >>= 5;
    }
    text.iter().copied().map(char::from).collect()
}

const ADJECTIVES: [&str; 96] = [
    "able", "amber", "ample", "apt", "arid", "azure", "bold", "brave", "breezy", "brief", "bright", "brisk", "broad",
    "calm", "candid", "careful", "cheery", "civil", "clean", "clear", "clever", "cosy", "crisp", "current", "daring",
    "deep", "deft", "direct", "eager", "early", "easy", "even", "fair", "famous", "fancy", "fast", "fine", "firm",
    "fleet", "fond", "frank", "free", "fresh", "gentle", "glad", "golden", "grand", "great", "handy", "happy", "hardy",
    "honest", "humble", "jolly", "keen", "kind", "large", "lasting", "light", "lively", "loyal", "lucky", "mellow",
    "merry", "mighty", "mild", "modest", "neat", "nimble", "noble", "novel", "patient", "plain", "polite", "proud",
    "quick", "quiet", "rapid", "ready", "right", "robust", "round", "royal", "sharp", "silent", "simple", "smart",
    "smooth", "solid", "steady", "sunny", "sweet", "tidy", "vivid", "warm", "wise",
];

const ANIMALS: [&str; 96] = [
    "adder", "ant", "ape", "badger", "bat", "bear", "beaver", "bee", "beetle", "bison", "boar", "bobcat", "buffalo",
    "camel", "carp", "cat", "cheetah", "cobra", "cod", "colt", "condor", "coral", "cougar", "crab", "crane", "cricket",
    "crow", "deer", "dingo", "dove", "drake", "duck", "eagle", "eel", "elk", "falcon", "ferret", "finch", "flamingo",
    "fox", "frog", "gazelle", "gecko", "gibbon", "goat", "goose", "gull", "hare", "hawk", "heron", "hippo", "horse",
    "hound", "ibex", "ibis", "jackal", "jaguar", "koala", "lark", "lemur", "leopard", "lion", "lizard", "llama",
    "lobster", "lynx", "magpie", "marmot", "marten", "mole", "moose", "moth", "mouse", "newt", "octopus", "orca",
    "osprey", "otter", "owl", "ox", "panda", "panther", "parrot", "pelican", "pike", "puma", "quail", "rabbit",
    "raven", "robin", "salmon", "seal", "shark", "sparrow", "tiger", "wasp",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_made_id_parses_back(entropy: u64, wide: u128) {
            let id = BoxId::from_entropy(entropy);
            prop_assert_eq!(id.as_str().parse::<BoxId>(), Ok(id.clone()));
            prop_assert!(id.as_str().len() <= 40);
            let run = RunId::from_entropy(wide);
            prop_assert_eq!(run.as_str().parse::<RunId>(), Ok(run.clone()));
        }
    }

    #[test]
    fn documented_ids_are_box_ids_and_look_alikes_are_not() {
        for id in ["current-wasp-05510", "right-flamingo-14486", "sweet-shark-26021"] {
            assert!(BoxId::looks_like(id), "{id}");
        }
        for other in [
            "",
            "wasp-05510",
            "Current-wasp-05510",
            "current-wasp-5510",
            "current-wasp-055101",
            "a-b-00000-c",
            "../..-00000",
        ] {
            assert!(!BoxId::looks_like(other), "{other}");
        }
    }

    #[test]
    fn word_lists_have_no_duplicates() {
        let mut words: Vec<_> = ADJECTIVES.iter().chain(&ANIMALS).collect();
        words.sort();
        words.dedup();
        assert_eq!(words.len(), ADJECTIVES.len() + ANIMALS.len());
    }
}
