//! Snapshots as archives: out of this server and into it.
//!
//! What comes in gets its row when all of it is there, and not before: a server that is killed half way leaves nothing that anybody
//! sees, and its successor removes what has no row.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use boxyard_engine::archive::{ArchiveBytes, ArchiveLimits, Description, ExportOrder, Exported, Imported};
use boxyard_engine::{EngineError, ErrorKind};
use boxyard_proto::api::snapshots::SnapshotData;
use boxyard_proto::names::Size;
use boxyard_proto::{AccountId, BoxId, SnapshotId};
use tokio::time::timeout;

use super::snapshots::data;
use super::{BoxError, Boxes, Yard, chain, now_ms};
use crate::config::Config;
use crate::store::{Inherits, Purpose, SnapshotRow, SnapshotState, StoreError};

/// Archives that go in or out at once, of all accounts and of one.
const TRANSFERS_MAX: usize = 8;
const TRANSFERS_OF_ACCOUNT_MAX: usize = 2;

/// How long the packing of an archive may take, and its coming in with its unpacking.
const EXPORT_DEADLINE: Duration = Duration::from_hours(2);
const IMPORT_DEADLINE: Duration = Duration::from_hours(6);

/// How archives are bounded.
pub(super) fn limits(config: &Config) -> ArchiveLimits {
    ArchiveLimits {
        packed_bytes: config.images.download_max,
        unpacked_bytes: config.images.unpacked_max,
        keep_free: config.overcommit.disk_floor,
    }
}

/// Counts the archives that go in or out.
#[derive(Debug, Default)]
pub(super) struct Transfers(Arc<Mutex<HashMap<AccountId, usize>>>);

/// One of them.
#[derive(Debug)]
pub struct Transfer {
    transfers: Arc<Mutex<HashMap<AccountId, usize>>>,
    account: AccountId,
}

impl Transfers {
    fn begin(&self, account: &AccountId) -> Result<Transfer, BoxError> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_account = counts.get(account).copied().unwrap_or_default();
        if of_account >= TRANSFERS_OF_ACCOUNT_MAX || counts.values().sum::<usize>() >= TRANSFERS_MAX {
            return Err(BoxError::TooManyTransfers);
        }
        counts.insert(account.clone(), of_account + 1);
        Ok(Transfer { transfers: Arc::clone(&self.0), account: account.clone() })
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut counts = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.account);
            }
        }
    }
}

impl Boxes {
    /// Packs one of the account's snapshots. What is returned with the archive is to be held until all of it is sent.
    ///
    /// # Errors
    /// There is no such snapshot, it is not ready, too many archives are under way, or it cannot be packed.
    pub async fn export(
        &self,
        account: &AccountId,
        id: &str,
        without_image: bool,
    ) -> Result<(Exported, Transfer), BoxError> {
        let id = id.parse::<SnapshotId>().map_err(|_| BoxError::SnapshotNotFound)?;
        // Before it is looked up: what is found is not removed while it is packed.
        let _using = self.yard.uses.begin(&id);
        let row = self.yard.ready_snapshot(account, &id).await?;
        let transfer = self.yard.transfers.begin(account)?;
        let description = Description {
            runtime: row.inherits.runtime,
            size: row.inherits.size.as_str().to_owned(),
            name: row.name,
            source: Some(row.box_id),
            created_at_ms: row.created_at,
        };
        let order = ExportOrder { description, without_image, limits: self.yard.archives };
        let exported = tokio::select! {
            () = self.yard.leaving.cancelled() => return Err(BoxError::Leaving),
            exported = timeout(EXPORT_DEADLINE, self.yard.engine.export(&id, &order)) => exported,
        };
        let exported = exported.unwrap_or_else(|_| Err(EngineError::new(ErrorKind::Broken, "packing it in time")));
        let exported = exported.map_err(|error| BoxError::NotPacked { kind: error.kind, text: told(&error) })?;
        Ok((exported, transfer))
    }

    /// Makes a snapshot of the account's from an archive, called `name` or what the archive says. Whether the caller stays or not makes no
    /// difference, but for `archive`, which ends when it does.
    ///
    /// # Errors
    /// It is no archive of a snapshot, or not all of it; too many archives are under way, or there are too many snapshots. Nothing is left
    /// then.
    pub fn import(
        &self,
        account: &AccountId,
        name: Option<String>,
        archive: ArchiveBytes,
    ) -> impl Future<Output = Result<SnapshotData, BoxError>> + Send + use<> {
        let transfer = self.yard.transfers.begin(account);
        let (yard, account) = (Arc::clone(&self.yard), account.clone());
        let task = self.yard.tasks.spawn(async move {
            let _transfer = transfer?;
            yard.take_in(account, name, archive).await
        });
        async { task.await.unwrap_or(Err(BoxError::Leaving)) }
    }

    /// Bytes that an archive may have.
    pub fn archive_max(&self) -> u64 {
        self.yard.archives.packed_bytes
    }
}

impl Yard {
    async fn take_in(
        self: &Arc<Self>,
        account: AccountId,
        name: Option<String>,
        archive: ArchiveBytes,
    ) -> Result<SnapshotData, BoxError> {
        // Told before anything is sent, and again when its row is stored, which counts.
        let most = self.snapshots_max;
        if self.store.count_snapshots(&account).await? >= u64::from(most) {
            return Err(BoxError::TooManySnapshots(most));
        }
        let id = SnapshotId::from_entropy(rand::random());
        let imported = tokio::select! {
            // The next server removes what is there.
            () = self.leaving.cancelled() => return Err(BoxError::Leaving),
            imported = timeout(IMPORT_DEADLINE, self.engine.import(&id, archive, &self.archives)) => imported,
        };
        let late = || Err(EngineError::new(ErrorKind::Invalid, "the whole archive's coming in time"));
        let Imported { saved, description } = match imported.unwrap_or_else(|_| late()) {
            Ok(imported) => imported,
            Err(error) => {
                // The engine has removed it, unless it was broken off.
                self.clear(id);
                return Err(BoxError::NotUnpacked { kind: error.kind, text: told(&error) });
            }
        };
        let row = row(id.clone(), account, name, saved.size_bytes, description);
        if let Err(error) = self.store.insert_snapshot(row.clone(), most).await {
            self.clear(id);
            return Err(if matches!(error, StoreError::Full) {
                BoxError::TooManySnapshots(most)
            } else {
                error.into()
            });
        }
        self.metrics.snapshots.inc();
        Ok(data(row))
    }
}

fn row(
    id: SnapshotId,
    account: AccountId,
    name: Option<String>,
    size_bytes: u64,
    description: Description,
) -> SnapshotRow {
    let Description { runtime, size, name: own_name, source, created_at_ms: _ } = description;
    let own_name = Some(own_name).filter(|name| !name.is_empty());
    SnapshotRow {
        account,
        // A box of another server, mostly; the record must name one.
        box_id: source.unwrap_or_else(|| BoxId::from_entropy(rand::random())),
        purpose: Purpose::Kept,
        name: name.or(own_name).unwrap_or_else(|| id.to_string()),
        status: SnapshotState::Ready,
        error: None,
        size_bytes: i64::try_from(size_bytes).unwrap_or(i64::MAX),
        // A size that there is not here says nothing. Variables are never in an archive.
        inherits: Inherits { runtime, size: Size::parse(&size).unwrap_or_default(), ..Inherits::default() },
        created_at: now_ms(),
        id,
    }
}

/// What to tell of an engine's failure: all of it where it is about what was handed in, else what is no secret of the host's.
fn told(error: &EngineError) -> String {
    if error.kind == ErrorKind::Invalid {
        return chain(error);
    }
    tracing::error!(error = chain(error), "an archive failed");
    error.to_string()
}
