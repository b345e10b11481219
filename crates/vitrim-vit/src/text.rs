//! Reads small text files that people made: UTF-8, with or without a byte order mark.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::error::{Result, VitError};
use crate::limits::MAX_CONFIG_BYTES;

/// The first line of the file that stands for a large one in a Git LFS repository
/// (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1";

/// Whether a file that begins with `bytes` is a Git LFS pointer: the large file itself has not been fetched.
pub fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS_POINTER)
}

/// The JSON value in the file `path`.
///
/// # Errors
/// If it cannot be read, is larger than [`MAX_CONFIG_BYTES`], stands for a file in Git LFS, or is not JSON in UTF-8.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let bad = |reason: String| VitError::Config { path: path.to_owned(), reason };
    let unread = |source| VitError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unread)?;
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(bad(format!("is larger than {MAX_CONFIG_BYTES} bytes; it is no configuration")));
    }
    if is_lfs_pointer(&bytes) {
        return Err(VitError::LfsPointer { path: path.to_owned() });
    }
    let text = vitrim_text::utf8(&bytes).map_err(|error| bad(error.to_string()))?;
    serde_json::from_str(text).map_err(|e| bad(format!("not valid JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_json(&path).map_err(|error| error.to_string())
        };
        assert_eq!(read(b"\xef\xbb\xbf{}").unwrap(), serde_json::json!({}));
        let wide: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(read(&wide).unwrap_err().contains("UTF-16"));
        assert!(read(b"\xff{}").unwrap_err().contains("not UTF-8"));
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
        assert!(read(pointer).unwrap_err().contains("git lfs pull"));
        assert!(read(&b"[".repeat(9_000)).unwrap_err().contains("recursion limit"));
    }
}
