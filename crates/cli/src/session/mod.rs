//! Live sessions: a program in a box with this process's own input, output, signals and, if wanted, terminal, over a WebSocket.
//!
//! ```text
//!   stdin ──▶ feed ──┐                              ┌──▶ stdout, stderr
//!                    ├──▶ say ══▶ server ══▶ hear ──┤
//!   signals ▶ steer ─┘     ▲                        └──▶ how much input was taken ──▶ feed
//!                          └── pings
//! ```
//! Four movements in one task; the first that comes to an end ends them all, and with the connection the server ends what runs in the
//! box. Nothing is queued: input is read when the program has taken what came before, and output when the one before is written.

use std::process::ExitCode;
use std::time::Duration;

use boxyard_proto::api::session::{ClientFrame, ServerFrame, Start};
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use reqwest::Upgraded;
use tokio::io::{stderr, stdin, stdout};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::client::Client;
use crate::failure::{Failure, NOT_RUN};

mod escape;
mod feed;
mod hear;
mod say;
mod signals;
mod terminal;

pub(crate) use escape::{Escape, escape_argument};
pub(crate) use terminal::{has_terminal, stdin_is_terminal};

use hear::Outputs;
use signals::{Heard, Signals};
use terminal::Raw;

/// Bytes of a message of the server's at most.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Bytes that are put together before they are sent.
const WRITE_BUFFER: usize = 64 * 1024;
/// How long a program may take to start. A box that is being made or resumed is waited for by the server for some minutes.
const START_DEADLINE: Duration = Duration::from_secs(360);
/// Frames about signals and sizes that may wait to be sent.
const STEERINGS: usize = 8;
/// Signals end programs with exit codes from here on.
const SIGNALLED: u8 = 128;

type Socket = WebSocketStream<Upgraded>;
type Sink = SplitSink<Socket, Message>;

/// A program to run in a box, and what of this process it shall have.
pub(crate) struct Order<'a> {
    /// Id or name of the box.
    pub(crate) id: &'a str,
    pub(crate) argv: Vec<String>,
    /// Its working folder.
    pub(crate) folder: String,
    /// Whether it gets standard input.
    pub(crate) input: bool,
    /// Whether it runs on a terminal. With `input` this process's own is raw meanwhile.
    pub(crate) terminal: bool,
    pub(crate) escape: Escape,
}

/// How a session ended.
enum End {
    /// By itself, with this exit code.
    Exit(i32),
    /// Nobody reads its output any more.
    NoReader,
    /// By a signal to this process.
    Signalled(i32),
    /// The user wants to leave.
    Escaped,
}

/// Runs it, and answers with its exit code.
pub(crate) async fn run(client: &Client, order: Order<'_>) -> Result<ExitCode, Failure> {
    let mut signals = Signals::watch(order.terminal && order.input, order.terminal)?;
    let begun = tokio::select! {
        begun = begin(client, &order) => begun?,
        number = signals.ending() => return Ok(signalled(number)),
    };
    let end = {
        // Whatever comes now, the terminal is as it was when this is left.
        let _raw = (order.terminal && order.input).then(Raw::enter).transpose()?;
        course(begun, order, &mut signals).await?
    };
    match end {
        End::Exit(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(NOT_RUN))),
        End::NoReader => Ok(ExitCode::from(crate::exec::NO_READER)),
        End::Signalled(number) => Ok(signalled(number)),
        End::Escaped => Err(Failure::plain("you have left the session, which ends what ran in it")),
    }
}

fn signalled(number: i32) -> ExitCode {
    ExitCode::from(u8::try_from(number).unwrap_or(0).saturating_add(SIGNALLED))
}

/// A session that has started.
struct Begun {
    socket: Socket,
    /// Bytes of input that may be on their way, if the server says so.
    window: Option<u64>,
}

async fn begin(client: &Client, order: &Order<'_>) -> Result<Begun, Failure> {
    let start = Start {
        argv: Some(order.argv.clone()),
        cwd: Some(order.folder.clone()),
        window: order.input.then_some(true),
        ..if order.terminal { on_terminal() } else { Start::default() }
    };
    let upgraded = client.websocket(&[order.id, "exec-session"]).await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        .write_buffer_size(WRITE_BUFFER);
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
    let starting = async {
        let start = say::frame(&ClientFrame::Start(start));
        socket.send(start).await.map_err(|error| Failure::failed("the connection broke off", error))?;
        match hear::next(&mut socket).await? {
            ServerFrame::Started { window, .. } => Ok(window),
            ServerFrame::Error { message } => Err(hear::said(&message)),
            ServerFrame::Stdout { .. }
            | ServerFrame::Stderr { .. }
            | ServerFrame::StdinTaken { .. }
            | ServerFrame::Exit { .. } => Err(hear::nonsense("it does not begin with a start")),
        }
    };
    let late = |_| Failure::plain("the program did not start in time");
    let window = timeout(START_DEADLINE, starting).await.map_err(late)??;
    Ok(Begun { socket, window })
}

/// What a start on a terminal brings along of this process's own.
fn on_terminal() -> Start {
    let size = terminal::size();
    let kind = std::env::var("TERM").ok().filter(|kind| (1..=64).contains(&kind.len()));
    let kind = kind.filter(|kind| kind.bytes().all(|byte| byte.is_ascii_graphic()));
    Start {
        tty: Some(true),
        rows: size.map(|(rows, _)| rows),
        cols: size.map(|(_, cols)| cols),
        env: kind.map(|kind| vec![format!("TERM={kind}")]),
        ..Start::default()
    }
}

/// A session, to its end.
async fn course(begun: Begun, order: Order<'_>, signals: &mut Signals) -> Result<End, Failure> {
    let Begun { socket, window } = begun;
    let (mut sink, mut stream) = socket.split();
    let (steering, steered) = mpsc::channel(STEERINGS);
    let (input, fed) = mpsc::channel(1);
    let (told, taken) = watch::channel(0);
    let mut outputs = Outputs { out: stdout(), err: stderr() };
    let Order { input: with_input, terminal: with_terminal, escape, .. } = order;
    let escape = (with_terminal && with_input).then_some(escape);
    let feeding = async {
        if with_input { feed::feed(stdin(), window, taken, escape, input).await } else { std::future::pending().await }
    };
    // The window may have changed while the program was started.
    if with_terminal && let Some(resize) = resize() {
        let _ = steering.try_send(resize);
    }
    tokio::select! {
        biased;
        end = hear::hear(&mut stream, &mut outputs, &told) => end,
        end = steer(signals, with_terminal && with_input, &steering) => Ok(end),
        end = feeding => end,
        never = say::say(&mut sink, steered, fed) => match never {},
    }
}

fn resize() -> Option<Message> {
    terminal::size().map(|(rows, cols)| say::frame(&ClientFrame::Resize { rows, cols }))
}

/// Passes on what signals tell. On a raw terminal keys are no signals, so those that come are for this process itself.
async fn steer(signals: &mut Signals, raw: bool, steering: &mpsc::Sender<Message>) -> End {
    loop {
        let message = match signals.next().await {
            Heard::Resized => resize(),
            Heard::Ending(number) if raw => return End::Signalled(number),
            Heard::Ending(number) => {
                signals::name(number).map(|name| say::frame(&ClientFrame::Signal { signal: name.to_owned() }))
            }
            Heard::Stop => {
                terminal::stop();
                resize()
            }
            Heard::Continued => {
                terminal::make_raw();
                resize()
            }
        };
        if let Some(message) = message {
            // There is room, or nothing is being sent at all.
            let _ = steering.send(message).await;
        }
    }
}
