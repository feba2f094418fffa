//! Live sessions: a program with live input and output over a WebSocket.
//!
//! Three movements that never wait for each other, as in the SSH door: what the client sends is taken in ([`hear`]), input is fed to the
//! program, and what the program writes goes out as fast as the client takes it, which is how fast the program goes on. The session ends
//! with its connection, and everything that it started ends with it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use boxyard_engine::agent::{Event, JobControl};
use boxyard_proto::api::logs::LogLevel;
use boxyard_proto::api::session::{ServerFrame, Start};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, ReadHalf, SimplexStream, simplex};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_util::sync::CancellationToken;

use super::Http;
use super::accept::Berth;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::Path;
use super::websocket::{self, Socket};
use crate::boxes::{Boxes, Kept, Session};
use crate::metrics::Door;

mod frame;
mod hear;
mod start;
mod steer;

use hear::{Heard, hear};
use steer::Steering;

/// How long a client may take to say what to start.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of input that may wait for the program. A client that keeps to this is always heard at once.
const INPUT_ROOM: usize = 1024 * 1024;
/// Bytes of input after which a client that has asked is told that they were taken.
const TAKEN_EVERY: u64 = INPUT_ROOM as u64 / 4;
/// Bytes of input that are passed on at once.
const INPUT_PIECE: usize = 64 * 1024;
/// How often a client is asked whether it is there: proxies cut what is silent for a minute.
const PING_EVERY: Duration = Duration::from_secs(25);
/// How long the last frames may take to go out, and the client to close.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(5);
/// Between TERM and KILL for what a client leaves running.
const LEFT_GRACE: Duration = Duration::from_millis(500);

type Sink = SplitSink<WebSocketStream<TcpStream>, Message>;
type Stream = SplitStream<WebSocketStream<TcpStream>>;

/// Opens a live session (WebSocket)
///
/// JSON text frames, bytes in base64. The client begins with `{"type":"start","argv":[…]}` (or `"cmd"`, run as `bash -lc`), with `tty`,
/// `cwd`, `rows`, `cols` and `env` as it likes, and goes on with `stdin`, `stdin_close`, `resize`, `signal` and `terminate`; the server
/// answers with `started`, `stdout`, `stderr` and, at the end, `exit` or `error`. Closing the connection ends the program and everything
/// that it started. With `"window":true`, `started` says how many bytes of input may be on their way, and `stdin_taken` how many have been
/// taken: a client that keeps to it is heard at once, whatever the program does not read.
#[utoipa::path(get, path = "/v2/box/{id}/exec-session", tag = "exec", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 101, description = "The connection speaks WebSocket from here on"), Refusals))]
pub(super) async fn exec_session(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Extension(berth): Extension<Berth>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let (response, upgrade) = websocket::accept(&mut request)?;
    let give_up = berth.give_up.clone();
    berth.live_on(async move {
        match websocket::take(upgrade).await {
            Ok(socket) => serve(&http, &kept, socket, &give_up).await,
            Err(error) => tracing::debug!(%error, "a WebSocket was not begun"),
        }
    });
    Ok(response)
}

/// How a session's connection is left.
enum End {
    /// With a last frame.
    Said(ServerFrame),
    /// The client has gone.
    Left,
}

impl End {
    fn error(message: impl Into<String>) -> Self {
        Self::Said(ServerFrame::Error { message: message.into() })
    }
}

async fn serve(http: &Http, kept: &Kept, socket: Socket, give_up: &CancellationToken) {
    let Socket { stream, departure } = socket;
    let (mut sink, mut stream) = stream.split();
    let leaving = async {
        tokio::select! {
            () = departure.wait() => End::Left,
            () = give_up.cancelled() => End::error("the server is shutting down"),
        }
    };
    let end = course(http, kept, &mut sink, &mut stream, leaving).await;
    let End::Said(last) = end else { return };
    // A client that does not take its last frames, or does not close, is not waited for.
    let _ = timeout(FAREWELL_DEADLINE, async {
        if sink.send(frame::message(&last)).await.is_ok() && sink.send(Message::Close(None)).await.is_ok() {
            tokio::select! {
                () = departure.wait() => {}
                () = async { while let Some(Ok(_)) = stream.next().await {} } => {}
            }
        }
    })
    .await;
}

/// From the first frame to the end, or until the client or the server is `leaving`.
async fn course(
    http: &Http,
    kept: &Kept,
    sink: &mut Sink,
    stream: &mut Stream,
    leaving: impl Future<Output = End>,
) -> End {
    let mut leaving = std::pin::pin!(leaving);
    let begun = tokio::select! {
        biased;
        end = &mut leaving => return end,
        begun = timeout(START_DEADLINE, hear::first(stream)) => begun,
    };
    let begun = match begun {
        Ok(Ok(begun)) => begun,
        Ok(Err(heard)) => return ended_by(heard),
        Err(_) => return End::error("the first frame must be start, and did not come"),
    };
    let Start { tty, window, .. } = begun;
    let (order, prompt) = match start::order(begun) {
        Ok(order) => order,
        Err(error) => return End::error(error.to_string()),
    };
    let how = How { with_terminal: tty == Some(true), with_window: window == Some(true) };
    http.metrics.execs.get_or_create(&Door { door: "exec-session" }).inc();
    let opened = tokio::select! {
        biased;
        end = &mut leaving => return end,
        opened = http.boxes.open_session(kept, order) => opened,
    };
    let mut session = match opened {
        Ok(session) => session,
        Err(error) => return End::error(start::refusal(&error)),
    };
    let name = session.name().to_owned();
    http.boxes.log(kept.id(), LogLevel::Info, format!("Session {name} started: {prompt}"));
    let end = tokio::select! {
        biased;
        end = leaving => end,
        end = follow(&http.boxes, kept, &mut session, how, sink, stream) => end,
    };
    let how = match &end {
        End::Said(ServerFrame::Exit { code }) => format!("with exit code {code}"),
        End::Said(ServerFrame::Error { message }) => format!("early: {message}"),
        End::Said(_) | End::Left => {
            // Dropping the session ends its processes as well, only later. But where input that nobody reads is in the way, waiting to say
            // this would be what keeps them alive.
            let _ = session.control().end(LEFT_GRACE).now_or_never();
            "with its connection".to_owned()
        }
    };
    http.boxes.log(kept.id(), LogLevel::Info, format!("Session {name} ended {how}"));
    end
}

fn ended_by(heard: Heard) -> End {
    match heard {
        Heard::Left => End::Left,
        Heard::Nonsense(message) => End::error(message),
    }
}

/// What a client has asked for.
#[derive(Debug, Clone, Copy)]
struct How {
    with_terminal: bool,
    /// To be told how much of its input was taken.
    with_window: bool,
}

/// A running session, to its end.
async fn follow(
    boxes: &Boxes,
    kept: &Kept,
    session: &mut Session,
    how: How,
    sink: &mut Sink,
    stream: &mut Stream,
) -> End {
    let name = session.name().to_owned();
    let window = how.with_window.then_some(INPUT_ROOM as u64);
    let started = ServerFrame::Started { pid: session.pid(), exec_id: name.clone(), window };
    if sink.send(frame::message(&started)).await.is_err() {
        return End::Left;
    }
    let (control, over) = (session.control(), session.over().clone());
    let (input, mut feed_from) = {
        let (read, write) = simplex(INPUT_ROOM);
        (write, read)
    };
    let (steering, orders) = Steering::new();
    let (passed, taken) = watch::channel(0);
    let taken = how.with_window.then_some(taken);
    let stuck = Notify::new();
    tokio::select! {
        biased;
        end = pump(session, sink, taken, &stuck) => end,
        (phase, halt) = kept.unready() => End::error(kept.farewell(phase, halt)),
        () = over.cancelled() => End::error(kept.farewell(kept.phase(), None)),
        heard = hear(stream, input, steering, how.with_terminal, &stuck) => ended_by(heard),
        () = orders.follow(boxes, kept, &name, &control) => End::Left,
        () = feed(&control, &mut feed_from, &passed) => End::Left,
    }
}

/// Sends what the program writes, and how much of its input was taken, if somebody wants to know.
async fn pump(session: &mut Session, sink: &mut Sink, mut taken: Option<watch::Receiver<u64>>, stuck: &Notify) -> End {
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    loop {
        let sent = tokio::select! {
            biased;
            // Comes once in so many bytes of the client's own, so it holds nothing up.
            total = further(&mut taken, told) => {
                told = total;
                sink.send(frame::message(&ServerFrame::StdinTaken { total })).await
            }
            event = session.next() => match event {
                Ok(Event::Out(bytes)) => sink.send(frame::stdout(&bytes)).await,
                Ok(Event::Err(bytes)) => sink.send(frame::stderr(&bytes)).await,
                Ok(Event::Exit(exit)) => return End::Said(ServerFrame::Exit { code: exit.code }),
                Err(error) => return End::error(error.to_string()),
            },
            _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await,
            // A client's end comes behind its input, so while that is stuck it is not heard of. But a system that gets something for a
            // program which has closed the connection answers at once that it has.
            () = stuck.notified() => sink.send(Message::Ping(Bytes::new())).await,
        };
        if let Err(error) = sent {
            if !matches!(error, Error::ConnectionClosed | Error::AlreadyClosed) {
                tracing::debug!(%error, "a session's client takes nothing more");
            }
            return End::Left;
        }
    }
}

/// Waits until enough input was taken to be worth telling.
async fn further(taken: &mut Option<watch::Receiver<u64>>, told: u64) -> u64 {
    if let Some(taken) = taken
        && let Ok(total) = taken.wait_for(|total| *total - told >= TAKEN_EVERY).await
    {
        return *total;
    }
    std::future::pending().await
}

/// Passes input on as fast as the program takes it, and counts it. Ends only when the program is lost, which is heard of elsewhere too.
async fn feed(control: &JobControl, input: &mut ReadHalf<SimplexStream>, passed_on: &watch::Sender<u64>) {
    let mut piece = Vec::with_capacity(INPUT_PIECE);
    loop {
        piece.clear();
        // The pipe is memory: reading it does not fail.
        let read = input.take(INPUT_PIECE as u64).read_buf(&mut piece).await.unwrap_or(0);
        let passed = if read == 0 { control.end_input().await } else { control.input(&piece).await };
        if read == 0 || passed.is_err() {
            return std::future::pending().await;
        }
        passed_on.send_modify(|total| *total += read as u64);
    }
}
