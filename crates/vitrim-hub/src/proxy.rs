//! The proxy of a request, chosen as Python's HTTP clients and curl do: `HTTPS_PROXY` for https, `HTTP_PROXY` for http,
//! else `ALL_PROXY`, unless `NO_PROXY` lists the host. Lower-case names come first.

use std::net::IpAddr;

use reqwest::Url;

use crate::error::{HubError, Result};
use crate::variables::Variables;

/// The port of a SOCKS proxy if none is given (RFC 1928).
const SOCKS_PORT: u16 = 1080;

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
    pub address: Url,
}

impl Named {
    /// The proxy in `text`: an address, or host and port as curl takes them.
    fn parse(variable: &'static str, text: &str) -> Option<Self> {
        // What most programs call `socks5`.
        let text =
            text.strip_prefix("socks://").map_or_else(|| text.to_owned(), |rest| format!("socks5://{rest}"));
        let mut address = match text.contains("://") {
            true => Url::parse(&text).ok()?,
            false => Url::parse(&format!("http://{text}")).ok()?,
        };
        match address.scheme() {
            "http" | "https" => {}
            "socks4" | "socks4a" | "socks5" | "socks5h" => {
                let port = address.port().unwrap_or(SOCKS_PORT);
                address.set_port(Some(port)).ok()?;
            }
            _ => return None,
        }
        address.has_host().then_some(Named { variable, address })
    }

    /// As in `proxy:3128`, without name and password.
    pub(crate) fn host_and_port(&self) -> String {
        let port = self.address.port_or_known_default().unwrap_or_default();
        format!("{}:{port}", self.address.host_str().unwrap_or_default())
    }
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
                    let named = Named::parse(variable, &address).ok_or(HubError::Proxy { variable })?;
                    return Ok(Some(named));
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

    /// The proxy for a request to `url`.
    pub(crate) fn of(&self, url: &Url) -> Option<&Named> {
        let proxy = match url.scheme() {
            "http" => self.http.as_ref()?,
            "https" => self.https.as_ref()?,
            _ => return None,
        };
        let host = url.host_str()?.trim_matches(['[', ']']).trim_end_matches('.');
        let port = url.port_or_known_default()?;
        (!self.direct.iter().any(|direct| direct.matches(host, port))).then_some(proxy)
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

    fn chosen(variables: &[(&str, &str)], url: &str) -> Option<&'static str> {
        proxies(variables).unwrap().of(&url.parse().unwrap()).map(|named| named.variable)
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
        for wrong in ["http://me:secret@:x y", "socks5://me:secret@", "gopher://me:secret@proxy:70"] {
            let error = proxies(&[("HTTPS_PROXY", wrong)]).err().unwrap().to_string();
            assert!(error.starts_with("HTTPS_PROXY ") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_scheme_and_the_port_may_be_left_out() {
        for (given, address, shown) in [
            ("proxy:3128", "http://proxy:3128/", "proxy:3128"),
            ("me:secret@proxy:3128", "http://me:secret@proxy:3128/", "proxy:3128"),
            ("https://proxy", "https://proxy/", "proxy:443"),
            ("socks5h://proxy", "socks5h://proxy:1080", "proxy:1080"),
            ("socks://proxy:9050", "socks5://proxy:9050", "proxy:9050"),
            ("http://[::1]:3128", "http://[::1]:3128/", "[::1]:3128"),
        ] {
            let named = Named::parse("ALL_PROXY", given).unwrap();
            assert_eq!((named.address.as_str(), named.host_and_port().as_str()), (address, shown));
        }
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
