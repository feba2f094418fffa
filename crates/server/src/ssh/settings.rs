//! How `russh` is to speak: what the door offers, and its bounds.
//!
//! The algorithms are those that OpenSSH itself prefers today, and nothing older. All that `ssh-audit` 3.3 warns of is that X25519 alone
//! does not withstand quantum computers; without it clients before OpenSSH 9.9 could not come in, so that is for the operator to decide.
//! Terrapin (CVE-2023-48795) is countered by strict key exchange.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey};
use russh::server::Config;
use russh::{Limits, MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};

/// What the door says of itself. No version: whoever asks unasked-for learns nothing from it.
pub(super) const SERVER_ID: &str = "SSH-2.0-boxyard";

/// How long a refusal takes, whatever led to it: far more than any look-up, so that unknown boxes and wrong secrets take the same time.
const REJECTION_TIME: Duration = Duration::from_millis(250);

/// Refusals of one connection at most. An OpenSSH client offers all keys of its agent before it asks for a password.
const REFUSALS_MAX: usize = 12;

/// Bytes that a client may send on a channel ahead of what has been consumed. A multiple of what is on its way over a fast network
/// with a long delay (1 Gbit/s × 60 ms); what is not consumed waits in the client, not here (see `flow.rs`).
const WINDOW: u32 = 8 * 1024 * 1024;

/// Bytes of a packet at most: the largest that `russh` takes. Each costs a cipher's start and a system call.
const PACKET: u32 = 65_535;

/// Messages that wait for one channel's task before reading from the connection stops.
const CHANNEL_MESSAGES: usize = 32;

/// Messages of all channels' tasks that wait to be sent.
const EVENTS: usize = 32;

/// Silence after which a client is asked whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Such questions without an answer before it is taken to be gone.
const KEEPALIVES: usize = 3;

/// Bytes under one key, each way. No more than RFC 4253, section 9, recommends, and not so few that connections do little else.
const REKEY_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 30;
/// How long a key is used: the same section.
const REKEY_AFTER: Duration = Duration::from_secs(3600);

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    // Markers, not methods: RFC 8308 (which signatures of users' keys we verify), and strict key exchange.
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// The same without what a quantum computer could undo later.
const KEX_POST_QUANTUM: &[kex::Name] =
    &[kex::MLKEM768X25519_SHA256, kex::EXTENSION_SUPPORT_AS_SERVER, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER];

/// Host keys are offered of these where there are any; and these signatures by users' keys are told to clients as acceptable.
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::SkEd25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::SkEcdsaSha2NistP256,
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// AES in hardware is three times as fast as ChaCha20 here; the client's order decides all the same.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

/// Only what authenticates the ciphertext. Clients that know none of these know ChaCha20-Poly1305, which needs none.
const MACS: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM];

/// The methods by which one can log in.
pub(super) fn methods() -> MethodSet {
    MethodSet::from(&[MethodKind::PublicKey, MethodKind::Password][..])
}

/// The settings of all connections, which prove themselves with `keys`. `rekey_bytes` are brought into [`REKEY_BYTES`].
pub(super) fn settings(keys: Vec<PrivateKey>, post_quantum_only: bool, rekey_bytes: u64) -> Config {
    let rekey_bytes = rekey_bytes.clamp(*REKEY_BYTES.start(), *REKEY_BYTES.end());
    let rekey_bytes = usize::try_from(rekey_bytes).unwrap_or(usize::MAX);
    Config {
        server_id: SshId::Standard(Cow::Borrowed(SERVER_ID)),
        methods: methods(),
        auth_rejection_time: REJECTION_TIME,
        // OpenSSH always asks without a secret first, to hear the methods.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys,
        certificates: Vec::new(),
        limits: Limits::new(rekey_bytes, rekey_bytes, REKEY_AFTER),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: CHANNEL_MESSAGES,
        event_buffer_size: EVENTS,
        preferred: Preferred {
            kex: Cow::Borrowed(if post_quantum_only { KEX_POST_QUANTUM } else { KEX }),
            key: Cow::Borrowed(KEYS),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(&[compression::NONE]),
        },
        max_auth_attempts: REFUSALS_MAX,
        // Sessions may be silent for days. What is not logged in has its time (`accept.rs`), what is gone does not answer.
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE_AFTER),
        keepalive_max: KEEPALIVES,
        // Set by `accept.rs`; this is for russh's own listeners.
        nodelay: true,
    }
}
