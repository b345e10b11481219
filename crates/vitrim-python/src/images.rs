//! Images from Python: paths, PIL images, HWC arrays of bytes, and encoded images as bytes or as open files.

use std::path::PathBuf;

use image::RgbImage;
use numpy::{PyArray3, PyArrayDescrMethods, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods, dtype};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use vitrim_data::{Decoding, MAX_ENCODED_BYTES, Transform, guarded, list_images};

use crate::pixels::tuple;
use crate::refusal::refused;

/// Bytes that are read from an open file at once.
const PART: usize = 1 << 20;

/// An image that is still to be cropped.
pub enum Given {
    /// A file, decoded on demand.
    File(PathBuf),
    /// The bytes of an image file, and its name in errors.
    Encoded { name: String, bytes: Vec<u8> },
    /// Pixels from Python.
    Decoded(RgbImage),
}

impl Given {
    /// The crop that is the backbone's input.
    ///
    /// # Errors
    /// If the file cannot be read, or the bytes cannot be decoded.
    pub fn crop(&self, transform: &Transform) -> vitrim::Result<RgbImage> {
        Ok(match self {
            Given::File(path) => {
                let crop = || Ok(transform.cropped(&Decoding::default().load(path)?));
                guarded(|| path.display().to_string(), crop)?
            }
            Given::Encoded { name, bytes } => {
                let crop = || Ok(transform.cropped(&Decoding::default().decode(bytes, name)?));
                guarded(|| name.clone(), crop)?
            }
            Given::Decoded(image) => transform.cropped(image),
        })
    }

    /// The path of the file; `None` for what was given as an object.
    pub fn path(&self) -> Option<String> {
        match self {
            Given::File(path) => Some(path.display().to_string()),
            Given::Encoded { .. } | Given::Decoded(_) => None,
        }
    }
}

/// One image or many; a folder means the images below it.
///
/// # Errors
/// `TypeError` or `ValueError` if one of them is not an image; the message has its position. What a file object raises.
pub fn images(given: &Bound<'_, PyAny>) -> PyResult<Vec<Given>> {
    let mut all = Vec::new();
    if let Some(one) = image(given, 0)? {
        all.extend(one);
        return Ok(all);
    }
    let many = given.try_iter().map_err(|_| no_image(given, 0))?;
    for (place, each) in many.enumerate() {
        let each = each?;
        // Reading and converting are Python's, and may be slow.
        given.py().check_signals()?;
        all.extend(image(&each, place)?.ok_or_else(|| no_image(&each, place))?);
    }
    Ok(all)
}

/// The image or images in `given`; `None` if it is not an image itself.
fn image(given: &Bound<'_, PyAny>, place: usize) -> PyResult<Option<Vec<Given>>> {
    if let Ok(path) = given.extract::<PathBuf>() {
        let files = given.py().detach(|| list_images(&path)).map_err(refused)?;
        return Ok(Some(files.into_iter().map(Given::File).collect()));
    }
    if let Ok(array) = given.cast::<PyUntypedArray>() {
        // An array of four axes is a batch of images.
        return match array.ndim() {
            4 => Ok(None),
            _ => Ok(Some(vec![Given::Decoded(pixels(array, place)?)])),
        };
    }
    if let Some(bytes) = buffer(given)? {
        return Ok(Some(vec![encoded(bytes, format!("image {place}"))?]));
    }
    // PIL images are recognised by their methods, so that PIL need not be installed.
    if given.hasattr("convert")? && given.hasattr("getbands")? {
        let rgb = given.call_method1("convert", ("RGB",))?;
        let array = given.py().import("numpy")?.call_method1("asarray", (rgb,))?;
        return Ok(Some(vec![Given::Decoded(pixels(array.cast::<PyUntypedArray>()?, place)?)]));
    }
    if given.hasattr("read")? {
        let name = match given.getattr("name").and_then(|name| name.extract::<PathBuf>()) {
            Ok(name) => name.display().to_string(),
            Err(_) => format!("image {place}"),
        };
        return Ok(Some(vec![encoded(contents(given, place)?, name)?]));
    }
    Ok(None)
}

/// The bytes of `given` if it is bytes, a bytearray or a memoryview.
fn buffer(given: &Bound<'_, PyAny>) -> PyResult<Option<Vec<u8>>> {
    if let Ok(bytes) = given.cast::<PyBytes>() {
        return Ok(Some(bytes.as_bytes().to_vec()));
    }
    if let Ok(bytes) = given.cast::<PyByteArray>() {
        return Ok(Some(bytes.to_vec()));
    }
    if given.is_instance_of::<PyMemoryView>() {
        return Ok(Some(given.call_method0("tobytes")?.extract()?));
    }
    Ok(None)
}

/// All bytes of the open file `file`, from its start if it can be wound back, as PIL reads it.
fn contents(file: &Bound<'_, PyAny>, place: usize) -> PyResult<Vec<u8>> {
    if file.hasattr("seek")? {
        // A pipe cannot be wound back, and is read from where it is.
        let _ = file.call_method1("seek", (0,));
    }
    let mut bytes = Vec::new();
    loop {
        let part = file.call_method1("read", (PART,))?;
        let Some(part) = buffer(&part)? else {
            let name = part.get_type().qualname()?;
            return Err(PyTypeError::new_err(format!(
                "image {place} is a file whose read() gives {name}; give one that gives bytes, as open(path, \"rb\") does"
            )));
        };
        if part.is_empty() {
            return Ok(bytes);
        }
        bytes.extend(part);
        if bytes.len() as u64 > MAX_ENCODED_BYTES {
            return Ok(bytes);
        }
    }
}

/// An image whose file has `bytes`.
fn encoded(bytes: Vec<u8>, name: String) -> PyResult<Given> {
    if bytes.is_empty() {
        return Err(refused(format!("{name}: has no bytes; give those of an image file")));
    }
    if bytes.len() as u64 > MAX_ENCODED_BYTES {
        return Err(refused(format!(
            "{name}: has more than {} MiB; is it an image?",
            MAX_ENCODED_BYTES >> 20
        )));
    }
    Ok(Given::Encoded { name, bytes })
}

/// Copies `array: [H, W, 3]` of bytes.
fn pixels(array: &Bound<'_, PyUntypedArray>, place: usize) -> PyResult<RgbImage> {
    let (found, wanted) = (array.dtype(), dtype::<u8>(array.py()));
    if !found.is_equiv_to(&wanted) {
        return Err(PyTypeError::new_err(format!(
            "image {place} is an array of {found}; give uint8 values of shape (H, W, 3), 0 to 255, before any \
             normalisation"
        )));
    }
    let shape = array.shape();
    let (Ok(&[height, width, 3]), true) = (<&[usize; 3]>::try_from(shape), !array.is_empty()) else {
        return Err(PyValueError::new_err(format!(
            "image {place} is an array of shape {}; give (H, W, 3), red, green and blue last",
            tuple(shape)
        )));
    };
    let side = |side: usize| u32::try_from(side).ok().filter(|side| *side <= vitrim_data::MAX_SIDE);
    let (Some(columns), Some(rows)) = (side(width), side(height)) else {
        return Err(PyValueError::new_err(format!(
            "image {place} has {height} x {width} pixels; each side may have {} at most",
            vitrim_data::MAX_SIDE
        )));
    };
    let values = array.cast::<PyArray3<u8>>()?.try_readonly()?.as_array().iter().copied().collect();
    Ok(RgbImage::from_raw(columns, rows, values).expect("three bytes a pixel"))
}

fn no_image(given: &Bound<'_, PyAny>, place: usize) -> PyErr {
    let name = given.get_type().qualname().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!(
        "image {place} is of type {name}; give a path, the bytes of an image file, an open file, a PIL image, or a \
         uint8 array of shape (H, W, 3)"
    ))
}
