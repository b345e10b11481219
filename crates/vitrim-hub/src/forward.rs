//! Plain http through an HTTP proxy, as RFC 9112 (section 3.2.2) asks: the request goes to the proxy itself, and its
//! first line has the whole address. `ureq` opens a tunnel by CONNECT for http, too, which most proxies allow for https
//! alone.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::Error;
use ureq::config::Config;
use ureq::http::uri::Scheme;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, Either, NextTimeout, Transport};
use ureq::{Proxy, ProxyProtocol};

/// Connects to the proxy of an http request. First of a chain; leaves all other requests to the next connectors.
#[derive(Debug)]
pub(crate) struct ForwardConnector {
    /// The configuration of the connection to the proxy, which has none itself.
    direct: Config,
}

impl ForwardConnector {
    /// A connector that connects to proxies by `direct`.
    pub(crate) fn new(direct: Config) -> Self {
        ForwardConnector { direct }
    }
}

impl<In: Transport> Connector<In> for ForwardConnector {
    type Out = Either<In, Forwarded>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let is_plain = details.uri.scheme() == Some(&Scheme::HTTP);
        let proxy = details.config.proxy().filter(|proxy| is_plain && is_http(proxy));
        let Some(proxy) = proxy else { return Ok(chained.map(Either::A)) };
        let addrs = details.resolver.resolve(proxy.uri(), &self.direct, details.timeout)?;
        let to_proxy = ConnectionDetails {
            uri: proxy.uri(),
            addrs,
            config: &self.direct,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let inner = (details.run_connector)(&to_proxy)?;
        let origin =
            details.uri.authority().map(|authority| format!("http://{authority}")).unwrap_or_default();
        Ok(Some(Either::B(Forwarded { inner, origin, proxy: proxy.clone() })))
    }
}

fn is_http(proxy: &Proxy) -> bool {
    matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
}

/// The value of `Proxy-Authorization`, if the proxy's address has a name or a password.
fn credentials(proxy: &Proxy) -> Option<String> {
    let (name, password) = (proxy.username(), proxy.password());
    name.or(password)?;
    let both = format!("{}:{}", name.unwrap_or_default(), password.unwrap_or_default());
    Some(format!("Basic {}", BASE64_STANDARD.encode(both)))
}

/// A connection to `proxy`, over which requests for `origin` are sent.
#[derive(Debug)]
pub(crate) struct Forwarded {
    inner: Box<dyn Transport>,
    origin: String,
    proxy: Proxy,
}

impl Forwarded {
    /// `sent` with the whole address in its first line, if it begins a request. All requests are GET and have no body.
    fn rewritten(&self, sent: Vec<u8>) -> Vec<u8> {
        let Some(rest) = sent.strip_prefix(b"GET /") else { return sent };
        let line = rest.windows(2).position(|two| two == b"\r\n").map_or(rest.len(), |at| at + 2);
        let mut request = format!("GET {}/", self.origin).into_bytes();
        request.extend_from_slice(&rest[..line]);
        if let Some(credentials) = credentials(&self.proxy) {
            request.extend_from_slice(format!("Proxy-Authorization: {credentials}\r\n").as_bytes());
        }
        request.extend_from_slice(&rest[line..]);
        request
    }
}

impl Transport for Forwarded {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let sent = self.inner.buffers().output()[..amount].to_vec();
        let request = self.rewritten(sent);
        let mut rest = request.as_slice();
        while !rest.is_empty() {
            let output = self.inner.buffers().output();
            let count = rest.len().min(output.len());
            output[..count].copy_from_slice(&rest[..count]);
            self.inner.transmit_output(count, timeout)?;
            rest = &rest[count..];
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}
