//! Counts the opcodes of the pickles in a file of `torch.save` before they are run: each makes an object of a hundred
//! bytes in memory, and in a compressed archive a million of them take a kilobyte.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use zip::ZipArchive;

use crate::limits::MAX_PICKLE_OPCODES;

/// Pickles in a row of the older layout: magic number, version, system, the object, storages' keys.
const IN_A_ROW: usize = 5;
const STOP: u8 = b'.';

/// Checks the number of opcodes in the file `path`. What is no pickle is left to the reader.
///
/// # Errors
/// That there are too many.
pub(super) fn check(path: &Path, is_archive: bool) -> io::Result<()> {
    let file = BufReader::new(File::open(path)?);
    if !is_archive {
        return count(file, IN_A_ROW);
    }
    let Ok(mut archive) = ZipArchive::new(file) else { return Ok(()) };
    for index in 0..archive.len() {
        let Ok(entry) = archive.by_index(index) else { continue };
        if entry.name().is_ok_and(|name| name.ends_with("data.pkl")) {
            count(BufReader::new(entry), 1)?;
        }
    }
    Ok(())
}

/// Counts the opcodes of `pickles` pickles.
fn count(mut reader: impl BufRead, pickles: usize) -> io::Result<()> {
    let mut opcodes = 0;
    for _ in 0..pickles {
        loop {
            let mut opcode = [0];
            if reader.read_exact(&mut opcode).is_err() || opcode == [STOP] {
                break;
            }
            opcodes += 1;
            if opcodes > MAX_PICKLE_OPCODES {
                return Err(io::Error::other(format!("it has more than {MAX_PICKLE_OPCODES} opcodes")));
            }
            if skip_argument(&mut reader, opcode[0]).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Skips the argument of `opcode` (Python's `pickletools.py`).
fn skip_argument(reader: &mut impl BufRead, opcode: u8) -> io::Result<()> {
    match opcode {
        b'K' | b'h' | b'q' | 0x80 | 0x82 => skip(reader, 1),
        b'M' | 0x83 => skip(reader, 2),
        b'J' | b'j' | b'r' | 0x84 => skip(reader, 4),
        b'G' | 0x95 => skip(reader, 8),
        b'U' | b'C' | 0x8a | 0x8c => skip_counted::<1>(reader),
        b'T' | b'X' | b'B' | 0x8b => skip_counted::<4>(reader),
        0x8d | 0x8e | 0x96 => skip_counted::<8>(reader),
        b'I' | b'L' | b'F' | b'S' | b'V' | b'g' | b'p' | b'P' => skip_line(reader),
        b'c' | b'i' => skip_line(reader).and_then(|()| skip_line(reader)),
        _ => Ok(()),
    }
}

/// Skips `bytes` bytes.
fn skip(reader: &mut impl BufRead, bytes: u64) -> io::Result<()> {
    let skipped = io::copy(&mut reader.take(bytes), &mut io::sink())?;
    if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Skips as many bytes as the next N say.
fn skip_counted<const N: usize>(reader: &mut impl BufRead) -> io::Result<()> {
    let mut length = [0; 8];
    reader.read_exact(&mut length[..N])?;
    skip(reader, u64::from_le_bytes(length))
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_no_opcodes() {
        let dots = |length: u8| [&[b'X', length, 0, 0, 0][..], &vec![STOP; length.into()]].concat();
        let two =
            [b"\x80\x02".to_vec(), dots(9), b"cos\nsystem\n.".to_vec(), dots(3), b".".to_vec()].concat();
        assert!(count(&two[..], 2).is_ok());
        let dictionaries = b"}".repeat(MAX_PICKLE_OPCODES + 1);
        assert!(count(&dictionaries[..], 1).is_err());
        let text = [&b"X"[..], &(MAX_PICKLE_OPCODES as u32 + 1).to_le_bytes(), &dictionaries, b"."].concat();
        assert!(count(&text[..], 1).is_ok(), "it is one text");
        for cut in [b"X\xff".as_slice(), b"c", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert!(count(cut, 1).is_ok(), "the reader says what is wrong");
        }
    }
}
