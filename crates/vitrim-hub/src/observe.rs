//! Who watches downloads: one observer a process, as with logging, because whatever opens a model may fetch it.

use std::ops::ControlFlow;
use std::sync::OnceLock;

/// What happens while files are fetched.
#[derive(Clone, Copy, Debug)]
pub enum DownloadEvent<'a> {
    /// Files are about to be fetched.
    Begin {
        /// The reference.
        uri: &'a str,
        /// How many files.
        files: usize,
        /// How large they are together, bytes; `None` if the Hub does not say.
        bytes: Option<u64>,
    },
    /// So many bytes of them are there.
    Bytes(u64),
    /// All of them are there, or it failed.
    End,
    /// Something that the user should know.
    Note(&'a str),
}

/// Told of events; may break to end the download.
type Observer = Box<dyn Fn(DownloadEvent<'_>) -> ControlFlow<()> + Send + Sync>;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Tells `observer` of every download of this process from now on; it may break, which ends the download with
/// [`HubError::Interrupted`](crate::HubError::Interrupted). Only the first observer is heard.
pub fn observe(observer: impl Fn(DownloadEvent<'_>) -> ControlFlow<()> + Send + Sync + 'static) {
    // A second one has come too late, as is documented.
    let _ = OBSERVER.set(Box::new(observer));
}

/// Tells the observer, if there is one.
pub(crate) fn tell(event: DownloadEvent<'_>) -> ControlFlow<()> {
    OBSERVER.get().map_or(ControlFlow::Continue(()), |observer| observer(event))
}
