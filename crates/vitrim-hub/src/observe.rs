//! The observer of downloads: one per process, as with logging, because any code that opens a model may fetch it.

use std::ops::ControlFlow;
use std::sync::OnceLock;

/// An event of a download.
#[derive(Clone, Copy, Debug)]
pub enum DownloadEvent<'a> {
    /// Files are about to be fetched.
    Begin {
        /// The reference.
        uri: &'a str,
        /// Number of files.
        files: usize,
        /// Their total size, bytes; `None` if the Hub does not say.
        bytes: Option<u64>,
    },
    /// Number of bytes that have arrived so far.
    Bytes(u64),
    /// All files have arrived, or the download failed.
    End,
    /// A message for the user.
    Note(&'a str),
}

/// Called with events; may break to end the download.
type Observer = Box<dyn Fn(DownloadEvent<'_>) -> ControlFlow<()> + Send + Sync>;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Sets the observer of all downloads of this process. It may break, which ends the download with
/// [`HubError::Interrupted`](crate::HubError::Interrupted). Only the first observer is used.
pub fn observe(observer: impl Fn(DownloadEvent<'_>) -> ControlFlow<()> + Send + Sync + 'static) {
    // A second observer is ignored, as documented.
    let _ = OBSERVER.set(Box::new(observer));
}

/// Calls the observer, if there is one.
pub(crate) fn tell(event: DownloadEvent<'_>) -> ControlFlow<()> {
    OBSERVER.get().map_or(ControlFlow::Continue(()), |observer| observer(event))
}
