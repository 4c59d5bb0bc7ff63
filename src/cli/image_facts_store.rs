//! Images from the store. (Filled in with the store.)
use super::error::CliError;
use super::image_facts::ImageFacts;
use super::start::Effects;
use crate::host::{Directories, Host};
use crate::plan::*;
use crate::profile::{ImageSource, Profile};

pub fn store_image(profile: &Profile, _: &Directories, _: &Host, _: bool, _: Effects) -> Result<ImageFacts, CliError> {
    let ImageSource::Rootfs { path } = &profile.image else { return Err(CliError::Usage("no store".into())) };
    Ok(ImageFacts {
        image: Image {
            entrypoint: vec![], cmd: vec!["/bin/sh".into()], environment: vec![], workdir: String::new(), volumes: vec![],
            user: User { uid: 0, gid: 0, groups: vec![], home: "/root".into() },
            tree: Tree::Layers(vec![Lower::Directory(path.clone())]), home_is_empty: true,
        },
        digest: "x".into(), stop_signal: None, top_layer: Some(path.clone()), notes: vec![], opened: vec![],
    })
}
