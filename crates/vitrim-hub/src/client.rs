//! GET requests, with the environment's proxies and certificates. Redirects are followed here and not by `reqwest`,
//! which drops the token when the Hub's own host redirects to https, and cannot stop at another host for one request
//! and follow it for the next.

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::blocking::{Client as HttpClient, Response};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Proxy, Url, redirect};
use rustls::ClientConfig;

use crate::error::{HubError, Result};
use crate::proxy::Proxies;
use crate::tls;
use crate::trust::Trust;
use crate::variables::Variables;

/// Timeout of a connection; of an answer's header, and then of each read.
const CONNECT: Duration = Duration::from_secs(20);
const READ: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 10;

/// How the Hub is reached: proxies and certificates. By default directly, with the usual certificates.
#[derive(Clone, Default)]
pub struct Network {
    proxies: Arc<Proxies>,
    trust: Trust,
}

impl Network {
    /// What the variables say.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub(crate) fn from(variables: &Variables<'_>) -> Result<Self> {
        Ok(Network { proxies: Arc::new(Proxies::from(variables)?), trust: Trust::from(variables)? })
    }
}

/// Which redirects are followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Follow {
    /// All of them.
    All,
    /// Those to another path of the same host.
    SameHost,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The server answers with this error status.
    Status(u16),
    /// The request was not answered; the reason, for the user.
    Broken(String),
    /// The request was not sent, because a setting is wrong.
    Unsent(HubError),
}

/// Sends requests.
pub(crate) struct Client {
    network: Network,
    /// The host that gets the token.
    home: Option<Url>,
    token: Option<String>,
    /// For http; https needs certificates, which are read when they are needed.
    plain: OnceLock<HttpClient>,
    secure: OnceLock<HttpClient>,
}

impl Client {
    /// A client that sends `token` to the host of `endpoint`.
    pub(crate) fn new(endpoint: &str, token: Option<String>, network: Network) -> Self {
        let home = endpoint.parse().ok();
        Client { network, home, token, plain: OnceLock::new(), secure: OnceLock::new() }
    }

    /// The answer to GET `url` with `headers`.
    ///
    /// # Errors
    /// [`Failed`], also for an error status.
    pub(crate) fn get(
        &self,
        url: &str,
        headers: &[(HeaderName, String)],
        follow: Follow,
    ) -> Result<Response, Failed> {
        let mut url: Url = url.parse().map_err(|_| Failed::Broken(format!("{url} is not an address")))?;
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.once(&url, headers)?;
            let place = answer.headers().get(LOCATION).and_then(|place| place.to_str().ok());
            let Some(place) = place.filter(|_| answer.status().is_redirection()) else { return Ok(answer) };
            let next = url.join(place).ok().filter(|next| matches!(next.scheme(), "http" | "https"));
            let next = next.ok_or_else(|| Failed::Broken(format!("a redirect to `{place}`")))?;
            let same_host = (next.host_str(), next.port()) == (url.host_str(), url.port());
            if follow == Follow::SameHost && !same_host {
                return Ok(answer);
            }
            url = next;
        }
        Err(Failed::Broken(format!("more than {MOST_REDIRECTS} redirects")))
    }

    fn once(&self, url: &Url, headers: &[(HeaderName, String)]) -> Result<Response, Failed> {
        let proxy = self.network.proxies.of(url);
        let to_proxy = proxy.is_some_and(|named| named.address.scheme() == "https");
        let client = if to_proxy || url.scheme() == "https" { self.secure() } else { self.plain() };
        let request = client.map_err(Failed::Unsent)?.get(url.clone()).headers(self.headers(url, headers)?);
        let answer = request.send().map_err(|error| {
            let mut reason = one_line(&error);
            if reason.contains("certificate") {
                reason += &format!("; {}", self.network.trust.cure());
            }
            if let Some(named) = proxy {
                reason += &format!(", through the proxy {} of {}", named.host_and_port(), named.variable);
            }
            Failed::Broken(reason)
        })?;
        let status = answer.status();
        if status.is_client_error() || status.is_server_error() {
            return Err(Failed::Status(status.as_u16()));
        }
        Ok(answer)
    }

    /// `given`, and the token if it goes to `url`.
    fn headers(&self, url: &Url, given: &[(HeaderName, String)]) -> Result<HeaderMap, Failed> {
        let bearer = self.token.as_ref().filter(|_| self.is_home(url));
        let bearer = bearer.map(|token| (AUTHORIZATION, format!("Bearer {token}")));
        let all = given.iter().cloned().chain(bearer).map(|(name, text)| {
            let value = HeaderValue::from_str(&text);
            let value = value.map_err(|_| Failed::Broken(format!("no request can hold this {name}")))?;
            Ok((name, value))
        });
        all.collect()
    }

    /// Whether `url` is on the Hub's own host, and not less secure than the Hub's address.
    fn is_home(&self, url: &Url) -> bool {
        let Some(home) = &self.home else { return false };
        let downgraded = home.scheme() == "https" && url.scheme() != "https";
        home.host() == url.host() && !downgraded
    }

    /// The client for http.
    fn plain(&self) -> Result<&HttpClient> {
        self.built(&self.plain, || Ok(tls::trusting_nobody()))
    }

    /// The client for https.
    fn secure(&self) -> Result<&HttpClient> {
        self.built(&self.secure, || Ok(tls::trusting(self.network.trust.roots()?)))
    }

    /// The client in `place`, which is built with `config` if it is not there.
    fn built<'a>(
        &self,
        place: &'a OnceLock<HttpClient>,
        config: impl Fn() -> Result<Result<ClientConfig, String>>,
    ) -> Result<&'a HttpClient> {
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let config = config()?.map_err(|error| HubError::Tls { error })?;
        let proxies = Arc::clone(&self.network.proxies);
        let client = HttpClient::builder()
            .tls_backend_preconfigured(config)
            .proxy(Proxy::custom(move |url| proxies.of(url).map(|named| named.address.clone())))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(READ)
            // As curl and Python write them; some proxies compare the names as text.
            .http1_title_case_headers()
            .user_agent(concat!("vitrim/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| HubError::Tls { error: one_line(&error) })?;
        Ok(place.get_or_init(|| client))
    }
}

/// The innermost cause of `error` in one line; those around it say only that a request failed.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_stays_on_the_hubs_host_and_is_not_sent_less_securely() {
        let client = Client::new("https://hub.corp", Some("hf_x".to_owned()), Network::default());
        for (url, home) in [
            ("https://hub.corp/a", true),
            ("https://hub.corp:8443/a", true),
            ("http://hub.corp/a", false),
            ("https://cdn.hub.corp/a", false),
        ] {
            let headers = client.headers(&url.parse().unwrap(), &[]).unwrap();
            assert_eq!(headers.contains_key(AUTHORIZATION), home, "{url}");
        }
    }

    #[test]
    fn a_token_that_no_header_can_hold_is_refused() {
        let client = Client::new("https://hub.corp", Some("hf_\nx".to_owned()), Network::default());
        let Err(Failed::Broken(reason)) = client.headers(&"https://hub.corp".parse().unwrap(), &[]) else {
            panic!("the token was taken")
        };
        assert!(reason.contains("authorization") && !reason.contains("hf_"), "{reason}");
    }
}
