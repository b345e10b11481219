//! Converts panics of image decoders to errors of one image.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::DataError;

thread_local! {
    /// Whether this thread runs inside [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` for the image at `origin`. A panic in `work`, such as a decoder's on an unexpected file, becomes a
/// bad-image error and does not end the program.
///
/// `work` must leave no inconsistent state that is used after a panic.
///
/// # Errors
///
/// Errors of `work`; [`DataError::BadImage`] if it panicked.
pub fn guarded<T>(
    origin: impl FnOnce() -> String,
    work: impl FnOnce() -> Result<T, DataError>,
) -> Result<T, DataError> {
    caught(work).unwrap_or_else(|panic| Err(DataError::bad_image(origin(), panic)))
}

/// What `work` gives; if it panics, a message that says so. As [`guarded`], for errors of another kind.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    done.map_err(|panic| message_of(&*panic))
}

/// Whether a panic of this thread would be caught, as by [`guarded`]: for panic hooks, which run before it is.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the decoder panicked: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_bad_image() {
        assert!(!is_guarded());
        let origin = || "a.jpg".to_owned();
        assert!(guarded(origin, || Ok(is_guarded())).unwrap());
        let panics = || -> Result<(), DataError> { panic!("no Huffman\ntable {}", 3) };
        let error = guarded(origin, || {
            assert!(guarded(origin, panics).is_err());
            // The outer guard is still active.
            assert!(is_guarded());
            panics()
        });
        let want = "a.jpg: cannot be decoded (the decoder panicked: no Huffman table 3); replace or remove it, or skip \
                    bad images";
        assert_eq!(error.unwrap_err().to_string(), want);
        assert!(!is_guarded());
    }
}
