//! The client of registries: manifests and blobs of a repository over HTTP, as the OCI distribution-spec 1.1 and Docker's registries have
//! it.
//!
//! In: a [`Reference`](crate::image::Reference) and what the user has said about registries. Out: a [`Repository`], which the image room
//! reads as a [`Remote`](crate::image::Remote). Nothing that a registry says is trusted: documents are bounded here and verified by digest
//! where they are parsed, layers where they are unpacked. A start whose image is in the store never comes here.

mod auth;
mod blob;
mod client;
mod credentials;
mod error;
mod hosts;
mod http;
mod login;
mod push;
mod roots;
mod settings;
mod wait;

pub use client::{Client, Event, Repository, Watch};
pub use credentials::Erased;
pub use error::{Error, Offered};
pub use login::{logout, registry_name};
pub use push::Push;
pub(crate) use settings::read_bounded;
pub use settings::{Environment, Settings};
