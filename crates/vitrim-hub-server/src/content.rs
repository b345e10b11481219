//! The content of the Hub, the requests that it got, and its simulated faults.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Files by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Simulated faults.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// This number of the next downloads of large files break off in the middle.
    pub break_off: usize,
    /// Large files are sent as a whole even if a part is requested.
    pub no_ranges: bool,
    /// Large files are sent with one changed byte.
    pub damage: bool,
    /// The listing has neither sizes nor hashes, as on some mirrors.
    pub plain_listing: bool,
    /// Every request is answered with this status.
    pub status: Option<u16>,
}

/// A recorded request.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Path and query, decoded.
    pub target: String,
    /// The token, if there was one.
    pub token: Option<String>,
    /// The first byte that was requested.
    pub from: Option<usize>,
}

#[derive(Default)]
pub(crate) struct State {
    /// `models/owner/name` or `datasets/owner/name`: revisions (branches and commits) and what they name.
    pub(crate) repos: BTreeMap<String, Repo>,
    /// Bytes by SHA-256.
    pub(crate) large: BTreeMap<String, Vec<u8>>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) faults: Faults,
}

#[derive(Default)]
pub(crate) struct Repo {
    pub(crate) token: Option<String>,
    pub(crate) branches: BTreeMap<String, String>,
    pub(crate) commits: BTreeMap<String, Files>,
}

/// Whether the file `name` is stored by its SHA-256, as the Hub stores large files.
pub(crate) fn is_large(name: &str) -> bool {
    [".safetensors", ".parquet", ".png", ".bin"].iter().any(|extension| name.ends_with(extension))
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
