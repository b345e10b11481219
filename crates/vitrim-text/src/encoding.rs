//! UTF-8 with or without a byte order mark, and the encodings that are none.

/// Bytes that are not UTF-8 text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUtf8 {
    /// The text is in another Unicode encoding.
    #[error("is {0} text; save it as UTF-8")]
    Other(&'static str),
    /// A byte that UTF-8 cannot have at its place, as in Latin-1 or Windows-1252.
    #[error("is not UTF-8 text: byte 0x{byte:02x} in line {line}; save it as UTF-8")]
    Byte {
        /// The line, from 1.
        line: usize,
        /// The byte.
        byte: u8,
    },
    /// A zero byte, which no text has.
    #[error("is not text: byte 0x00 in line {line}")]
    Zero {
        /// The line, from 1.
        line: usize,
    },
}

/// The text in `bytes`, without the byte order mark that may precede it.
///
/// # Errors
/// [`NotUtf8`]. UTF-16 and UTF-32 are also recognised without their marks, by the zero bytes of their ASCII characters.
pub fn utf8(bytes: &[u8]) -> Result<&str, NotUtf8> {
    let (wide, short) = (bytes.first_chunk::<4>(), bytes.first_chunk::<2>());
    let has_zeros_of_utf32 = wide.is_some_and(|first| {
        matches!(first.map(|byte| byte == 0), [true, true, true, false] | [false, true, true, true])
    });
    let has_zero_of_utf16 = short.is_some_and(|first| (first[0] == 0) != (first[1] == 0));
    // The mark of little-endian UTF-32 begins with that of UTF-16.
    let other = match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        _ if has_zeros_of_utf32 => Some("UTF-32"),
        _ if has_zero_of_utf16 => Some("UTF-16"),
        _ => None,
    };
    if let Some(name) = other {
        return Err(NotUtf8::Other(name));
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let line_of = |at: usize| 1 + text[..at].iter().filter(|byte| **byte == b'\n').count();
    let decoded = std::str::from_utf8(text).map_err(|error| {
        let at = error.valid_up_to();
        NotUtf8::Byte { line: line_of(at), byte: text[at] }
    })?;
    match decoded.find('\0') {
        None => Ok(decoded),
        Some(at) => Err(NotUtf8::Zero { line: line_of(at) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text` in UTF-16 or UTF-32, in either order of bytes, with a mark or without.
    fn encoded(text: &str, wide: bool, big: bool, mark: bool) -> Vec<u8> {
        let text = if mark { format!("\u{feff}{text}") } else { text.to_owned() };
        let bytes = |value: u32, size: usize| {
            let all = value.to_be_bytes();
            let mut one = all[4 - size..].to_vec();
            if !big {
                one.reverse();
            }
            one
        };
        match wide {
            true => text.chars().flat_map(|c| bytes(c.into(), 4)).collect(),
            false => text.encode_utf16().flat_map(|unit| bytes(unit.into(), 2)).collect(),
        }
    }

    #[test]
    fn a_mark_is_dropped_once() {
        assert_eq!(utf8(b""), Ok(""));
        assert_eq!(utf8("caf\u{e9}\n".as_bytes()), Ok("caf\u{e9}\n"));
        assert_eq!(utf8("\u{feff}caf\u{e9}\n".as_bytes()), Ok("caf\u{e9}\n"));
        assert_eq!(utf8("\u{feff}".as_bytes()), Ok(""));
    }

    #[test]
    fn other_encodings_are_refused_by_name() {
        for (wide, name) in [(false, "UTF-16"), (true, "UTF-32")] {
            for (big, mark) in [(false, false), (false, true), (true, false), (true, true)] {
                let bytes = encoded("{\"sky\": 0}\n", wide, big, mark);
                assert_eq!(utf8(&bytes), Err(NotUtf8::Other(name)), "{wide} {big} {mark}");
            }
        }
        let latin = b"path,label\nb.png,caf\xe9\n";
        assert_eq!(utf8(latin), Err(NotUtf8::Byte { line: 2, byte: 0xe9 }));
        assert_eq!(utf8(b"abcd\n\0"), Err(NotUtf8::Zero { line: 2 }));
    }
}
