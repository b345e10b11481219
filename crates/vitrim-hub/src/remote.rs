//! Requests to the Hub: the files of a revision, and a file's bytes.

use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::error::{HubError, Result};
use crate::reference::{Reference, is_inside};
use crate::settings::Settings;

/// All characters except those that RFC 3986 leaves unescaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Largest accepted size of a listing, bytes.
const LONGEST_LISTING: u64 = 64 << 20;
/// Timeout of a connection, and then of each read.
const CONNECT: Duration = Duration::from_secs(20);
const READ: Duration = Duration::from_secs(60);

/// A file as the Hub lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RemoteFile {
    /// Its path in the repository.
    pub name: String,
    /// Name in the cache and size of its bytes; some mirrors do not give them.
    pub blob: Option<Blob>,
}

/// Bytes, by content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Blob {
    /// SHA-256 of large files, git's hash of small ones.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

/// The files of a revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Listing {
    /// The commit that the revision names now.
    pub commit: String,
    pub files: Vec<RemoteFile>,
}

/// The API's answer.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

/// A repository on the Hub.
pub(crate) struct Remote<'a> {
    reference: &'a Reference,
    settings: &'a Settings,
    api: Api,
    agent: Agent,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(reference: &'a Reference, settings: &'a Settings) -> Result<Self> {
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_user_agent("vitrim", env!("CARGO_PKG_VERSION"))
            .build();
        let agent = Agent::config_builder()
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(READ))
            .user_agent(concat!("vitrim/", env!("CARGO_PKG_VERSION")))
            .build();
        let api = api.map_err(|error| HubError::Unreachable {
            uri: reference.to_string(),
            endpoint: settings.endpoint.clone(),
            reason: error.to_string(),
        })?;
        Ok(Remote { reference, settings, api, agent: agent.into() })
    }

    /// All files of the revision.
    ///
    /// # Errors
    /// If the Hub returns an error, cannot be reached, or gives an invalid listing.
    pub(crate) fn list(&self) -> Result<Listing> {
        let request = self.api.repo(self.reference.repo()).info_request().query("blobs", "true");
        let mut response = request.call().map_err(|error| self.refusal(&error))?;
        let body = response.body_mut().with_config().limit(LONGEST_LISTING).read_json::<Info>();
        let info = body.map_err(|error| match error {
            ureq::Error::Json(error) => self.nonsense(&format!("no list of files ({error})")),
            other => self.refusal(&other),
        })?;
        // The commit is the name of a folder in the cache.
        if info.sha.is_empty() || !info.sha.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(self.nonsense(&format!("`{}` as a commit", info.sha)));
        }
        let mut files = Vec::with_capacity(info.siblings.len());
        for sibling in info.siblings {
            if !is_inside(&sibling.rfilename) {
                return Err(self.nonsense(&format!("`{}` as a file's name", sibling.rfilename)));
            }
            let etag = sibling.lfs.and_then(|lfs| lfs.sha256).or(sibling.blob_id);
            let blob = etag.zip(sibling.size).map(|(etag, size)| self.blob(&etag, size)).transpose()?;
            files.push(RemoteFile { name: sibling.rfilename, blob });
        }
        Ok(Listing { commit: info.sha, files })
    }

    /// The name and size of `file` in `commit`.
    ///
    /// # Errors
    /// If the Hub does not give them.
    pub(crate) fn identify(&self, commit: &str, file: &RemoteFile) -> Result<Blob> {
        if let Some(blob) = &file.blob {
            return Ok(blob.clone());
        }
        match self.api.metadata(&self.url(commit, &file.name)) {
            Ok(metadata) => self.blob(metadata.etag(), metadata.size() as u64),
            Err(ApiError::RequestError(error)) => Err(self.refusal(&error)),
            Err(other) => Err(self.nonsense(&format!("no size and ETag of {} ({other})", file.name))),
        }
    }

    /// `name` in `commit` from byte `from` on, if the server supports that; otherwise it answers 200, with all bytes.
    ///
    /// # Errors
    /// Errors of `ureq`, including error statuses.
    pub(crate) fn read(&self, commit: &str, name: &str, from: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(self.url(commit, name)).header("Accept-Encoding", "identity");
        if let Some(token) = &self.settings.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call()
    }

    /// The error for the user after a failed request.
    pub(crate) fn refusal(&self, error: &ureq::Error) -> HubError {
        let uri = self.reference.to_string();
        let endpoint = self.settings.endpoint.clone();
        let repo = self.reference.repo.words();
        let ureq::Error::StatusCode(status) = error else {
            let reason = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            return HubError::Unreachable { uri, endpoint, reason };
        };
        match StatusCode::from_u16(*status) {
            Ok(StatusCode::UNAUTHORIZED) => HubError::Unauthorised { uri, endpoint, repo },
            Ok(StatusCode::FORBIDDEN) => HubError::Forbidden { uri, endpoint, repo },
            Ok(StatusCode::NOT_FOUND) => {
                HubError::NotFound { uri, endpoint, repo, revision: self.reference.revision.clone() }
            }
            _ => HubError::Status { uri, endpoint, status: *status },
        }
    }

    fn url(&self, commit: &str, name: &str) -> String {
        let escaped = name.split('/').map(|part| utf8_percent_encode(part, ESCAPED).to_string());
        let escaped = escaped.collect::<Vec<_>>().join("/");
        let Reference { repo, id, .. } = self.reference;
        format!("{}/{}{id}/resolve/{commit}/{escaped}", self.settings.endpoint, repo.prefix())
    }

    /// A blob whose ETag is valid as a file name.
    fn blob(&self, etag: &str, size: u64) -> Result<Blob> {
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        if etag.is_empty() || !etag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Err(self.nonsense(&format!("`{etag}` as an ETag")));
        }
        Ok(Blob { etag: etag.to_owned(), size })
    }

    fn nonsense(&self, what: &str) -> HubError {
        let (uri, endpoint) = (self.reference.to_string(), self.settings.endpoint.clone());
        HubError::Nonsense { uri, endpoint, what: what.to_owned() }
    }
}
