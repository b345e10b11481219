//! Images from Python: paths, PIL images, and HWC arrays of bytes.

use std::path::PathBuf;

use image::RgbImage;
use numpy::{PyArray3, PyArrayDescrMethods, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods, dtype};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use vitrim_data::{Decoding, Transform, guarded, list_images};

use crate::pixels::tuple;
use crate::refusal::refused;

/// An image that is still to be cropped.
pub enum Given {
    /// A file, decoded on demand.
    File(PathBuf),
    /// Pixels from Python.
    Decoded(RgbImage),
}

impl Given {
    /// The crop that is the backbone's input.
    ///
    /// # Errors
    /// If the file cannot be read or decoded.
    pub fn crop(&self, transform: &Transform) -> vitrim::Result<RgbImage> {
        Ok(match self {
            Given::File(path) => {
                let crop = || Ok(transform.cropped(&Decoding::default().load(path)?));
                guarded(|| path.display().to_string(), crop)?
            }
            Given::Decoded(image) => transform.cropped(image),
        })
    }

    /// The path of the file; `None` for pixels.
    pub fn path(&self) -> Option<String> {
        match self {
            Given::File(path) => Some(path.display().to_string()),
            Given::Decoded(_) => None,
        }
    }
}

/// One image or many; a folder means the images below it.
///
/// # Errors
/// `TypeError` or `ValueError` if one of them is not an image; the message has its position.
pub fn images(given: &Bound<'_, PyAny>) -> PyResult<Vec<Given>> {
    let mut all = Vec::new();
    if let Some(one) = image(given, 0)? {
        all.extend(one);
        return Ok(all);
    }
    let many = given.try_iter().map_err(|_| no_image(given, 0))?;
    for (place, each) in many.enumerate() {
        let each = each?;
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
            _ => Ok(Some(vec![Given::Decoded(bytes(array, place)?)])),
        };
    }
    // PIL images are recognised by their methods, so that PIL need not be installed.
    if given.hasattr("convert")? && given.hasattr("getbands")? {
        let rgb = given.call_method1("convert", ("RGB",))?;
        let array = given.py().import("numpy")?.call_method1("asarray", (rgb,))?;
        return Ok(Some(vec![Given::Decoded(bytes(array.cast::<PyUntypedArray>()?, place)?)]));
    }
    Ok(None)
}

/// Copies `array: [H, W, 3]` of bytes.
fn bytes(array: &Bound<'_, PyUntypedArray>, place: usize) -> PyResult<RgbImage> {
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
        "image {place} is of type {name}; give a path, a PIL image, or a uint8 array of shape (H, W, 3)"
    ))
}
