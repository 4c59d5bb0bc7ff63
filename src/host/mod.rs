//! This machine as a value: ids, features, directories. Read-only; feeds plan and doctor.

mod facts;
mod sources;

pub use facts::{Directories, Host, HostError, SubRange, landlock_abi, subordinate_ranges};
pub use sources::{Guarded, Opened, Presence, Source, SourceError, open_source, survey_guarded};
