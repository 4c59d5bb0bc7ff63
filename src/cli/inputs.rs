//! The texts that a profile refers to: secrets, filters, files of variables.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::CliError;
use super::image_facts::ImageFacts;
use crate::host::Host;
use crate::plan::seccomp::{OciProfile, parse_oci};
use crate::plan::{self, Invocation};
use crate::profile::{Preset, Profile, SeccompSource, SecretSource, Seen};

/// Files that a profile refers to, other than images, are small.
pub const MAX_FILE: u64 = 1 << 20;

/// What they hold, read once and before anything is decided by it.
pub struct Inputs {
    /// Of the files of variables, in order.
    pub variables: Vec<(String, String)>,
    /// By name.
    pub secrets: Vec<(String, Vec<u8>)>,
    filter: Option<OciProfile>,
    /// What was read.
    pub seen: Vec<Seen>,
}

impl Inputs {
    /// # Errors
    /// [`CliError`] names the file, or the variable that a secret comes from.
    pub fn read(profile: &Profile) -> Result<Self, CliError> {
        let mut inputs = Self { variables: Vec::new(), secrets: Vec::new(), filter: None, seen: Vec::new() };
        for path in &profile.env_file {
            let text = inputs.text(path)?;
            env_file(path, &text, &mut inputs.variables)?;
        }
        if let SeccompSource::File(path) = &profile.security.seccomp {
            let text = inputs.text(path)?;
            let parsed = parse_oci(&text).map_err(|source| CliError::SeccompProfile { path: path.clone(), source })?;
            inputs.filter = Some(parsed);
        }
        for secret in &profile.secrets {
            let content = match &secret.from {
                SecretSource::Env(name) => std::env::var_os(name)
                    .map(OsStringExt::into_vec)
                    .ok_or_else(|| CliError::SecretUnset { secret: secret.name.clone(), variable: name.clone() })?,
                SecretSource::File(path) => {
                    let file = open_regular(path).map_err(|source| CliError::Io { act: "read the secret", path: path.clone(), source })?;
                    inputs.bytes(path, &file, "read the secret")?
                }
            };
            inputs.secrets.push((secret.name.clone(), content));
        }
        Ok(inputs)
    }

    /// Of another kind than a regular file only what the caller's shell has opened: anything else may be a payload's.
    fn text(&mut self, path: &Path) -> Result<String, CliError> {
        let wrap = |source| CliError::Io { act: "read", path: path.to_owned(), source };
        let opened = ["/dev/fd", "/dev/stdin", "/proc/self/fd"].iter().any(|own| path.starts_with(own));
        let file = if opened { File::open(path) } else { open_regular(path) }.map_err(wrap)?;
        let bytes = self.bytes(path, &file, "read")?;
        String::from_utf8(bytes).map_err(|error| wrap(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
    }

    fn bytes(&mut self, path: &Path, file: &File, act: &'static str) -> Result<Vec<u8>, CliError> {
        let wrap = |source| CliError::Io { act, path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let mut limited = file.take(MAX_FILE + 1);
        limited.read_to_end(&mut bytes).map_err(wrap)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(wrap(std::io::Error::other(format!("larger than {MAX_FILE} bytes"))));
        }
        if file.metadata().map_err(wrap)?.is_file() {
            self.seen.push(Seen::of(path, file.as_fd(), &bytes).map_err(|errno| wrap(errno.into()))?);
        }
        Ok(bytes)
    }
}

pub fn compile_seccomp(
    profile: &Profile,
    host: &Host,
    same_user: Option<plan::seccomp::SameUser>,
    inputs: &Inputs,
) -> Result<Option<(String, plan::seccomp::Filter)>, CliError> {
    use plan::seccomp::{Arch, Request, Source, compile};
    let security = &profile.security;
    let (name, source) = match &security.seccomp {
        SeccompSource::Default => ("default".to_owned(), Source::Default),
        SeccompSource::Strict => ("strict".to_owned(), Source::Strict),
        SeccompSource::None => return Ok(None),
        SeccompSource::File(path) => match &inputs.filter {
            Some(parsed) => (path.display().to_string(), Source::Oci(parsed)),
            None => return Ok(None),
        },
    };
    let caps: Vec<&str> = security.caps.iter().map(|capability| capability.name()).collect();
    let request = Request {
        source,
        allow: &security.seccomp_allow,
        ptrace: security.preset == Preset::Dev && same_user.is_none(),
        nested_userns: security.nested_userns,
        same_user,
        dies_with_parent: !profile.lifecycle.init,
        caps: &caps,
        kernel: host.kernel,
        arch: Arch::HOST,
    };
    Ok(Some((name, compile(&request).map_err(|source| CliError::Seccomp { source })?)))
}

/// Opens a file without waiting for a writer, and only if it is a regular one.
pub fn open_regular(path: &Path) -> std::io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("not a regular file")),
    }
}

pub fn environment(profile: &Profile, image: &ImageFacts, invocation: &Invocation, files: &[(String, String)]) -> Vec<(String, String)> {
    let mut passed = Vec::new();
    if !profile.env_pass.is_empty() {
        // A value that is no UTF-8 is not passed on.
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        for (name, value) in variables {
            let matches = |pattern: &String| pattern.strip_suffix('*').map_or(*pattern == name, |prefix| name.starts_with(prefix));
            if profile.env_pass.iter().any(matches) {
                passed.push((name, value));
            }
        }
    }
    plan::payload_environment(profile, &image.image, invocation, files, &passed)
}

/// `NAME=value` lines as `docker run --env-file` takes them: no quoting, `#` starts a comment line.
fn env_file(path: &Path, text: &str, into: &mut Vec<(String, String)>) -> Result<(), CliError> {
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let broken = || CliError::EnvFile { path: path.to_owned(), line: number + 1 };
        let (name, value) = line.split_once('=').ok_or_else(broken)?;
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(sound) || value.contains('\0') {
            return Err(broken());
        }
        into.push((name.to_owned(), value.to_owned()));
    }
    Ok(())
}
