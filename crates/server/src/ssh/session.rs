//! A session channel: a shell, a command, or SFTP.
//!
//! One task, three movements that never wait for each other: what the client sends is taken in at once ([`hear`]), what waits is fed to
//! the program ([`Input::feed`]), and what the program writes goes out as fast as the client's window allows ([`output::pump`]).

use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::agent::{AgentError, JobControl};
use boxyard_proto::wire::{FailedKind, PtySize, Scope};
use russh::server::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connection::{Common, Slot};
use super::input::Input;
use super::motd;
use super::output::{self, Ended, Output};
use super::request::{Asked, Order, size_of};
use super::signals;
use crate::boxes::{Program, Session, SessionError, SessionOrder};

/// Signals of a client that may wait to be sent.
const SIGNALS: usize = 16;
/// Exit status of a program that could not be started, as `ssh` itself has it for what goes wrong beside the program.
const NOT_STARTED: u32 = 255;
/// How long the news may take that a box has ended, or has been paused or has died, behind the end of what ran in it.
const NEWS: Duration = Duration::from_secs(2);

/// Serves a session channel to its end.
pub(super) async fn serve(common: Arc<Common>, channel: Channel<Msg>, asked: oneshot::Receiver<Order>, _slot: Slot) {
    let (mut read, write) = channel.split();
    let input = Input::new(&common.flow);
    let (resize, sizes) = watch::channel(None);
    let (signal, signals) = mpsc::channel(SIGNALS);
    let senders = Senders { resize, signal };
    let out = Output::new(write, common.handle.clone());
    let work = work(&common, asked, &input, &out, Steering { sizes, signals });
    tokio::select! {
        biased;
        heard = hear(&mut read, &input, &senders) => match heard {
            Heard::Closed => return,
            Heard::Overrun => {
                tracing::info!(peer = %common.peer, "closed an SSH channel whose client does not keep to its window");
            }
        },
        () = work => {}
    }
    // `russh` must not wait for us to hear more while we wait for it to close.
    drop(read);
    common.closes_first();
    out.close().await;
}

/// How to tell a program's surroundings what its client wants.
struct Senders {
    resize: watch::Sender<Option<PtySize>>,
    signal: mpsc::Sender<i32>,
}

/// The other end of [`Senders`].
struct Steering {
    sizes: watch::Receiver<Option<PtySize>>,
    signals: mpsc::Receiver<i32>,
}

/// Why nothing more comes of a client.
pub(super) enum Heard {
    Closed,
    Overrun,
}

/// Takes in what the client sends; never waits for anybody else, because `russh` waits for us.
async fn hear(read: &mut ChannelReadHalf, input: &Input, senders: &Senders) -> Heard {
    while let Some(message) = read.wait().await {
        if let ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height } = &message {
            let size = size_of([*col_width, *row_height, *pix_width, *pix_height]);
            senders.resize.send_replace(Some(size));
        }
        if let ChannelMsg::Signal { signal } = &message
            && let Some(number) = signals::number(signal)
        {
            // Whoever sends more than can be delivered gets what was delivered.
            let _ = senders.signal.try_send(number);
        }
        if let Some(heard) = take_in(message, input) {
            return heard;
        }
    }
    Heard::Closed
}

/// Takes in what concerns the bytes of a channel.
pub(super) fn take_in(message: ChannelMsg, input: &Input) -> Option<Heard> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is answered in callbacks, or is no client's to send")]
    match message {
        ChannelMsg::Data { data } => input.push(data).err().map(|_| Heard::Overrun),
        ChannelMsg::Eof => {
            input.end();
            None
        }
        ChannelMsg::Close => Some(Heard::Closed),
        _ => None,
    }
}

/// Waits for the order, runs it, and tells the client how it ended.
async fn work(common: &Arc<Common>, asked: oneshot::Receiver<Order>, input: &Input, out: &Output, steering: Steering) {
    // The other end is dropped when the channel is closed, which ends this.
    let Ok(order) = asked.await else { return std::future::pending().await };
    let terminal = order.terminal.is_some();
    let ended = tokio::select! {
        biased;
        text = common.over() => Ended::Refused(text.to_string(), NOT_STARTED),
        ended = run(common, order, input, out, steering) => ended,
    };
    let ended = match ended {
        // The news of the box's own end may be slower than the end.
        Ended::Lost(text) => match timeout(NEWS, common.over()).await {
            Ok(farewell) => Ended::Refused(farewell.to_string(), NOT_STARTED),
            Err(_) => Ended::Refused(text, NOT_STARTED),
        },
        Ended::Exit(_) | Ended::Refused(..) | Ended::Unreadable => ended,
    };
    out.finish(ended, terminal).await;
}

async fn run(common: &Arc<Common>, order: Order, input: &Input, out: &Output, steering: Steering) -> Ended {
    let program = match order.asked {
        Asked::Program(program) => program,
        Asked::Impossible(why) => return Ended::Refused(why.to_owned(), 1),
    };
    let _counted = common.count(match program {
        Program::Shell => "shell",
        Program::Command(_) | Program::Exact(_) => "exec",
        Program::Sftp => "sftp",
    });
    let term = order.terminal.as_ref().map(|terminal| terminal.term.as_str());
    let mut env = order.variables.lines(term, common.peer, common.local);
    if order.agent
        && let Some(path) = common.agent.socket(common).await
    {
        env.push(format!("SSH_AUTH_SOCK={path}"));
    }
    let greeting = (program == Program::Shell && term.is_some()).then(|| greeting(common));
    let terminal = order.terminal.map(|terminal| terminal.pty);
    let with_terminal = terminal.is_some();
    let order = SessionOrder { program, env, pty: terminal };
    let mut session = match common.shared.boxes.open_session(&common.kept, order).await {
        Ok(session) => session,
        Err(error) => return not_started(&error),
    };
    if let Some(greeting) = greeting
        && out.data(greeting.into()).await.is_err()
    {
        return Ended::Unreadable;
    }
    let (control, name) = (session.control(), session.name().to_owned());
    let going_down = with_terminal.then_some(&common.shared.stop);
    let grace = common.shared.limits.ssh_shutdown_grace;
    let steered = async {
        tokio::join!(
            input.feed(&control),
            follow_sizes(&control, steering.sizes),
            follow_signals(common, &name, steering.signals)
        );
        std::future::pending().await
    };
    tokio::select! {
        biased;
        ended = pump(&mut session, out, going_down, grace) => ended,
        () = steered => Ended::Unreadable,
    }
}

/// Sends what the program writes, to its end.
async fn pump(session: &mut Session, out: &Output, mut stop: Option<&CancellationToken>, grace: Duration) -> Ended {
    loop {
        let event = tokio::select! {
            biased;
            event = session.next() => event,
            () = output::cancelled(stop) => {
                stop = None;
                let text = format!("\r\nthe server is going down in {} s\r\n", grace.as_secs());
                if out.data(text.into()).await.is_err() {
                    return Ended::Unreadable;
                }
                continue;
            }
        };
        match event {
            Ok(event) => {
                if let Some(ended) = out.event(event).await {
                    return ended;
                }
            }
            Err(error) => return Ended::Lost(error.to_string()),
        }
    }
}

async fn follow_sizes(control: &JobControl, mut sizes: watch::Receiver<Option<PtySize>>) {
    loop {
        let size = *sizes.borrow_and_update();
        if let Some(size) = size {
            // A terminal that is lost is told of elsewhere.
            let _ = control.resize(size).await;
        }
        if sizes.changed().await.is_err() {
            return;
        }
    }
}

/// Passes signals on over connections of their own: the session's may be full of input.
async fn follow_signals(common: &Common, name: &str, mut signals: mpsc::Receiver<i32>) {
    while let Some(signal) = signals.recv().await {
        if let Err(error) = common.shared.boxes.signal_session(&common.kept, name, signal, Scope::Group).await {
            tracing::debug!(signal, %error, "a signal was not delivered");
        }
    }
}

fn greeting(common: &Common) -> String {
    let data = common.kept.data();
    motd::text(&motd::Facts {
        id: &data.id,
        name: data.name.as_deref(),
        runtime: &data.runtime,
        size: data.size.as_str(),
        limits: common.kept.limits(),
    })
}

/// What a client is told of a program that did not start, with the exit status that shells have for it.
fn not_started(error: &SessionError) -> Ended {
    let status = match error {
        SessionError::Agent(AgentError::Refused { kind: FailedKind::NotFound, .. }) => 127,
        SessionError::Agent(AgentError::Refused { kind: FailedKind::NotAllowed, .. }) => 126,
        SessionError::Agent(_) | SessionError::Box(_) => NOT_STARTED,
    };
    Ended::Refused(error.to_string(), status)
}
