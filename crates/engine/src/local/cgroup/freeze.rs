//! Freezing: every process of a box stands still, and keeps all that it has.

use std::io;
use std::time::Duration;

use boxyard_proto::BoxId;

use super::empty::wait_for;
use super::limits::{number, set};
use super::{Cgroups, is_gone};

/// How long freezing may take. A process that is in the kernel comes out of it first; on a slow disk that takes a while.
const DEADLINE: Duration = Duration::from_secs(10);

impl Cgroups {
    /// Freezes the box and waits until all of it stands still. What is in the middle of a call of the kernel's finishes it first.
    ///
    /// # Errors
    /// The box has no group, or does not come to a stand within ten seconds; then it is thawed again.
    pub(in crate::local) async fn freeze(&self, id: &BoxId) -> io::Result<()> {
        let group = self.tree.join(id.as_str());
        set(&group.join("cgroup.freeze"), "1")?;
        let frozen = wait_for(&group, "frozen 1", DEADLINE, "processes do not stand still").await;
        if frozen.is_err() {
            self.thaw_now(id)?;
        }
        frozen
    }

    /// Thaws the box and waits until the kernel says so. A box without a group is not frozen.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(in crate::local) async fn thaw(&self, id: &BoxId) -> io::Result<()> {
        self.thaw_now(id)?;
        wait_for(&self.tree.join(id.as_str()), "frozen 0", DEADLINE, "processes do not go on").await
    }

    /// Thaws the box and does not wait. For places that cannot.
    pub(in crate::local) fn thaw_now(&self, id: &BoxId) -> io::Result<()> {
        match set(&self.tree.join(id.as_str()).join("cgroup.freeze"), "0") {
            Err(error) if !is_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether somebody has frozen the box. A box without a group is not frozen.
    ///
    /// # Errors
    /// The kernel's file cannot be read.
    pub(in crate::local) fn is_frozen(&self, id: &BoxId) -> io::Result<bool> {
        match number(&self.tree.join(id.as_str()).join("cgroup.freeze"), None) {
            Ok(frozen) => Ok(frozen != 0),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
