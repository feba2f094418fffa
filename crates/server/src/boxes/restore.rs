//! Making boxes from what was saved of others.

use std::collections::BTreeMap;

use boxyard_proto::AccountId;
use boxyard_proto::SnapshotId;
use boxyard_proto::names::{self, InvalidName};

use super::snapshots::inherits;
use super::{BoxError, Boxes, Identity, Kept, Life, NewBox, Token};
use crate::store::{Inherits, Purpose, SnapshotRow, Which};

/// A box may start with as many times its disk's limit at most: each copy of a copy may write a little more than the one before.
const STARTS_WITH_MAX: u64 = 2;

/// What is asked of a box that is made from a snapshot. Not checked yet.
#[derive(Debug, Clone, Default)]
pub struct Restore {
    /// Its name.
    pub name: Option<String>,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its size, if it is not to be the source's.
    pub size: Option<String>,
    /// Variables over those of the source.
    pub env: BTreeMap<String, String>,
    /// How it is to live. Nothing of that is inherited.
    pub life: Life,
    /// Who commits in it. Without it, that of the source, which is in its files.
    pub identity: Identity,
    /// Its own token for GitHub, which is never inherited.
    pub token: Option<Token>,
}

impl NewBox {
    /// Checks what was asked of a box that is made over what another leaves it. The disk is for [`Boxes`] to choose.
    ///
    /// # Errors
    /// Says which rule is broken.
    fn inherit(asked: Restore, inherits: &Inherits) -> Result<Self, InvalidName> {
        names::check_env(&asked.env)?;
        let size = asked.size.as_deref().unwrap_or(inherits.size.as_str());
        let mut env = inherits.env.clone();
        env.extend(asked.env);
        let new = Self::check(asked.name, asked.labels, Some(size), None, env)?;
        // What the source was made of, whether it could still be asked for or not.
        let new = new.living(asked.life).with_git(asked.identity, asked.token);
        Ok(Self { runtime: inherits.runtime.clone(), ..new })
    }
}

/// Why a box cannot be made from another.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// What was asked for breaks a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidName),
    /// It could not be made.
    #[error(transparent)]
    Box(#[from] BoxError),
}

impl Boxes {
    /// Makes a box from one of the account's snapshots; returns as [`create`](Self::create) does.
    ///
    /// # Errors
    /// There is no such snapshot, it is not ready, or what is said of [`create`](Self::create).
    pub async fn restore(&self, account: &AccountId, id: &str, asked: Restore) -> Result<Kept, RestoreError> {
        let id = id.parse::<SnapshotId>().map_err(|_| BoxError::SnapshotNotFound)?;
        let row = self.yard.ready_snapshot(account, &id).await?;
        let new = NewBox::inherit(asked, &row.inherits)?;
        self.check_room_for(&row, &new)?;
        Ok(self.create(account, NewBox { from: Some(id), ..new }).await?)
    }

    /// Makes a box that starts as a copy of another; returns as [`create`](Self::create) does.
    ///
    /// # Errors
    /// What is said of [`snapshot`](Self::snapshot) and [`create`](Self::create).
    pub async fn fork(&self, kept: &Kept, asked: Restore) -> Result<Kept, RestoreError> {
        let new = NewBox::inherit(asked, &inherits(kept))?;
        // Before anything is saved for it.
        self.size(&new)?;
        let (boxes, kept) = (self.clone(), kept.clone());
        // In a task: a client that leaves must not leave the snapshot.
        let forked = self.yard.tasks.spawn(async move {
            let (row, end) = boxes.begin_snapshot(&kept, None, Purpose::Fork).await?;
            let made = match end.await.unwrap_or(Err(BoxError::Leaving)) {
                Ok(()) => boxes.create_copy(&row, new).await,
                Err(error) => Err(error),
            };
            boxes.delete_snapshots(kept.account(), Which::One(row.id)).await?;
            made
        });
        Ok(forked.await.unwrap_or(Err(BoxError::Leaving))?)
    }

    /// Makes a box from what was saved for it alone.
    async fn create_copy(&self, saved: &SnapshotRow, new: NewBox) -> Result<Kept, BoxError> {
        let saved =
            self.yard.store.find_snapshot(&saved.account, &saved.id).await?.ok_or(BoxError::SnapshotNotFound)?;
        self.check_room_for(&saved, &new)?;
        self.create(&saved.account, NewBox { from: Some(saved.id), ..new }).await
    }

    /// Refuses a size that is much too small for what the box would start with.
    fn check_room_for(&self, saved: &SnapshotRow, new: &NewBox) -> Result<(), BoxError> {
        let (size, limits) = self.size(new)?;
        let most = limits.disk_bytes.saturating_mul(STARTS_WITH_MAX);
        let holds = saved.size_bytes.unsigned_abs();
        if self.yard.engine.abilities().disk_limit && holds > most {
            return Err(InvalidName(format!(
                "size: a box of the size {size} can start with {most} bytes at most, and this would with {holds}; ask for a larger one"
            ))
            .into());
        }
        Ok(())
    }
}
