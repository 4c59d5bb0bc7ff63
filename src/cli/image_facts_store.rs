//! Images from the store. (Filled in with the store.)
use super::error::CliError;
use super::image_facts::ImageFacts;
use super::start::Effects;
use crate::host::{Directories, Host};
use crate::profile::Profile;

pub fn store_image(profile: &Profile, _: &Directories, _: &Host, _: bool, _: Effects) -> Result<ImageFacts, CliError> {
    Err(CliError::Usage(format!("no store yet for {:?}", profile.image)))
}
