//! Errors of resolving a reference to a local folder.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// Errors of `hf://` references; each message is one line that says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text is not a valid reference.
    #[error("{given}: {reason}; write hf://owner/name[@revision], hf://datasets/owner/name for a data set")]
    Reference {
        /// The text that was given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The Hub needs a token, or the repository does not exist: the Hub does not say which.
    #[error(
        "{uri}: {endpoint} answers 401: no such {repo}, or a private one; check the name, and for a private one set HF_TOKEN or log in with `hf auth login`"
    )]
    Unauthorised {
        /// The reference.
        uri: String,
        /// The Hub.
        endpoint: String,
        /// Model or data set repository.
        repo: &'static str,
    },
    /// The token has no access to the repository.
    #[error(
        "{uri}: {endpoint} answers 403: the token may not read it; if the {repo} asks to accept its terms, do so on its page"
    )]
    Forbidden {
        /// The reference.
        uri: String,
        /// The Hub.
        endpoint: String,
        /// Model or data set repository.
        repo: &'static str,
    },
    /// The repository, revision or path does not exist.
    #[error("{uri}: {endpoint} has no such {repo}, or it has no revision {revision}; check both names")]
    NotFound {
        /// The reference.
        uri: String,
        /// The Hub.
        endpoint: String,
        /// Model or data set repository.
        repo: &'static str,
        /// The revision asked for.
        revision: String,
    },
    /// The Hub answered with another error status.
    #[error("{uri}: {endpoint} answers {status}; try again later")]
    Status {
        /// The reference.
        uri: String,
        /// The Hub.
        endpoint: String,
        /// HTTP status.
        status: u16,
    },
    /// The Hub did not answer, or the answer could not be parsed.
    #[error(
        "{uri}: no answer from {endpoint} ({reason}) and no whole copy in the cache; check the connection, or put the files into a folder and give that"
    )]
    Unreachable {
        /// The reference.
        uri: String,
        /// The Hub.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// Offline mode is on, and the cache lacks a file.
    #[error(
        "{uri}: {variable} is set and the cache {cache} lacks {lacking}; run once without it, or put the files into a folder and give that"
    )]
    Offline {
        /// The reference.
        uri: String,
        /// The variable that forbids requests.
        variable: &'static str,
        /// The cache's folder.
        cache: PathBuf,
        /// What the cache lacks.
        lacking: String,
    },
    /// The repository lacks a file that is needed.
    #[error("{uri}: the {repo} has no {wanted}; it has {has}")]
    NoSuchFile {
        /// The reference.
        uri: String,
        /// Model or data set repository.
        repo: &'static str,
        /// The file that is needed.
        wanted: String,
        /// The files that the repository has instead.
        has: String,
    },
    /// The reference matches several folders.
    #[error("{uri}: images lie in several folders; name one, as in {uri}/{example} (there are {folders})")]
    Ambiguous {
        /// The reference.
        uri: String,
        /// One of the folders.
        example: String,
        /// All of the folders.
        folders: String,
    },
    /// A download was interrupted, or has other bytes than the Hub announced.
    #[error("{uri}: {file}: {reason}")]
    Download {
        /// The reference.
        uri: String,
        /// The file.
        file: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The Hub's answer is invalid.
    #[error("{uri}: {endpoint} gives {what}, which cannot be used; is HF_ENDPOINT right?")]
    Nonsense {
        /// The reference.
        uri: String,
        /// The Hub.
        endpoint: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// The cache lacks a file and may only be read.
    #[error(
        "{uri}: the cache {cache} lacks {lacking} and cannot be written ({reason}); set HF_HUB_CACHE to a folder of yours"
    )]
    ReadOnly {
        /// The reference.
        uri: String,
        /// The cache's folder.
        cache: PathBuf,
        /// What the cache lacks.
        lacking: String,
        /// The operating system's error.
        reason: String,
    },
    /// An environment variable has a value that cannot be used.
    #[error("{name}={value}: {reason}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A variable does not hold a proxy's address. The value may have a password and is not printed.
    #[error(
        "{variable} does not hold the address of a proxy; write http://host:port, https://host:port or socks5h://host:port"
    )]
    Proxy {
        /// Its name.
        variable: &'static str,
    },
    /// TLS cannot be set up.
    #[error("https cannot be used: {error}")]
    Tls {
        /// What is wrong.
        error: String,
    },
    /// There is no folder for the cache.
    #[error("no home folder to keep the cache in; set HF_HOME")]
    NoHome,
    /// A file of the cache could not be read or written.
    #[error("cannot {action} {path}: {source}; check the folder, or set HF_HOME to another")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The download was asked to stop.
    #[error("interrupted: what was fetched is kept; run the same command again to go on")]
    Interrupted,
}

impl From<vitrim_durable::FileError> for HubError {
    fn from(error: vitrim_durable::FileError) -> Self {
        HubError::File { action: error.action, path: error.path, source: error.source }
    }
}

impl HubError {
    /// Whether a file could not be written because its folder may only be read.
    pub(crate) fn is_read_only(&self) -> bool {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        match self {
            HubError::File { action: "write", source, .. } => {
                matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem)
            }
            _ => false,
        }
    }
}

/// An error constructor for `map_err`: an operating system's error, at `path`.
pub(crate) fn file_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::File { action, path, source }
}
