//! TLS by rustls. The certificate can be replaced while the server runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::error::{Result, ServeError};

/// The certificate that connections get.
#[derive(Debug)]
pub struct Certificate {
    files: (PathBuf, PathBuf),
    key: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Reads a certificate chain and its private key, both PEM.
    ///
    /// # Errors
    /// If a file cannot be read, or the two do not belong together.
    pub fn read(chain: &Path, key: &Path) -> Result<Arc<Self>> {
        let certified = certified(chain, key)?;
        Ok(Arc::new(Certificate {
            files: (chain.to_owned(), key.to_owned()),
            key: ArcSwap::from_pointee(certified),
        }))
    }

    /// Reads both files again; new connections get the new certificate.
    ///
    /// # Errors
    /// As [`Certificate::read`]; the old one is then still used.
    pub fn reload(&self) -> Result<()> {
        self.key.store(Arc::new(certified(&self.files.0, &self.files.1)?));
        Ok(())
    }

    /// Accepts TLS connections that speak one of the `protocols` (ALPN).
    ///
    /// # Errors
    /// Never for the protocol versions of this build.
    pub fn acceptor(self: &Arc<Self>, protocols: &[&[u8]]) -> Result<TlsAcceptor> {
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| ServeError::Setting(format!("TLS: {error}")))?;
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.load_full())
    }
}

fn certified(chain: &Path, key: &Path) -> Result<CertifiedKey> {
    let bad = |path: &Path, reason: String| ServeError::File { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(chain, format!("no certificate chain in PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(bad(chain, "no certificate in it".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| bad(key, format!("no private key in PEM: {error}")))?;
    CertifiedKey::from_der(certificates, private, &ring::default_provider())
        .map_err(|error| bad(key, format!("not the key of {}: {error}", chain.display())))
}
