//! Small checkpoints that `scripts/make_fixtures.py` writes.

use std::path::{Path, PathBuf};

/// A fixture of this repository.
pub fn own(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name)
}
