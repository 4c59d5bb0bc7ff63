//! Logging in and out.

use ureq::http::Method;

use super::client::Client;
use super::credentials::{self, Credentials, Erased};
use super::hosts::Endpoint;
use super::http::Call;
use super::{Error, Offered, Settings};

/// The name by which a registry's credentials are found: that of references, without scheme and path.
pub fn registry_name(text: &str) -> String {
    let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text).trim_end_matches('/');
    match text {
        "index.docker.io/v1" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

impl Client {
    /// Asks the registry whether it takes the password, and keeps it; where.
    ///
    /// # Errors
    /// [`Error::Status`] with 401 or 403 where it does not; [`Error`] of the connection and of what keeps it.
    ///
    /// # References
    /// distribution-spec 1.1, "Determining Support": `GET /v2/`
    pub fn login(&self, registry: &str, user: &str, password: &str) -> Result<String, Error> {
        let step = format!("log in as {user}");
        let endpoint = Endpoint::of(registry, &self.settings);
        let url = format!("{}/v2/", endpoint.base());
        let mut call = Call::new(Method::GET, url, &step);
        let mut answer = self.exchange(&call)?;
        if answer.status == 401 && answer.host == endpoint.authority {
            let own = Credentials::Password { user: user.to_owned(), password: password.to_owned() };
            call.authorization = self.offer(&endpoint, "", &answer, Some(&own)).map_err(|error| error.of(Offered::Typed))?;
            answer = self.exchange(&call)?;
        }
        match answer.status {
            200 => credentials::store(&self.settings, registry, user, password),
            _ => Err(self.status(answer, &step, registry).of(Offered::Typed)),
        }
    }
}

/// Forgets what is known of a registry, wherever that is.
pub fn logout(settings: &Settings, registry: &str) -> Erased {
    credentials::erase(settings, registry)
}
