//! The closed sets of words in a profile, each word once: for reading, for messages, for the JSON Schema and for `profile show`.

use super::model::{
    HomeMode, Isolation, LandlockMode, MapMode, Missing, NetworkMode, OnReplace, Preset, ProjectMode, Pull, Requirement, Rlimit, RootMode,
    TtyMode,
};

/// A value that is one of a few words.
pub trait Word: Copy + PartialEq + 'static {
    const ALL: &'static [(&'static str, Self)];

    fn from_word(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
    }

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

/// The words alone, for messages and the schema.
pub fn words<T: Word>() -> Vec<&'static str> {
    T::ALL.iter().map(|(word, _)| *word).collect()
}

macro_rules! words {
    ($($type:ident { $($word:literal => $variant:ident),+ $(,)? })+) => {
        $(impl Word for $type {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        })+
    };
}

words! {
    Pull { "missing" => Missing, "always" => Always, "never" => Never, "locked" => Locked }
    Isolation { "auto" => Auto, "namespaces" => Namespaces, "landlock" => Landlock }
    Requirement { "subuid" => Subuid, "cgroup" => Cgroup, "landlock" => Landlock, "protect" => Protect }
    MapMode { "auto" => Auto, "single" => Single, "range" => Range }
    HomeMode { "private" => Private, "tmp" => Tmp, "none" => None }
    RootMode { "scratch" => Scratch, "ro" => Ro, "keep" => Keep }
    ProjectMode { "rw" => Rw, "ro" => Ro, "scratch" => Scratch, "none" => None }
    OnReplace { "stop" => Stop, "warn" => Warn }
    Missing { "error" => Error, "skip" => Skip, "create" => Create }
    NetworkMode { "none" => None, "filtered" => Filtered, "nat" => Nat, "host" => Host }
    Preset { "dev" => Dev, "build" => Build, "untrusted" => Untrusted }
    LandlockMode { "auto" => Auto, "required" => Required, "off" => Off }
    TtyMode { "auto" => Auto, "always" => Always, "never" => Never }
    Rlimit {
        "as" => As, "core" => Core, "cpu" => Cpu, "data" => Data, "fsize" => Fsize, "locks" => Locks, "memlock" => Memlock,
        "msgqueue" => Msgqueue, "nice" => Nice, "nofile" => Nofile, "nproc" => Nproc, "rss" => Rss, "rtprio" => Rtprio,
        "rttime" => Rttime, "sigpending" => Sigpending, "stack" => Stack,
    }
    MountWord { "bind" => Bind, "tmpfs" => Tmpfs, "volume" => Volume, "cache" => Cache }
    MountMode { "ro" => Ro, "rw" => Rw }
    OnMissing { "warn" => Warn, "error" => Error }
}

/// `type` of a mount, before the keys beside it are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountWord {
    Bind,
    Tmpfs,
    Volume,
    Cache,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountMode {
    Ro,
    Rw,
}

/// `[limits] on_missing`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissing {
    Warn,
    Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_values_map_both_ways() {
        fn check<T: Word + std::fmt::Debug>() {
            for (word, value) in T::ALL {
                assert_eq!(T::from_word(word), Some(*value));
                assert_eq!(value.word(), *word);
            }
            assert_eq!(T::from_word(""), None);
        }
        check::<Pull>();
        check::<Rlimit>();
        check::<NetworkMode>();
        check::<Requirement>();
    }
}
