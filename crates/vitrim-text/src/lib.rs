//! Text that other programs wrote, and names of files that are not text.
//!
//! [`utf8`] takes the bytes of any file that is read as text: lists, label maps, JSON, TOML. A byte order mark, which
//! Excel, Notepad and PowerShell write first, is dropped. UTF-16 and UTF-32 are refused by name, and other encodings
//! with the first line that is not UTF-8. [`read`] does this for a file, [`shown`] gives a file's name as text.
//!
//! ```
//! assert_eq!(vitrim_text::utf8(b"\xef\xbb\xbfpath,label\n"), Ok("path,label\n"));
//! let error = vitrim_text::utf8(b"\xff\xfep\0a\0t\0h\0").unwrap_err();
//! assert_eq!(error.to_string(), "is UTF-16 text; save it as UTF-8");
//! ```

mod encoding;
mod names;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use encoding::{NotUtf8, utf8};
pub use names::{shown, shown_bytes};

/// Largest size of a file that is read as text, bytes. A list of 14 million images has about 1 GB.
pub const MAX_TEXT_BYTES: u64 = 2 << 30;

/// The text of the file at `path`: see [`utf8`].
///
/// # Errors
/// If the file cannot be read. An error of the kind [`InvalidData`](io::ErrorKind::InvalidData) holds a [`NotUtf8`], or
/// says that the file has more than [`MAX_TEXT_BYTES`].
pub fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let stored = file.metadata()?.len();
    // Capacity for a whole file of usual size and one more byte, which shows that there is no more.
    let mut bytes = Vec::with_capacity(usize::try_from(stored.min(1 << 26)).unwrap_or(0) + 1);
    file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        let what = format!("more than {} GiB of text", MAX_TEXT_BYTES >> 30);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mark =
        bytes.len() - utf8(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?.len();
    bytes.drain(..mark);
    Ok(String::from_utf8(bytes).expect("checked above"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_without_its_mark_or_refused_by_the_name_of_its_encoding() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, b"\xef\xbb\xbfsky,0\r\n").unwrap();
        assert_eq!(read(&path).unwrap(), "sky,0\r\n");
        std::fs::write(&path, b"\xfe\xff\0s\0k\0y").unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::InvalidData, "is UTF-16 text; save it as UTF-8")
        );
        assert_eq!(read(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
