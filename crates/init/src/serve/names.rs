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

/// Bytes read of an answer at most. What does not fit is not wanted: it holds more addresses than are tried.
const ANSWER_MAX: usize = 8 * 1024;

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
    let Answer { addresses, end } = Answer::read(&answer?);
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

/// Runs `getent` to its end, or to where its answer is long enough, and returns all that its connection has carried.
async fn ask(name: &str, user: User, jobs: &Rc<Jobs>, sockets: &Sockets) -> Result<Vec<u8>, Refusal> {
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
    let mut answer = vec![0; ANSWER_MAX];
    let mut length = 0;
    while length < answer.len() {
        match ours.try_read(&mut answer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ours.readable().await.map_err(exhausted)?,
            Err(error) => return Err(exhausted(error)),
        }
    }
    answer.truncate(length);
    Ok(answer)
}

/// How the look-up ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Exit(i32),
    Failed(FailedKind, String),
}

/// What a look-up has said.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    addresses: Vec<IpAddr>,
    end: Option<End>,
}

impl Answer {
    /// Reads as much of the frames as came.
    fn read(mut frames: &[u8]) -> Self {
        let (mut out, mut end) = (Vec::new(), None);
        while let Some((header, rest)) = frames.split_first_chunk::<HEADER_LEN>() {
            let Ok((kind, length)) = wire::parse_header(*header) else { break };
            let (payload, rest) = rest.split_at(length.min(rest.len()));
            match kind {
                Kind::Out => out.extend_from_slice(payload),
                Kind::Json => match wire::parse::<FromInit>(payload, &FromInit::KNOWN) {
                    Ok(Parsed::Known(FromInit::Exit(exit))) => end = Some(End::Exit(exit.code)),
                    Ok(Parsed::Known(FromInit::Failed { kind, message })) => end = Some(End::Failed(kind, message)),
                    Ok(_) | Err(_) => {}
                },
                Kind::In | Kind::Err => {}
            }
            frames = rest;
        }
        Self { addresses: addresses(&out), end }
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
    fn frames_are_read_as_far_as_they_came() {
        let mut frames = wire::json_frame(&FromInit::Started { pid: 7 });
        frames.extend(wire::header(Kind::Out, 12).into_iter().chain(*b"192.0.2.1 x\n"));
        frames.extend(wire::header(Kind::Err, 2).into_iter().chain(*b"!\n"));
        let cut = wire::header(Kind::Out, 1000).into_iter().chain(*b"192.0.2.2 x\n192.0.");
        let whole = Answer::read(&frames.iter().copied().chain(cut).collect::<Vec<_>>());
        assert_eq!(whole.addresses.len(), 2);
        for length in 0..frames.len() {
            assert!(Answer::read(&frames[..length]).addresses.len() <= 1);
        }
        let failed = wire::json_frame(&FromInit::Failed { kind: FailedKind::Exhausted, message: "no".into() });
        assert_eq!(Answer::read(&failed).end, Some(End::Failed(FailedKind::Exhausted, "no".into())));
        assert_eq!(Answer::read(&[0xff; 64]), Answer { addresses: Vec::new(), end: None });
    }
}
