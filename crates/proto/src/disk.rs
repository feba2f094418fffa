//! What an engine asks of `boxyard-init disk`: the calls of btrfs and loop devices that no safe wrapper covers.
//!
//! The engine writes one [`Order`] as JSON to the program's standard input and closes it; the program does it, writes one [`Answer`] as
//! a line of JSON to its standard output and exits. A snapshot is made or not made, whenever the program is killed. All paths are the
//! host's, absolute, and in folders that no box can change.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A box's disk in a subvolume of its own; see [`crate::launch::Launch::disk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The subvolume. It is made when it is not there, with the folders `upper` and `work` in it; what is there already stays.
    pub subvolume: PathBuf,
    /// The subvolume that a new one starts as a copy of.
    #[serde(default)]
    pub from: Option<PathBuf>,
    /// Whether it was another box's: what overlay has left in it is removed, as in a copy.
    #[serde(default)]
    pub taken: bool,
    /// Bytes that the subvolume may be charged for, metadata included (see [`Quotas`]). `None` where the file system has no quotas.
    #[serde(default)]
    pub limit: Option<u64>,
}

/// How btrfs counts what subvolumes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quotas {
    /// Not at all; nothing is limited.
    Off,
    /// Whoever has written something is charged for it as long as anybody holds it (Linux 6.7 and newer).
    Simple,
    /// Everybody is charged for all that he holds.
    Full,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Mounts the btrfs in the file `image` at the folder `at`, over a loop device that goes when the last mount of it goes. Finds the
    /// loop device of an earlier mount that boxes still use: a second one for the same file would be the end of its contents. A file
    /// that has grown is used in full.
    Mount {
        /// The file.
        image: PathBuf,
        /// The folder. What is mounted there already stays.
        at: PathBuf,
    },
    /// Lets the btrfs that is mounted at `at` use all of its file `image`, which has grown. Does nothing while it is not mounted there:
    /// mounting it does the same.
    Grow {
        /// The file.
        image: PathBuf,
        /// The folder.
        at: PathBuf,
    },
    /// Switches quotas on where they are off and `enable` says so, and has them counted anew where the kernel gave up counting.
    /// Answered with [`Answer::Quotas`].
    Quotas {
        /// A folder of the file system.
        at: PathBuf,
        /// Which ones to switch on where they are off; [`Quotas::Simple`] means full ones on kernels without simple ones.
        enable: Quotas,
    },
    /// Makes a subvolume as a launch would.
    Make(Disk),
    /// Limits a subvolume anew. One that is not there stays so: it may be removed at the same time.
    Limit {
        /// The subvolume.
        subvolume: PathBuf,
        /// Bytes that it may be charged for.
        limit: u64,
    },
    /// Writes out what the subvolume's files hold in memory, so that a [`Order::Snapshot`] soon after has little to write. Where that
    /// takes long it is done again, a few times: as much may have been written meanwhile.
    Flush {
        /// The subvolume.
        subvolume: PathBuf,
        /// A path for a snapshot that is gone again when this is answered.
        draft: PathBuf,
    },
    /// Makes a copy of a subvolume. It is on the disk when this is answered, with [`Answer::Sizes`] of what the subvolume, not the copy,
    /// is charged for.
    Snapshot {
        /// The subvolume.
        subvolume: PathBuf,
        /// The copy, which must not exist.
        into: PathBuf,
        /// Whether the copy is to be a box's disk, and so is not read-only.
        #[serde(default)]
        taken: bool,
    },
    /// Removes a subvolume; one that is not there is removed already. The kernel frees its space in the background.
    Destroy {
        /// The subvolume.
        subvolume: PathBuf,
    },
    /// Has the kernel free what subvolumes held that were removed before, and waits for it. Where one cannot wait (before Linux 6.13)
    /// this is answered at once.
    Freed {
        /// A folder of the file system.
        at: PathBuf,
    },
    /// How much the files of a subvolume hold, whoever shares it. Answered with [`Answer::Sizes`] of this one subvolume.
    Measure {
        /// The subvolume.
        subvolume: PathBuf,
    },
    /// How much each subvolume in a folder is charged for. Answered with [`Answer::Sizes`].
    Sizes {
        /// The folder.
        folder: PathBuf,
        /// Only this one, if one is named.
        #[serde(default)]
        name: Option<String>,
    },
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// What [`Order::Quotas`] found or made.
    Quotas {
        /// Which are on.
        on: Quotas,
        /// The file system's id, as in `/sys/fs/btrfs`.
        id: String,
    },
    /// Bytes by the subvolumes' names, metadata included, as of the last time that the file system wrote its books: half a minute ago
    /// at most. Subvolumes that are not counted are missing.
    Sizes {
        /// The bytes.
        bytes: BTreeMap<String, u64>,
    },
    /// It could not be done.
    Failed {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        error: String,
        /// The kernel's error number, 0 when it was not the kernel.
        errno: i32,
    },
}
