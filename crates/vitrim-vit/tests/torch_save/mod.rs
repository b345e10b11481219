//! Writes files as `torch.save` does, in its older layout of pickles in a row, which needs no archive.

use std::path::Path;

/// A Python value.
pub enum Py {
    Int(i64),
    Str(String),
    Dict(Vec<(String, Py)>),
    /// A float tensor of the given shape.
    Tensor(Vec<usize>, Vec<f32>),
    /// A tensor of the given shape that repeats one value, as `expand` makes it.
    Repeated(Vec<usize>, f32),
    /// `module.class(*arguments)` with this `__dict__`.
    Object(&'static str, &'static str, Vec<Py>, Vec<(String, Py)>),
}

impl Py {
    pub fn str(text: &str) -> Py {
        Py::Str(text.to_owned())
    }

    pub fn dict(entries: impl IntoIterator<Item = (&'static str, Py)>) -> Py {
        Py::Dict(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

/// Writes `value` to `path`.
pub fn save(path: &Path, value: &Py) {
    let info = Py::dict([("protocol_version", Py::Int(1001))]);
    let mut bytes = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    let mut storages = Vec::new();
    // The header's only flag that is read.
    bytes.extend(b"\x80\x02");
    put(&mut bytes, &info, &mut storages);
    put(&mut bytes, &Py::str("little_endian"), &mut storages);
    bytes.extend(b"\x88s.\x80\x02");
    put(&mut bytes, value, &mut storages);
    bytes.extend(b".\x80\x02](");
    (0..storages.len()).for_each(|key| put(&mut bytes, &Py::Str(key.to_string()), &mut Vec::new()));
    bytes.extend(b"e.");
    for values in storages {
        bytes.extend((values.len() as i64).to_le_bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    std::fs::write(path, bytes).unwrap();
}

/// Appends the opcodes that put `value` on the stack; tensors add their values to `storages`.
fn put(bytes: &mut Vec<u8>, value: &Py, storages: &mut Vec<Vec<f32>>) {
    match value {
        Py::Int(number) => {
            bytes.push(b'J');
            bytes.extend(i32::try_from(*number).unwrap().to_le_bytes());
        }
        Py::Str(text) => {
            bytes.push(b'X');
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.bytes());
        }
        Py::Dict(entries) => {
            bytes.extend(b"}(");
            for (key, value) in entries {
                put(bytes, &Py::Str(key.clone()), storages);
                put(bytes, value, storages);
            }
            bytes.push(b'u');
        }
        Py::Tensor(shape, values) => {
            let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
            tensor(bytes, shape, &(0..shape.len()).map(stride).collect::<Vec<_>>(), values, storages);
        }
        Py::Repeated(shape, value) => tensor(bytes, shape, &vec![0; shape.len()], &[*value], storages),
        Py::Object(module, class, arguments, attributes) => {
            bytes.extend(format!("c{module}\n{class}\n(").bytes());
            arguments.iter().for_each(|argument| put(bytes, argument, storages));
            bytes.extend(b"tR}(");
            for (key, value) in attributes {
                put(bytes, &Py::Str(key.clone()), storages);
                put(bytes, value, storages);
            }
            bytes.extend(b"ub");
        }
    }
}

fn tensor(
    bytes: &mut Vec<u8>,
    shape: &[usize],
    stride: &[usize],
    values: &[f32],
    storages: &mut Vec<Vec<f32>>,
) {
    let number = |bytes: &mut Vec<u8>, n: usize| put(bytes, &Py::Int(n as i64), &mut Vec::new());
    let text = |bytes: &mut Vec<u8>, text: &str| put(bytes, &Py::str(text), &mut Vec::new());
    bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(bytes, "storage");
    bytes.extend(b"ctorch\nFloatStorage\n");
    text(bytes, &storages.len().to_string());
    text(bytes, "cpu");
    number(bytes, values.len());
    // The storage's persistent id, then offset, shape, stride, whether gradients are wanted, hooks.
    bytes.extend(b"NtQ");
    number(bytes, 0);
    for sizes in [shape, stride] {
        bytes.push(b'(');
        sizes.iter().for_each(|n| number(bytes, *n));
        bytes.push(b't');
    }
    bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    storages.push(values.to_vec());
}
