//! This machine as a value: ids, features, directories. Read-only; feeds plan and doctor.

mod delegation;
mod devices;
mod disks;
mod facts;
mod probe;
mod sources;
mod tree;
mod worktree;

pub use delegation::{
    Controller, Delegation, Learned, Place, can_end_own_cgroup, connect_within, limit_left, own_cgroup, unbound_by_shares,
};
pub use devices::gpu_devices;
pub use disks::{Disks, Number};
pub use facts::{Directories, Host, HostError, Ids, SubRange, landlock_abi, subordinate_ranges};
pub use probe::{Act, Blocker, Examination, Explanation, Finding, State, errno_name, examine, explain, explain_clone, namespaces_blocked};
pub use sources::{
    Guarded, Identity, Opened, Presence, Source, SourceError, open_in_project, open_source, path_as_text, survey_guarded,
    writable_by_group_alone,
};
pub use tree::{HostTree, HostUser, host_tree, host_user};
pub use worktree::{Worktree, find_worktree, linked_worktrees};
