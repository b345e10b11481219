//! What a file of weights is, told by its first bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Result, VitError};
use crate::limits::MAX_HEADER_BYTES;
use crate::text::is_lfs_pointer;

/// The kinds of files that hold weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Safetensors,
    /// What `torch.save` writes: a zip archive, or pickles in a row.
    Torch,
    /// The JSON index of shards.
    Index,
}

/// Bytes that are looked at: a tar archive has its mark at 257.
pub(super) const LOOKED_AT: u64 = 512;
pub(super) const ZIP: [u8; 4] = *b"PK\x03\x04";
const TAR: (usize, &[u8]) = (257, b"ustar");
/// The first opcode of a pickle of protocol 2 or later.
const PICKLE: u8 = 0x80;

/// What else people give, by its first bytes.
const OTHERS: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "a gzip archive; unpack it and give the file of weights in it"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file of Keras"),
    (b"<!", "a web page, not weights; download the file itself"),
    (b"<h", "a web page, not weights; download the file itself"),
    (b"\x93NUMPY", "a NumPy array"),
];

impl FileKind {
    /// The kind of the file `path`.
    ///
    /// # Errors
    /// If it cannot be read, or is known to hold no weights.
    pub fn of(path: &Path) -> Result<Self> {
        let unread = |source| VitError::Read { path: path.to_owned(), source };
        let mut start = Vec::new();
        File::open(path).map_err(unread)?.take(LOOKED_AT).read_to_end(&mut start).map_err(unread)?;
        if is_lfs_pointer(&start) {
            return Err(VitError::LfsPointer { path: path.to_owned() });
        }
        let not_weights = |what: &str| VitError::NotWeights { path: path.to_owned(), what: what.to_owned() };
        // PyTorch wrote such archives until 2017, before there were Vision Transformers.
        if start.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1)) {
            return Err(not_weights("a tar archive; unpack it and give the file of weights in it"));
        }
        if let Some(kind) = Self::of_bytes(&start) {
            return Ok(kind);
        }
        if let Some((_, what)) = OTHERS.iter().find(|(mark, _)| start.starts_with(mark)) {
            return Err(not_weights(what));
        }
        // A damaged file is what its name says.
        match path.extension().and_then(|end| end.to_str()) {
            Some("safetensors") => Ok(FileKind::Safetensors),
            Some("pth" | "pt" | "bin" | "tar" | "ckpt") => Ok(FileKind::Torch),
            Some("json") => Ok(FileKind::Index),
            _ if start.is_empty() => Err(not_weights("empty")),
            _ => Err(not_weights("neither a safetensors file nor one that torch.save wrote")),
        }
    }

    /// The kind of a file that begins with `start`; `None` if it is of none.
    pub fn of_bytes(start: &[u8]) -> Option<Self> {
        let header = start.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
        if header.is_some_and(|length| length <= MAX_HEADER_BYTES) && start.get(8) == Some(&b'{') {
            return Some(FileKind::Safetensors);
        }
        if start.starts_with(&ZIP) || start.first() == Some(&PICKLE) {
            return Some(FileKind::Torch);
        }
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
        (first == Some(&b'{')).then_some(FileKind::Index)
    }

    /// The kind of weights that begin with `start`: unlike another zip archive, torch's begins with a pickle.
    pub fn of_weights(start: &[u8]) -> Option<Self> {
        match Self::of_bytes(start)? {
            FileKind::Torch
                if start.starts_with(&ZIP) && !start.windows(DATA.len()).any(|name| name == DATA) =>
            {
                None
            }
            FileKind::Index => None,
            kind => Some(kind),
        }
    }
}

/// The entry of torch's zip archive that is written first.
const DATA: &[u8] = b"data.pkl";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_it_holds_and_not_what_it_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let kind = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            FileKind::of(&path).map_err(|error| error.to_string())
        };
        let safetensors = b"\x02\0\0\0\0\0\0\0{}";
        assert_eq!(kind("last.ckpt", safetensors), Ok(FileKind::Safetensors));
        // The length of a header of 128 bytes begins like a pickle.
        assert_eq!(kind("a.pth", b"\x80\0\0\0\0\0\0\0{\"a\""), Ok(FileKind::Safetensors));
        assert_eq!(kind("model_best.pth.tar", b"PK\x03\x04"), Ok(FileKind::Torch));
        assert_eq!(kind("model.safetensors", b"\x80\x02}."), Ok(FileKind::Torch));
        let tar: Vec<u8> = [&[b'a'; 257][..], b"ustar\x0000"].concat();
        assert!(kind("model.pth.tar", &tar).unwrap_err().contains("unpack it"));
        assert_eq!(kind("index", b"\xef\xbb\xbf {}"), Ok(FileKind::Index));
        for (bytes, word) in [
            (&b"version https://git-lfs.github.com/spec/v1\n"[..], "git lfs pull"),
            (b"<!DOCTYPE html>", "web page"),
            (b"\x1f\x8b\x08", "unpack it"),
            (b"", "empty"),
            (b"hello", "neither a safetensors file"),
        ] {
            let error = kind("weights", bytes).unwrap_err();
            assert!(error.contains(word), "no '{word}' in: {error}");
        }
    }

    #[test]
    fn another_zip_archive_is_no_weights() {
        assert_eq!(FileKind::of_weights(b"PK\x03\x04 photos/cat.png"), None);
        assert_eq!(FileKind::of_weights(b"PK\x03\x04 archive/data.pkl"), Some(FileKind::Torch));
        assert_eq!(FileKind::of_weights(b"{\"num_classes\": 3}"), None);
    }
}
