//! Read-only memory-mapped files behind a safe type.

use std::path::Path;

use memmap2::Mmap;

/// A file's bytes, mapped read-only.
///
/// The file must not be truncated by another process while it is mapped: as with every mapping, the
/// operating system then ends the process on access. vitrim maps checkpoints only while it packs them.
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps `path`.
    ///
    /// # Errors
    /// What the operating system says when the file cannot be opened or mapped.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = std::fs::File::open(path)?;
        // SAFETY: the mapping is private and only ever read; see the type's documentation for the one
        // hazard that a mapping cannot exclude.
        unsafe { Mmap::map(&file) }.map(MappedFile)
    }
}

impl std::ops::Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
