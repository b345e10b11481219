//! Requests to the Hub: the files of a revision, and a file's bytes.

use std::io::Read;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::StatusCode;
use reqwest::blocking::Response;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, RANGE};
use serde::{Deserialize, Serialize};

use crate::client::{Client, Failed, Follow, one_line};
use crate::error::{HubError, Result};
use crate::reference::{Reference, is_inside};
use crate::settings::Settings;

/// All characters except those that RFC 3986 leaves unescaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Largest accepted size of a listing, bytes.
const LONGEST_LISTING: u64 = 64 << 20;
/// Of a large file, what the Hub says in place of `ETag` and `Content-Length` before it redirects.
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";

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
    client: Client,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(reference: &'a Reference, settings: &'a Settings) -> Self {
        let client = Client::new(&settings.endpoint, settings.token.clone(), settings.network.clone());
        Remote { reference, settings, client }
    }

    /// All files of the revision.
    ///
    /// # Errors
    /// If the Hub returns an error, cannot be reached, or gives an invalid listing.
    pub(crate) fn list(&self) -> Result<Listing> {
        let Reference { repo, id, revision, .. } = self.reference;
        let revision = utf8_percent_encode(revision, ESCAPED);
        let url =
            format!("{}/api/{}/{id}/revision/{revision}?blobs=true", self.settings.endpoint, repo.plural());
        let response = self.client.get(&url, &[], Follow::All).map_err(|failed| self.refusal(failed))?;
        let mut listed = Vec::new();
        let read = response.take(LONGEST_LISTING + 1).read_to_end(&mut listed);
        read.map_err(|error| self.refusal(Failed::Broken(one_line(&error))))?;
        if listed.len() as u64 > LONGEST_LISTING {
            return Err(self.nonsense(&format!("a list of files of more than {LONGEST_LISTING} bytes")));
        }
        let info = serde_json::from_slice::<Info>(&listed);
        let info = info.map_err(|error| self.nonsense(&format!("no list of files ({error})")))?;
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
        let url = self.url(commit, &file.name);
        let first = [(RANGE, "bytes=0-0".to_owned()), (ACCEPT_ENCODING, "identity".to_owned())];
        let ask = |follow| self.client.get(&url, &first, follow).map_err(|failed| self.refusal(failed));
        // A redirect to another host names the bytes of a large file; that host may not.
        let answer = ask(Follow::SameHost)?;
        let headers = answer.headers();
        let etag = text(headers, LINKED_ETAG).or_else(|| text(headers, ETAG.as_str()));
        let size = match text(headers, LINKED_SIZE).and_then(|size| size.parse().ok()) {
            Some(size) => Some(size),
            None if answer.status().is_redirection() => whole_size(&ask(Follow::All)?),
            None => whole_size(&answer),
        };
        match (etag, size) {
            (Some(etag), Some(size)) => self.blob(etag, size),
            _ => Err(self.nonsense(&format!("no size and ETag of {}", file.name))),
        }
    }

    /// `name` in `commit` from byte `from` on, if the server supports that; otherwise it answers 200, with all bytes.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) fn read(&self, commit: &str, name: &str, from: u64) -> Result<Response, Failed> {
        let mut headers = vec![(ACCEPT_ENCODING, "identity".to_owned())];
        if from > 0 {
            headers.push((RANGE, format!("bytes={from}-")));
        }
        self.client.get(&self.url(commit, name), &headers, Follow::All)
    }

    /// The error for the user after a failed request.
    pub(crate) fn refusal(&self, failed: Failed) -> HubError {
        let uri = self.reference.to_string();
        let endpoint = self.settings.endpoint.clone();
        let repo = self.reference.repo.words();
        let status = match failed {
            Failed::Status(status) => status,
            Failed::Broken(reason) => return HubError::Unreachable { uri, endpoint, reason },
            Failed::Unsent(error) => return error,
        };
        match StatusCode::from_u16(status) {
            Ok(StatusCode::UNAUTHORIZED) => HubError::Unauthorised { uri, endpoint, repo },
            Ok(StatusCode::FORBIDDEN) => HubError::Forbidden { uri, endpoint, repo },
            Ok(StatusCode::NOT_FOUND) => {
                HubError::NotFound { uri, endpoint, repo, revision: self.reference.revision.clone() }
            }
            _ => HubError::Status { uri, endpoint, status },
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

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The size of the whole file of which `answer` has one byte or all.
fn whole_size(answer: &Response) -> Option<u64> {
    match text(answer.headers(), CONTENT_RANGE.as_str()) {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        None => text(answer.headers(), CONTENT_LENGTH.as_str())?.parse().ok(),
    }
}
