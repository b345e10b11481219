//! Pixels from Python: `[B, 3, H, W]`, f32, C-contiguous, borrowed and not copied.

use numpy::{
    Element, PyArray4, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray4, PyUntypedArray,
    PyUntypedArrayMethods, dtype,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use vitrim_vit::VitSpec;

/// The advice in every error.
const CURE: &str = "Model.preprocess(images) makes them";

/// `given`, a NumPy array or an object that supports DLPack, as pixels of `spec`.
///
/// # Errors
/// `TypeError` for another type of object or of values, `ValueError` for another shape or layout, or a value that is
/// not finite; each message says what was given and what to do.
pub fn pixels<'py>(given: &Bound<'py, PyAny>, spec: &VitSpec) -> PyResult<PyReadonlyArray4<'py, f32>> {
    let array = as_array(given)?;
    check_dtype::<f32>(&array)?;
    let shape = array.shape();
    // A NaFlex backbone takes any size; the pass checks that patches tile it.
    let [height, width] = match shape {
        [_, 3, height, width] if spec.is_naflex() => [*height, *width],
        _ => spec.img_size,
    };
    if shape.len() != 4 || shape[1..] != [3, height, width] {
        let hint = if shape == [3, height, width] { "; add a batch axis, pixel_values[None]" } else { "" };
        return Err(PyValueError::new_err(format!(
            "pixel_values has shape {}, but this backbone takes (B, 3, {height}, {width}){hint}; {CURE}",
            tuple(shape)
        )));
    }
    if !array.is_c_contiguous() || !array.is_aligned() {
        return Err(PyValueError::new_err(
            "pixel_values is not C-contiguous in memory; pass numpy.ascontiguousarray(pixel_values)",
        ));
    }
    let array = array.cast_into::<PyArray4<f32>>()?.try_readonly()?;
    check_finite(array.as_slice()?, [3, height, width])?;
    Ok(array)
}

/// Height and width of each image of `pixels`, `[B]`.
pub fn sizes(pixels: &PyReadonlyArray4<'_, f32>) -> Vec<[usize; 2]> {
    let pixels = pixels.as_array();
    vec![[pixels.shape()[2], pixels.shape()[3]]; pixels.shape()[0]]
}

/// A NumPy array unchanged, any other object by DLPack.
fn as_array<'py>(given: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    if let Ok(array) = given.cast::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    let name = given.get_type().qualname()?;
    if !given.hasattr("__dlpack__")? {
        return Err(PyTypeError::new_err(format!(
            "pixel_values is of type {name}; give a NumPy array of float32 (B, 3, H, W), or an object with __dlpack__; {CURE}"
        )));
    }
    let py = given.py();
    let array = py.import("numpy")?.call_method1("from_dlpack", (given,)).map_err(|error| {
        let refusal = PyTypeError::new_err(format!(
            "pixel_values is of type {name} that NumPy cannot take by DLPack; it must be on the CPU, float32 and without a \
             gradient (tensor.detach().cpu().float())"
        ));
        refusal.set_cause(py, Some(error));
        refusal
    })?;
    Ok(array.cast_into::<PyUntypedArray>()?)
}

/// Checks that `array` holds values of type `T`.
fn check_dtype<T: Element>(array: &Bound<'_, PyUntypedArray>) -> PyResult<()> {
    let (found, wanted) = (array.dtype(), dtype::<T>(array.py()));
    if found.is_equiv_to(&wanted) {
        return Ok(());
    }
    Err(PyTypeError::new_err(format!(
        "pixel_values holds {found}, but must hold {wanted}; pass pixel_values.astype(numpy.{wanted}) if its values \
         are normalised pixels; {CURE}"
    )))
}

/// Checks that every value is finite; the error names the first that is not.
fn check_finite(values: &[f32], [channels, height, width]: [usize; 3]) -> PyResult<()> {
    // Checked in whole chunks, so that the check costs next to nothing: 0 * x is 0 unless x is not finite.
    let chunk = values.chunks(1024).position(|chunk| chunk.iter().map(|v| v * 0.0).sum::<f32>() != 0.0);
    let Some(chunk) = chunk else { return Ok(()) };
    let first = values[chunk * 1024..].iter().position(|v| !v.is_finite()).map_or(0, |i| chunk * 1024 + i);
    let (x, row) = (first % width, first / width);
    let (y, plane) = (row % height, row / height);
    Err(PyValueError::new_err(format!(
        "pixel_values[{}, {}, {y}, {x}] is {}; every value must be a finite number",
        plane / channels,
        plane % channels,
        values[first]
    )))
}

/// A shape, printed like a Python tuple.
pub fn tuple(shape: &[usize]) -> String {
    match shape {
        [only] => format!("({only},)"),
        shape => format!("({})", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}
