//! Fail points: places at which tests end this process as a crash would, by SIGKILL.
//!
//! They are there with the feature `fail-points`, which the programs of the tests are built with and no release, and in this crate's own
//! tests; otherwise [`point`] is nothing. `BOXYARD_FAIL_POINT` says where the process dies:
//!
//! - `NAME` or `NAME:N`: where it passes the point NAME for the N-th time; the name `*` stands for every point.
//! - `/FOLDER`: as the file `FOLDER/armed` says, in the same words, for as long as there is one; passings count from when it was written.
//!   Where the process dies is written to `FOLDER/died`. So one server can be set up in peace, and then be killed in the next deed.
//!
//! What the database commits is a point as well, called as the store calls the change. `tests/real/tests/fail_points.rs` dies at each.

/// Every point that there is. The test that walks them fails for one that is not here, and for one that it never passes.
#[cfg(any(test, feature = "fail-points"))]
pub const POINTS: &[&str] = &[
    // The engine opens.
    "open: tag chosen",
    "open: pool drafted",
    "open: pool there",
    "open: builds ended",
    "open: saves undone",
    "open: network made",
    // What the engine does with boxes and snapshots.
    "create: recorded",
    "create: disk prepared",
    "create: launcher told",
    "create: running",
    "create: launched",
    "copy: begun",
    "copy: half",
    "disk: told",
    "pause: frozen",
    "stop: ended",
    "resume: thawed",
    "resume: ended",
    "remove: ended",
    "remove: disk removed",
    "remove: thrown away",
    "save: begun",
    "save: flushed",
    "save: marked",
    "save: frozen",
    "save: copied",
    "save: thawed",
    "save: recorded",
    "import: received",
    "import: begun",
    "import: layer",
    "import: unpacked",
    "import: kept",
    "import: recorded",
    "drop: unrecorded",
    "drop: removed",
    // The server.
    "store: migrated",
    "store: open",
    "create: admitted",
    "deed: begun",
    "deed: done",
    "init command: begun",
    "run: begun",
    "recovery: observed",
    "recovery: snapshots found",
    "recovery: boxes adopted",
    "recovery: runs found",
    "recovery: keepers begun",
    "recovery: strays removed",
    // What the database has committed, before anybody is told.
    "adding a box",
    "noting a box's phase",
    "noting a box's start",
    "noting a box's activity",
    "changing a box's labels",
    "changing a box's init command",
    "changing a box's token for GitHub",
    "adding a snapshot",
    "noting that a snapshot is being saved",
    "noting that a snapshot is ready",
    "noting that a snapshot failed",
    "deleting snapshots",
    "forgetting a snapshot",
    "setting an account's variables",
    "replacing an account's environment",
    "removing an account's variable",
    "adding an account",
    "adding a key",
    "revoking a key",
    "adding an SSH key",
    "removing an SSH key",
    "adding an SSH token",
    "revoking an SSH token",
    "adding a log entry",
    "adding a run",
    "noting a run's end",
    "forgetting outputs",
    "forgetting a box's outputs",
    "removing old entries",
    "removing records of deleted boxes",
];

/// Names a step that has just been done. Where the process was told to die here, it dies.
#[cfg(not(any(test, feature = "fail-points")))]
#[inline(always)]
pub const fn point(_name: &'static str) {}

#[cfg(any(test, feature = "fail-points"))]
pub use armed::point;

/// The variable that says where this process dies.
#[cfg(any(test, feature = "fail-points"))]
pub const VARIABLE: &str = "BOXYARD_FAIL_POINT";

#[cfg(any(test, feature = "fail-points"))]
mod armed {
    use std::fs;
    use std::path::Path;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    use super::VARIABLE;

    static TOLD: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(VARIABLE).ok());

    /// The orders of the last passing, and how many passings they have seen.
    static SEEN: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

    /// Names a step that has just been done. Where the process was told to die here, it dies.
    pub fn point(name: &'static str) {
        let Some(told) = TOLD.as_deref() else { return };
        let folder = told.starts_with('/').then(|| Path::new(told));
        let orders = match folder {
            Some(folder) => fs::read_to_string(folder.join("armed")).unwrap_or_default(),
            None => told.to_owned(),
        };
        if passes(name, &orders) {
            if let Some(folder) = folder {
                // Whoever gave the orders may take them back at this moment. One of us two has the file.
                if fs::rename(folder.join("armed"), folder.join("died")).is_err() {
                    return;
                }
                // Nobody is left to hear of a failure.
                let _ = fs::write(folder.join("died"), name);
            }
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }

    fn passes(name: &str, orders: &str) -> bool {
        let (wanted, passings) = parse(orders);
        if wanted != "*" && wanted != name {
            return false;
        }
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != orders {
            *seen = (orders.to_owned(), 0);
        }
        seen.1 += 1;
        seen.1 == passings
    }

    /// The point and the number of the passing. Names have colons too, with a space behind.
    pub(super) fn parse(orders: &str) -> (&str, u64) {
        let split = orders.rsplit_once(':').and_then(|(name, number)| Some((name, number.parse().ok()?)));
        split.unwrap_or((orders, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_name_a_point_and_a_passing() {
        assert_eq!(armed::parse("create: recorded"), ("create: recorded", 1));
        assert_eq!(armed::parse("create: recorded:3"), ("create: recorded", 3));
        assert_eq!(armed::parse("*:12"), ("*", 12));
        assert_eq!(armed::parse(""), ("", 1));
    }

    #[test]
    fn no_point_is_named_twice() {
        let names: std::collections::BTreeSet<_> = POINTS.iter().collect();
        assert_eq!(names.len(), POINTS.len());
    }
}
