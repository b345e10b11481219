//! Names of files as text. A name may hold bytes that are not UTF-8.

use std::path::Path;

/// `path` as text: each byte that is not UTF-8 as `\x` and its two hexadecimal digits, so that different names stay
/// different; the rest as it is.
pub fn shown(path: &Path) -> String {
    shown_bytes(path.as_os_str().as_encoded_bytes())
}

/// As [`shown`], of the bytes of a name.
pub fn shown_bytes(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_utf8_are_written_in_hexadecimal() {
        assert_eq!(shown(Path::new("caf\u{e9}/a b.png")), "caf\u{e9}/a b.png");
        assert_eq!(shown_bytes(b"caf\xe9/\xff\xfe.png"), "caf\\xe9/\\xff\\xfe.png");
    }
}
