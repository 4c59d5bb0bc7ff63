//! TOML text in, a validated [`Profile`] out: spans, includes, merge rules, presets, every finding at once.
//!
//! Never asks the machine: what a profile may take from the environment comes in as a value ([`Vars`]), and only the loader reads files.
//! Follows TOML 1.0 and the schema in the README. Nothing downstream sees the unparsed form.

mod model;

pub use model::*;
