//! The proxy of a request, chosen as Python's HTTP clients and curl do: `HTTPS_PROXY` for https, `HTTP_PROXY` for http,
//! else `ALL_PROXY`, unless `NO_PROXY` lists the host. Lower-case names come first.

use std::net::IpAddr;

use ureq::Proxy;
use ureq::http::Uri;

use crate::error::{HubError, Result};
use crate::variables::Variables;

/// The proxies of the environment; none by default.
#[derive(Clone, Default)]
pub(crate) struct Proxies {
    http: Option<Named>,
    https: Option<Named>,
    direct: Vec<Direct>,
}

/// A proxy and the variable that names it.
#[derive(Clone)]
pub(crate) struct Named {
    pub variable: &'static str,
    pub proxy: Proxy,
}

/// An entry of `NO_PROXY`: hosts that are asked directly.
#[derive(Clone, Debug, PartialEq)]
enum Direct {
    /// `*`.
    All,
    /// The host `name` and all hosts below it; with a port, only this port.
    Below { name: String, port: Option<u16> },
    /// The addresses whose first `bits` bits are those of `address`.
    Network { address: IpAddr, bits: u32 },
}

impl Proxies {
    /// The proxies that the variables set.
    ///
    /// # Errors
    /// If one of them is not the address of a proxy.
    pub(crate) fn from(variables: &Variables<'_>) -> Result<Self> {
        let first = |names: [&'static str; 2]| -> Result<Option<Named>> {
            for variable in names {
                if let Some(address) = variables.text(variable)? {
                    let proxy = Proxy::new(&address).map_err(|_| HubError::Proxy { variable })?;
                    return Ok(Some(Named { variable, proxy }));
                }
            }
            Ok(None)
        };
        let all = first(["all_proxy", "ALL_PROXY"])?;
        let listed = match variables.text("no_proxy")? {
            Some(listed) => Some(listed),
            None => variables.text("NO_PROXY")?,
        };
        Ok(Proxies {
            http: first(["http_proxy", "HTTP_PROXY"])?.or_else(|| all.clone()),
            https: first(["https_proxy", "HTTPS_PROXY"])?.or(all),
            direct: listed
                .iter()
                .flat_map(|listed| listed.split([',', ' ']))
                .filter_map(Direct::parse)
                .collect(),
        })
    }

    /// The proxy for a request to `uri`.
    pub(crate) fn of(&self, uri: &Uri) -> Option<&Named> {
        let (proxy, usual_port) = match uri.scheme_str() {
            Some("http") => (self.http.as_ref()?, 80),
            Some("https") => (self.https.as_ref()?, 443),
            _ => return None,
        };
        let host =
            uri.host().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.').to_lowercase();
        let port = uri.port_u16().unwrap_or(usual_port);
        (!self.direct.iter().any(|direct| direct.matches(&host, port))).then_some(proxy)
    }
}

impl Direct {
    /// Reads `*`, `host`, `.host`, `*.host`, each with or without `:port`, an address, or a network as `10.0.0.0/8`;
    /// `None` if there is nothing to read.
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_lowercase();
        if entry == "*" {
            return Some(Direct::All);
        }
        if let Some((address, bits)) = entry.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse(), bits.parse())
        {
            return Some(Direct::Network { address, bits });
        }
        let (name, port) = match entry.rsplit_once(':') {
            // A colon before a colon: an address of IPv6 without a port.
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.parse().ok()),
            _ => (entry.as_str(), None),
        };
        let name = name.trim_matches(['[', ']']).trim_start_matches('*').trim_matches('.');
        (!name.is_empty()).then(|| Direct::Below { name: name.to_owned(), port })
    }

    fn matches(&self, host: &str, port: u16) -> bool {
        match self {
            Direct::All => true,
            Direct::Below { name, port: only } => {
                only.is_none_or(|only| only == port)
                    && host
                        .strip_suffix(name.as_str())
                        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }
            Direct::Network { address, bits } => match (address, host.parse()) {
                (IpAddr::V4(network), Ok(IpAddr::V4(host))) => {
                    (network.to_bits() ^ host.to_bits()).leading_zeros() >= *bits
                }
                (IpAddr::V6(network), Ok(IpAddr::V6(host))) => {
                    (network.to_bits() ^ host.to_bits()).leading_zeros() >= *bits
                }
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies> {
        let find =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Proxies::from(&Variables { find: &find, home: None })
    }

    fn chosen(variables: &[(&str, &str)], uri: &str) -> Option<&'static str> {
        proxies(variables).unwrap().of(&uri.parse().unwrap()).map(|named| named.variable)
    }

    #[test]
    fn the_scheme_chooses_and_lower_case_comes_first() {
        let both = [("HTTP_PROXY", "http://a:1"), ("HTTPS_PROXY", "b:2")];
        assert_eq!(chosen(&both, "http://hub"), Some("HTTP_PROXY"));
        assert_eq!(chosen(&both, "https://hub"), Some("HTTPS_PROXY"));
        assert_eq!(chosen(&[("HTTP_PROXY", "http://a:1")], "https://hub"), None);
        let cases = [("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:2")];
        assert_eq!(chosen(&cases, "https://hub"), Some("https_proxy"));
        let all = [("ALL_PROXY", "socks5h://a:1"), ("http_proxy", "http://b:2"), ("https_proxy", "")];
        assert_eq!(chosen(&all, "https://hub"), Some("ALL_PROXY"));
        assert_eq!(chosen(&all, "http://hub"), Some("http_proxy"));
        assert_eq!(chosen(&[], "https://hub"), None);
        let error = proxies(&[("HTTPS_PROXY", "http://me:secret@:x y")]).err().unwrap().to_string();
        assert!(error.starts_with("HTTPS_PROXY ") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn no_proxy_takes_hosts_suffixes_ports_addresses_and_networks() {
        for (listed, uri, direct) in [
            ("*", "https://hub.corp", true),
            ("hub.corp", "https://hub.corp", true),
            ("corp", "https://hub.corp", true),
            (".corp", "https://hub.corp", true),
            ("*.corp", "https://hub.corp", true),
            ("HUB.Corp", "https://hub.CORP", true),
            ("hub.corp.", "https://hub.corp", true),
            ("localhost, .corp", "https://a.b.corp", true),
            ("localhost .corp", "https://a.b.corp", true),
            ("ub.corp", "https://hub.corp", false),
            ("hub.corp", "https://corp", false),
            ("hub.corp:8443", "https://hub.corp:8443", true),
            ("hub.corp:8443", "https://hub.corp", false),
            ("hub.corp:443", "https://hub.corp", true),
            ("corp:80", "http://hub.corp", true),
            ("127.0.0.1", "http://127.0.0.1:8080", true),
            ("127.0.0.1:8081", "http://127.0.0.1:8080", false),
            ("10.0.0.0/8", "http://10.1.2.3", true),
            ("10.0.0.0/8", "http://11.1.2.3", false),
            ("0.0.0.0/0", "http://11.1.2.3", true),
            ("10.0.0.0/8", "http://hub.corp", false),
            ("::1", "http://[::1]:8080", true),
            ("[::1]:8080", "http://[::1]:8080", true),
            ("[::1]:8081", "http://[::1]:8080", false),
            ("fd00::/8", "http://[fd12::1]", true),
            ("", "http://hub", false),
            (",", "http://hub", false),
        ] {
            let variables = [("ALL_PROXY", "http://proxy:1"), ("NO_PROXY", listed)];
            assert_eq!(chosen(&variables, uri).is_none(), direct, "{listed} {uri}");
        }
        let cases = [("ALL_PROXY", "http://proxy:1"), ("NO_PROXY", "*"), ("no_proxy", "corp")];
        assert_eq!(chosen(&cases, "http://hub"), Some("ALL_PROXY"));
    }
}
