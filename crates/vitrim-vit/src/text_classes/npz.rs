//! NumPy's npz: a zip archive of arrays in the npy format
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use half::f16;
use zip::ZipArchive;

use super::{Array, NAMES, limited};
use crate::error::{Result, VitError};
use crate::limits::MAX_CLASSES;

/// The mark at the start of an array.
const MARK: &[u8] = b"\x93NUMPY";
/// Largest header of an array, bytes: NumPy itself refuses longer ones.
const MAX_HEADER: usize = 10_000;
/// Most characters of a name.
const MAX_NAME: usize = 4096;
/// Most bytes of all names.
const MAX_NAMES: usize = 1 << 28;

/// An opened npz file.
pub(super) struct Npz(ZipArchive<BufReader<File>>);

impl Npz {
    /// Opens `path`; `None` if it is no npz file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let file = File::open(path).map_err(|source| VitError::Read { path: path.to_owned(), source })?;
        let archive = ZipArchive::new(BufReader::new(file)).ok();
        Ok(archive
            .filter(|archive| archive.file_names().any(|name| name.is_ok_and(|name| name.ends_with(".npy"))))
            .map(Npz))
    }

    /// The arrays of numbers, and the array of names.
    ///
    /// # Errors
    /// If an array is damaged, too large, or of another type.
    pub fn read(&mut self) -> Result<(Vec<(String, Array)>, Option<Vec<String>>), String> {
        let (mut arrays, mut names) = (Vec::new(), None);
        for index in 0..self.0.len() {
            let mut entry = self.0.by_index(index).map_err(|error| format!("damaged npz file: {error}"))?;
            let name = entry.name().map_err(|error| format!("damaged npz file: {error}"))?.into_owned();
            let Some(name) = name.strip_suffix(".npy") else { continue };
            let header = Header::read(&mut entry).map_err(|reason| format!("{name}: {reason}"))?;
            if name == NAMES {
                names = Some(header.texts(&mut entry).map_err(|reason| format!("{name}: {reason}"))?);
            } else {
                limited(name, &header.shape)?;
                let values = header.numbers(&mut entry).map_err(|reason| format!("{name}: {reason}"))?;
                arrays.push((name.to_owned(), (header.shape, values)));
            }
        }
        Ok((arrays, names))
    }
}

/// The header of an array.
struct Header {
    /// NumPy's code of the type, as in `<f4`.
    kind: String,
    shape: Vec<usize>,
}

impl Header {
    fn read(from: &mut impl Read) -> Result<Self, String> {
        let damaged = |_| "the array is damaged".to_owned();
        let mut start = [0; 8];
        from.read_exact(&mut start).map_err(damaged)?;
        if !start.starts_with(MARK) {
            return Err("not an array of NumPy's".into());
        }
        let mut length = [0; 4];
        let bytes = if start[6] == 1 { 2 } else { 4 };
        from.read_exact(&mut length[..bytes]).map_err(damaged)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEADER {
            return Err("the array's header is too long".into());
        }
        let mut header = vec![0; length];
        from.read_exact(&mut header).map_err(damaged)?;
        Self::parse(&String::from_utf8_lossy(&header)).ok_or_else(|| "the array's header is damaged".into())
    }

    /// Parses a dictionary as Python prints it: `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
    fn parse(text: &str) -> Option<Self> {
        let after = |key: &str| {
            let (_, rest) = text.split_once(&format!("'{key}'"))?;
            Some(rest.trim_start().strip_prefix(':')?.trim_start())
        };
        let kind = after("descr")?
            .strip_prefix('\'')
            .and_then(|rest| rest.split_once('\''))
            .map_or("", |(kind, _)| kind);
        let shape = after("shape")?.strip_prefix('(')?.split_once(')')?.0;
        let sides = shape.split(',').map(str::trim).filter(|side| !side.is_empty());
        let shape: Vec<usize> = sides.map(|side| side.parse().ok()).collect::<Option<_>>()?;
        // The order of one dimension is the same in both.
        let fortran =
            after("fortran_order")?.starts_with("True") && shape.iter().filter(|side| **side > 1).count() > 1;
        Some(Header {
            kind: if fortran { format!("{kind} in Fortran order") } else { kind.to_owned() },
            shape,
        })
    }

    /// The values of an array of numbers.
    fn numbers(&self, from: &mut impl Read) -> Result<Vec<f32>, String> {
        let (bytes, value): (usize, fn(&[u8]) -> f32) = match self.kind.as_str() {
            "<f4" => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            "<f8" => (8, |b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32),
            "<f2" => (2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
            other => {
                return Err(format!(
                    "type '{other}' is not read; store arrays of float16, float32 or float64, in C order"
                ));
            }
        };
        let count: usize = self.shape.iter().product();
        let data = self.bytes(from, count * bytes)?;
        Ok(data.chunks_exact(bytes).map(value).collect())
    }

    /// The values of an array of strings.
    fn texts(&self, from: &mut impl Read) -> Result<Vec<String>, String> {
        let strings = "store an array of strings: numpy.array(names)";
        let (unit, size) = match self.kind.split_at_checked(2) {
            Some(("<U", size)) => (4, size),
            Some(("|S", size)) => (1, size),
            _ => return Err(format!("type '{}' is not read; {strings}", self.kind)),
        };
        let size = size.parse().ok().filter(|size| (1..=MAX_NAME).contains(size));
        let (Some(size), [count]) = (size, self.shape.as_slice()) else {
            return Err(format!("not one list of names; {strings}"));
        };
        let bytes =
            count.checked_mul(size * unit).filter(|bytes| *bytes <= MAX_NAMES && *count <= MAX_CLASSES);
        let data = self.bytes(from, bytes.ok_or("too many names")?)?;
        let name = |cell: &[u8]| {
            let text: Option<String> = match unit {
                1 => String::from_utf8(cell.to_vec()).ok(),
                _ => {
                    let points = cell.as_chunks::<4>().0.iter().map(|point| u32::from_le_bytes(*point));
                    points.map(char::from_u32).collect()
                }
            };
            text.map(|text| text.trim_end_matches('\0').to_owned()).ok_or("a name is no text")
        };
        Ok(data.chunks_exact(size * unit).map(name).collect::<Result<_, _>>()?)
    }

    /// The `count` bytes of the data; memory is taken as they are read.
    fn bytes(&self, from: &mut impl Read, count: usize) -> Result<Vec<u8>, String> {
        let mut data = Vec::new();
        from.take(count as u64)
            .read_to_end(&mut data)
            .map_err(|error| format!("the array is damaged: {error}"))?;
        if data.len() != count {
            return Err("the array is shorter than its header says".into());
        }
        Ok(data)
    }
}
