//! Opens a data set and reads its first images.

use std::path::Path;
use std::sync::Once;

use vitrim_data::{Dataset, is_guarded};

/// Images that are read of a data set.
const READ: usize = 3;

/// Opens every split at `path` and reads its first images; errors are fine.
pub fn read(path: &Path) {
    static HOOK: Once = Once::new();
    HOOK.call_once(forgive_guarded);
    for split in Dataset::splits(path).unwrap_or_default() {
        let Ok(dataset) = Dataset::open(path, Some(&split)) else { continue };
        for index in 0..dataset.len().min(READ) {
            let _ = (dataset.name(index), dataset.label(index), dataset.image(index));
        }
    }
}

/// Lets a panic pass that vitrim-data catches and makes an error of; the fuzzer's own hook ends the process for any.
fn forgive_guarded() {
    let fatal = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_guarded() {
            fatal(panic);
        }
    }));
}
