//! hamper runs programs from container images in a sandbox, as an ordinary user, from a TOML profile.
//!
//! The rooms, in the order in which data walks through them (ARCHITECTURE.md has the arrows):
//!
//! - [`profile`]: TOML text to a validated profile
//! - [`image`]: references, OCI and Docker formats, archives to manifest and config
//! - [`registry`]: the client of registries
//! - [`store`]: blobs, layers and references on disk
//! - [`rootfs`]: layers to a tree
//! - [`host`]: this machine as a value
//! - [`plan`]: profile, image, rootfs and host to the ordered steps of a start
//! - [`launch`]: a plan to a running sandbox
//! - [`supervise`]: a running sandbox to its outcome
//! - [`report`]: what was asked and what was got
//! - [`cli`]: the only room that reads argv, prints, or picks exit codes
//! - [`sys`]: the only room with unsafe code
#![deny(unsafe_code)]

pub mod cli;
pub mod host;
pub mod image;
pub mod launch;
pub mod plan;
pub mod profile;
pub mod registry;
pub mod report;
pub mod rootfs;
pub mod store;
pub mod supervise;
pub mod sys;
