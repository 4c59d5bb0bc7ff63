//! `pull = "locked"`: whether the profile names one image, or whatever is found under a name.

use super::Degraded;
use crate::profile::{ImageSource, Profile, Pull, Select};

/// What is missing to an image that is to be locked; `digest` is that of the one that was found.
pub fn unlocked(profile: &Profile, digest: &str) -> Option<Degraded> {
    if profile.pull != Pull::Locked || profile.locked.is_some() {
        return None;
    }
    let write = |source: &str| format!("what is there now; to lock it: image = \"{source}@{digest}\"");
    let got = match &profile.image {
        ImageSource::Registry(text) if text.contains('@') => return None,
        ImageSource::OciDir { select: Select::Digest(_), .. } | ImageSource::OciArchive { select: Select::Digest(_), .. } => return None,
        ImageSource::Registry(text) => write(text),
        ImageSource::OciDir { path, .. } => write(&format!("oci:{}", path.display())),
        ImageSource::OciArchive { path, .. } => write(&format!("oci-archive:{}", path.display())),
        ImageSource::DockerArchive { .. } | ImageSource::Tar { .. } | ImageSource::Rootfs { .. } | ImageSource::Host => {
            "what is there now; only names, oci: and oci-archive: can have a digest, which locks them".into()
        }
    };
    Some(Degraded { what: "locked", asked: "one image and no other".into(), got })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::profile::{Preset, defaults};

    #[test]
    fn a_digest_locks_and_nothing_else_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let path = PathBuf::from("/i");
        let select = Select::Digest(digest.clone());
        let got = |preset, image| unlocked(&Profile { image, ..defaults(preset) }, &digest).map(|one| one.got);
        let build = |image| got(Preset::Build, image);
        assert_eq!(build(ImageSource::Registry(format!("docker.io/library/a:1@{digest}"))), None);
        assert_eq!(build(ImageSource::OciDir { path: path.clone(), select: select.clone() }), None);
        assert_eq!(build(ImageSource::OciArchive { path: path.clone(), select }), None);
        for (image, line) in [
            (ImageSource::OciDir { path: path.clone(), select: Select::Tag("v1".into()) }, format!("image = \"oci:/i@{digest}\"")),
            (ImageSource::Registry("docker.io/library/a:1".into()), format!("image = \"docker.io/library/a:1@{digest}\"")),
            (ImageSource::Tar { path }, "only names, oci: and oci-archive: can have a digest".into()),
        ] {
            assert_eq!(got(Preset::Dev, image.clone()), None);
            let got = build(image).expect("not locked");
            assert!(got.contains(&line), "{got}");
        }
    }
}
