//! A repository in the cache, in the layout of `huggingface_hub`: `blobs/<etag>` hold bytes,
//! `snapshots/<commit>/<name>` link to them, `refs/<revision>` hold the commit of a branch. In addition,
//! `listings/<commit>.json` (vitrim's own) has all files of a commit, so that a copy can be recognised as complete
//! without the Hub.
//!
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>

use std::path::{Path, PathBuf};

use crate::error::{Result, file_error};
use crate::reference::Reference;
use crate::remote::{Listing, RemoteFile};
use crate::settings::Settings;

/// A repository's folder in the cache.
pub(crate) struct CachedRepo {
    folder: PathBuf,
}

impl CachedRepo {
    pub(crate) fn of(reference: &Reference, settings: &Settings) -> Self {
        CachedRepo { folder: settings.cache.join(reference.folder_name()) }
    }

    /// The commit that `revision` named when all its files were last fetched.
    pub(crate) fn commit_of(&self, revision: &str) -> Option<String> {
        let commit = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| !commit.is_empty())
    }

    /// Makes `revision` name `commit`.
    pub(crate) fn name(&self, revision: &str, commit: &str) -> Result<()> {
        if self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        replace(&self.folder.join("refs").join(revision), commit.as_bytes())
    }

    /// The folder of the snapshot, which is opened.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The path of the bytes called `etag`.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Whether the snapshot has `name`, with the bytes that it links to.
    pub(crate) fn has(&self, commit: &str, name: &str) -> bool {
        self.snapshot(commit).join(name).is_file()
    }

    /// Links the existing blob `etag` into the snapshot as `name`.
    pub(crate) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<()> {
        let link = self.snapshot(commit).join(name);
        if self.has(commit, name) {
            return Ok(());
        }
        let parent = link.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(parent).map_err(file_error("write", parent))?;
        // The link points to bytes that were deleted.
        if link.symlink_metadata().is_ok() {
            std::fs::remove_file(&link).map_err(file_error("write", &link))?;
        }
        let entered = enter(&self.blob(etag), etag, &link, name);
        // Another process may have created the link.
        match entered {
            Err(_) if self.has(commit, name) => Ok(()),
            other => other.map_err(file_error("write", &link)),
        }
    }

    /// All files of `commit`: as listed by the Hub, or (if another program filled the cache) those in the cache.
    pub(crate) fn listing(&self, commit: &str) -> Option<Listing> {
        let listed = std::fs::read(self.listing_path(commit)).ok();
        if let Some(listing) = listed.and_then(|json| serde_json::from_slice(&json).ok()) {
            return Some(listing);
        }
        let root = self.snapshot(commit);
        let mut files = Vec::new();
        names_below(&root, &root, &mut files).ok()?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Some(Listing { commit: commit.to_owned(), files })
    }

    /// Whether the Hub's own listing of `commit` is in the cache.
    pub(crate) fn is_listed(&self, commit: &str) -> bool {
        self.listing_path(commit).is_file()
    }

    pub(crate) fn write_listing(&self, listing: &Listing) -> Result<()> {
        let json = serde_json::to_vec(listing).expect("a listing is plain data");
        replace(&self.listing_path(&listing.commit), &json)
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.folder.join("listings").join(format!("{commit}.json"))
    }
}

/// Links `link`, which is `name` in a snapshot, to `blob`, relatively, so that the cache can be moved.
#[cfg(unix)]
fn enter(_blob: &Path, etag: &str, link: &Path, name: &str) -> std::io::Result<()> {
    let up = "../".repeat(2 + name.matches('/').count());
    std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), link)
}

#[cfg(not(unix))]
fn enter(blob: &Path, _etag: &str, link: &Path, _name: &str) -> std::io::Result<()> {
    std::fs::hard_link(blob, link)
}

fn names_below(root: &Path, folder: &Path, into: &mut Vec<RemoteFile>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            names_below(root, &path, into)?;
        } else if path.is_file()
            && let Ok(name) = path.strip_prefix(root)
        {
            let parts: Vec<_> = name.iter().map(|part| part.to_string_lossy()).collect();
            into.push(RemoteFile { name: parts.join("/"), blob: None });
        }
    }
    Ok(())
}

/// Writes `bytes` to `path`, atomically; creates the folder if needed.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(file_error("write", folder))?;
    Ok(vitrim_durable::replace(path, bytes)?)
}
