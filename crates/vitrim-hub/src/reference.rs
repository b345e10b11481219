//! The syntax of `hf://` references: that of `huggingface_hub`'s file system, with a model's owner and name first.

use std::fmt;
use std::path::Path;

use percent_encoding::percent_decode_str;

use crate::error::{HubError, Result};
use crate::kind::Kind;

const SCHEME: &str = "hf://";
/// Branches whose names contain a slash but are written unescaped.
const SPECIAL: [&str; 2] = ["refs/convert/", "refs/pr/"];
const MAIN: &str = "main";

/// Whether `path` is a reference rather than a local path.
pub fn is_reference(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with(SCHEME))
}

/// The kind of a repository on the Hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RepoKind {
    /// A repository of weights, or of a policy.
    Model,
    /// A repository of images.
    Dataset,
}

impl RepoKind {
    pub(crate) fn words(self) -> &'static str {
        match self {
            RepoKind::Model => "model repository",
            RepoKind::Dataset => "data set repository",
        }
    }

    /// Its name in the addresses of the API.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        }
    }

    /// Prefix of its pages' and files' addresses.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            RepoKind::Model => "",
            RepoKind::Dataset => "datasets/",
        }
    }
}

/// A path in a repository of the Hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The kind of repository.
    pub(crate) repo: RepoKind,
    /// Owner and name, as in `facebook/deit-small-patch16-224`.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The folder or file in it; empty for the whole repository.
    pub path: String,
}

impl Reference {
    /// Reads `hf://[datasets/|models/]owner/name[@revision][/path]`; without `datasets/` or `models/`, the reference
    /// is to a data set if `kind` needs one, otherwise to a model.
    ///
    /// # Errors
    /// [`HubError::Reference`], also if the repository is of another kind than needed.
    pub fn parse(given: &str, kind: Kind) -> Result<Self> {
        let bad = |reason: &str| HubError::Reference { given: given.to_owned(), reason: reason.to_owned() };
        let rest = given.strip_prefix(SCHEME).ok_or_else(|| bad("does not begin with hf://"))?;
        let wanted = if kind == Kind::Data { RepoKind::Dataset } else { RepoKind::Model };
        let (first, after) = rest.split_once('/').unwrap_or((rest, ""));
        let (repo, rest) = match first {
            "datasets" => (RepoKind::Dataset, after),
            "models" => (RepoKind::Model, after),
            "spaces" => return Err(bad("a space holds no weights and no images")),
            _ => (wanted, rest),
        };
        match (repo, wanted) {
            (RepoKind::Dataset, RepoKind::Model) => {
                return Err(bad("is a data set where a model is expected"));
            }
            (RepoKind::Model, RepoKind::Dataset) => {
                return Err(bad("is a model where a data set is expected"));
            }
            _ => {}
        }
        let (owner, rest) =
            rest.split_once('/').ok_or_else(|| bad("has no owner, or no name, or neither"))?;
        let (name, rest) = rest.split_at(rest.find(['/', '@']).unwrap_or(rest.len()));
        let (revision, path) = match rest.strip_prefix('@') {
            None => (MAIN.to_owned(), rest),
            Some(rest) => {
                let special = SPECIAL.iter().find(|special| rest.starts_with(**special));
                let from = special.map_or(0, |special| special.len());
                let end = rest[from..].find('/').map_or(rest.len(), |slash| from + slash);
                let revision = percent_decode_str(&rest[..end]).decode_utf8();
                (revision.map_err(|_| bad("has a revision that is no text"))?.into_owned(), &rest[end..])
            }
        };
        let path = path.trim_matches('/');
        if !is_name(owner) || !is_name(name) {
            return Err(bad("has an owner or a name that no repository can have"));
        }
        if !is_inside(&revision) {
            return Err(bad("has a revision that cannot be"));
        }
        if !path.is_empty() && !is_inside(path) {
            return Err(bad("has a path that leads out of the repository"));
        }
        Ok(Reference { repo, id: format!("{owner}/{name}"), revision, path: path.to_owned() })
    }

    /// The commit, if the revision is the full hash of one and therefore never changes.
    pub(crate) fn commit(&self) -> Option<&str> {
        let is_commit = self.revision.len() == 40 && self.revision.bytes().all(|b| b.is_ascii_hexdigit());
        is_commit.then_some(self.revision.as_str())
    }

    /// The name of the repository's folder in the cache, as in `models--facebook--deit-small-patch16-224`.
    pub(crate) fn folder_name(&self) -> String {
        format!("{}--{}", self.repo.plural(), self.id.replace('/', "--"))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reference { repo, id, revision, path } = self;
        write!(f, "{SCHEME}{}{id}", repo.prefix())?;
        if revision != MAIN {
            let plain = SPECIAL.iter().any(|special| revision.starts_with(special));
            let revision = if plain { revision.clone() } else { revision.replace('/', "%2F") };
            write!(f, "@{revision}")?;
        }
        if path.is_empty() { Ok(()) } else { write!(f, "/{path}") }
    }
}

/// Whether the Hub allows `text` as an owner's or a repository's name.
fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(allowed) && !text.starts_with('.') && !text.contains("--")
}

/// Whether `path`, joined to a folder, stays below it.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0', ':'])
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(given: &str, kind: Kind) -> (String, String, String) {
        let Reference { id, revision, path, .. } = Reference::parse(given, kind).unwrap();
        (id, revision, path)
    }

    #[test]
    fn references_are_read_and_written() {
        let whole = |id: &str, revision: &str, path: &str| (id.into(), revision.into(), path.into());
        assert_eq!(parsed("hf://timm/deit", Kind::Model), whole("timm/deit", "main", ""));
        assert_eq!(parsed("hf://models/timm/deit@v1", Kind::Policy), whole("timm/deit", "v1", ""));
        assert_eq!(parsed("hf://a/b@refs/pr/3/sub", Kind::Model), whole("a/b", "refs/pr/3", "sub"));
        assert_eq!(parsed("hf://a/b@x%2Fy/c/d.bin", Kind::Model), whole("a/b", "x/y", "c/d.bin"));
        for data in ["hf://datasets/a/b.c/data", "hf://a/b.c/data/"] {
            assert_eq!(parsed(data, Kind::Data), whole("a/b.c", "main", "data"));
        }
        for given in ["hf://a/b", "hf://datasets/a/b@x%2Fy", "hf://a/b@refs/convert/parquet/default"] {
            let kind = if given.contains("datasets") { Kind::Data } else { Kind::Model };
            assert_eq!(Reference::parse(given, kind).unwrap().to_string(), given);
        }
        assert!(is_reference(Path::new("hf://a/b")) && !is_reference(Path::new("hf/a/b")));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for (given, kind, word) in [
            ("hf://gpt2", Kind::Model, "no owner"),
            ("hf://", Kind::Model, "no owner"),
            ("hf://a/b c", Kind::Model, "no repository can have"),
            ("hf://a/b@", Kind::Model, "revision"),
            ("hf://a/b@..", Kind::Model, "revision"),
            ("hf://a/b/../../c", Kind::Model, "leads out"),
            ("hf://datasets/a/b", Kind::Model, "where a model"),
            ("hf://models/a/b", Kind::Data, "where a data set"),
            ("hf://spaces/a/b", Kind::Model, "space"),
        ] {
            let error = Reference::parse(given, kind).unwrap_err().to_string();
            assert!(error.starts_with(given) && error.contains(word), "{error}");
        }
    }
}
