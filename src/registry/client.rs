//! The steps of the distribution spec that read: manifests by tag and digest, blobs.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ureq::http::Method;

use super::auth::Authorizations;
use super::blob::BlobStream;
use super::credentials::{self, Kept};
use super::error::{Error, Offered};
use super::hosts::Endpoint;
use super::http::{Answer, Call, Http};
use super::settings::Settings;
use super::wait::{back_off, retry_after};
use crate::image::{self, Digest, MAX_MANIFEST, Reference, Remote, chain, shown};

/// What is taken for a manifest or an index, OCI's first.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// Bodies of failures are read this far for what they say.
const MAX_TOLD: u64 = 64 << 10;
/// Who asks for more patience than this is told to the user instead.
const MOST_PATIENCE: Duration = Duration::from_secs(90);

/// Something that happened on the way, for whoever watches.
#[derive(Clone, Debug)]
pub enum Event {
    /// A blob begins to come.
    Begin { digest: Digest, size: u64 },
    /// So many bytes of it have come in all.
    Bytes { digest: Digest, at: u64 },
    /// All of it has come.
    End { digest: Digest, size: u64 },
    /// The registry had the blob already.
    Present { digest: Digest },
    /// The registry took the blob from another repository of its own.
    Mounted { digest: Digest, from: String },
    /// All of it has been sent.
    Sent { digest: Digest, size: u64 },
    /// A step failed, and is tried again after a while.
    Again { words: String, wait: Duration },
    /// Something went wrong, and hamper does without it.
    Ignoring { words: String },
}

/// Hears of what happens, from many threads.
pub type Watch = dyn Fn(&Event) + Send + Sync;

/// The client, for all registries.
pub struct Client {
    pub(super) settings: Arc<Settings>,
    pub(super) http: Http,
    watch: Option<Box<Watch>>,
    pub(super) authorizations: Authorizations,
    /// By registry and repository.
    credentials: Mutex<HashMap<(String, String), Option<Kept>>>,
    /// Hosts that have answered: after that, a failure is thought to pass.
    answered: Mutex<HashSet<String>>,
    /// Mirrors that could not be asked: they are left out from then on.
    dead: Mutex<HashSet<String>>,
    /// The mirrors that bytes of a blob came from, for the case that they are the wrong ones.
    givers: Mutex<HashMap<Digest, Vec<Endpoint>>>,
}

impl Client {
    /// A client that has reached nobody yet.
    pub fn new(settings: Settings, watch: Option<Box<Watch>>) -> Self {
        let settings = Arc::new(settings);
        Self {
            http: Http::new(Arc::clone(&settings)),
            settings,
            watch,
            authorizations: Authorizations::default(),
            credentials: Mutex::default(),
            answered: Mutex::default(),
            dead: Mutex::default(),
            givers: Mutex::default(),
        }
    }

    /// The repository of a reference, at its mirrors and its registry; nothing is asked yet.
    pub fn repository(self: &Arc<Self>, reference: &Reference) -> Repository {
        let inner = Inner {
            client: Arc::clone(self),
            endpoints: Endpoint::all(&reference.registry, &self.settings),
            repository: reference.repository.clone(),
            name: format!("{}/{}", reference.registry, reference.repository),
        };
        Repository(Arc::new(inner))
    }

    pub(super) fn tell(&self, event: &Event) {
        if let Some(watch) = &self.watch {
            watch(event);
        }
    }

    /// Sends a call until it is answered with a status that is not about the weather.
    pub(super) fn exchange(&self, call: &Call<'_>) -> Result<Answer, Error> {
        let mut tries = 0;
        loop {
            let (error, asked) = match self.http.send(call) {
                Ok(answer) => {
                    self.answered.lock().unwrap_or_else(PoisonError::into_inner).insert(answer.host.clone());
                    if !matches!(answer.status, 408 | 429 | 500 | 502 | 503 | 504) {
                        return Ok(answer);
                    }
                    let asked = answer.header("retry-after").and_then(|text| retry_after(text, SystemTime::now()));
                    let (host, status) = (answer.host.clone(), answer.status);
                    let error = self.status(answer, call.step, "");
                    if let Some(wait) = asked.filter(|wait| *wait > MOST_PATIENCE) {
                        return Err(Error::Busy { host, step: call.step.to_owned(), status, wait });
                    }
                    (error, asked)
                }
                Err(error @ Error::Transport { .. }) if passes(&error) => (error, None),
                Err(error) => return Err(error),
            };
            if call.once {
                return Err(error);
            }
            tries += 1;
            if tries > self.most_tries(&error) {
                return Err(error);
            }
            let wait = asked.unwrap_or_else(|| back_off(tries));
            self.again(&error, wait);
        }
    }

    /// Who has never answered may not exist: two more tries, and the user learns of it.
    fn most_tries(&self, error: &Error) -> u32 {
        let retries = self.settings.retries();
        match error {
            Error::Transport { host, .. } if !self.answered.lock().unwrap_or_else(PoisonError::into_inner).contains(host) => retries.min(2),
            _ => retries,
        }
    }

    fn is_dead(&self, mirror: &Endpoint) -> bool {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).contains(&mirror.authority)
    }

    /// Leaves a mirror out that cannot be reached, has trouble or sends nonsense; one that only has not what was asked for may have the next. Whether it
    /// is left out now; the registry itself never is.
    pub(super) fn leave_out(&self, mirror: &Endpoint, error: &Error) -> bool {
        let has_trouble = match error {
            Error::Transport { .. } | Error::Busy { .. } | Error::Cut { .. } | Error::Refused { .. } => true,
            Error::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        };
        if !has_trouble || !mirror.is_mirror {
            return false;
        }
        if self.dead.lock().unwrap_or_else(PoisonError::into_inner).insert(mirror.authority.clone()) {
            self.tell(&Event::Ignoring { words: format!("{}; the mirror is not asked again in this run", chain(error)) });
        }
        true
    }

    /// Remembers that bytes of a blob come from a mirror.
    pub(super) fn given(&self, digest: &Digest, endpoint: &Endpoint) {
        if endpoint.is_mirror {
            self.givers.lock().unwrap_or_else(PoisonError::into_inner).entry(digest.clone()).or_default().push(endpoint.clone());
        }
    }

    /// Says that there is another try, and waits for it.
    pub(super) fn again(&self, error: &dyn std::error::Error, wait: Duration) {
        self.tell(&Event::Again { words: chain(error), wait });
        std::thread::sleep(wait);
    }

    /// What is known for a repository. Looked up once: a helper program may ask the user for something.
    pub(super) fn credentials(&self, registry: &str, repository: &str) -> Result<Option<Kept>, Error> {
        let key = (registry.to_owned(), repository.to_owned());
        let mut known = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = known.get(&key) {
            return Ok(kept.clone());
        }
        let ignoring = |error: &Error| self.tell(&Event::Ignoring { words: chain(error) });
        let found = credentials::look_up(&self.settings, registry, repository, &ignoring)?;
        known.insert(key, found.clone());
        Ok(found)
    }

    /// What a registry has been offered for a repository.
    fn offered(&self, registry: &str, repository: &str) -> Offered {
        let known = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = known.get(&(registry.to_owned(), repository.to_owned())).and_then(Option::as_ref);
        kept.map_or(Offered::Nothing, |kept| Offered::Kept(kept.place.as_str().into()))
    }

    /// A refusal of a repository, with what was offered for it.
    pub(super) fn refusal(&self, answer: Answer, step: &str, endpoint: &Endpoint, repository: &str) -> Error {
        let offered = self.offered(&endpoint.registry, &format!("{}{repository}", endpoint.prefix));
        self.status(answer, step, &endpoint.registry).of(offered)
    }

    /// As [`Self::exchange`], and says who the user is where that is asked for. `scope` is for a token server that is named without one.
    pub(super) fn exchange_as_user(&self, endpoint: &Endpoint, repository: &str, scope: &str, call: &Call<'_>) -> Result<Answer, Error> {
        let mut call = call.clone();
        // As it is called there: a mirror may have it below a name of its own.
        let repository = &format!("{}{repository}", endpoint.prefix);
        // An upload may go to another host, which is nobody to tell a password.
        let own = call.url.strip_prefix(&endpoint.base()).is_some_and(|rest| rest.starts_with('/'));
        call.authorization = self.authorizations.known(endpoint, scope).filter(|_| own);
        // What was offered may have expired; what comes after it is fresh.
        for _ in 0..2 {
            let answer = self.exchange(&call)?;
            // Nor is a host to which a redirect has led; and where the call itself is another's, no answer makes it the registry's.
            if answer.status != 401 || !own || answer.host != endpoint.authority {
                return Ok(answer);
            }
            match self.authorize(endpoint, repository, scope, &answer, call.authorization.as_deref())? {
                Some(header) => call.authorization = Some(header),
                None => return Ok(answer),
            }
        }
        self.exchange(&call)
    }

    /// The error that an answer is, with what it says of itself.
    pub(super) fn status(&self, answer: Answer, step: &str, registry: &str) -> Error {
        let (host, status) = (answer.host.clone(), answer.status);
        let body = answer.read(MAX_TOLD, self.settings.stall_timeout()).ok().flatten().unwrap_or_default();
        let registry = if registry.is_empty() { host.clone() } else { registry.to_owned() };
        Error::Status { host, step: step.to_owned(), status, told: told(&body).map(Into::into), registry, offered: Offered::Nothing }
    }
}

/// Whether a failure may pass: a connection that breaks does, a certificate that is wrong does not.
pub(super) fn passes(error: &Error) -> bool {
    let Error::Transport { source, .. } = error else { return false };
    match &**source {
        ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::InvalidData,
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

/// `{"errors":[{"code":…,"message":…}]}`, distribution-spec "Error codes"; only for people.
fn told(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = value.get("errors")?.get(0)?;
    let text = |key: &str| error.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    let words = [text("code"), text("message")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    (!words.is_empty()).then(|| shown(words.as_bytes()))
}

/// Why the body of an answer is of no use.
pub(super) struct Broken {
    error: Box<Error>,
    /// It was a mirror's, which is not asked again.
    is_left_out: bool,
}

/// An answer, and whom it came from.
pub(super) struct Given<'e> {
    pub answer: Answer,
    pub endpoint: &'e Endpoint,
}

/// A repository of a registry.
#[derive(Clone)]
pub struct Repository(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub client: Arc<Client>,
    /// In the order in which they are asked.
    pub endpoints: Vec<Endpoint>,
    pub repository: String,
    pub name: String,
}

impl Inner {
    /// Asks one endpoint after the other for what lies at `path` of the repository; the last one's failure is the failure.
    pub fn get(&self, path: &str, headers: &[(&'static str, String)], step: &str, good: &[u16]) -> Result<Given<'_>, Error> {
        self.ask(&Method::GET, path, headers, step, good)
    }

    fn ask(&self, method: &Method, path: &str, headers: &[(&'static str, String)], step: &str, good: &[u16]) -> Result<Given<'_>, Error> {
        let mut failure = None;
        for endpoint in self.endpoints.iter().filter(|endpoint| !self.client.is_dead(endpoint)) {
            match self.ask_one(endpoint, method, path, headers, step, good) {
                Ok(answer) => return Ok(Given { answer, endpoint }),
                Err(error) => {
                    self.client.leave_out(endpoint, &error);
                    failure = Some(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| Error::refused(&self.name, step, "no host has it")))
    }

    fn ask_one(
        &self,
        endpoint: &Endpoint,
        method: &Method,
        path: &str,
        headers: &[(&'static str, String)],
        step: &str,
        good: &[u16],
    ) -> Result<Answer, Error> {
        let url = format!("{}/v2/{}{}/{path}", endpoint.base(), endpoint.prefix, self.repository);
        let call = Call { headers: headers.to_vec(), ..Call::new(method.clone(), url, step) };
        let scope = format!("repository:{}{}:pull", endpoint.prefix, self.repository);
        let answer = self.client.exchange_as_user(endpoint, &self.repository, &scope, &call)?;
        match good.contains(&answer.status) {
            true => Ok(answer),
            false => Err(self.client.refusal(answer, step, endpoint, &self.repository)),
        }
    }

    fn fetch_manifest(&self, which: &str, digest: Option<&Digest>) -> Result<Result<Vec<u8>, Broken>, Error> {
        let step = format!("fetch manifest {which} of {}", self.name);
        let path = format!("manifests/{which}");
        let given = self.get(&path, &[("accept", ACCEPTED.to_owned())], &step, &[200])?;
        let (host, endpoint) = (given.answer.host.clone(), given.endpoint);
        let stated = given.answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let bytes = match self.read_all(given, MAX_MANIFEST, &step) {
            Ok(bytes) => bytes,
            Err(broken) => return Ok(Err(broken)),
        };
        // A mirror in trouble answers with a page for people, and a status that says nothing of it.
        if endpoint.is_mirror && !serde_json::from_slice::<serde_json::Value>(&bytes).is_ok_and(|value| value.is_object()) {
            let error = Error::refused(&host, &step, "what it sends is no manifest");
            return Ok(Err(self.broken(endpoint, error)));
        }
        // Where it says which bytes it means, these must be the ones.
        if let Some(stated) = stated.filter(|stated| stated.algorithm() == image::Algorithm::Sha256 && *stated != Digest::of(&bytes)) {
            let error = Error::refused(&host, &step, format!("it says that this is {stated}, and sends {}", Digest::of(&bytes)));
            return Ok(Err(self.broken(endpoint, error)));
        }
        Ok(match digest {
            Some(digest) => self.verified(endpoint, &host, digest, bytes, &step),
            None => Ok(bytes),
        })
    }

    /// What was asked for by its digest. Of a registry's own bytes the error is that of who verifies them; a mirror has no say.
    fn verified(&self, endpoint: &Endpoint, host: &str, digest: &Digest, bytes: Vec<u8>, step: &str) -> Result<Vec<u8>, Broken> {
        if !endpoint.is_mirror || digest.is_of(&bytes) {
            return Ok(bytes);
        }
        Err(self.broken(endpoint, Error::refused(host, step, "the mirror sends something else, of another digest")))
    }

    fn broken(&self, endpoint: &Endpoint, error: Error) -> Broken {
        Broken { is_left_out: self.client.leave_out(endpoint, &error), error: Box::new(error) }
    }

    fn read_all(&self, given: Given<'_>, limit: u64, step: &str) -> Result<Vec<u8>, Broken> {
        let host = given.answer.host.clone();
        let error = match given.answer.read(limit, self.client.settings.stall_timeout()) {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => Error::refused(&host, step, format!("it sends more than the {limit} bytes that are accepted")),
            Err(source) => Error::Transport { host, step: step.to_owned(), proxy: None, source: Box::new(source.into()) },
        };
        Err(self.broken(given.endpoint, error))
    }

    /// Tries again what broke off while it was read; up to there, tries have been made already.
    fn again_if_broken<T>(&self, mut act: impl FnMut() -> Result<Result<T, Broken>, Error>) -> Result<T, Error> {
        let mut tries = 0;
        loop {
            match act()? {
                Ok(value) => return Ok(value),
                Err(Broken { is_left_out: true, .. }) => {}
                Err(Broken { error, .. }) if passes(&error) && tries < self.client.settings.retries().min(3) => {
                    tries += 1;
                    self.client.again(&*error, back_off(tries));
                }
                Err(Broken { error, .. }) => return Err(*error),
            }
        }
    }
}

impl Remote for Repository {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn manifest_of_tag(&self, tag: &str) -> Result<Vec<u8>, image::Error> {
        Ok(self.0.again_if_broken(|| self.0.fetch_manifest(tag, None))?)
    }

    fn digest_of_tag(&self, tag: &str) -> Result<Option<Digest>, image::Error> {
        let step = format!("look up {tag} of {}", self.0.name);
        let headers = [("accept", ACCEPTED.to_owned())];
        // What has no such tag, or no HEAD, says so to the GET that follows.
        let answer = self.0.ask(&Method::HEAD, &format!("manifests/{tag}"), &headers, &step, &[200, 404, 405])?.answer;
        let stated = answer.header("docker-content-digest").filter(|_| answer.status == 200);
        Ok(stated.and_then(|text| text.parse().ok()))
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, image::Error> {
        Ok(self.0.again_if_broken(|| self.0.fetch_manifest(&digest.to_string(), Some(digest)))?)
    }

    fn document(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, image::Error> {
        let step = format!("fetch config {digest} of {}", self.0.name);
        let fetch = || {
            let given = self.0.get(&format!("blobs/{digest}"), &[], &step, &[200])?;
            let (host, endpoint) = (given.answer.host.clone(), given.endpoint);
            Ok(self.0.read_all(given, size, &step).and_then(|bytes| self.0.verified(endpoint, &host, digest, bytes, &step)))
        };
        Ok(self.0.again_if_broken(fetch)?)
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, image::Error> {
        Ok(Box::new(BlobStream::open(Arc::clone(&self.0), digest.clone(), size)?))
    }

    fn distrust(&self, digest: &Digest, why: &str) -> bool {
        let client = &self.0.client;
        let givers = client.givers.lock().unwrap_or_else(PoisonError::into_inner).remove(digest).unwrap_or_default();
        let step = format!("use layer {digest} of {}", self.0.name);
        let left_out = givers.iter().filter(|mirror| client.leave_out(mirror, &Error::refused(&mirror.authority, &step, why)));
        left_out.count() > 0
    }
}
