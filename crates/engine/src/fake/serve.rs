//! The other end of a connection: what `boxyard-init` does in a real box.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use boxyard_proto::wire::{self, Exec, Exit, FailedKind, FromInit, Hello, Kind, OnClose, Parsed, ToInit};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::job::{Job, Said};
use super::programs::{self, Program};
use super::spooled::{Next, Spooled};
use super::{FakeBox, lock, sockets};

/// Pieces of input that may wait for the program.
const INPUT_PIECES: usize = 4;

static PIDS: AtomicU32 = AtomicU32::new(2);

/// Serves one connection to its end.
pub(super) async fn serve(home: Weak<FakeBox>, stream: DuplexStream) {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = Reader(read);
    let Some((name, job, told, input)) = open(home.clone(), &mut read, &mut write).await else { return };
    let ended = listen(&mut read, &job, input);
    if let (Told::From(follower, from), Some(spooled)) = (&told, &job.spooled) {
        let mut ended = std::pin::pin!(ended);
        let ended = tokio::select! {
            ended = &mut ended => ended,
            () = tell_spooled(&mut write, spooled, *follower, *from) => ended.await,
        };
        spooled.leave(*follower);
        if let (true, Some(home)) = (ended, home.upgrade()) {
            lock(&home.jobs).remove(&name);
        }
        return;
    }
    let Told::Coming(told) = told else { return };
    tokio::select! {
        delivered = tell(&mut write, told) => {
            // As in a real box: an end that somebody has been told is not kept.
            if delivered && let Some(home) = home.upgrade() {
                lock(&home.jobs).retain(|_, kept| !Arc::ptr_eq(kept, &job));
            }
        }
        _ = ended => {
            if job.on_close != OnClose::Keep {
                job.kill.cancel();
            }
        }
    }
}

/// What a connection is told.
enum Told {
    /// What comes from now on.
    Coming(mpsc::Receiver<Said>),
    /// As this follower, what is held, from this byte on.
    From(u64, u64),
}

impl Told {
    fn new(job: &Job, from: Option<u64>) -> Self {
        match &job.spooled {
            Some(spooled) => {
                let (follower, from) = spooled.follow(from);
                Self::From(follower, from)
            }
            None => Self::Coming(job.connect()),
        }
    }

    fn from(&self) -> u64 {
        match self {
            Self::Coming(_) => 0,
            Self::From(_, from) => *from,
        }
    }
}

type Opened = (String, Arc<Job>, Told, Option<mpsc::Sender<Bytes>>);

async fn open(home: Weak<FakeBox>, read: &mut Reader, write: &mut WriteHalf<DuplexStream>) -> Option<Opened> {
    send(write, &FromInit::Hello(Hello::ours())).await?;
    loop {
        match read.message().await? {
            Frame::Message(ToInit::Hello(_)) => {}
            Frame::Message(ToInit::Exec(exec)) => {
                return match start(&home.upgrade()?, exec) {
                    Ok(opened) => {
                        let pid = PIDS.fetch_add(1, Ordering::Relaxed);
                        send(write, &FromInit::Started { pid, from: 0 }).await?;
                        Some(opened)
                    }
                    Err(message) => refuse(write, message).await,
                };
            }
            Frame::Message(ToInit::Attach { job, from }) => {
                let found = lock(&home.upgrade()?.jobs).get(&job).cloned();
                let Some(found) = found else { return refuse(write, format!("no job '{job}'")).await };
                let told = Told::new(&found, from);
                send(write, &FromInit::Started { pid: 2, from: told.from() }).await?;
                if let (Told::Coming(_), Some(exit)) = (&told, found.exit()) {
                    send(write, &FromInit::Exit(exit)).await?;
                    lock(&home.upgrade()?.jobs).remove(&job);
                    return None;
                }
                return Some((job, found, told, None));
            }
            Frame::Message(ToInit::SignalJob { job, signal, .. }) => {
                let found = lock(&home.upgrade()?.jobs).get(&job).cloned();
                let Some(found) = found else { return refuse(write, format!("no job '{job}'")).await };
                found.signal(signal);
                send(write, &FromInit::Started { pid: 2, from: 0 }).await?;
                return None;
            }
            Frame::Message(ToInit::Dial { to, .. }) => {
                sockets::dial(to, read, write).await;
                return None;
            }
            Frame::Message(ToInit::Listen { at, .. }) => {
                sockets::listen(&*home.upgrade()?, at, read, write).await;
                return None;
            }
            Frame::Message(ToInit::Accept { connection }) => {
                sockets::accept(&*home.upgrade()?, connection, read, write).await;
                return None;
            }
            Frame::Message(
                ToInit::Signal { .. } | ToInit::Resize { .. } | ToInit::End { .. } | ToInit::Taken { .. },
            )
            | Frame::Data(_) => return None,
        }
    }
}

async fn refuse(write: &mut WriteHalf<DuplexStream>, message: String) -> Option<Opened> {
    send(write, &FromInit::Failed { kind: FailedKind::NotFound, message }).await?;
    None
}

fn start(home: &Arc<FakeBox>, exec: Exec) -> Result<Opened, String> {
    let folder = exec.folder.trim_end_matches(['/', '.']);
    let folder = if folder.is_empty() { "/" } else { folder };
    if !lock(&home.folders).contains(folder) {
        return Err(format!("folder '{}' does not exist", exec.folder));
    }
    let spool = exec.spool && exec.on_close == OnClose::Keep;
    let job = Job::new(exec.on_close, spool, home.ended.child_token());
    job.size.send_replace(exec.pty.as_ref().map(|pty| pty.size).unwrap_or_default());
    let told = Told::new(&job, Some(0));
    let (input, stdin) = mpsc::channel(INPUT_PIECES);
    let input = exec.stdin.then_some(input);
    lock(&home.jobs).insert(exec.job.clone(), Arc::clone(&job));
    let mut env: Vec<String> = home.spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.extend(exec.env);
    let program = Program {
        home: Arc::downgrade(home),
        gates: home.gates.clone(),
        job: Arc::clone(&job),
        folder: folder.to_owned(),
        env,
        stdin,
    };
    let (running, ended) = (Arc::clone(&job), home.ended.clone());
    // Ends with the program, and with the box at the latest: then there is nobody left to tell.
    tokio::spawn(async move {
        let run = async {
            let exit = programs::run(program, exec.argv, exec.builtin).await;
            // The end of the box ends it as well.
            if !ended.is_cancelled() {
                running.finish(exit).await;
            }
        };
        ended.run_until_cancelled(run).await
    });
    Ok((exec.job, job, told, input))
}

/// Tells what is held and the end.
async fn tell_spooled(write: &mut WriteHalf<DuplexStream>, spooled: &Spooled, follower: u64, mut from: u64) {
    loop {
        match spooled.next(follower, from).await {
            Next::Bytes(kind, bytes) => {
                if send_data(write, kind, &bytes).await.is_none() {
                    return;
                }
                from += bytes.len() as u64;
                spooled.sent(from);
            }
            Next::Exit(exit) => {
                send(write, &FromInit::Exit(exit)).await;
                return;
            }
            Next::Replaced => {
                // As the real one, it closes the connection.
                let _ = write.shutdown().await;
                return;
            }
        }
    }
}

/// Tells all there is; says whether the end was among it.
async fn tell(write: &mut WriteHalf<DuplexStream>, mut told: mpsc::Receiver<Said>) -> bool {
    while let Some(told) = told.recv().await {
        match told {
            Said::Bytes(kind, bytes) => {
                if send_data(write, kind, &bytes).await.is_none() {
                    return false;
                }
            }
            Said::Exit(exit) => {
                // Either way the connection is over.
                return send(write, &FromInit::Exit(exit)).await.is_some();
            }
        }
    }
    false
}

/// Does what is said, until nobody says anything any more. Says whether the job's end is known to be safe.
async fn listen(read: &mut Reader, job: &Arc<Job>, mut input: Option<mpsc::Sender<Bytes>>) -> bool {
    while let Some(frame) = read.message().await {
        match frame {
            Frame::Data(bytes) if bytes.is_empty() => input = None,
            Frame::Data(bytes) => {
                let Some(to) = &input else { continue };
                let unheard = |unheard| job.spooled.iter().for_each(|spooled| spooled.unheard(unheard));
                unheard(to.capacity() == 0);
                if to.send(bytes).await.is_err() {
                    input = None;
                }
                unheard(false);
            }
            Frame::Message(ToInit::End { grace_ms }) => {
                job.term.cancel();
                let job = Arc::clone(job);
                // Ends with the job, and after the grace at the latest.
                tokio::spawn(async move {
                    let ended = tokio::time::timeout(Duration::from_millis(grace_ms), job.ended());
                    if ended.await.is_err() {
                        job.kill.cancel();
                    }
                });
            }
            Frame::Message(ToInit::Signal { signal, .. }) => job.signal(signal),
            Frame::Message(ToInit::Resize { size }) => {
                job.size.send_replace(size);
            }
            Frame::Message(ToInit::Taken { upto, ended }) => {
                if let Some(spooled) = &job.spooled {
                    spooled.take(upto);
                }
                if ended && job.exit().is_some() {
                    return true;
                }
            }
            Frame::Message(
                ToInit::Hello(_)
                | ToInit::Exec(_)
                | ToInit::Attach { .. }
                | ToInit::SignalJob { .. }
                | ToInit::Dial { .. }
                | ToInit::Listen { .. }
                | ToInit::Accept { .. },
            ) => return false,
        }
    }
    false
}

pub(super) async fn send(write: &mut WriteHalf<DuplexStream>, message: &FromInit) -> Option<()> {
    write.write_all(&wire::json_frame(message)).await.ok()
}

pub(super) async fn send_data(write: &mut WriteHalf<DuplexStream>, kind: Kind, bytes: &[u8]) -> Option<()> {
    for piece in bytes.chunks(wire::FRAME_MAX) {
        write.write_all(&wire::header(kind, piece.len())).await.ok()?;
        write.write_all(piece).await.ok()?;
    }
    Some(())
}

pub(super) struct Reader(ReadHalf<DuplexStream>);

pub(super) enum Frame {
    Message(ToInit),
    Data(Bytes),
}

impl Reader {
    pub(super) async fn message(&mut self) -> Option<Frame> {
        loop {
            let mut header = [0; wire::HEADER_LEN];
            self.0.read_exact(&mut header).await.ok()?;
            let (kind, length) = wire::parse_header(header).ok()?;
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.ok()?;
            match kind {
                Kind::In => return Some(Frame::Data(payload.into())),
                Kind::Json => match wire::parse(&payload, &ToInit::KNOWN).ok()? {
                    Parsed::Known(message) => return Some(Frame::Message(message)),
                    Parsed::Unknown(_) => {}
                },
                Kind::Out | Kind::Err => return None,
            }
        }
    }
}

/// What the kernel says of a process that a signal ended.
pub(super) fn killed_by(signal: i32) -> Exit {
    Exit { code: 128 + signal, signal: Some(signal), cpu_ns: 1_000_000, memory_peak: 1 << 20 }
}
