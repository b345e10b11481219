//! GET requests, with the environment's proxies and certificates. Redirects are followed here and not by `ureq`, so that
//! each hop has its own proxy, and the token goes to no other host.

use std::sync::OnceLock;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::header::LOCATION;
use ureq::http::{Response, Uri};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, SocksConnector, TcpConnector};
use ureq::{Agent, Body, ProxyProtocol};

use crate::error::{HubError, Result};
use crate::forward::ForwardConnector;
use crate::proxy::Proxies;
use crate::tls::TlsConnector;
use crate::trust::Trust;
use crate::variables::Variables;

/// Timeout of a connection, and then of each read.
const CONNECT: Duration = Duration::from_secs(20);
const READ: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 10;

/// How the Hub is reached: proxies and certificates. By default directly, with the usual certificates.
#[derive(Clone, Default)]
pub struct Network {
    proxies: Proxies,
    trust: Trust,
}

impl Network {
    /// What the variables say.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub(crate) fn from(variables: &Variables<'_>) -> Result<Self> {
        Ok(Network { proxies: Proxies::from(variables)?, trust: Trust::from(variables)? })
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
    home: Option<Uri>,
    token: Option<String>,
    /// For http; https needs certificates, which are read when they are needed.
    plain: Agent,
    secure: OnceLock<Agent>,
}

impl Client {
    /// A client that sends `token` to the host of `endpoint`.
    pub(crate) fn new(endpoint: &str, token: Option<String>, network: Network) -> Self {
        let home = endpoint.parse().ok();
        Client { network, home, token, plain: agent(None), secure: OnceLock::new() }
    }

    /// The answer to GET `url` with `headers`.
    ///
    /// # Errors
    /// [`Failed`], also for an error status.
    pub(crate) fn get(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        follow: Follow,
    ) -> Result<Response<Body>, Failed> {
        let mut uri: Uri = url.parse().map_err(|_| Failed::Broken(format!("{url} is not an address")))?;
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.once(&uri, headers)?;
            let place = answer.headers().get(LOCATION).and_then(|place| place.to_str().ok());
            let Some(place) = place.filter(|_| answer.status().is_redirection()) else { return Ok(answer) };
            let next =
                moved(&uri, place).ok_or_else(|| Failed::Broken(format!("a redirect to `{place}`")))?;
            if follow == Follow::SameHost && next.authority() != uri.authority() {
                return Ok(answer);
            }
            uri = next;
        }
        Err(Failed::Broken(format!("more than {MOST_REDIRECTS} redirects")))
    }

    fn once(&self, uri: &Uri, headers: &[(&'static str, String)]) -> Result<Response<Body>, Failed> {
        let proxy = self.network.proxies.of(uri);
        let to_proxy = proxy.is_some_and(|named| named.proxy.protocol() == ProxyProtocol::Https);
        let agent = match to_proxy || uri.scheme_str() == Some("https") {
            true => self.secure().map_err(Failed::Unsent)?,
            false => &self.plain,
        };
        let mut request = agent.get(uri.clone());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.is_home(uri)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request = request.config().proxy(proxy.map(|named| named.proxy.clone())).build();
        request.call().map_err(|error| match error {
            ureq::Error::StatusCode(status) => Failed::Status(status),
            other => {
                let mut reason = one_line(&other);
                if reason.contains("certificate") {
                    reason += &format!("; {}", self.network.trust.cure());
                }
                if let Some(named) = proxy {
                    let (host, port) = (named.proxy.host(), named.proxy.port());
                    reason += &format!(", through the proxy {host}:{port} of {}", named.variable);
                }
                Failed::Broken(reason)
            }
        })
    }

    /// Whether `uri` is on the Hub's own host, and not less secure than the Hub's address.
    fn is_home(&self, uri: &Uri) -> bool {
        let Some(home) = &self.home else { return false };
        let downgraded = home.scheme_str() == Some("https") && uri.scheme_str() != Some("https");
        home.host() == uri.host() && !downgraded
    }

    /// The agent for https.
    fn secure(&self) -> Result<&Agent> {
        if let Some(agent) = self.secure.get() {
            return Ok(agent);
        }
        let tls = TlsConnector::new(self.network.trust.roots()?).map_err(|error| HubError::Tls { error })?;
        Ok(self.secure.get_or_init(|| agent(Some(tls))))
    }
}

/// `error` in one line.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An agent for http, and with `tls` for https, that neither has a proxy nor follows redirects.
fn agent(tls: Option<TlsConnector>) -> Agent {
    let config = || -> Config {
        Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(READ))
            .user_agent(concat!("vitrim/", env!("CARGO_PKG_VERSION")))
            .build()
    };
    // `ureq`'s own chain, after the connector for http through a proxy.
    let connector = ForwardConnector::new(config())
        .chain(SocksConnector::default())
        .chain(ConnectProxyConnector::default())
        .chain(TcpConnector::default());
    match tls {
        Some(tls) => Agent::with_parts(config(), connector.chain(tls), DefaultResolver::default()),
        None => Agent::with_parts(config(), connector, DefaultResolver::default()),
    }
}

/// The address `place` of a redirect from `from`.
fn moved(from: &Uri, place: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let whole = if place.starts_with("http://") || place.starts_with("https://") {
        place.to_owned()
    } else if place.starts_with("//") {
        format!("{scheme}:{place}")
    } else if place.starts_with('/') {
        format!("{scheme}://{authority}{place}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{place}")
    };
    let whole = whole.split_once('#').map_or(whole.as_str(), |(before, _)| before);
    whole.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_may_be_relative() {
        let from: Uri = "https://hub.corp:8443/me/model/resolve/main/x".parse().unwrap();
        for (place, expected) in [
            ("http://cdn/x?y=1#z", "http://cdn/x?y=1"),
            ("//cdn/x", "https://cdn/x"),
            ("/api/x", "https://hub.corp:8443/api/x"),
            ("y", "https://hub.corp:8443/me/model/resolve/main/y"),
        ] {
            assert_eq!(moved(&from, place).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn the_token_stays_on_the_hubs_host_and_is_not_sent_less_securely() {
        let client = Client::new("https://hub.corp", Some("hf_x".to_owned()), Network::default());
        for (uri, home) in [
            ("https://hub.corp/a", true),
            ("https://hub.corp:8443/a", true),
            ("http://hub.corp/a", false),
            ("https://cdn.hub.corp/a", false),
        ] {
            assert_eq!(client.is_home(&uri.parse().unwrap()), home, "{uri}");
        }
    }
}
