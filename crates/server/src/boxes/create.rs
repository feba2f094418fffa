//! Making boxes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::{Limits, fail};
use boxyard_proto::names::{self, InvalidName, Size};
use boxyard_proto::{AccountId, BoxId, SnapshotId};
use tokio::time::timeout;

use super::admission::{Full, Place};
use super::keeper::Keeper;
use super::lifecycle::Phase;
use super::{BoxError, Boxes, Identity, Kept, Life, Token, before, millis, now_ms};
use crate::metrics::Outcome;
use crate::store::{BoxRow, StoreError};

/// How many random ids are tried before the store is taken to be broken.
const ID_ATTEMPTS: u32 = 20;

/// How long making room for a new box may take.
const PLACE_DEADLINE: Duration = Duration::from_secs(60);

/// A box to make. Everything in it has been checked.
#[derive(Debug, Clone, Default)]
pub struct NewBox {
    pub(super) name: Option<String>,
    pub(super) labels: Vec<String>,
    /// Of which [`Boxes::create`] knows whether there is such a one, as with the runtime.
    pub(super) size: String,
    pub(super) runtime: String,
    pub(super) env: BTreeMap<String, String>,
    /// The snapshot that its disk starts as a copy of.
    pub(super) from: Option<SnapshotId>,
    pub(super) life: Life,
    pub(super) identity: Identity,
    pub(super) token: Option<Token>,
}

impl NewBox {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn check(
        name: Option<String>,
        labels: Vec<String>,
        size: Option<&str>,
        runtime: Option<&str>,
        env: BTreeMap<String, String>,
    ) -> Result<Self, InvalidName> {
        if let Some(name) = &name {
            names::check_box_name(name)?;
        }
        names::check_env(&env)?;
        Ok(Self {
            name,
            labels: names::check_labels(labels)?,
            size: size.map_or_else(|| Size::default().to_string(), str::to_owned),
            runtime: names::check_runtime(runtime.unwrap_or(names::DEFAULT_RUNTIME))?.to_owned(),
            env,
            from: None,
            life: Life::default(),
            identity: Identity::default(),
            token: None,
        })
    }

    /// The same, to live like this.
    #[must_use]
    pub fn living(self, life: Life) -> Self {
        Self { life, ..self }
    }

    /// The same, with this for git: who commits in it, and its own token for GitHub.
    #[must_use]
    pub fn with_git(self, identity: Identity, token: Option<Token>) -> Self {
        Self { identity, token, ..self }
    }
}

impl Boxes {
    /// Makes a box and returns when its record is stored; see [`Kept::made`] for its being ready.
    ///
    /// # Errors
    /// There is no such runtime or size, the name is taken, there is no place for another box, the account's environment and the box's are too much together, or the
    /// store failed.
    pub async fn create(&self, account: &AccountId, mut new: NewBox) -> Result<Kept, BoxError> {
        // A box from a snapshot has the image that it was made over, whatever has become of the name.
        if new.from.is_none() {
            let known = self.yard.engine.check_image(&new.runtime);
            known.map_err(|known| BoxError::Runtime(names::unknown_runtime(&known)))?;
        }
        let (size, limits) = self.size(&new)?;
        new.env = self.with_account_env(account, new.env).await?;
        let place = self.place(account, limits).await;
        let place = place.inspect_err(|_| {
            self.yard.metrics.creates.get_or_create(&Outcome::REFUSED).inc();
        })?;
        fail::point("create: admitted");
        let (yard, account) = (Arc::clone(&self.yard), account.clone());
        // Nothing is removed of a snapshot while a box is being made from it.
        let using = new.from.as_ref().map(|from| self.yard.uses.begin(from));
        // In a task: a client that leaves now must not leave a record without a keeper.
        let made = self.yard.tasks.spawn(async move {
            let token = new.token.take().map(|token| token.secret().clone());
            let mut row = new_row(account, new, size, yard.engine.name());
            let mut attempts = 0;
            loop {
                match yard.store.insert_box_with(row.clone(), token.clone()).await {
                    Ok(()) => break,
                    Err(StoreError::NotFound) => return Err(BoxError::SnapshotNotFound),
                    Err(StoreError::NameTaken) => return Err(BoxError::NameTaken(row.name.unwrap_or_default())),
                    Err(StoreError::IdTaken) if attempts < ID_ATTEMPTS => {
                        attempts += 1;
                        row.id = BoxId::from_entropy(rand::random());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            let (kept, mailbox) = yard.adopt(&row, Phase::Creating, limits);
            Keeper::start(&yard, Arc::clone(&kept.shared), mailbox, before(&row), place, None, None);
            yard.hold_until_made(&kept, using);
            Ok(kept)
        });
        made.await.unwrap_or(Err(BoxError::Leaving))
    }

    /// The size that is asked for, and what it stands for.
    pub(super) fn size(&self, new: &NewBox) -> Result<(Size, Limits), BoxError> {
        self.yard.sizes.find(&new.size).map_err(BoxError::Size)
    }

    /// A place for a new box; paused boxes lose their processes where that makes room for it.
    async fn place(&self, account: &AccountId, limits: Limits) -> Result<Place, Full> {
        let placing = async {
            loop {
                match self.yard.admission.admit(account, limits).await {
                    Err(full) if self.yard.relief.make_room(full, limits).await => {}
                    other => return other,
                }
            }
        };
        timeout(PLACE_DEADLINE, placing).await.unwrap_or(Err(Full::MemoryLeft))
    }
}

fn new_row(account: AccountId, new: NewBox, size: Size, engine: &str) -> BoxRow {
    let now = now_ms();
    BoxRow {
        id: BoxId::from_entropy(rand::random()),
        account,
        name: new.name,
        labels: new.labels,
        size,
        runtime: new.runtime,
        env: new.env,
        engine: engine.to_owned(),
        phase: Phase::Creating.to_string(),
        error: None,
        total_cpu_ns: 0,
        last_activity_at: now,
        created_at: now,
        updated_at: now,
        deleted_at: None,
        from_snapshot: new.from,
        keep_alive: new.life.keep_alive,
        init_due: !new.life.init_command.is_empty(),
        init_command: new.life.init_command,
        expires_at: new.life.ttl.map(|ttl| now.saturating_add(millis(ttl))),
        git_user_name: new.identity.name,
        git_user_email: new.identity.email,
    }
}
