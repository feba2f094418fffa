//! Content on its way into a box: one request after the other, without waiting for each one's answer.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use boxyard_engine::agent::AgentError;
use boxyard_engine::agent::files::{Answers, Asks, FilesError, Said};
use boxyard_proto::files::{Answer, Ask};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::boxes::{FileError, FilePath, FileWork};
use crate::http::error::ApiError;
use crate::http::error::files::about;

/// Requests at most that are not answered.
const IN_FLIGHT: usize = 512;

/// What came of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Transferred {
    /// Requests that were carried out.
    pub(super) count: u64,
    /// One of them left something out.
    pub(super) truncated: bool,
}

/// Sends content.
pub(super) struct Sending<'a> {
    asks: &'a mut Asks,
    under_way: mpsc::Sender<FilePath>,
    /// How many requests have all of their content.
    whole: watch::Sender<u64>,
}

impl Sending<'_> {
    /// Begins a request about `path` whose content follows.
    pub(super) async fn begin(&mut self, ask: &Ask, path: FilePath) -> Result<(), ApiError> {
        let told = ready_or_flush(self.asks, self.under_way.send(path)).await?;
        // Nobody takes it when the other half has failed, which is told from there.
        if told.is_err() {
            std::future::pending::<()>().await;
        }
        Ok(self.asks.ask(ask).await.map_err(FileError::from)?)
    }

    /// Waits for what is to be sent next. What was put in until then goes out if that takes time.
    pub(super) async fn wait_for<T>(&mut self, next: impl Future<Output = T>) -> Result<T, ApiError> {
        ready_or_flush(self.asks, next).await
    }

    pub(super) async fn content(&mut self, bytes: Bytes) -> Result<(), ApiError> {
        Ok(self.asks.content(bytes).await.map_err(FileError::from)?)
    }

    /// Ends the content of a request.
    pub(super) async fn end(&mut self) -> Result<(), ApiError> {
        self.asks.end_content().await.map_err(FileError::from)?;
        self.whole.send_modify(|count| *count += 1);
        Ok(())
    }
}

async fn ready_or_flush<T>(asks: &mut Asks, next: impl Future<Output = T>) -> Result<T, ApiError> {
    let mut next = pin!(next);
    if let Poll::Ready(ready) = std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
        return Ok(ready);
    }
    asks.flush().await.map_err(FileError::from)?;
    Ok(next.await)
}

/// Lets `send` send, and takes the answers meanwhile; each has to come within `patience` when all that it is about was sent. The first failure ends it: what was written before stays, what is not whole is not
/// written.
///
/// # Errors
/// What `send` says, or the first failure that the box tells.
pub(super) async fn transfer(
    work: &mut FileWork,
    patience: Duration,
    send: impl AsyncFnOnce(&mut Sending<'_>) -> Result<(), ApiError>,
) -> Result<Transferred, ApiError> {
    let both = async |asks: &mut Asks, answers: &mut Answers| {
        let (under_way, asked) = mpsc::channel(IN_FLIGHT);
        let (whole, sent) = watch::channel(0);
        let sending = async {
            let mut sending = Sending { asks, under_way, whole };
            send(&mut sending).await?;
            Ok(sending.asks.flush().await.map_err(FileError::from)?)
        };
        let (transferred, ()) = tokio::try_join!(take(answers, patience, asked, sent), sending)?;
        Ok::<_, ApiError>(transferred)
    };
    work.both(both).await
}

async fn take(
    answers: &mut Answers,
    patience: Duration,
    mut asked: mpsc::Receiver<FilePath>,
    mut sent: watch::Receiver<u64>,
) -> Result<Transferred, ApiError> {
    let mut transferred = Transferred::default();
    while let Some(path) = asked.recv().await {
        // A client may take its time; a box that has everything may not.
        let late = async {
            // Without a sender nothing more is sent.
            let _ = sent.wait_for(|whole| *whole > transferred.count).await;
            sleep(patience).await;
        };
        let said = tokio::select! {
            biased;
            said = answers.next(Duration::MAX) => said,
            () = late => Err(AgentError::Lost { doing: "waiting for an answer about its files", source: None }),
        };
        let error = match said {
            Ok(Said::Answer(Answer::Done { truncated })) => {
                transferred.count += 1;
                transferred.truncated |= truncated;
                continue;
            }
            Ok(Said::Answer(Answer::Failed { kind, message })) => FilesError::refused(kind, &message),
            Ok(_) => AgentError::Protocol("something else than the end of a request".into()).into(),
            Err(error) => error.into(),
        };
        return Err(about(&path)(error.into()));
    }
    Ok(transferred)
}
