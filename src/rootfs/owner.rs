//! Who owns what in a tree, and who owned it in the archive.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};

use serde::{Deserialize, Serialize};

/// A range of subordinate ids: `start` on the host is id 0 inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubRange {
    pub start: u32,
    pub count: u32,
}

/// Whose the files of a tree are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// All of them the caller's; true owners are only noted.
    Single,
    /// Id i inside is the i-th of the range, except that the payload's user and group are the caller.
    Range { uids: SubRange, gids: SubRange },
}

/// Which ids inside are the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct You {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// Ids that occur in a layer. Beyond the bound every id is taken to occur: that costs a tree of its own, never a wrong owner.
const MAX_IDS: usize = 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnerIds {
    pub uids: BTreeSet<u32>,
    pub gids: BTreeSet<u32>,
    pub too_many: bool,
}

impl OwnerIds {
    pub fn add(&mut self, uid: u32, gid: u32) {
        if self.uids.len().max(self.gids.len()) >= MAX_IDS {
            self.too_many = true;
            return;
        }
        self.uids.insert(uid);
        self.gids.insert(gid);
    }

    /// What of `you` makes a difference to this layer.
    pub fn relevant(&self, you: You) -> You {
        You {
            uid: you.uid.filter(|uid| self.too_many || self.uids.contains(uid)),
            gid: you.gid.filter(|gid| self.too_many || self.gids.contains(gid)),
        }
    }
}

/// How owners of the archive become owners on disk, as ids inside the user namespace that unpacks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerMap {
    pub ownership: Ownership,
    pub you: You,
}

/// Where an owner goes. `None`: nothing is to be done, the process that unpacks has these ids itself.
pub(crate) struct Placed {
    pub ids: Option<(u32, u32)>,
    pub outside: bool,
}

impl OwnerMap {
    /// The words that go into a layer's name.
    pub fn describe(ownership: Ownership, you: You) -> String {
        let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        match ownership {
            Ownership::Single => "single".to_owned(),
            Ownership::Range { uids, gids } => {
                format!("range {}+{} {}+{} you {}:{}", uids.start, uids.count, gids.start, gids.count, id(you.uid), id(you.gid))
            }
        }
    }

    /// The ids that the unpacking process takes, so that most entries need no chown: those of `0:0`.
    pub fn process_ids(&self) -> Option<(u32, u32)> {
        match self.ownership {
            Ownership::Single => None,
            Ownership::Range { .. } => Some(self.inside(0, 0).0),
        }
    }

    pub fn place(&self, uid: u32, gid: u32) -> Placed {
        if self.ownership == Ownership::Single {
            return Placed { ids: None, outside: false };
        }
        let (ids, outside) = self.inside(uid, gid);
        Placed { ids: (Some(ids) != self.process_ids()).then_some(ids), outside }
    }

    fn inside(&self, uid: u32, gid: u32) -> ((u32, u32), bool) {
        let Ownership::Range { uids, gids } = self.ownership else { return ((0, 0), false) };
        let one = |id: u32, you: Option<u32>, count: u32| match id {
            _ if you == Some(id) => (count, false),
            _ if id < count => (id, false),
            // The caller stands behind the range.
            _ => (count, true),
        };
        let ((uid, uid_out), (gid, gid_out)) = (one(uid, self.you.uid, uids.count), one(gid, self.you.gid, gids.count));
        ((uid, gid), uid_out || gid_out)
    }
}

/// The sidecar of true owners: one line `UID GID PATH` for each entry that is not `0:0`, the path escaped, the last line of a path
/// counts.
pub(crate) struct OwnerLog(BufWriter<std::fs::File>);

impl OwnerLog {
    pub fn new(file: std::fs::File) -> Self {
        Self(BufWriter::new(file))
    }

    pub fn add(&mut self, path: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        writeln!(self.0, "{uid} {gid} {}", path.escape_ascii())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}
