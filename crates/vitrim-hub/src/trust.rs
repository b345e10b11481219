//! The certificates that a server on https may show.

use std::path::PathBuf;

use rustls::RootCertStore;
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};
use webpki_roots::TLS_SERVER_ROOTS;

use crate::error::{HubError, Result};
use crate::tls::Roots;
use crate::variables::Variables;

/// Variables that name a file of certificates, or (all but the first) a folder of them, in the order in which they
/// are looked at: OpenSSL's, those of Python's `requests`, curl's.
const SINGLE: [&str; 3] = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];
const FOLDERS: &str = "SSL_CERT_DIR";

/// Whose signature is accepted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Trust {
    /// The authorities that Mozilla accepts, compiled in, and those of the system.
    #[default]
    Usual,
    /// The certificates of these files and folders (with the variable that names each) and no other.
    Only(Vec<(&'static str, PathBuf)>),
}

impl Trust {
    /// What the variables name; of several variables the first, except that `SSL_CERT_FILE` and `SSL_CERT_DIR` go
    /// together.
    ///
    /// # Errors
    /// As [`Variables::path`].
    pub(crate) fn from(variables: &Variables<'_>) -> Result<Self> {
        let mut named = Vec::new();
        if let Some(path) = variables.path(SINGLE[0])? {
            named.push((SINGLE[0], path));
        }
        if let Some(folders) = variables.path(FOLDERS)? {
            let folders = std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty());
            named.extend(folders.map(|folder| (FOLDERS, folder)));
        }
        for name in &SINGLE[1..] {
            if named.is_empty()
                && let Some(path) = variables.path(name)?
            {
                named.push((name, path));
            }
        }
        Ok(if named.is_empty() { Trust::Usual } else { Trust::Only(named) })
    }

    /// Reads the certificates.
    ///
    /// # Errors
    /// [`HubError::Variable`] if the variables name no certificate that can be read.
    pub(crate) fn roots(&self) -> Result<Roots> {
        let mut roots = Roots { store: RootCertStore::empty(), listed: Vec::new() };
        let named = match self {
            Trust::Usual => {
                // Many machines have none, or some that cannot be read; Mozilla's are there in any case.
                roots.store.extend(TLS_SERVER_ROOTS.iter().cloned());
                roots.store.add_parsable_certificates(load_native_certs().certs);
                return Ok(roots);
            }
            Trust::Only(named) => named,
        };
        let mut problem = None;
        for (name, path) in named {
            let (file, folder) = if path.is_dir() { (None, Some(path)) } else { (Some(path), None) };
            let CertificateResult { certs, errors, .. } =
                load_certs_from_paths(file.map(PathBuf::as_path), folder.map(PathBuf::as_path));
            roots.store.add_parsable_certificates(certs.iter().cloned());
            roots.listed.extend(certs);
            problem.get_or_insert_with(|| {
                let reason =
                    errors.first().map_or_else(|| "no certificate is there".to_owned(), ToString::to_string);
                HubError::Variable {
                    name,
                    value: path.display().to_string(),
                    reason: format!("{reason}; give a file of certificates in PEM form, or unset {name}"),
                }
            });
        }
        // As OpenSSL does, what is missing is passed over as long as something is there.
        match problem {
            Some(problem) if roots.store.is_empty() => Err(problem),
            _ => Ok(roots),
        }
    }

    /// What to do if a server's certificate is not accepted.
    pub(crate) fn cure(&self) -> String {
        match self {
            Trust::Usual => {
                "if this network has certificates of its own, set SSL_CERT_FILE to a file of them".to_owned()
            }
            Trust::Only(named) => {
                let named = named.iter().map(|(name, path)| format!("{name}={}", path.display()));
                format!("only the certificates of {} are accepted", named.collect::<Vec<_>>().join(" and "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn trust(variables: &[(&str, &str)]) -> Trust {
        let find =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Trust::from(&Variables { find: &find, home: None }).unwrap()
    }

    #[test]
    fn the_variables_of_openssl_requests_and_curl_are_read_in_order() {
        assert_eq!(trust(&[]), Trust::Usual);
        let only = |named: &[(&'static str, &str)]| {
            Trust::Only(named.iter().map(|(name, path)| (*name, PathBuf::from(path))).collect())
        };
        let curl = ("CURL_CA_BUNDLE", "/curl.pem");
        assert_eq!(trust(&[curl]), only(&[curl]));
        let requests = ("REQUESTS_CA_BUNDLE", "/requests.pem");
        assert_eq!(trust(&[curl, requests]), only(&[requests]));
        let all =
            [curl, requests, ("SSL_CERT_DIR", "/a:/b"), ("SSL_CERT_FILE", "$AT/ssl.pem"), ("AT", "/etc")];
        let both = [("SSL_CERT_FILE", "/etc/ssl.pem"), ("SSL_CERT_DIR", "/a"), ("SSL_CERT_DIR", "/b")];
        assert_eq!(trust(&all), only(&both));
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_the_name_of_its_variable() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "no certificate").unwrap();
        for path in [folder.path().join("none.pem"), empty, folder.path().join("empty")] {
            let path = path.to_str().unwrap();
            let error = trust(&[("CURL_CA_BUNDLE", path)]).roots().unwrap_err().to_string();
            assert!(error.starts_with(&format!("CURL_CA_BUNDLE={path}: ")), "{error}");
            assert!(error.contains("PEM") && error.contains("unset CURL_CA_BUNDLE"), "{error}");
        }
        assert!(trust(&[]).roots().is_ok());
    }
}
