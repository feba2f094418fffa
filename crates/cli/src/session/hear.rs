//! What comes from the server.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use boxyard_proto::api::session::ServerFrame;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt, Stderr, Stdout};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::End;
use crate::failure::Failure;

/// How long nothing may be heard of a server before it counts as gone. It pings every 25 seconds, and answers pings.
const SILENCE_MAX: Duration = Duration::from_secs(70);
/// Characters of what a server says that are shown.
const MESSAGE_MAX: usize = 2000;

/// Where the program's output goes.
pub(super) struct Outputs {
    pub(super) out: Stdout,
    pub(super) err: Stderr,
}

/// Writes what the program writes, to its end, and tells `taken` how much of its input it has.
///
/// # Errors
/// The connection or the program is lost.
pub(super) async fn hear(
    stream: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    outputs: &mut Outputs,
    taken: &watch::Sender<u64>,
) -> Result<End, Failure> {
    loop {
        // Only who listens can find it silent: while nobody reads what we write, nothing is expected.
        let frame = timeout(SILENCE_MAX, next(stream)).await;
        let frame = frame.map_err(|_| {
            Failure::plain(format!(
                "nothing was heard of the server for {} s; the session is lost",
                SILENCE_MAX.as_secs()
            ))
        })??;
        let written = match frame {
            ServerFrame::Stdout { data } => write(&mut outputs.out, &data).await?,
            ServerFrame::Stderr { data } => write(&mut outputs.err, &data).await?,
            ServerFrame::StdinTaken { total } => {
                taken.send_replace(total);
                true
            }
            ServerFrame::Exit { code } => return Ok(End::Exit(code)),
            ServerFrame::Error { message } => return Err(said(&message)),
            ServerFrame::Started { .. } => return Err(nonsense("it starts twice")),
        };
        if !written {
            return Ok(End::NoReader);
        }
    }
}

/// The next frame that is one of ours.
///
/// # Errors
/// The connection is lost.
pub(super) async fn next(
    stream: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
) -> Result<ServerFrame, Failure> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => match ServerFrame::parse(&text) {
                Ok(Some(frame)) => return Ok(frame),
                // From a newer server.
                Ok(None) => {}
                Err(error) => return Err(nonsense(&error.to_string())),
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Binary(_))) => return Err(nonsense("a frame is no text")),
            Some(Err(error @ (Error::Capacity(_) | Error::Utf8(_)))) => return Err(nonsense(&error.to_string())),
            Some(Ok(Message::Close(_))) | None => {
                return Err(Failure::plain("the server closed the connection; the session is lost"));
            }
            Some(Err(error)) => {
                return Err(Failure::failed("the connection broke off; the session is lost", error));
            }
        }
    }
}

/// What the server says of the session's end. A box may have had a part in the text, and it must not steer the terminal.
pub(super) fn said(message: &str) -> Failure {
    Failure::plain(message.chars().take(MESSAGE_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>())
}

/// The server does not keep to the protocol.
pub(super) fn nonsense(why: &str) -> Failure {
    said(&format!("what the server says makes no sense: {why}"))
}

/// Says whether anybody reads.
async fn write(out: &mut (impl AsyncWrite + Unpin), data: &str) -> Result<bool, Failure> {
    let bytes = BASE64_STANDARD.decode(data).map_err(|_| nonsense("data is not base64"))?;
    let writing = async {
        out.write_all(&bytes).await?;
        out.flush().await
    };
    match writing.await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed("cannot write output", error)),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio_tungstenite::tungstenite::error::CapacityError;

    use super::*;

    async fn heard(messages: Vec<Result<Message, Error>>, ends: bool) -> Result<End, Failure> {
        let mut outputs = Outputs { out: tokio::io::stdout(), err: tokio::io::stderr() };
        let (told, _) = watch::channel(0);
        let messages = stream::iter(messages);
        if ends {
            hear(&mut Box::pin(messages), &mut outputs, &told).await
        } else {
            hear(&mut Box::pin(messages.chain(stream::pending())), &mut outputs, &told).await
        }
    }

    fn text(text: &str) -> Result<Message, Error> {
        Ok(Message::text(text))
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_any_more_is_gone() {
        let pings = vec![Ok(Message::Ping(Vec::new().into())), text(r#"{"type":"news"}"#)];
        let Err(failure) = heard(pings, false).await else { panic!("it goes on") };
        assert!(failure.text().contains("nothing was heard of the server"), "{}", failure.text());
    }

    #[tokio::test]
    async fn nonsense_of_a_server_s_ends_the_session_and_does_not_steer_the_terminal() {
        for (message, said) in [
            (text("{"), "makes no sense"),
            (text(r#"{"type":"stdout","data":"*"}"#), "not base64"),
            (text(r#"{"type":"exit"}"#), "missing field"),
            (text(r#"{"type":"started","pid":1,"execId":"x"}"#), "starts twice"),
            (text("{\"type\":\"error\",\"message\":\"a\\u001b[2Jb\"}"), "a [2Jb"),
            (Ok(Message::binary(vec![0])), "no text"),
            (Ok(Message::Close(None)), "closed the connection"),
            (Err(Error::Capacity(CapacityError::MessageTooLong { size: 2, max_size: 1 })), "makes no sense"),
            (Err(Error::Io(io::ErrorKind::ConnectionReset.into())), "broke off"),
        ] {
            let Err(failure) = heard(vec![message], true).await else { panic!("{said}: it goes on") };
            assert!(failure.text().contains(said), "{}", failure.text());
            assert!(!failure.text().contains('\u{1b}'));
        }
        let Err(failure) = heard(Vec::new(), true).await else { panic!("it goes on") };
        assert!(failure.text().contains("closed the connection"), "{}", failure.text());
    }
}
