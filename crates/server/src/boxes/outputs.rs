//! What runs have written, for those who come later: whoever was not there, whoever has lost the connection, whoever asks twice.

use std::sync::Arc;

use boxyard_proto::RunId;
use boxyard_proto::api::runs::RunStatus;
use tokio_util::sync::CancellationToken;

use super::kept::Kept;
use super::output::{Output, Share, Stream};
use super::spool::{Cut, Reader, Spool, Streams};
use super::{BoxError, Boxes};
use crate::store::{Claim, ClaimRow, KeptOutput, RunRow};

/// What a run has written, as far as it is kept.
#[derive(Debug)]
pub struct RunOutput {
    /// Which run.
    pub id: RunId,
    /// How far it is.
    pub status: RunStatus,
    /// Its exit code, if it has ended with one.
    pub exit_code: Option<i32>,
    spool: Arc<Spool>,
    leaving: CancellationToken,
}

impl RunOutput {
    /// The number of the first byte that is kept: as many were dropped.
    pub fn start(&self) -> u64 {
        self.spool.range().0
    }

    /// How many bytes it has written so far.
    pub fn end(&self) -> u64 {
        self.spool.range().1
    }

    /// Reads from byte `from` on, or from the first one after it that is kept. With `follow`, until the run has ended; otherwise up to what
    /// there is now.
    pub fn read(&self, from: u64, streams: Streams, follow: bool) -> Reader {
        self.spool.read(from, streams, follow, self.leaving.clone())
    }
}

/// How a run has ended, for somebody who asks for it once more.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code, if it has one.
    pub exit_code: Option<i32>,
    /// CPU time of its process tree, in nanoseconds.
    pub cpu_ns: i64,
    /// What else is to be said of it, if anything.
    pub complaint: Option<String>,
}

/// The output of a run that has ended, held in memory for an answer.
#[derive(Debug)]
pub struct Replayed {
    /// Standard output, as far as it is kept and may be held.
    pub out: Vec<u8>,
    /// Standard error, likewise.
    pub err: Vec<u8>,
    /// Whether there was more.
    pub truncated: bool,
    /// The output's share of what may be held. To be dropped when the output is.
    pub share: Share,
}

impl Boxes {
    /// What a run of the box has written.
    ///
    /// # Errors
    /// The box has no such run, its output was not recorded, or the store failed.
    pub async fn output(&self, kept: &Kept, id: &str) -> Result<RunOutput, BoxError> {
        let id = id.parse::<RunId>().map_err(|_| BoxError::RunNotFound)?;
        // In this order: a run is in the one until it is in the other.
        let live = self.yard.runs.find(kept.id(), &id);
        let row = self.yard.store.find_run(kept.id(), &id).await?.ok_or(BoxError::RunNotFound)?;
        let mut spool = None;
        if let Some(live) = live {
            let mut found = live.spool.subscribe();
            let finding = found.wait_for(Option::is_some);
            spool = tokio::select! {
                found = finding => found.ok().and_then(|spool| spool.clone()),
                () = live.ended.cancelled() => None,
                () = self.yard.leaving.cancelled() => return Err(BoxError::Leaving),
            };
        }
        let (row, spool) = match spool {
            Some(spool) => (row, spool),
            None => {
                // It may have ended meanwhile.
                let row = self.yard.store.find_run(kept.id(), &id).await?.ok_or(BoxError::RunNotFound)?;
                let output = self.yard.store.find_output(kept.id(), &id).await?.ok_or(BoxError::RunNotFound)?;
                let spool = self.yard.spools.find(kept.id(), &id, &output).await.ok_or(match row.status {
                    RunStatus::Running => BoxError::Leaving,
                    RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled => BoxError::OutputUnknown,
                })?;
                (row, spool)
            }
        };
        let leaving = self.yard.leaving.clone();
        Ok(RunOutput { id, status: row.status, exit_code: row.exit_code, spool, leaving })
    }

    /// The run that was begun in the box under this claim, if one was.
    ///
    /// # Errors
    /// Something else was asked for under this name, or the store failed.
    pub async fn claimed(&self, kept: &Kept, claim: &Claim) -> Result<Option<RunId>, BoxError> {
        let before = self.yard.store.find_claim(kept.id(), &claim.name).await?;
        before.map(|before| same_run(claim, before)).transpose()
    }

    /// Waits until a run of the box has ended.
    ///
    /// # Errors
    /// There is no record of it any more, the server leaves, or the store failed.
    pub async fn ended(&self, kept: &Kept, id: &RunId) -> Result<Ended, BoxError> {
        if let Some(live) = self.yard.runs.find(kept.id(), id) {
            tokio::select! {
                () = live.ended.cancelled() => {}
                () = self.yard.leaving.cancelled() => return Err(BoxError::Leaving),
            }
        }
        match self.yard.store.find_run(kept.id(), id).await? {
            None => Err(BoxError::RunNotFound),
            Some(RunRow { status: RunStatus::Running, .. }) => Err(BoxError::Leaving),
            Some(RunRow { exit_code, cpu_ns, error, .. }) => Ok(Ended { exit_code, cpu_ns, complaint: error }),
        }
    }

    /// Holds what is kept of an ended run's output, up to the cap that holds for answers.
    ///
    /// # Errors
    /// As [`output`](Self::output); also where it is dropped or breaks while it is read.
    pub async fn replay(&self, kept: &Kept, id: &RunId) -> Result<Replayed, BoxError> {
        let output = self.output(kept, id.as_str()).await?;
        let mut held = self.yard.outputs.output();
        held.truncated = output.start() > 0;
        for (streams, stream) in [(Streams::Out, Stream::Out), (Streams::Err, Stream::Err)] {
            let mut reader = output.read(0, streams, false);
            loop {
                match reader.next().await {
                    Ok(Some(bytes)) => held.hold(stream, &bytes),
                    Ok(None) => break,
                    Err(Cut::Leaving) => return Err(BoxError::Leaving),
                    Err(Cut::Lapped | Cut::Broken) => {
                        held.truncated = true;
                        break;
                    }
                }
            }
        }
        let Output { out, err, truncated, share, .. } = held;
        Ok(Replayed { out, err, truncated, share })
    }

    /// Removes the files of outputs whose runs are forgotten.
    pub async fn remove_outputs(&self, outputs: Vec<KeptOutput>) {
        if !outputs.is_empty() {
            self.yard.spools.remove(outputs).await;
        }
    }
}

/// The run that was begun under a claim.
///
/// # Errors
/// Something else was asked for under its name.
pub(crate) fn same_run(claim: &Claim, before: ClaimRow) -> Result<RunId, BoxError> {
    if before.hash == claim.hash { Ok(before.run_id) } else { Err(BoxError::ClaimDiffers) }
}
