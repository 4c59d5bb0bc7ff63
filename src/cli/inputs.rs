//! The texts that a profile refers to: secrets, filters, files of variables.

use std::path::Path;

use super::error::CliError;
use super::image_facts::ImageFacts;
use crate::host::Host;
use crate::plan::{self, Invocation};
use crate::profile::{Preset, Profile, SeccompSource, SecretSource};

/// A secret is a file of at most this many bytes.
const MAX_SECRET: u64 = 1 << 20;

pub fn read_secrets(profile: &Profile) -> Result<Vec<(String, Vec<u8>)>, CliError> {
    use std::io::Read;
    use std::os::unix::ffi::OsStringExt;
    profile
        .secrets
        .iter()
        .map(|secret| {
            let content = match &secret.from {
                SecretSource::Env(name) => std::env::var_os(name)
                    .map(OsStringExt::into_vec)
                    .ok_or_else(|| CliError::SecretUnset { secret: secret.name.clone(), variable: name.clone() })?,
                SecretSource::File(path) => {
                    let wrap = |source| CliError::Io { act: "read the secret", path: path.clone(), source };
                    let mut content = Vec::new();
                    open_regular(path, MAX_SECRET).and_then(|file| file.take(MAX_SECRET).read_to_end(&mut content)).map_err(wrap)?;
                    content
                }
            };
            Ok((secret.name.clone(), content))
        })
        .collect()
}

pub fn compile_seccomp(
    profile: &Profile,
    host: &Host,
    same_user: Option<plan::seccomp::SameUser>,
) -> Result<Option<(String, plan::seccomp::Filter)>, CliError> {
    use plan::seccomp::{Arch, Request, Source, compile, parse_oci};
    let security = &profile.security;
    let parsed;
    let (name, source) = match &security.seccomp {
        SeccompSource::Default => ("default".to_owned(), Source::Default),
        SeccompSource::Strict => ("strict".to_owned(), Source::Strict),
        SeccompSource::None => return Ok(None),
        SeccompSource::File(path) => {
            let text = read_text(path)?;
            parsed = parse_oci(&text).map_err(|source| CliError::SeccompProfile { path: path.clone(), source })?;
            (path.display().to_string(), Source::Oci(&parsed))
        }
    };
    let caps: Vec<&str> = security.caps.iter().map(|capability| capability.name()).collect();
    let request = Request {
        source,
        allow: &security.seccomp_allow,
        ptrace: security.preset == Preset::Dev && same_user.is_none(),
        nested_userns: security.nested_userns,
        same_user,
        caps: &caps,
        kernel: host.kernel,
        arch: Arch::HOST,
    };
    Ok(Some((name, compile(&request).map_err(|source| CliError::Seccomp { source })?)))
}

/// Files that a profile refers to, other than images, are small.
const MAX_TEXT: u64 = 1 << 20;

/// Opens a file without waiting for a writer, and only if it is a regular one of at most `limit` bytes.
fn open_regular(path: &Path, limit: u64) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    if facts.len() > limit {
        return Err(std::io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(file)
}

fn read_text(path: &Path) -> Result<String, CliError> {
    use std::io::Read;
    let mut text = String::new();
    let wrap = |source| CliError::Io { act: "read", path: path.to_owned(), source };
    // Not only regular files: variables may come from a pipe of the caller's shell.
    std::fs::File::open(path).and_then(|file| file.take(MAX_TEXT + 1).read_to_string(&mut text)).map_err(wrap)?;
    if text.len() as u64 > MAX_TEXT {
        return Err(wrap(std::io::Error::other(format!("larger than {MAX_TEXT} bytes"))));
    }
    Ok(text)
}

pub fn environment(profile: &Profile, image: &ImageFacts, invocation: &Invocation) -> Result<Vec<(String, String)>, CliError> {
    let mut files = Vec::new();
    for path in &profile.env_file {
        env_file(path, &read_text(path)?, &mut files)?;
    }
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
    Ok(plan::payload_environment(profile, &image.image, invocation, &files, &passed))
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
