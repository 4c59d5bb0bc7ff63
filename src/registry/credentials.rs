//! Names and passwords for registries: the files that Docker and podman share, and helper programs.

use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Error;
use super::settings::{Settings, Variables, failed, read_bounded};

const MAX_FILE: u64 = 4 << 20;
/// What a helper may say, and what it is told: a password of 64 KiB, each byte of it as JSON's longest escape, and names.
const MAX_SAID: usize = 7 * (64 << 10);
/// Docker Hub's name in files of credentials and for helpers.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What a registry wants to know.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// For the token server, which gives an access token for it: OAuth's refresh token.
    Identity(String),
    /// For the registry itself.
    Token(String),
}

/// Credentials, and where they are kept: for messages.
#[derive(Clone)]
pub(crate) struct Kept {
    pub credentials: Credentials,
    pub place: Place,
}

fn program(helper: &str) -> Place {
    format!("docker-credential-{helper}")
}

/// The files, the first that knows a registry has the say: podman's order, then Docker's.
fn files(variables: &Variables) -> Vec<PathBuf> {
    if let Some(path) = &variables.auth_file {
        return vec![path.clone()];
    }
    let of = |base: &Option<PathBuf>| base.as_ref().map(|base| base.join("containers/auth.json"));
    of(&variables.runtime).into_iter().chain(of(&variables.config)).chain(docker_file(variables)).collect()
}

fn docker_file(variables: &Variables) -> Option<PathBuf> {
    let own = || variables.home.as_ref().map(|home| home.join(".docker"));
    variables.docker_config.clone().or_else(own).map(|directory| directory.join("config.json"))
}

fn read(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    match read_bounded(path, MAX_FILE) {
        Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Ok(Some(Map::new())),
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(|error| failed(path, error))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

/// What is known for a repository.
///
/// In each file: a helper for the registry, then what stands in the file itself for the longest prefix of the repository's name, then the
/// helper for all. `note` hears of a helper for all that fails: it may never have been meant for this registry.
///
/// # Errors
/// [`Error::File`] for a file that cannot be read · [`Error::Setting`] for a helper of this registry that fails.
pub(crate) fn look_up(settings: &Settings, registry: &str, repository: &str, note: &dyn Fn(&Error)) -> Result<Option<Kept>, Error> {
    for path in files(&settings.variables) {
        let Some(file) = read(&path)? else { continue };
        let section = |name: &str| file.get(name).and_then(Value::as_object);
        let of_registry = |name: &str| section(name)?.iter().find(|(key, _)| is(key, registry));
        if let Some((key, helper)) = of_registry("credHelpers")
            && let Some(credentials) = ask_helper(settings, helper.as_str().unwrap_or_default(), key)?
        {
            return Ok(Some(Kept { credentials, place: program(helper.as_str().unwrap_or_default()) }));
        }
        if let Some(credentials) = in_file(section("auths"), registry, repository).map_err(|reason| failed(&path, reason))? {
            return Ok(Some(Kept { credentials, place: path.display().to_string() }));
        }
        if let Some(helper) = file.get("credsStore").and_then(Value::as_str).filter(|helper| !helper.is_empty()) {
            match ask_helper(settings, helper, server_name(registry)) {
                Ok(Some(credentials)) => return Ok(Some(Kept { credentials, place: program(helper) })),
                Ok(None) => {}
                Err(error) => note(&error),
            }
        }
    }
    Ok(None)
}

/// The registry that a key of a file means: `https://index.docker.io/v1/` is `docker.io`.
fn normal(key: &str) -> String {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key).trim_end_matches('/');
    let rest = rest.strip_suffix("/v1").or_else(|| rest.strip_suffix("/v2")).unwrap_or(rest);
    match rest.split_once('/').unwrap_or((rest, "")) {
        ("index.docker.io" | "registry-1.docker.io" | "docker.io", "") => "docker.io".to_owned(),
        ("index.docker.io" | "registry-1.docker.io", path) => format!("docker.io/{path}"),
        _ => rest.to_owned(),
    }
}

/// Hosts' names are the same in any case, and repositories have no capitals.
fn is(key: &str, name: &str) -> bool {
    normal(key).eq_ignore_ascii_case(name)
}

fn server_name(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB } else { registry }
}

fn in_file(auths: Option<&Map<String, Value>>, registry: &str, repository: &str) -> Result<Option<Credentials>, String> {
    let full = format!("{registry}/{repository}");
    let mut names: Vec<&str> = full.match_indices('/').map(|(at, _)| &full[..at]).collect();
    names.push(&full);
    for name in names.iter().rev() {
        let Some((key, entry)) = auths.and_then(|auths| auths.iter().find(|(key, _)| is(key, name))) else { continue };
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Credentials::Token(token.to_owned())));
        }
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credentials::Identity(token.to_owned())));
        }
        let pair = match (text("auth"), text("username"), text("password")) {
            (Some(auth), _, _) => {
                let bytes = STANDARD.decode(auth.trim_end_matches('\0')).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let pair = bytes.and_then(|text| text.trim_end_matches('\0').split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())));
                Some(pair.ok_or_else(|| format!("`auth` of `{key}` is not base64 of user:password"))?)
            }
            (None, Some(user), Some(password)) => Some((user.to_owned(), password.to_owned())),
            _ => None,
        };
        if let Some((user, password)) = pair {
            return Ok(Some(Credentials::Password { user, password }));
        }
    }
    Ok(None)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    username: String,
    secret: String,
}

fn ask_helper(settings: &Settings, helper: &str, server: &str) -> Result<Option<Credentials>, Error> {
    let (good, said) = run_helper(settings, helper, "get", server.as_bytes())?;
    let problem = |reason: String| Error::Setting { name: program(helper), reason };
    if !good {
        return if knows_nothing(&said) { Ok(None) } else { Err(helper_failed(helper, &said)) };
    }
    let said: Said =
        serde_json::from_slice(&said).map_err(|error| problem(format!("its answer is no JSON of Username and Secret: {error}")))?;
    Ok(match (said.username.as_str(), said.secret) {
        ("<token>", secret) => Some(Credentials::Identity(secret)),
        ("", secret) if secret.is_empty() => None,
        (user, password) => Some(Credentials::Password { user: user.to_owned(), password }),
    })
}

/// The words are those of docker-credential-helpers, on which all clients rely.
fn knows_nothing(said: &[u8]) -> bool {
    String::from_utf8_lossy(said).contains("credentials not found")
}

fn helper_failed(helper: &str, said: &[u8]) -> Error {
    let said = crate::image::shown(said.trim_ascii());
    let words = if said.is_empty() { "it says nothing" } else { &said };
    Error::Setting { name: program(helper), reason: format!("it failed: {words}") }
}

/// Runs `docker-credential-HELPER ACT` with `input`; whether it ended well, and what it wrote. It has the settings' time.
fn run_helper(settings: &Settings, helper: &str, act: &str, input: &[u8]) -> Result<(bool, Vec<u8>), Error> {
    let program = program(helper);
    let problem = |reason: String| Error::Setting { name: program.clone(), reason };
    if helper.is_empty() || !helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err(problem("that is no name of a credential helper".to_owned()));
    }
    let io = |act: &'static str| {
        let program = program.clone();
        move |error: std::io::Error| Error::Setting { name: program.clone(), reason: format!("cannot {act} it: {error}") }
    };
    if input.len() > MAX_SAID {
        return Err(problem(format!("what it is to keep is longer than {MAX_SAID} bytes")));
    }
    // A file in memory and no pipe, which holds less, and whose reader could go away: writing to nobody would end hamper.
    let given = rustix::fs::memfd_create("credentials", rustix::fs::MemfdFlags::CLOEXEC).map_err(|errno| io("write to")(errno.into()))?;
    let mut given = std::fs::File::from(given);
    given.write_all(input).and_then(|()| given.rewind()).map_err(io("write to"))?;
    let mut child = Command::new(&program)
        .arg(act)
        .stdin(Stdio::from(given))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(io("start"))?;
    let deadline = Instant::now() + settings.helper_timeout();
    let mut said = Vec::new();
    let read = child.stdout.take().map_or(Ok(()), |mut out| read_until(&mut out, deadline, &mut said));
    let end = read.and_then(|()| wait_until(&mut child, deadline));
    if end.is_err() {
        // Ignoring: it is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
    let end = end.map_err(io("hear from"))?;
    Ok((end.success(), said))
}

fn read_until(out: &mut (impl Read + AsFd), deadline: Instant, said: &mut Vec<u8>) -> std::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&*out, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(std::io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        match out.read(&mut buffer)? {
            0 => return Ok(()),
            count if said.len() + count > MAX_SAID => return Err(std::io::Error::other(format!("it says more than {MAX_SAID} bytes"))),
            count => said.extend_from_slice(&buffer[..count]),
        }
    }
}

fn wait_until(child: &mut std::process::Child, deadline: Instant) -> std::io::Result<std::process::ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Where something was kept, or from where it was taken away.
pub type Place = String;

/// Keeps a user's password: by the helper for the registry, else by the helper for all, else in the file, which is the user's alone.
///
/// # Errors
/// [`Error::Setting`] of the helper · [`Error::File`].
pub(crate) fn store(settings: &Settings, registry: &str, user: &str, password: &str) -> Result<Place, Error> {
    // Where a file that is asked first knows the registry already, what is kept in a later one would never be found.
    let mut knowing = None;
    for path in files(&settings.variables) {
        let file = read(&path)?.unwrap_or_default();
        let known = file.get("auths").and_then(Value::as_object).is_some_and(|auths| auths.keys().any(|key| is(key, registry)));
        if known || helper_of(&file, registry).is_some() {
            knowing = Some(path);
            break;
        }
    }
    let path = settings.variables.auth_file.clone().or(knowing).or_else(|| docker_file(&settings.variables));
    let path =
        path.ok_or_else(|| Error::Setting { name: "HOME".into(), reason: "it is not set, so there is no file for credentials".into() })?;
    let mut file = read(&path)?.unwrap_or_default();
    if let Some((helper, server)) = helper_of(&file, registry) {
        let input = json!({ "ServerURL": server, "Username": user, "Secret": password }).to_string();
        let (good, said) = run_helper(settings, &helper, "store", input.as_bytes())?;
        return if good { Ok(program(&helper)) } else { Err(helper_failed(&helper, &said)) };
    }
    let auths = file.entry("auths").or_insert_with(|| json!({}));
    let auths = auths.as_object_mut().ok_or_else(|| failed(&path, "`auths` is no object"))?;
    auths.retain(|key, _| !is(key, registry));
    auths.insert(server_name(registry).to_owned(), json!({ "auth": STANDARD.encode(format!("{user}:{password}")) }));
    write(&path, &file)?;
    Ok(path.display().to_string())
}

/// What became of the places where a registry was known.
#[derive(Default)]
pub struct Erased {
    pub places: Vec<Place>,
    /// Of those that are left as they were.
    pub failures: Vec<Error>,
}

/// Takes what is known of a registry out of every file, and from their helpers; one that fails keeps none of the others.
pub(crate) fn erase(settings: &Settings, registry: &str) -> Erased {
    let mut erased = Erased::default();
    for path in files(&settings.variables) {
        let mut file = match read(&path) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(error) => {
                erased.failures.push(error);
                continue;
            }
        };
        if let Some((helper, server)) = helper_of(&file, registry) {
            match run_helper(settings, &helper, "erase", server.as_bytes()) {
                Ok((true, _)) => erased.places.push(program(&helper)),
                Ok((false, said)) if knows_nothing(&said) => {}
                // The password is still there.
                Ok((false, said)) => erased.failures.push(helper_failed(&helper, &said)),
                Err(error) => erased.failures.push(error),
            }
        }
        let Some(auths) = file.get_mut("auths").and_then(Value::as_object_mut) else { continue };
        let before = auths.len();
        auths.retain(|key, _| !is(key, registry));
        if auths.len() != before {
            match write(&path, &file) {
                Ok(()) => erased.places.push(path.display().to_string()),
                Err(error) => erased.failures.push(error),
            }
        }
    }
    erased
}

fn helper_of(file: &Map<String, Value>, registry: &str) -> Option<(String, String)> {
    let own = file.get("credHelpers").and_then(Value::as_object).and_then(|all| all.iter().find(|(key, _)| is(key, registry)));
    if let Some((key, helper)) = own {
        return Some((helper.as_str()?.to_owned(), key.clone()));
    }
    let all = file.get("credsStore").and_then(Value::as_str).filter(|helper| !helper.is_empty())?;
    Some((all.to_owned(), server_name(registry).to_owned()))
}

/// Writes beside and renames, 0600; where the file is a link, what it leads to.
fn write(path: &Path, file: &Map<String, Value>) -> Result<(), Error> {
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(Path::new("."));
    let beside = directory.join(format!(".hamper-{}", std::process::id()));
    let act = || -> std::io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        // Ignoring: there is none, unless a hamper of the same number was killed here.
        let _ = std::fs::remove_file(&beside);
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        out.write_all(&serde_json::to_vec_pretty(file)?)?;
        out.write_all(b"\n")?;
        std::fs::rename(&beside, path)
    };
    act().map_err(|error| {
        // Ignoring: the first failure is told.
        let _ = std::fs::remove_file(&beside);
        failed(path, error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_docker_and_podman() {
        for (key, wanted) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("index.docker.io/team", "docker.io/team"),
            ("https://registry.example.org/v2/", "registry.example.org"),
            ("registry.example.org:5000/a/b", "registry.example.org:5000/a/b"),
        ] {
            assert_eq!(normal(key), wanted);
        }
    }

    #[test]
    fn the_longest_prefix_has_the_say() {
        let auth = |pair: &str| json!({ "auth": STANDARD.encode(pair) });
        let auths =
            json!({ "r.example": auth("a:1"), "r.example/team": auth("b:2:3"), "r.example/team/x": {}, "r.example/te": auth("c:4") });
        let auths = auths.as_object();
        let user = |repository: &str| match in_file(auths, "r.example", repository) {
            Ok(Some(Credentials::Password { user, password })) => format!("{user} {password}"),
            _ => "none".to_owned(),
        };
        assert_eq!([user("x"), user("team/x"), user("team"), user("tea")], ["a 1", "b 2:3", "b 2:3", "a 1"]);
        assert!(in_file(auths, "s.example", "x").is_ok_and(|found| found.is_none()));
        let broken = json!({ "r.example": { "auth": "%" } });
        assert!(in_file(broken.as_object(), "r.example", "x").is_err());
    }
}
