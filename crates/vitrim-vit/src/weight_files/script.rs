//! TorchScript archives, as `torch.jit.save` writes them and OpenAI publishes CLIP: the module is a pickle of objects of
//! classes that the archive itself defines, whose attributes are tensors and modules. The names that lead to a tensor are
//! those of the module's `state_dict`. Code is not read.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use safetensors::Dtype;
use zip::{CompressionMethod, ZipArchive};

use crate::limits::{MAX_HEADER_BYTES, MAX_PICKLE_OPCODES};

/// Most modules around a tensor, and most tuples within one another.
const MAX_NESTING: usize = 64;
/// Longest name of a tensor, bytes.
const MAX_NAME: usize = 4096;

/// A tensor of floating-point numbers in such an archive, stored whole and row by row.
pub(super) struct Scripted {
    path: Arc<PathBuf>,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Place of its first byte in the file, and their number.
    start: u64,
    bytes: usize,
}

impl Scripted {
    /// The values' bytes, little-endian.
    ///
    /// # Errors
    /// If the file cannot be read, or is too short.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut file = File::open(&*self.path)?;
        file.seek(SeekFrom::Start(self.start))?;
        let mut bytes = vec![0; self.bytes];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The tensors of floating-point numbers in the archive `path`, by the attributes that lead to them, joined by dots; `None`
/// if it is no TorchScript archive. The number of opcodes must have been checked.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn tensors(path: &Path) -> Result<Option<BTreeMap<String, Scripted>>, String> {
    let file = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
    let Ok(mut archive) = ZipArchive::new(file) else { return Ok(None) };
    let of_code = |name: &str| name.strip_suffix("constants.pkl").map(str::to_owned);
    let Some(root) = archive.file_names().flatten().find_map(|name| of_code(&name)) else { return Ok(None) };
    let mut pickle = Vec::new();
    let object = archive.by_name(&format!("{root}data.pkl")).map_err(|e| e.to_string())?;
    object.take(MAX_HEADER_BYTES).read_to_end(&mut pickle).map_err(|e| e.to_string())?;
    let views = views(&pickle)?;
    let path = Arc::new(path.to_owned());
    let mut found = BTreeMap::new();
    for (name, view) in views {
        let Some(dtype) = view.storage.dtype else { continue };
        let wrong = |what: &str| format!("tensor '{name}' {what}");
        let key = &view.storage.key;
        let entry = archive.by_name(&format!("{root}data/{key}")).map_err(|_| wrong("has no data"))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(wrong("is compressed"));
        }
        let whole = view.shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side));
        let [first, bytes] = [Some(view.offset), whole]
            .map(|count| count.and_then(|count| count.checked_mul(dtype.bitsize() / 8)));
        let end = first.zip(bytes).and_then(|(first, bytes)| first.checked_add(bytes));
        let (Some(first), Some(bytes), true) =
            (first, bytes, end.is_some_and(|end| end as u64 <= entry.size()))
        else {
            return Err(wrong("is larger than its data"));
        };
        if !view.is_whole() {
            return Err(wrong("is not stored row by row; save a contiguous state_dict instead"));
        }
        let start = entry.data_start().ok_or_else(|| wrong("has no data"))? + first as u64;
        let tensor = Scripted { path: path.clone(), dtype, shape: view.shape.clone(), start, bytes };
        found.insert(name, tensor);
    }
    Ok(Some(found))
}

/// The tensors in `pickle`, by the attributes that lead to them.
fn views(pickle: &[u8]) -> Result<BTreeMap<String, Rc<View>>, String> {
    let mut machine = Machine::default();
    let module = machine.run(pickle)?;
    let mut views = BTreeMap::new();
    name(&module, "", 0, &mut 0, &mut views)?;
    Ok(views)
}

/// A value that the pickle makes. Clones are cheap, whatever they hold.
#[derive(Clone)]
enum Value {
    Text(Rc<str>),
    Count(i64),
    /// Module and name of a class.
    Class(Rc<str>),
    /// Its items, and the number of tuples within one another.
    Tuple(Rc<[Value]>, usize),
    Storage(Rc<Storage>),
    Tensor(Rc<View>),
    /// A dictionary, or the attributes of an object.
    Entries(Rc<RefCell<Vec<Entry>>>),
    /// What no name of a tensor leads through.
    Other,
    /// The beginning of a tuple or of entries.
    Mark,
}

/// A key and its value.
type Entry = (Rc<str>, Value);

struct Storage {
    key: Rc<str>,
    /// `None` for integers, which are no weights.
    dtype: Option<Dtype>,
}

/// A tensor: `shape` values of a storage from `offset` on.
struct View {
    storage: Rc<Storage>,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl View {
    /// Whether the values follow one another, row by row.
    fn is_whole(&self) -> bool {
        let mut next = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(side, stride)| {
            let follows = *side == 1 || *stride == next;
            next = next.saturating_mul(*side);
            follows
        })
    }
}

/// Adds the tensors that `value` leads to, below the name `above`. `seen` counts the values on the way, since a module may
/// stand in many places.
fn name(
    value: &Value,
    above: &str,
    depth: usize,
    seen: &mut usize,
    to: &mut BTreeMap<String, Rc<View>>,
) -> Result<(), String> {
    *seen += 1;
    match value {
        _ if *seen > MAX_PICKLE_OPCODES => Err("it has too many attributes".to_owned()),
        Value::Tensor(_) | Value::Entries(_) if above.len() > MAX_NAME => {
            Err("its attributes have too long names".to_owned())
        }
        Value::Tensor(view) => {
            to.insert(above.to_owned(), view.clone());
            Ok(())
        }
        Value::Entries(_) if depth == MAX_NESTING => Err("its modules are nested too deeply".to_owned()),
        Value::Entries(entries) => {
            for (key, value) in entries.borrow().iter() {
                let dot = if above.is_empty() { "" } else { "." };
                name(value, &format!("{above}{dot}{key}"), depth + 1, seen, to)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The part of Python's unpickler that TorchScript's pickles need.
#[derive(Default)]
struct Machine {
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    /// All entries there are. They are emptied one by one in the end: dropping a chain of them would recurse, and a circle
    /// would stay.
    entries: Vec<Rc<RefCell<Vec<Entry>>>>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.entries.iter().for_each(|entries| entries.borrow_mut().clear());
    }
}

impl Machine {
    /// The object of `pickle`.
    fn run(&mut self, pickle: &[u8]) -> Result<Value, String> {
        let mut rest = pickle;
        loop {
            let [opcode] = take::<1>(&mut rest)?;
            match opcode {
                b'.' => return self.pop(),
                0x80 => drop(take::<1>(&mut rest)?),
                b'c' => {
                    let (module, name) = (line(&mut rest)?, line(&mut rest)?);
                    self.stack.push(Value::Class(format!("{module} {name}").into()));
                }
                b'q' => self.keep(u32::from(take::<1>(&mut rest)?[0]))?,
                b'r' => self.keep(u32::from_le_bytes(take(&mut rest)?))?,
                b'h' => self.recall(u32::from(take::<1>(&mut rest)?[0]))?,
                b'j' => self.recall(u32::from_le_bytes(take(&mut rest)?))?,
                b'X' => {
                    let length = u32::from_le_bytes(take(&mut rest)?) as usize;
                    let (text, after) = rest.split_at_checked(length).ok_or_else(cut)?;
                    rest = after;
                    self.stack.push(Value::Text(String::from_utf8_lossy(text).into()));
                }
                b'K' => self.count(i64::from(take::<1>(&mut rest)?[0])),
                b'M' => self.count(i64::from(u16::from_le_bytes(take(&mut rest)?))),
                b'J' => self.count(i64::from(i32::from_le_bytes(take(&mut rest)?))),
                0x8a => {
                    let [length] = take::<1>(&mut rest)?;
                    let (digits, after) = rest.split_at_checked(length.into()).ok_or_else(cut)?;
                    rest = after;
                    let mut bytes = [if digits.last().is_some_and(|b| *b > 0x7f) { 0xff } else { 0 }; 8];
                    let room = bytes.get_mut(..digits.len());
                    room.ok_or("it has a huge number")?.copy_from_slice(digits);
                    self.count(i64::from_le_bytes(bytes));
                }
                b'G' => {
                    take::<8>(&mut rest)?;
                    self.stack.push(Value::Other);
                }
                b'N' | 0x88 | 0x89 | b']' => self.stack.push(Value::Other),
                b'(' => self.stack.push(Value::Mark),
                b')' => self.tuple(Vec::new())?,
                b'}' => self.dictionary(),
                b't' => {
                    let items = self.above_mark()?;
                    self.tuple(items)?;
                }
                0x85..=0x87 => {
                    let first = self.stack.len().checked_sub(usize::from(opcode - 0x84)).ok_or_else(cut)?;
                    let items = self.stack.split_off(first);
                    self.tuple(items)?;
                }
                b'e' => drop(self.above_mark()?),
                b'a' => drop(self.pop()?),
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(vec![key, value])?;
                }
                b'u' => {
                    let items = self.above_mark()?;
                    self.set(items)?;
                }
                // An object of a class of the archive, which has no more than attributes.
                0x81 => {
                    self.pop()?;
                    self.pop()?;
                    self.dictionary();
                }
                b'b' => {
                    let attributes = self.pop()?;
                    self.pop()?;
                    self.stack.push(attributes);
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.stack.push(storage(&id)?);
                }
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    match function {
                        Value::Class(name) if &*name == "collections OrderedDict" => self.dictionary(),
                        _ => self.stack.push(called(&function, &arguments)?),
                    }
                }
                other => return Err(format!("opcode 0x{other:02x} is none that TorchScript writes")),
            }
        }
    }

    fn tuple(&mut self, items: Vec<Value>) -> Result<(), String> {
        let within = |value: &Value| if let Value::Tuple(_, depth) = value { *depth } else { 0 };
        let depth = 1 + items.iter().map(within).max().unwrap_or(0);
        if depth > MAX_NESTING {
            return Err("its tuples are nested too deeply".to_owned());
        }
        self.stack.push(Value::Tuple(items.into(), depth));
        Ok(())
    }

    fn dictionary(&mut self) {
        let entries = Rc::default();
        self.entries.push(Rc::clone(&entries));
        self.stack.push(Value::Entries(entries));
    }

    fn count(&mut self, count: i64) {
        self.stack.push(Value::Count(count));
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(cut)
    }

    fn keep(&mut self, place: u32) -> Result<(), String> {
        self.memo.insert(place, self.stack.last().ok_or_else(cut)?.clone());
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        self.stack.push(self.memo.get(&place).ok_or_else(cut)?.clone());
        Ok(())
    }

    /// What is above the last mark, which is removed.
    fn above_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark)).ok_or_else(cut)?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    /// Adds keys and values in turn to the dictionary on top.
    fn set(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Entries(entries)) = self.stack.last() else { return Err(cut()) };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            if let Value::Text(key) = key {
                entries.borrow_mut().push((key, value));
            }
        }
        Ok(())
    }
}

/// The storage that a persistent id names: `("storage", class, key, device, count)`.
fn storage(id: &Value) -> Result<Value, String> {
    let Value::Tuple(fields, _) = id else { return Err(cut()) };
    let [_, Value::Class(class), Value::Text(key), ..] = &fields[..] else { return Err(cut()) };
    let dtype = match &**class {
        "torch FloatStorage" => Some(Dtype::F32),
        "torch HalfStorage" => Some(Dtype::F16),
        "torch BFloat16Storage" => Some(Dtype::BF16),
        _ => None,
    };
    Ok(Value::Storage(Rc::new(Storage { key: key.clone(), dtype })))
}

/// What a call gives: a tensor, or something that is no weight.
fn called(function: &Value, arguments: &Value) -> Result<Value, String> {
    let (Value::Class(function), Value::Tuple(arguments, _)) = (function, arguments) else {
        return Err(cut());
    };
    match &**function {
        "torch._utils _rebuild_tensor_v2" => {
            let [
                Value::Storage(storage),
                Value::Count(offset),
                Value::Tuple(shape, _),
                Value::Tuple(strides, _),
                ..,
            ] = &arguments[..]
            else {
                return Err(cut());
            };
            let count = |value: &Value| match value {
                Value::Count(count) => usize::try_from(*count).map_err(|_| cut()),
                _ => Err(cut()),
            };
            let counts = |values: &[Value]| values.iter().map(count).collect::<Result<Vec<_>, _>>();
            let view = View {
                storage: storage.clone(),
                offset: count(&Value::Count(*offset))?,
                shape: counts(shape)?,
                strides: counts(strides)?,
            };
            if view.shape.len() != view.strides.len() {
                return Err(cut());
            }
            Ok(Value::Tensor(Rc::new(view)))
        }
        _ => Ok(Value::Other),
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (bytes, after) = rest.split_first_chunk().ok_or_else(cut)?;
    *rest = after;
    Ok(*bytes)
}

fn line<'p>(rest: &mut &'p [u8]) -> Result<&'p str, String> {
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(cut)?;
    let text = std::str::from_utf8(&rest[..end]).map_err(|_| cut())?;
    *rest = &rest[end + 1..];
    Ok(text)
}

fn cut() -> String {
    "its pickle is damaged, or none that TorchScript writes".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tensors in the pickle that `parts` make.
    fn run(parts: &[&[u8]]) -> Result<BTreeMap<String, Rc<View>>, String> {
        views(&parts.concat())
    }

    const OBJECT: &[u8] = b"c__torch__.visual\nMine\n)\x81}(";
    const WEIGHT: &[u8] = b"X\x06\0\0\0weightctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage\
        ctorch\nHalfStorage\nX\x01\0\0\x007X\x03\0\0\0cpuK\x06tQK\x01(K\x02K\x03t(K\x03K\x01t\x89ccollections\n\
        OrderedDict\n)RtR";

    #[test]
    fn names_lead_through_objects() {
        let inner: &[&[u8]] = &[OBJECT, WEIGHT, b"X\x04\0\0\0flag\x88ub"];
        let views = run(&[b"\x80\x02", OBJECT, b"X\x05\0\0\0inner", &inner.concat(), b"ub."]).unwrap();
        let view = &views["inner.weight"];
        assert_eq!((views.len(), view.offset, &view.shape[..]), (1, 1, &[2, 3][..]));
        assert_eq!((&*view.storage.key, view.storage.dtype), ("7", Some(Dtype::F16)));
        assert!(view.is_whole());
        let columns =
            View { storage: view.storage.clone(), offset: 0, shape: vec![2, 3], strides: vec![1, 2] };
        assert!(!columns.is_whole());
    }

    #[test]
    fn damaged_and_endless_pickles_are_refused() {
        for (parts, word) in [
            (&[&b"\x80"[..]][..], "damaged"),
            (&[b"t."], "damaged"),
            (&[b"h\x05."], "damaged"),
            (&[b"\x87."], "damaged"),
            (&[b"X\xff\xff\xff\xffa."], "damaged"),
            (&[b"ios\nsystem\n."], "opcode 0x69"),
            (&[b"cos\nsystem\nX\x02\0\0\0lsR."], "damaged"),
            // Tuples and dictionaries within one another, which would overflow the stack when they are dropped.
            (&[b"K\x01", &[0x85; 300_000], b"."], "nested"),
            (&[b"}q\0", &b"}(X\x01\0\0\0ah\0uq\0".repeat(300_000), b"."], "nested"),
            // Two dictionaries in each: twice as many ways with each level.
            (&[b"}q\0", &b"}(X\x01\0\0\0ah\0X\x01\0\0\0bh\0uq\0".repeat(60), b"."], "too many"),
            (&[b"}(X", &70_000u32.to_le_bytes(), &[b'a'; 70_000], b"}u."], "too long"),
            // A dictionary that is in itself.
            (&[b"}q\0(X\x01\0\0\0ah\0u."], "nested"),
        ] {
            let error = run(parts).err().expect("it is damaged");
            assert!(error.contains(word), "no '{word}' in: {error}");
        }
        // A call of another function gives nothing, and does nothing.
        assert!(run(&[b"cos\nsystem\n(X\x02\0\0\0lstR."]).unwrap().is_empty());
    }
}
