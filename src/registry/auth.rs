//! Who hamper is to a registry: challenges, Basic, and tokens of a token server.
//!
//! Distribution-spec "Authentication" leaves it to the registry; this is what Docker's and all others do: RFC 7617, and distribution's
//! `spec/auth/token.md` and `oauth.md`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::Method;

use super::client::Client;
use super::credentials::Credentials;
use super::error::{Error, Offered};
use super::hosts::{Endpoint, is_loopback};
use super::http::{Answer, Call, authority_of};

/// Tokens of the large clouds have some kilobytes.
const MAX_TOKEN: u64 = 1 << 20;

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
    /// Something that hamper does not speak, by its name.
    Other(String),
}

/// `WWW-Authenticate`, RFC 9110 section 11.6.1.
pub(crate) fn challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let (scheme, after) = rest.split_at(rest.find([' ', ',']).unwrap_or(rest.len()));
        let mut parameters = HashMap::new();
        rest = after.trim_start_matches([' ', ',']);
        while let Some((name, value, after)) = parameter(rest) {
            parameters.entry(name.to_ascii_lowercase()).or_insert(value);
            rest = after.trim_start_matches([' ', ',']);
        }
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if let (true, Some(realm)) = (scheme.eq_ignore_ascii_case("bearer"), parameters.remove("realm")) {
            found.push(Challenge::Bearer { realm, service: parameters.remove("service"), scope: parameters.remove("scope") });
        } else if !scheme.eq_ignore_ascii_case("bearer") && is_scheme(scheme) {
            found.push(Challenge::Other(scheme.to_owned()));
        }
    }
    found
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.len() < 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// `name=value` or `name="value"` at the beginning of a text, and what follows.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_at(text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))?);
    let rest = rest.strip_prefix('=').filter(|_| !name.is_empty())?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, rest) = rest.split_at(rest.find([',', ' ']).unwrap_or(rest.len()));
        return Some((name, value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name, value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// Authorizations that have worked, by host and repository.
#[derive(Default)]
pub(crate) struct Authorizations(Mutex<HashMap<(String, String), String>>);

impl Authorizations {
    pub fn known(&self, endpoint: &Endpoint, scope: &str) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(endpoint.authority.clone(), scope.to_owned())).cloned()
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Client {
    /// The `Authorization` for another try after a 401; `None`: there is nothing to offer. `refused` is what was offered before. Whoever comes
    /// while another thread asks for a token gets the same.
    pub(super) fn authorize(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        scope: &str,
        answer: &Answer,
        refused: Option<&str>,
    ) -> Result<Option<String>, Error> {
        let key = (endpoint.authority.clone(), scope.to_owned());
        let mut all = self.authorizations.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = all.get(&key).filter(|known| Some(known.as_str()) != refused) {
            return Ok(Some(other.clone()));
        }
        let kept = self.credentials(&endpoint.registry, repository)?;
        let offered = kept.as_ref().map_or(Offered::Nothing, |kept| Offered::Kept(kept.place.as_str().into()));
        let header = self.offer(endpoint, scope, answer, kept.as_ref().map(|kept| &kept.credentials)).map_err(|error| error.of(offered))?;
        // The same again would be refused again.
        let header = header.filter(|header| Some(header.as_str()) != refused);
        match &header {
            Some(header) => all.insert(key, header.clone()),
            None => all.remove(&key),
        };
        Ok(header)
    }

    /// What answers the challenge of a 401.
    pub(super) fn offer(
        &self,
        endpoint: &Endpoint,
        scope: &str,
        answer: &Answer,
        credentials: Option<&Credentials>,
    ) -> Result<Option<String>, Error> {
        let headers = answer.headers.get_all("www-authenticate").iter().filter_map(|value| value.to_str().ok());
        let wanted: Vec<Challenge> = headers.flat_map(challenges).collect();
        let bearer = wanted.iter().find(|one| matches!(one, Challenge::Bearer { .. }));
        match bearer.or_else(|| wanted.iter().find(|one| **one == Challenge::Basic)).or(wanted.first()) {
            Some(Challenge::Bearer { realm, service, scope: named }) => {
                let scope = named.as_deref().unwrap_or(scope);
                Ok(Some(format!("Bearer {}", self.token(endpoint, realm, service.as_deref(), scope, credentials)?)))
            }
            Some(Challenge::Basic) => Ok(match credentials {
                Some(Credentials::Password { user, password }) => Some(basic(user, password)),
                _ => None,
            }),
            Some(Challenge::Other(scheme)) => {
                let reason = format!("it takes a login by {scheme}, and hamper knows Basic and Bearer alone");
                Err(Error::refused(&endpoint.authority, &format!("log in to {}", endpoint.registry), reason))
            }
            None => Ok(None),
        }
    }

    /// Asks a token server. It learns the credentials, as the registry has asked for; so it must not be asked in plain where the registry
    /// is not.
    fn token(
        &self,
        endpoint: &Endpoint,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Result<String, Error> {
        if let Some(Credentials::Token(token)) = credentials {
            return Ok(token.clone());
        }
        let host = authority_of(realm).to_owned();
        let step = match scope {
            "" => format!("get a token of {}", endpoint.registry),
            scope => format!("get a token for {scope} of {}", endpoint.registry),
        };
        // A registry on loopback may be spoken to in plain by itself; that says nothing of another host.
        let plain = is_loopback(&host) || endpoint.plain && !is_loopback(&endpoint.authority);
        let secure = realm.starts_with("https://") || realm.starts_with("http://") && plain;
        if !secure || host.is_empty() || host.contains('@') {
            return Err(Error::refused(
                &endpoint.authority,
                &step,
                format!("it names `{}` for that", crate::image::shown(realm.as_bytes())),
            ));
        }
        let mut pairs = Vec::new();
        // A login asks for no repository.
        pairs.extend(Some(scope).filter(|scope| !scope.is_empty()).map(|scope| ("scope", scope)));
        pairs.extend(service.map(|service| ("service", service)));
        let form =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&");
        let mut call = Call::new(Method::GET, realm.to_owned(), &step);
        let body;
        match credentials {
            Some(Credentials::Identity(token)) => {
                pairs.extend([("grant_type", "refresh_token"), ("client_id", "hamper"), ("refresh_token", token)]);
                body = form(&pairs).into_bytes();
                call.method = Method::POST;
                call.headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
                call.body = &body;
            }
            other => {
                if let Some(Credentials::Password { user, password }) = other {
                    call.authorization = Some(basic(user, password));
                    pairs.push(("account", user));
                }
                call.url = format!("{realm}{}{}", if realm.contains('?') { '&' } else { '?' }, form(&pairs));
            }
        }
        let answer = self.exchange(&call)?;
        if answer.status != 200 {
            return Err(self.status(answer, &step, &endpoint.registry));
        }
        let host = answer.host.clone();
        let transport = |source: std::io::Error| Error::Transport {
            host: host.clone(),
            step: step.clone(),
            proxy: None,
            source: Box::new(source.into()),
        };
        let bytes = answer.read(MAX_TOKEN, self.settings.stall_timeout()).map_err(transport)?.unwrap_or_default();
        let token = serde_json::from_slice::<TokenAnswer>(&bytes).ok().and_then(|answer| answer.token.or(answer.access_token));
        let good = |token: &String| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        token.filter(good).ok_or_else(|| Error::refused(&host, &step, "its answer has no token"))
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// As a form has it: everything but RFC 3986's unreserved characters as %XX.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        let other = |name: &str| Challenge::Other(name.to_owned());
        for (header, wanted) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/node:pull""#,
                vec![bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:library/node:pull"))],
            ),
            (r#"bearer scope="a,b", realm=https://x/y"#, vec![bearer("https://x/y", None, Some("a,b"))]),
            (r#"Basic realm="x \" y""#, vec![Challenge::Basic]),
            (
                r#"Negotiate, Basic realm="x", Bearer realm="https://z""#,
                vec![other("Negotiate"), Challenge::Basic, bearer("https://z", None, None)],
            ),
            ("Negotiate", vec![other("Negotiate")]),
            (r#"Bearer service="x""#, vec![]),
            (r#"Bearer realm="https://x"#, vec![]),
            ("", vec![]),
            (",,,", vec![]),
        ] {
            assert_eq!(challenges(header), wanted, "{header}");
        }
    }
}
