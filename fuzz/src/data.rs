//! Opens a data set and reads its first images.

use std::path::Path;

use vitrim_data::Dataset;

/// Images that are read of a data set.
const READ: usize = 3;

/// Opens every split at `path` and reads its first images; errors are fine.
pub fn read(path: &Path) {
    for split in Dataset::splits(path).unwrap_or_default() {
        let Ok(dataset) = Dataset::open(path, Some(&split)) else { continue };
        for index in 0..dataset.len().min(READ) {
            let _ = (dataset.name(index), dataset.label(index), dataset.image(index));
        }
    }
}
