//! What the files part of `boxyard-init` answers, cut from its job's output. None of it is to be trusted.

use std::time::Duration;

use boxyard_proto::files::{Answer, ENTRIES_MAX};
use boxyard_proto::wire::{self, FRAME_MAX, HEADER_LEN, Kind};
use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::agent::{AgentError, Event, Job, fit_to_show};

/// What came.
#[derive(Debug)]
pub enum Said {
    /// An answer.
    Answer(Answer),
    /// Bytes of a file or archive, never empty.
    Data(Bytes),
}

/// Reads answers. They must be read while requests are sent: the box keeps none of them.
#[derive(Debug)]
pub struct Answers {
    job: Job,
    /// What has come of the job's output and is not cut yet.
    come: Bytes,
    /// The beginning of a frame whose rest has not come.
    begun: BytesMut,
    /// Bytes still to come of a frame of data.
    data: usize,
}

impl Answers {
    pub(super) fn new(job: Job) -> Self {
        Self { job, come: Bytes::new(), begun: BytesMut::new(), data: 0 }
    }

    /// What comes next, which has to be there within `patience`. Cancel safe.
    ///
    /// # Errors
    /// The box is lost, says nothing for too long, or says what makes no sense.
    pub async fn next(&mut self, patience: Duration) -> Result<Said, AgentError> {
        let said = async {
            loop {
                if let Some(said) = self.cut()? {
                    return Ok(said);
                }
                match self.job.next().await? {
                    Event::Out(bytes) => self.come = bytes,
                    // It has nothing to say there; whoever took it over may.
                    Event::Err(_) => {}
                    Event::Exit(_) => {
                        return Err(AgentError::Lost { doing: "working on its files", source: None });
                    }
                }
            }
        };
        match timeout(patience, said).await {
            Ok(said) => said,
            Err(_) => Err(AgentError::Lost { doing: "waiting for an answer about its files", source: None }),
        }
    }

    fn cut(&mut self) -> Result<Option<Said>, AgentError> {
        loop {
            if self.data > 0 {
                let piece = self.come.split_to(self.data.min(self.come.len()));
                self.data -= piece.len();
                return Ok((!piece.is_empty()).then_some(Said::Data(piece)));
            }
            if !self.begin(HEADER_LEN) {
                return Ok(None);
            }
            let Some(&head) = self.begun.first_chunk::<HEADER_LEN>() else { return Ok(None) };
            let (kind, length) = wire::parse_header(head).map_err(|error| nonsense(&error.to_string()))?;
            match kind {
                Kind::Out => {
                    self.begun.clear();
                    self.data = length;
                }
                Kind::Json => {
                    if !self.begin(HEADER_LEN + length) {
                        return Ok(None);
                    }
                    let answer = serde_json::from_slice(self.begun.get(HEADER_LEN..).unwrap_or_default());
                    if self.begun.capacity() > FRAME_MAX / 8 {
                        self.begun = BytesMut::new();
                    }
                    self.begun.clear();
                    return check(answer.map_err(|error| nonsense(&error.to_string()))?).map(Some);
                }
                Kind::In | Kind::Err => return Err(nonsense("a frame that only we send")),
            }
        }
    }

    /// Adds to what has begun until it is `length` bytes long; says whether it is.
    fn begin(&mut self, length: usize) -> bool {
        let lacks = length.saturating_sub(self.begun.len()).min(self.come.len());
        let piece = self.come.split_to(lacks);
        self.begun.extend_from_slice(&piece);
        self.begun.len() >= length
    }
}

/// Refuses lists that are longer than there are any, and such as say nothing: of those there could be any number.
fn check(answer: Answer) -> Result<Said, AgentError> {
    let (count, least) = match &answer {
        Answer::Entries { entries } => (entries.len(), 1),
        Answer::Matches { matches } => (matches.len(), 1),
        Answer::Changes { changes, lost } => (changes.len(), usize::from(!lost)),
        Answer::Opened { .. }
        | Answer::Stat { .. }
        | Answer::Watching { .. }
        | Answer::Done { .. }
        | Answer::Failed { .. } => (0, 0),
    };
    if count < least {
        return Err(nonsense("a list of nothing"));
    }
    if count > ENTRIES_MAX { Err(nonsense("a list that is too long")) } else { Ok(Said::Answer(answer)) }
}

/// An answer that no honest box gives. The text may have parts of what it said.
pub(super) fn nonsense(what: &str) -> AgentError {
    AgentError::Protocol(fit_to_show(what))
}
