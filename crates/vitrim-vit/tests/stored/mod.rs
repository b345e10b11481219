//! Small checkpoints, which `scripts/make_fixtures.py` makes.

use std::path::{Path, PathBuf};

/// A fixture of this repository.
pub fn own(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name)
}
