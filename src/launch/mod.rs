//! A plan in, a running sandbox out. The only room that changes the kernel's mind.
//!
//! [`lower`] turns the plan into what the child needs, with everything allocated, opened and compiled; [`start`] clones; the child
//! walks its operations top to bottom, and what fails comes back as `{step, errno}`. The parent owns the words.

mod cgroup;
mod child;
mod descendants;
mod init;
mod lower;
mod op;
mod overlay;
mod parent;
mod payload;
mod removal;
mod scope;
mod scratch;
mod tree;
pub mod wire;

pub use cgroup::{Cgroup, CgroupError, Got, Missing, Usage, remove_cgroups};
pub use lower::{LowerError, Lowered, Resources, lower};
pub use parent::{LaunchError, Running, start};
pub use scratch::{RootAttributes, Scratch, ScratchError, discard_free};
