//! Index and manifest documents, and the choice among an index's images.

use oci_spec::image::{Descriptor as TypedDescriptor, ImageIndex, ImageManifest};
use serde_json::Value;

use super::json::{self, Shape};
use super::media::{self, Kind};
use super::{Digest, Error, MAX_LAYERS, Reference, shown};
use crate::profile::Platform;

pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What an index or a manifest says about a blob.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.ref.name`, and the fuller names that containerd and buildkit add.
    pub names: Vec<String>,
}

pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

const DESCRIPTORS: &[(&str, Shape)] = &[
    ("schemaVersion", Shape::Unsigned),
    ("mediaType", Shape::String),
    ("artifactType", Shape::String),
    ("annotations", Shape::StringMap),
    ("manifests", Shape::Objects),
    ("manifests[]/mediaType", Shape::String),
    ("manifests[]/digest", Shape::String),
    ("manifests[]/size", Shape::Unsigned),
    ("manifests[]/annotations", Shape::StringMap),
    ("manifests[]/platform", Shape::Object),
    ("manifests[]/platform/os", Shape::String),
    ("manifests[]/platform/architecture", Shape::String),
    ("manifests[]/platform/variant", Shape::String),
    ("config", Shape::Object),
    ("config/mediaType", Shape::String),
    ("config/digest", Shape::String),
    ("config/size", Shape::Unsigned),
    ("layers", Shape::Objects),
    ("layers[]/mediaType", Shape::String),
    ("layers[]/digest", Shape::String),
    ("layers[]/size", Shape::Unsigned),
    ("layers[]/urls", Shape::Strings),
    ("layers[]/annotations", Shape::StringMap),
];

impl Document {
    /// Parses an index or a manifest. Which of them it is, is said by its keys, and must not be said twice (CVE-2021-41190): a
    /// document that one reader takes as an index and another as a manifest names two images.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self, Error> {
        let mut value = json::parse(bytes, what)?;
        json::drop_nulls(&mut value);
        json::check(&value, what, DESCRIPTORS)?;
        let has = |key: &str| value.get(key).is_some();
        if has("manifests") && (has("layers") || has("config")) {
            return Err(Error::refused(what, "it has the keys of an index and of a manifest at once"));
        }
        if has("fsLayers") || value.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
            return Err(Error::refused(what, "`schemaVersion` must be 2"));
        }
        let stated = value.get("mediaType").and_then(Value::as_str).map(media::kind);
        let syntax = |source| Error::Syntax { what: what.to_owned(), source };
        if has("manifests") {
            agree(stated, Kind::Index, what)?;
            let typed: ImageIndex = serde_json::from_value(value).map_err(syntax)?;
            return Ok(Self::Index(typed.manifests().iter().map(|one| Descriptor::from_typed(one, what)).collect::<Result<_, _>>()?));
        }
        agree(stated, Kind::Manifest, what)?;
        let typed: ImageManifest = serde_json::from_value(value).map_err(syntax)?;
        let layers = typed.layers();
        if layers.len() > MAX_LAYERS {
            return Err(Error::refused(
                what,
                format!("it has {} layers, more than the {MAX_LAYERS} that an overlay can have", layers.len()),
            ));
        }
        let layers = layers.iter().map(|one| Descriptor::from_typed(one, what)).collect::<Result<_, _>>()?;
        Ok(Self::Manifest(Manifest { config: Descriptor::from_typed(typed.config(), what)?, layers }))
    }
}

fn agree(stated: Option<Kind>, found: Kind, what: &str) -> Result<(), Error> {
    match stated {
        Some(stated) if stated != found => Err(Error::refused(what, "its `mediaType` contradicts its keys")),
        _ => Ok(()),
    }
}

impl Descriptor {
    fn from_typed(typed: &TypedDescriptor, what: &str) -> Result<Self, Error> {
        let annotation = |name: &str| typed.annotations().as_ref().and_then(|map| map.get(name)).cloned();
        let platform = typed.platform().as_ref().map(|platform| Platform {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone().filter(|text| !text.is_empty()),
        });
        if let Some(odd) = platform.as_ref().filter(|platform| !platform.is_plain()) {
            return Err(odd_platform(what, odd));
        }
        Ok(Self {
            media_type: typed.media_type().to_string(),
            digest: typed.digest().to_string().parse()?,
            size: typed.size(),
            platform,
            names: [REF_NAME, "io.containerd.image.name"].into_iter().filter_map(annotation).collect(),
        })
    }

    /// Attestations and signatures travel in indexes as images of the platform `unknown/unknown`.
    pub fn is_image(&self) -> bool {
        let unknown = self.platform.as_ref().is_some_and(|platform| platform.os == "unknown" || platform.architecture == "unknown");
        !unknown && matches!(media::kind(&self.media_type), Kind::Index | Kind::Manifest)
    }

    pub fn has_name(&self, wanted: &str) -> bool {
        let reference = wanted.parse::<Reference>().ok().filter(|_| wanted.contains(['/', ':']));
        let same = |name: &String| reference.is_some() && name.parse::<Reference>().ok() == reference;
        self.names.iter().any(|name| name == wanted || same(name) || name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted))
    }
}

/// A platform that no lock file and no terminal could be given.
pub(crate) fn odd_platform(what: &str, platform: &Platform) -> Error {
    let shown = shown(platform.to_string().as_bytes());
    Error::refused(what, format!("the platform `{shown}` has other characters than letters, digits, `.`, `_` and `-`"))
}

/// The best of `candidates` for `wanted`: the variant itself, else the nearest lower one. One without a platform serves where none
/// says that it fits; its config is checked later.
pub(crate) fn choose<'d>(candidates: &[&'d Descriptor], wanted: &Platform, what: &str) -> Result<&'d Descriptor, Error> {
    let ranked = candidates.iter().filter_map(|candidate| Some((rank(candidate.platform.as_ref()?, wanted)?, *candidate)));
    if let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) {
        return Ok(best);
    }
    let unmarked: Vec<&Descriptor> = candidates.iter().copied().filter(|candidate| candidate.platform.is_none()).collect();
    match unmarked.as_slice() {
        [only] => Ok(only),
        [] => Err(Error::NoPlatform { what: what.to_owned(), platform: wanted.to_string(), available: platforms(candidates) }),
        several => Err(Error::Several { what: what.to_owned(), available: listed(several.iter().map(|one| one.digest.to_string())) }),
    }
}

/// Which of `offered` would be taken from an index for `wanted`.
pub fn best_platform(offered: &[Platform], wanted: &Platform) -> Option<usize> {
    let ranked = offered.iter().enumerate().filter_map(|(index, offered)| Some((rank(offered, wanted)?, index)));
    ranked.min().map(|(_, index)| index)
}

fn platforms(candidates: &[&Descriptor]) -> String {
    listed(candidates.iter().filter_map(|candidate| candidate.platform.as_ref()).map(ToString::to_string))
}

/// A list for people, bounded.
pub(crate) fn listed(items: impl Iterator<Item = String>) -> String {
    const MOST: usize = 12;
    let items: Vec<String> = items.map(|item| shown(item.as_bytes())).collect();
    match items.len() {
        0 => "none".to_owned(),
        count if count > MOST => format!("{}, and {} more", items[..MOST].join(", "), count - MOST),
        _ => items.join(", "),
    }
}

/// 0 is the best; `None` does not run here.
pub(crate) fn rank(offered: &Platform, wanted: &Platform) -> Option<u32> {
    if offered.os != wanted.os || offered.architecture != wanted.architecture {
        return None;
    }
    let level = |variant: &str| variant.strip_prefix('v').and_then(|number| number.parse::<u32>().ok());
    // What "no variant" means, by the image spec's and Go's tables.
    let base = match wanted.architecture.as_str() {
        "arm" => 7,
        "arm64" => 8,
        _ => 1,
    };
    let most = match &wanted.variant {
        Some(variant) => level(variant)?,
        None => base,
    };
    let have = match &offered.variant {
        Some(variant) => level(variant)?,
        None => base.min(most),
    };
    most.checked_sub(have)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform { os: parts.next().unwrap(), architecture: parts.next().unwrap(), variant: parts.next() }
    }

    #[test]
    fn ranks_variants() {
        for (offered, wanted, expected) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64/v1", "linux/amd64", Some(0)),
            ("linux/amd64/v3", "linux/amd64", None),
            ("linux/amd64/v2", "linux/amd64/v3", Some(1)),
            ("linux/amd64", "linux/amd64/v3", Some(2)),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm/v6", "linux/arm", Some(1)),
            ("linux/arm/v7", "linux/arm/v6", None),
            ("linux/arm64", "linux/amd64", None),
            ("windows/amd64", "linux/amd64", None),
        ] {
            assert_eq!(rank(&platform(offered), &platform(wanted)), expected, "{offered} for {wanted}");
        }
    }

    #[test]
    fn takes_what_an_index_would_give() {
        let offered = [platform("linux/amd64"), platform("linux/arm/v6"), platform("linux/arm/v7"), platform("linux/arm64/v8")];
        let best = |wanted: &str| best_platform(&offered, &platform(wanted));
        assert_eq!([best("linux/arm64"), best("linux/arm"), best("linux/amd64/v3")], [Some(3), Some(2), Some(0)]);
        assert_eq!(best("linux/s390x"), None);
    }

    #[test]
    fn refuses_documents_of_two_kinds() {
        for (text, word) in [
            (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "at once"),
            (r#"{"schemaVersion":2,"manifests":[],"config":{}}"#, "at once"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "`schemaVersion` must be 2"),
            (r#"{"manifests":[]}"#, "`schemaVersion` must be 2"),
            (r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#, "contradicts"),
            (
                r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,
                    "digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                    "platform":{"os":"linux","architecture":"\u001b[2J\nx"}}]}"#,
                r"the platform `linux/\x1b[2J\nx`",
            ),
            (r#"{"schemaVersion":2,"manifests":{}}"#, "`manifests` must be a list of objects"),
            (r#"{"schemaVersion":2,"Manifests":[],"layers":[]}"#, "in case only"),
        ] {
            let error = Document::parse(text.as_bytes(), "test").err().unwrap().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
