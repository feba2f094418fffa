//! Removing a box.

use boxyard_proto::BoxId;

use super::LocalEngine;
use super::create::broken;
use super::record::Record;
use crate::EngineError;
use crate::fail;

impl LocalEngine {
    /// Ends the box and removes all of it. Its files are out of the way when this returns and deleted soon after; the record goes with
    /// them, as the last thing, so that a removal that was broken off is seen and finished.
    pub(super) async fn unmake(&self, id: &BoxId) -> Result<(), EngineError> {
        let record = Record::read(&self.host.instance.of(id)).ok().flatten();
        let imported = record.is_some_and(|record| self.stands_on_imported(&record.layers));
        self.host.end(id).await.map_err(broken("ending the box"))?;
        fail::point("remove: ended");
        // Of every kind: a record that cannot be read does not say which.
        for storage in self.host.storages.all() {
            storage.remove(id).await.map_err(broken("removing the box's disk"))?;
        }
        fail::point("remove: disk removed");
        self.host.trash.throw(&self.host.instance.of(id)).map_err(broken("throwing the box's files away"))?;
        fail::point("remove: thrown away");
        self.host.retire(id);
        if imported {
            self.release_layers();
        }
        Ok(())
    }
}
