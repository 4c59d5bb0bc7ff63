//! Presets: the defaults from which a profile starts, and which its own keys beat.

use std::time::Duration;

use super::model::{
    HomeMode, IdOrName, Identity, ImageSource, Isolation, LandlockMode, Lifecycle, Limits, MapMode, Network, NetworkMode, OnReplace,
    Platform, Preset, Profile, Project, ProjectMode, Pull, Requirement, Rlimit, Root, RootMode, SeccompSource, Security, TtyMode, UserSpec,
};

/// What a build sees as the time: 1980-01-01, the earliest that zip archives can hold.
pub const SOURCE_DATE_EPOCH: &str = "315532800";

/// What `protect` is where no file says anything.
pub const PROTECT: [&str; 2] = [".git/hooks", ".git/config"];

/// A profile in which no key is written.
pub fn defaults(preset: Preset) -> Profile {
    let mut profile = plain();
    profile.security.preset = preset;
    match preset {
        Preset::Dev => {}
        Preset::Build => build(&mut profile),
        Preset::Untrusted => untrusted(&mut profile),
    }
    profile
}

/// The same bytes everywhere: nothing of the caller is left to see, and of the machine only what no sandbox can hide.
fn build(profile: &mut Profile) {
    profile.pull = Pull::Locked;
    profile.hostname = "build".into();
    profile.project.mode = ProjectMode::Ro;
    profile.project.target = Some("/build".into());
    profile.identity.user = Some(UserSpec { user: IdOrName::Id(1000), group: Some(IdOrName::Id(1000)) });
    // The map that everybody can have. Under a range the image's files have other owners, and "make install" may write elsewhere.
    profile.identity.map = MapMode::Single;
    profile.identity.home = HomeMode::Tmp;
    profile.lifecycle.umask = Some(0o022);
    // A crash on the way leaves a file in the one's output and none in the other's, unless nobody gets one.
    profile.limits.ulimits = vec![(Rlimit::Core, 0)];
    profile.env_pass = Vec::new();
    let fixed = [("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8"), ("TERM", "xterm"), ("TZ", "UTC"), ("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)];
    profile.env = fixed.map(|(name, value)| (name.into(), value.into())).into();
}

/// For code that nobody has read: whatever cannot be enforced stops the run.
fn untrusted(profile: &mut Profile) {
    use Requirement::{Cgroup, Landlock, Protect, Subuid};
    profile.security.seccomp = SeccompSource::Strict;
    profile.security.landlock = LandlockMode::Required;
    profile.security.single_command = true;
    profile.project.mode = ProjectMode::Scratch;
    profile.root.mode = RootMode::Ro;
    profile.identity.home = HomeMode::Tmp;
    profile.limits.missing_is_error = true;
    profile.limits.ulimits = vec![(Rlimit::Core, 0)];
    profile.require = vec![Subuid, Cgroup, Landlock, Protect];
}

fn plain() -> Profile {
    Profile {
        name: String::new(),
        written: Vec::new(),
        files: Vec::new(),
        seen: Vec::new(),
        locked: None,
        image: ImageSource::Host,
        platform: Platform::native(),
        pull: Pull::Missing,
        entrypoint: None,
        command: None,
        hostname: String::new(),
        workdir: None,
        env_pass: ["TERM", "COLORTERM", "NO_COLOR", "LANG", "LC_*", "TZ"].map(String::from).into(),
        env_file: Vec::new(),
        env: Vec::new(),
        isolation: Isolation::Auto,
        require: Vec::new(),
        identity: Identity { user: None, map: MapMode::Auto, home: HomeMode::Private },
        root: Root { mode: RootMode::Scratch, tmp: None, shm: 64 << 20 },
        project: Project {
            path: None,
            target: None,
            mode: ProjectMode::Rw,
            protect: PROTECT.map(Into::into).into(),
            hide: Vec::new(),
            on_replace: OnReplace::Stop,
        },
        mounts: Vec::new(),
        limits: Limits::default(),
        network: Network {
            mode: NetworkMode::None,
            allow: Vec::new(),
            deny: Vec::new(),
            ports: Vec::new(),
            host_services: Vec::new(),
            dns: Vec::new(),
            hosts: Vec::new(),
            host_ca: false,
        },
        security: Security {
            preset: Preset::Dev,
            caps: Vec::new(),
            seccomp: SeccompSource::Default,
            seccomp_allow: Vec::new(),
            landlock: LandlockMode::Auto,
            nested_userns: false,
            single_command: false,
            devices: Vec::new(),
        },
        secrets: Vec::new(),
        lifecycle: Lifecycle { init: true, stop_signal: None, stop_timeout: Duration::from_secs(10), tty: TtyMode::Auto, umask: None },
        expose: Vec::new(),
    }
}
