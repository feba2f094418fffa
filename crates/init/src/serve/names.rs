//! Looking names up as the box's own programs would: by its `/etc/hosts`, its name servers, its `nsswitch.conf`.
//!
//! PID 1 is a static program and cannot load what those files ask for, so the box's `getent` is asked, as an ordinary job of the user
//! who wants to know: with its own cgroup, filter and rights. Nothing that it says is trusted.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use boxyard_proto::wire::{self, Exec, FailedKind, FromInit, HEADER_LEN, Kind, Parsed, User};
use tokio::net::UnixStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::connection::Connection;
use super::exec::Refusal;
use super::jobs::Jobs;
use super::sockets::Sockets;

/// Bytes of output kept. What does not fit is not wanted: it holds more addresses than are tried.
const OUTPUT_MAX: usize = 8 * 1024;

/// Bytes of what a look-up writes that are read at once.
const READ_SIZE: usize = 4 * 1024;

/// Addresses of one name at most.
const ADDRESSES: usize = 8;

/// How long a look-up may take, waiting for its turn included.
const LOOKING_UP: Duration = Duration::from_secs(10);

/// The addresses of `name`, in the order in which the box's programs would try them. `name` comes from
/// [`Host::parse`](super::address::Host::parse). Dropping the look-up ends its process.
///
/// # Errors
/// The name has no address, the box has no `getent`, or there is no room or no time.
pub async fn look_up(name: &str, user: User, jobs: &Rc<Jobs>, sockets: &Sockets) -> Result<Vec<IpAddr>, Refusal> {
    let answer = timeout(LOOKING_UP, ask(name, user, jobs, sockets));
    let answer =
        answer.await.map_err(|_| Refusal::new(FailedKind::Other, format!("looking up {name} took too long")))?;
    let Answer { out, end, .. } = answer?;
    let addresses = addresses(&out);
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    Err(match end {
        // What a shell says of a program that is not there.
        Some(End::Exit(127)) => Refusal::new(FailedKind::Other, "the box has no `getent`, which looks up names"),
        Some(End::Exit(126)) => {
            Refusal::new(FailedKind::Other, "the box's `getent`, which looks up names, cannot be run")
        }
        Some(End::Failed(kind, message)) => Refusal::new(kind, format!("looking up {name}: {message}")),
        Some(End::Exit(_)) | None => Refusal::new(FailedKind::NotFound, format!("{name}: name or service not known")),
    })
}

/// Runs `getent` to its end, or to where its answer is long enough.
async fn ask(name: &str, user: User, jobs: &Rc<Jobs>, sockets: &Sockets) -> Result<Answer, Refusal> {
    let exhausted = |error: io::Error| Refusal::of_kernel("looking up a name", error);
    let place = Arc::clone(&sockets.look_ups).acquire_owned().await;
    let place = place.map_err(|closed| exhausted(io::Error::other(closed)))?;
    let (ours, theirs) = UnixStream::pair().map_err(exhausted)?;
    let argv = ["getent", "ahosts", name].map(str::to_owned).to_vec();
    let exec = Exec::new(format!("look-up {}", sockets.number()), argv, "/", user);
    let started = jobs.start(&exec)?;
    let connection = Connection::new(theirs, place, jobs.scratch());
    // Like any job it is its task's to end, however early we leave: closing our end is what tells it to.
    let jobs = Rc::clone(jobs);
    spawn_local(async move { super::follow(started, connection, &jobs).await });
    let mut answer = Answer::default();
    let mut buffer = [0; READ_SIZE];
    while !answer.is_enough() {
        match ours.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.take(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ours.readable().await.map_err(exhausted)?,
            Err(error) => return Err(exhausted(error)),
        }
    }
    Ok(answer)
}

/// How a look-up ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Exit(i32),
    Failed(FailedKind, String),
}

/// What a look-up has said so far.
#[derive(Debug, Default)]
struct Answer {
    out: Vec<u8>,
    end: Option<End>,
    /// What has come in and is not cut yet: less than a message.
    inbox: Vec<u8>,
    /// What is still to come of a frame that is not one of ours to read whole.
    under_way: Option<(Kind, usize)>,
}

impl Answer {
    /// Whether nothing more of it is wanted.
    fn is_enough(&self) -> bool {
        self.out.len() >= OUTPUT_MAX
    }

    /// Takes the next bytes of the frames.
    fn take(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        loop {
            if let Some((kind, left)) = self.under_way {
                let piece = left.min(self.inbox.len());
                let bytes = self.inbox.drain(..piece);
                if kind == Kind::Out {
                    self.out.extend(bytes.take(OUTPUT_MAX - self.out.len()));
                }
                if piece < left {
                    self.under_way = Some((kind, left - piece));
                    return;
                }
                self.under_way = None;
            }
            let Some(header) = self.inbox.first_chunk::<HEADER_LEN>() else { return };
            // They are our own frames, so a broken one cannot be; and it would mean nothing.
            let Ok((kind, length)) = wire::parse_header(*header) else { return self.inbox.clear() };
            if kind != Kind::Json {
                self.inbox.drain(..HEADER_LEN);
                self.under_way = Some((kind, length));
                continue;
            }
            let Some(payload) = self.inbox.get(HEADER_LEN..HEADER_LEN + length) else { return };
            match wire::parse::<FromInit>(payload, &FromInit::KNOWN) {
                Ok(Parsed::Known(FromInit::Exit(exit))) => self.end = Some(End::Exit(exit.code)),
                Ok(Parsed::Known(FromInit::Failed { kind, message })) => self.end = Some(End::Failed(kind, message)),
                Ok(_) | Err(_) => {}
            }
            self.inbox.drain(..HEADER_LEN + length);
        }
    }
}

/// The addresses at the beginnings of lines, each once. Only whole lines count: half an address may be another one.
fn addresses(out: &[u8]) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for line in out.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let word = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        // Some programs print an IPv4 address in the manner of IPv6.
        let address = std::str::from_utf8(word).ok().and_then(|word| word.parse::<IpAddr>().ok());
        if let Some(address) = address.map(|address| address.to_canonical())
            && !addresses.contains(&address)
        {
            addresses.push(address);
            if addresses.len() == ADDRESSES {
                break;
            }
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whatever_they_say() {
        let parsed = |text: &str| addresses(text.as_bytes()).iter().map(ToString::to_string).collect::<Vec<_>>();
        let glibc = "2001:db8::7     STREAM site.test\n2001:db8::7     DGRAM  \n192.0.2.1       STREAM \n192.0.2.1       RAW    \n";
        assert_eq!(parsed(glibc), ["2001:db8::7", "192.0.2.1"]);
        assert_eq!(parsed("::ffff:192.0.2.1 x\n"), ["192.0.2.1"]);
        assert_eq!(parsed("192.0.2.1 STREAM x\n192.0.2.2"), ["192.0.2.1"], "the last line is not whole");
        assert!(parsed("\n\n  \nrubbish\n999.1.1.1 x\nfe80::1%eth0 x\n").is_empty());
        assert!(addresses(b"\xff\xfe\n\0\n").is_empty());
        let many: String = (0..200).map(|n| format!("10.0.0.{n} STREAM\n")).collect();
        assert_eq!(parsed(&many).len(), ADDRESSES);
    }

    #[test]
    fn frames_are_read_in_whatever_pieces_they_come() {
        let frame = |kind, payload: &[u8]| [wire::header(kind, payload.len()).as_slice(), payload].concat();
        let frames = [
            wire::json_frame(&FromInit::Started { pid: 7, from: 0 }),
            frame(Kind::Out, b"192.0.2.1 x\n192.0."),
            frame(Kind::Err, b"!\n"),
            frame(Kind::Out, b""),
            frame(Kind::Out, b"2.2 x\n"),
            wire::json_frame(&FromInit::Failed { kind: FailedKind::Exhausted, message: "no".into() }),
        ]
        .concat();
        for size in 1..=frames.len() {
            let mut answer = Answer::default();
            frames.chunks(size).for_each(|piece| answer.take(piece));
            assert_eq!(answer.out, b"192.0.2.1 x\n192.0.2.2 x\n");
            assert_eq!(answer.end, Some(End::Failed(FailedKind::Exhausted, "no".into())));
        }
        let mut answer = Answer::default();
        answer.take(&[0xff; 64]);
        assert!(answer.out.is_empty() && answer.inbox.is_empty());
    }

    #[test]
    fn complaints_are_not_kept_and_output_only_so_far() {
        let mut answer = Answer::default();
        for _ in 0..100 {
            answer.take(&wire::header(Kind::Err, READ_SIZE));
            answer.take(&[b'e'; READ_SIZE]);
        }
        assert!(answer.out.is_empty() && answer.inbox.is_empty() && !answer.is_enough());
        answer.take(&wire::header(Kind::Out, 3 * READ_SIZE));
        (0..3).for_each(|_| answer.take(&[b'o'; READ_SIZE]));
        assert!(answer.is_enough() && answer.out.len() == OUTPUT_MAX);
    }
}
