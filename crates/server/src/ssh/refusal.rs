//! Sending a client away before anything is negotiated, with a text that it shows to its user.
//!
//! RFC 4253 allows `SSH_MSG_DISCONNECT` at any time (section 11.1), also before the key exchange, where packets are plain (section 6).
//! OpenSSH shows it as `Received disconnect from …: TEXT`. Nothing of what the client sends is looked at.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::settings::SERVER_ID;

/// `SSH_MSG_DISCONNECT`.
const DISCONNECT: u8 = 1;
/// `SSH_DISCONNECT_TOO_MANY_CONNECTIONS`.
const TOO_MANY_CONNECTIONS: u32 = 12;
/// Packets are filled up to a multiple of this before there is a cipher.
const BLOCK: usize = 8;
/// The least that they are filled up with.
const PADDING_MIN: usize = 4;
/// How long the client may take to read it.
const DEADLINE: Duration = Duration::from_secs(2);
/// What is read of the client's own words, so that the kernel does not answer them with a reset that destroys ours.
const READ_MAX: u64 = 16 * 1024;

/// Says why and closes.
pub(super) async fn refuse(mut stream: TcpStream, text: &str) {
    let said = async {
        stream.write_all(&words(text)).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(READ_MAX), &mut tokio::io::sink()).await
    };
    // Whoever does not listen need not know.
    let _ = timeout(DEADLINE, said).await;
}

/// Our version and the packet.
fn words(text: &str) -> Vec<u8> {
    let mut payload = vec![DISCONNECT];
    payload.extend(TOO_MANY_CONNECTIONS.to_be_bytes());
    for string in [text, ""] {
        payload.extend(u32::try_from(string.len()).unwrap_or(0).to_be_bytes());
        payload.extend(string.as_bytes());
    }
    let unpadded = size_of::<u32>() + 1 + payload.len();
    let padding = (unpadded + PADDING_MIN).next_multiple_of(BLOCK) - unpadded;
    let mut words = format!("{SERVER_ID}\r\n").into_bytes();
    words.extend(u32::try_from(1 + payload.len() + padding).unwrap_or(0).to_be_bytes());
    words.extend(u8::try_from(padding));
    words.extend(payload);
    words.resize(words.len() + padding, 0);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_whole_blocks_whatever_the_text() {
        for length in 0..40_u8 {
            let words = words(&"x".repeat(length.into()));
            let packet = words.strip_prefix(b"SSH-2.0-boxyard\r\n".as_slice()).expect("the version");
            assert_eq!(packet.len() % BLOCK, 0);
            assert_eq!(packet.len(), 4 + u32::from_be_bytes(packet[..4].try_into().expect("four bytes")) as usize);
            assert!((PADDING_MIN..PADDING_MIN + BLOCK).contains(&usize::from(packet[4])));
            assert_eq!((packet[5], &packet[6..10], &packet[10..14]), (1, &[0, 0, 0, 12][..], &[0, 0, 0, length][..]));
            assert_eq!(packet.len(), 14 + usize::from(length) + 4 + usize::from(packet[4]));
        }
    }
}
