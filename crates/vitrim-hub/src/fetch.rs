//! Resolves a reference to a local folder.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::cache::CachedRepo;
use crate::error::{HubError, Result};
use crate::kind::Kind;
use crate::observe::{DownloadEvent, tell};
use crate::reference::{Reference, is_reference};
use crate::remote::{Listing, Remote, RemoteFile};
use crate::select::{Selection, select};
use crate::settings::Settings;
use crate::transfer::Transfer;

/// Number of files that are fetched in parallel.
const AT_ONCE: usize = 4;
/// The largest number of files in a listing that is accepted.
const MOST_FILES: usize = 50_000;

/// References resolved so far in this process, with their local paths.
static KNOWN: Mutex<Option<HashMap<(String, Kind), PathBuf>>> = Mutex::new(None);

/// The local folder (or file) of a path that a user gave as a `kind`: `path` itself or, if it is an `hf://`
/// reference, its place in the cache, fetched if needed. Within a process a reference always means the same commit.
///
/// # Errors
/// As [`Hub::fetch`].
pub fn local(path: &Path, kind: Kind) -> Result<Cow<'_, Path>> {
    if !is_reference(path) {
        return Ok(Cow::Borrowed(path));
    }
    let given = path.to_string_lossy().into_owned();
    let reference = Reference::parse(&given, kind)?;
    // Held while fetching, so that threads do not fetch the same files twice.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(folder) = known.get(&(given.clone(), kind)) {
        return Ok(Cow::Owned(folder.clone()));
    }
    let folder = Hub::new(Settings::from_env()?).fetch(&reference, kind)?;
    known.insert((given, kind), folder.clone());
    Ok(Cow::Owned(folder))
}

/// The Hub and its cache.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: Settings,
}

impl Hub {
    /// A Hub with the given settings.
    pub fn new(settings: Settings) -> Self {
        Hub { settings }
    }

    /// The local path of the files of `reference` that a `kind` needs, after fetching those that the cache lacks. A
    /// commit that is complete in the cache is not requested again. For a branch, the Hub is asked for its current
    /// commit; if there is no answer, the last known commit is used, with a note. So it is if the cache may only be
    /// read.
    ///
    /// # Errors
    /// If the Hub returns an error or cannot be reached, the repository lacks a file, a download fails, or the cache
    /// has no complete copy in offline mode or when it may only be read.
    pub fn fetch(&self, reference: &Reference, kind: Kind) -> Result<PathBuf> {
        let cached = CachedRepo::of(reference, &self.settings);
        if let Some(variable) = self.settings.offline_for(kind) {
            return self.whole_copy(&cached, reference, kind)?.map(|copy| copy.place).map_err(|lacking| {
                let (uri, cache) = (reference.to_string(), self.settings.cache.clone());
                HubError::Offline { uri, variable, cache, lacking }
            });
        }
        if let Some(commit) = reference.commit()
            && cached.is_listed(commit)
            && let Ok(Ok(copy)) = self.whole_copy(&cached, reference, kind)
        {
            return Ok(copy.place);
        }
        let remote = Remote::new(reference, &self.settings);
        let listing = match remote.list() {
            Ok(listing) => listing,
            Err(error @ (HubError::Unreachable { .. } | HubError::Status { status: 500.., .. })) => {
                let Ok(Ok(copy)) = self.whole_copy(&cached, reference, kind) else { return Err(error) };
                let note = format!(
                    "note: {} does not answer; {reference} is what the cache has",
                    self.settings.endpoint
                );
                let _ = tell(DownloadEvent::Note(&note));
                return Ok(copy.place);
            }
            Err(error) => return Err(error),
        };
        let selection = select(kind, reference, &names(&listing))?;
        if listing.files.len() >= MOST_FILES {
            let _ = tell(DownloadEvent::Note(&format!(
                "note: {reference}: the Hub lists at most {MOST_FILES} files, and there may be more"
            )));
        }
        match self.bring(&remote, &cached, reference, &listing, &selection) {
            Err(error) if error.is_read_only() => {
                self.as_it_is(&cached, reference, kind, &listing, &selection, error)
            }
            other => other.map(|()| place(&cached, &listing.commit, &selection)),
        }
    }

    /// Brings the cache up to date: the listing, the files of `selection`, and then the commit of the branch.
    fn bring(
        &self,
        remote: &Remote<'_>,
        cached: &CachedRepo,
        reference: &Reference,
        listing: &Listing,
        selection: &Selection,
    ) -> Result<()> {
        cached.write_listing(listing)?;
        self.complete(remote, cached, reference, listing, selection)?;
        if reference.commit().is_none() {
            cached.name(&reference.revision, &listing.commit)?;
        }
        Ok(())
    }

    /// What a cache that may only be read has for `reference`: the files of `selection` or, with a note, an older copy
    /// or one with fewer files. `error` is why it cannot be written.
    fn as_it_is(
        &self,
        cached: &CachedRepo,
        reference: &Reference,
        kind: Kind,
        listing: &Listing,
        selection: &Selection,
        error: HubError,
    ) -> Result<PathBuf> {
        let commit = &listing.commit;
        let Some(lacking) = lacking(cached, commit, selection) else {
            return Ok(place(cached, commit, selection));
        };
        let cache = self.settings.cache.clone();
        let Ok(Ok(copy)) = self.whole_copy(cached, reference, kind) else {
            let uri = reference.to_string();
            return Err(HubError::ReadOnly { uri, cache, lacking, reason: error.to_string() });
        };
        let used = if copy.commit == *commit {
            format!("its copy is used without {lacking}")
        } else {
            format!("its copy of commit {} is used, not {commit} of the Hub", copy.commit)
        };
        let note = format!("note: {reference}: the cache {} cannot be written; {used}", cache.display());
        let _ = tell(DownloadEvent::Note(&note));
        Ok(copy.place)
    }

    /// The copy in the cache; what the cache lacks if it is not complete.
    ///
    /// # Errors
    /// If the repository itself lacks a file, or the reference is ambiguous.
    fn whole_copy(
        &self,
        cached: &CachedRepo,
        reference: &Reference,
        kind: Kind,
    ) -> Result<Result<Copy, String>> {
        let commit = reference.commit().map(str::to_owned);
        let Some(commit) = commit.or_else(|| cached.commit_of(&reference.revision)) else {
            return Ok(Err("it".to_owned()));
        };
        let Some(listing) = cached.listing(&commit) else { return Ok(Err("it".to_owned())) };
        let selection = match select(kind, reference, &names(&listing)) {
            // Another program may have filled the cache without this file.
            Err(HubError::NoSuchFile { wanted, .. }) if !cached.is_listed(&commit) => {
                return Ok(Err(format!("its {wanted}")));
            }
            other => other?,
        };
        Ok(match lacking(cached, &commit, &selection) {
            Some(lacking) => Err(lacking),
            None => Ok(Copy { place: place(cached, &commit, &selection), commit }),
        })
    }

    /// Fetches the files of `selection` that are not in the cache.
    fn complete(
        &self,
        remote: &Remote<'_>,
        cached: &CachedRepo,
        reference: &Reference,
        listing: &Listing,
        selection: &Selection,
    ) -> Result<()> {
        let commit = &listing.commit;
        let listed: HashMap<&str, &RemoteFile> =
            listing.files.iter().map(|file| (file.name.as_str(), file)).collect();
        let wanted: Vec<&RemoteFile> = selection
            .files
            .iter()
            .filter(|name| !cached.has(commit, name))
            .filter_map(|name| listed.get(name.as_str()).copied())
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let uri = reference.to_string();
        let bytes = total(wanted.iter().map(|file| file.blob.as_ref().map(|blob| blob.size)));
        let (next, done) = (AtomicUsize::new(0), AtomicI64::new(0));
        let failure = Mutex::new(None);
        let failed = |error: HubError| {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            // No worker starts another file.
            next.store(wanted.len(), Ordering::Relaxed);
        };
        let tick = |bytes: i64| {
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            tell(DownloadEvent::Bytes(done.max(0) as u64))
        };
        let one = |file: &RemoteFile| -> Result<()> {
            let blob = remote.identify(commit, file)?;
            let transfer = Transfer { remote, uri: &uri, commit, name: &file.name, blob: &blob };
            transfer.run(&cached.blob(&blob.etag), &tick)?;
            cached.link(commit, &file.name, &blob.etag)
        };
        let work = || {
            while let Some(file) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = one(file) {
                    failed(error);
                }
            }
        };
        if let ControlFlow::Break(()) = tell(DownloadEvent::Begin { uri: &uri, files: wanted.len(), bytes }) {
            return Err(HubError::Interrupted);
        }
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(wanted.len()) {
                scope.spawn(work);
            }
        });
        let _ = tell(DownloadEvent::End);
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// The sum of what the Hub states as `sizes`, or the largest number if it is larger; `None` if a size is not stated.
fn total(mut sizes: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    sizes.try_fold(0_u64, |sum, size| Some(sum.saturating_add(size?)))
}

/// A complete copy in the cache.
struct Copy {
    place: PathBuf,
    commit: String,
}

/// The files of `selection` that the cache lacks, in words; `None` if it has all.
fn lacking(cached: &CachedRepo, commit: &str, selection: &Selection) -> Option<String> {
    let mut missing = selection.files.iter().filter(|name| !cached.has(commit, name));
    let first = missing.next()?;
    let more = missing.count();
    let and = if more > 0 { format!(" and {more} more files") } else { String::new() };
    Some(format!("its {first}{and}"))
}

fn names(listing: &Listing) -> Vec<String> {
    listing.files.iter().map(|file| file.name.clone()).collect()
}

fn place(cached: &CachedRepo, commit: &str, selection: &Selection) -> PathBuf {
    let snapshot = cached.snapshot(commit);
    if selection.root.is_empty() { snapshot } else { snapshot.join(&selection.root) }
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn sizes_that_no_disk_holds_have_a_total() {
        assert_eq!(total([Some(u64::MAX), Some(7)].into_iter()), Some(u64::MAX));
        assert_eq!(total([Some(2), Some(7)].into_iter()), Some(9));
        assert_eq!(total([Some(2), None].into_iter()), None);
    }
}
