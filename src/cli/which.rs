//! Which profile, which project.

use super::error::CliError;
use super::run::CommonArgs;
use super::start::ProjectChoice;
use crate::host::Directories;
use crate::profile::*;

pub struct Chosen {
    pub profile: Profile,
    pub project: ProjectChoice,
}

pub fn choose(args: &CommonArgs, _: &Directories) -> Result<Chosen, CliError> {
    let profile = Profile {
        name: "hello".into(),
        files: vec![],
        image: match &args.image {
            Some(i) => match i.strip_prefix("oci:") { Some(d) => ImageSource::OciDir { path: d.into(), select: Select::Only }, None => ImageSource::Rootfs { path: i.into() } },
            None => ImageSource::Host,
        },
        platform: Platform::native(),
        pull: Pull::Missing,
        entrypoint: None,
        command: None,
        hostname: "hello".into(),
        workdir: None,
        env_pass: vec!["TERM".into(), "LANG".into()],
        env_file: vec![],
        env: vec![],
        isolation: Isolation::Auto,
        require: vec![],
        identity: Identity { user: None, map: MapMode::Single, home: HomeMode::Private },
        root: Root { mode: RootMode::Scratch, tmp: None, shm: 64 << 20 },
        project: Project {
            path: None,
            target: None,
            mode: ProjectMode::Rw,
            protect: vec![".git/hooks".into(), ".git/config".into()],
            hide: vec![],
            on_replace: OnReplace::Stop,
        },
        mounts: vec![],
        limits: Limits::default(),
        network: Network {
            mode: if args.network.as_deref() == Some("host") { NetworkMode::Host } else { NetworkMode::None },
            allow: vec![],
            deny: vec![],
            ports: vec![],
            host_services: vec![],
            dns: vec![],
            hosts: vec![],
            host_ca: false,
        },
        security: Security {
            preset: Preset::Dev,
            caps: vec![],
            seccomp: SeccompSource::Default,
            seccomp_allow: vec![],
            landlock: LandlockMode::Auto,
            nested_userns: false,
            single_command: false,
            devices: vec![],
        },
        secrets: vec![],
        lifecycle: Lifecycle {
            init: true,
            stop_signal: None,
            stop_timeout: std::time::Duration::from_secs(10),
            umask: None,
            tty: TtyMode::Auto,
        },
        expose: vec![],
    };
    let path = args.project.clone().or_else(|| std::env::current_dir().ok());
    Ok(Chosen { profile, project: ProjectChoice { path, notes: vec![] } })
}
