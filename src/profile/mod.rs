//! TOML text in, a validated [`Profile`] out: spans, includes, merge rules, presets, every finding at once.
//!
//! Never asks the machine: what a profile may take from the environment comes in as a value ([`Vars`]), and only `files` reads files.
//! Follows TOML 1.0 and the schema in the README. Nothing downstream sees the unparsed form.

mod check;
mod expand;
mod files;
mod find;
mod finding;
mod finish;
mod image;
mod keys;
mod load;
mod lock;
mod model;
mod preset;
mod project;
mod rules;
mod schema;
mod seen;
mod shipped;
mod show;
mod source;
mod value;
mod walk;
mod words;

#[cfg(test)]
mod tests;

pub use files::{Caller, Directory, ReadError};
pub use find::{FindError, Found, Listed, Origin, Search, bare, find, list, local_text};
pub use finding::{Finding, Findings, escape, is_unseen};
pub use finish::Loaded;
pub use lock::{LOCK_NAME, Lock, LockError, LockedDigest, LockedImage, LockedPlatform, read_lock};
pub use model::*;
pub use preset::defaults;
pub use project::{NoProject, OpenError, Opened, Project as ProjectPlace, Request, open, place};
pub use rules::{NetworkRule, Peer, PortMap};
pub use schema::schema;
pub use seen::Seen;
pub use shipped::{SHIPPED, Shipped};
pub use show::Shown;
pub use value::{
    Wrong, duration, hostname, inside_path, name, name_from, show_duration, show_signal, show_size, signal, size, target, user, variable,
};
