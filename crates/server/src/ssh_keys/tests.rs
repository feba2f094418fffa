use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;

/// As `ssh-keygen -t ed25519` wrote it, with what `ssh-keygen -l` said of it.
const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDE6DCdEbe4Qjuz4jBAqjiGFGeJctMVyg1I+sNUWAOaF u@h";
const FINGERPRINT: &str = "SHA256:zIHgS6lcEn/31oJ8ffy+k0GyTgRBQRk9+XD+KLRa0hw";

/// A line made of the parts of a key's wire encoding.
fn line(algorithm: &str, parts: &[&[u8]]) -> String {
    let mut key = Vec::new();
    for part in [&[algorithm.as_bytes()], parts].concat() {
        key.extend(u32::try_from(part.len()).expect("short").to_be_bytes());
        key.extend(part);
    }
    format!("{algorithm} {}", STANDARD.encode(key))
}

/// An RSA key whose modulus has this many bits.
fn rsa(bits: usize, exponent: &[u8]) -> String {
    let mut modulus = vec![0xff; bits.div_ceil(8)];
    modulus[0] = 0xff_u8 >> (modulus.len() * 8 - bits);
    if modulus[0] & 0x80 != 0 {
        // A number whose first bit is set would be negative.
        modulus.insert(0, 0);
    }
    line("ssh-rsa", &[exponent, &modulus])
}

fn ecdsa(curve: &str, bytes: usize) -> String {
    let point = [&[4][..], &vec![7; 2 * bytes]].concat();
    line(&format!("ecdsa-sha2-{curve}"), &[curve.as_bytes(), &point])
}

fn refusal(text: &str) -> String {
    read_public_key(text).expect_err(text).to_string()
}

#[test]
fn a_key_s_fingerprint_is_ssh_keygen_s() {
    let key = read_public_key(LINE).expect("a key");
    assert_eq!(fingerprint(&key), FINGERPRINT);
    assert_eq!((key.algorithm().as_str(), key.comment().as_str_lossy()), ("ssh-ed25519", "u@h"));
}

#[test]
fn every_supported_algorithm_is_taken_with_and_without_a_comment() {
    let point = [&[4][..], &[7; 64]].concat();
    for line in [
        LINE.to_owned(),
        line("ssh-ed25519", &[&[9; 32]]),
        ecdsa("nistp256", 32),
        ecdsa("nistp384", 48),
        ecdsa("nistp521", 66),
        rsa(2048, &[1, 0, 1]),
        rsa(4096, &[3]),
        rsa(8192, &[1, 0, 1]),
        line("sk-ssh-ed25519@openssh.com", &[&[9; 32], b"ssh:"]),
        line("sk-ecdsa-sha2-nistp256@openssh.com", &[b"nistp256", &point, b"ssh:"]),
    ] {
        let key = read_public_key(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(ALGORITHMS.contains(&key.algorithm().as_str()), "{line}");
        let (start, data) = line.split_once(' ').expect("two words");
        for again in [format!("  {line} of mine\r\n"), format!("{start}\t{data}\n"), format!("{start}  {data}   x  y")]
        {
            let again = read_public_key(&again).unwrap_or_else(|error| panic!("{again}: {error}"));
            assert_eq!(again.key_data(), key.key_data());
        }
    }
    let two_words = read_public_key(&format!("{LINE}  and \"more\" ")).expect("a key");
    assert_eq!(two_words.comment().as_str_lossy(), "u@h  and \"more\"");
}

#[test]
fn what_is_no_such_key_is_told_what_to_do() {
    for (text, part) in [
        ("", "begins with one of ssh-ed25519"),
        ("hello world", "begins with one of"),
        ("ssh-ed25519", "damaged"),
        ("ssh-ed25519 AAAA", "damaged"),
        ("ssh-ed25519 !!!! x", "damaged"),
        (&LINE.replace("IDE6", "IDE"), "damaged"),
        (&LINE.replace("ssh-ed25519 ", "ssh-rsa "), "damaged"),
        (&format!("{LINE}\n{LINE}"), "one key at a time"),
        (&format!("# mine\n{LINE}"), "one key at a time"),
        (&format!("{LINE}\u{1b}[2J"), "control characters"),
        (&format!("{LINE}\0"), "control characters"),
        (&format!("no-pty,command=\"x y\" {LINE}"), "options before the key"),
        (&format!("ssh-ed25519 {} x", "A".repeat(PUBLIC_KEY_MAX)), "at most 16384 bytes"),
        ("ssh-dss AAAAB3NzaC1kc3M= x", "DSA keys are broken"),
        ("ssh-rsa-cert-v01@openssh.com AAAA x", "certificates are not supported"),
        ("ssh-ed448 AAAA", "begins with one of"),
        ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----", "ssh-keygen -i"),
        (&rsa(1024, &[1, 0, 1]), "has 1024 bits; 2048 to 8192"),
        (&rsa(2047, &[1, 0, 1]), "has 2047 bits"),
        (&rsa(8193, &[1, 0, 1]), "has 8193 bits"),
        (&rsa(2048, &[1, 0, 0, 0, 1]), "numbers that no RSA key has"),
        (&rsa(2048, &[4]), "numbers that no RSA key has"),
        (&rsa(2048, &[1]), "numbers that no RSA key has"),
        (&line("ssh-ed25519", &[&[9; 31]]), "damaged"),
        (&line("ssh-ed25519", &[&[9; 32], b"more"]), "damaged"),
        (&line("ecdsa-sha2-nistp256", &[b"nistp384", &[4; 97]]), "damaged"),
        // A certificate's content under a key's name.
        (
            &line("ssh-rsa-cert-v01@openssh.com", &[b"x"]).replacen("ssh-rsa-cert-v01@openssh.com", "ssh-rsa", 1),
            "damaged",
        ),
    ] {
        let refused = refusal(text);
        assert!(refused.contains(part), "{text}: {refused}");
    }
}

#[test]
fn a_private_key_is_recognised_and_never_shown() {
    for text in [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAAsecret\n-----END OPENSSH PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEsecret",
        "-----BEGIN EC PRIVATE KEY----- MHcsecret",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----secret",
        "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUsecret",
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nsecret",
        &format!("-----BEGIN PRIVATE KEY-----\n{}secret", "A".repeat(PUBLIC_KEY_MAX)),
    ] {
        let refused = refusal(text);
        assert!(refused.contains("this is a private key") && refused.contains(".pub"), "{refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_fall_over_or_comes_back(text in "\\PC{0,200}", algorithm in 0..ALGORITHMS.len(), data: Vec<u8>) {
        let secret = format!("{text}s3cret");
        for text in [secret.clone(), format!("{} {}", ALGORITHMS[algorithm], STANDARD.encode(&data)), format!("ssh-ed25519 {secret}")] {
            if let Err(error) = read_public_key(&text) {
                prop_assert!(!error.to_string().contains("s3cret"));
            }
        }
    }

    #[test]
    fn whatever_a_known_algorithm_s_fields_hold_is_read_or_refused(algorithm in 0..ALGORITHMS.len(), fields: Vec<Vec<u8>>) {
        let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        if let Ok(key) = read_public_key(&line(ALGORITHMS[algorithm], &fields)) {
            prop_assert_eq!(PublicKey::from_bytes(&key.to_bytes().expect("bytes")).expect("the key"), key);
        }
    }
}
