//! Layers to a tree: unpacking, whiteouts, lookups through a stack of layers, who the payload's user is.
//!
//! In: a [`Store`](crate::store::Store) and a [`Request`]. Out: a [`Prepared`] image: a config, a stack of layer names, a resolved
//! user. Mounts nothing, and looks nothing up on the host. No entry of a layer touches anything outside of its tree, by
//! construction: see `directory.rs`. Follows the image spec's "layer" and "config" chapters; where they are silent, podman.

mod bounds;
mod directory;
mod error;
mod export;
mod extract;
mod kept;
mod late;
mod layer;
mod manage;
mod namespace;
mod owner;
mod prepare;
mod publish;
mod published;
mod record;
mod shared;
mod skeleton;
mod stack;
mod stream;
#[cfg(test)]
mod tests;
mod trash;
mod usage;
mod user;

pub use error::{Error, hint_of_errno};
pub use export::export;
pub use kept::contents;
pub use manage::{Gone, Prune, Removed, fetched_names, find_image, find_image_for, images, index_of, is_digest, prune, remove_image, tag};
pub(crate) use namespace::in_range;
pub use owner::{Ownership, SubRange};
pub use prepare::{Lease, Origins, Prepared, Progress, Registries, Request, Stores, Tree, Watch, forget_torn, not_loaded, prepare};
pub use publish::publish;
pub use published::{PublishedTree, open_published};
pub use record::ImageRecord;
pub use skeleton::{Skeleton, Wishes, ensure as ensure_skeleton, foresee as foresee_skeleton};
pub use stack::{Found, Stack};
pub use trash::sweep;
pub use usage::{ImageUsage, Usage, usage};
pub use user::{ResolvedUser, parse as parse_user, resolve as resolve_user};
