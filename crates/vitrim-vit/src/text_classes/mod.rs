//! Classes that texts describe: with the embeddings of their texts, an image tower (CLIP, SigLIP) becomes a classifier
//! (Radford et al., 2021, <https://arxiv.org/abs/2103.00020>).
//!
//! The logit of a class is `scale cos(image embedding, text embedding) + bias`, which is a linear layer over the image
//! embedding scaled to length 1.

mod npz;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::classes::ClassNames;
use crate::error::{Result, VitError};
use crate::limits::{MAX_CLASSES, MAX_SHOWN, MAX_TEXT_ROWS, MAX_TEXT_VALUES};
use crate::spec::VitSpec;
use crate::tensors::Tensors;
use crate::weight_files::WeightFiles;
use npz::Npz;

/// The text embeddings, under any name: the only array besides these.
const SCALE: &str = "logit_scale";
const BIAS: &str = "logit_bias";
const NAMES: &str = "names";

/// Below this, a scale is more likely the logarithm that libraries learn: CLIP's is 100, SigLIP's about 110.
const SMALL_SCALE: f32 = 8.0;

/// Classes with their text embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct TextClasses {
    /// The file.
    pub path: PathBuf,
    /// The name of each class, `[C]`.
    pub names: Vec<String>,
    /// Text embeddings of length 1, `[C, P]`.
    embeddings: Vec<f32>,
    /// P, the width of an embedding.
    width: usize,
    /// The factor of cosines.
    scale: f32,
    /// Added to every logit.
    bias: f32,
    /// What looks strange, one sentence each.
    pub notes: Vec<String>,
}

/// An array of a file: its shape and its values, row-major.
type Array = (Vec<usize>, Vec<f32>);

/// The arrays of a file by name, and the class names that it holds.
type Arrays = (Vec<(String, Array)>, Option<Vec<String>>);

impl TextClasses {
    /// Reads a safetensors or npz file with text embeddings `[C, P]`, or `[C, n, P]` for the mean of n prompts a class,
    /// under any name; `logit_scale`, the factor of cosines; `logit_bias`, unless it is 0; and the classes' `names`: a
    /// list in JSON in the header of a safetensors file, or an array of strings in an npz file.
    ///
    /// Each row is scaled to length 1, and so is the mean of the rows of a class.
    ///
    /// # Errors
    /// [`VitError::TextClasses`] if one of them is missing, is of another shape, or has impossible values; or if the file
    /// cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |reason: String| VitError::TextClasses { path: path.to_owned(), reason };
        let (mut arrays, names) = match Npz::open(path)? {
            Some(mut npz) => npz.read().map_err(bad)?,
            None => safetensors(path)?,
        };
        let scale = scalar(&mut arrays, SCALE).map_err(bad)?.ok_or_else(|| {
            bad("it has no logit_scale; store the factor of cosines: model.logit_scale.exp()".into())
        })?;
        let bias = scalar(&mut arrays, BIAS).map_err(bad)?.unwrap_or(0.0);
        if scale <= 0.0 {
            return Err(bad(format!("logit_scale {scale} is not positive; store model.logit_scale.exp()")));
        }
        let found = arrays.len();
        let [(name, (shape, values))] = <[_; 1]>::try_from(arrays).map_err(|_| {
            bad(format!(
                "it has {found} arrays besides {SCALE}, {BIAS} and {NAMES}; one is needed: text embeddings [classes, width]"
            ))
        })?;
        let (classes, prompts, width) = match shape.as_slice() {
            [classes, width] => (*classes, 1, *width),
            [classes, prompts, width] => (*classes, *prompts, *width),
            _ => (0, 0, 0),
        };
        if classes == 0 || prompts == 0 || width == 0 || classes > MAX_CLASSES {
            return Err(bad(format!(
                "{name} is of shape {shape:?}; text embeddings are [classes, width], or [classes, prompts, width]"
            )));
        }
        let names = names.ok_or_else(|| {
            bad("it has no names of the classes; store \"names\": a list in JSON in the metadata of a safetensors file, \
                 an array of strings in an npz file"
                .into())
        })?;
        if names.len() != classes {
            return Err(bad(format!("it has {} names for {classes} classes", names.len())));
        }
        let mut embeddings = vec![0.0; classes * width];
        let of_class = values.chunks_exact(prompts * width).zip(embeddings.chunks_exact_mut(width));
        for (class, (rows, mean)) in of_class.enumerate() {
            for row in rows.chunks_exact(width) {
                let mut row = row.to_vec();
                if !unit(&mut row) {
                    return Err(bad(format!("a text embedding of class {class} is 0, or not finite")));
                }
                mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
            }
            if !unit(mean) {
                return Err(bad(format!("the text embeddings of class {class} cancel out")));
            }
        }
        let small = (scale < SMALL_SCALE).then(|| {
            format!(
                "{}: logit_scale {scale} is small; libraries learn its logarithm: store model.logit_scale.exp()",
                path.display()
            )
        });
        Ok(TextClasses {
            path: path.to_owned(),
            names,
            embeddings,
            width,
            scale,
            bias,
            notes: small.into_iter().collect(),
        })
    }

    /// Makes a classifier of the backbone `spec` with `tensors`.
    ///
    /// # Errors
    /// As [`TextClasses::fit`].
    pub fn classify(&self, spec: &mut VitSpec, tensors: &mut Tensors) -> Result<()> {
        self.fit(spec)?;
        if spec.pooling.projection_bias {
            tensors.rename("head.weight", "visual_projection.weight");
            tensors.rename("head.bias", "visual_projection.bias");
        }
        let classes = self.names.len();
        let weights = self.embeddings.iter().map(|value| self.scale * value).collect();
        tensors.add("head.weight", vec![classes, self.width], weights);
        tensors.add("head.bias", vec![classes], vec![self.bias; classes]);
        Ok(())
    }

    /// Gives the geometry `spec` the classifier.
    ///
    /// # Errors
    /// [`VitError::TextClasses`] if the backbone has no image embedding, or one of another width.
    pub fn fit(&self, spec: &mut VitSpec) -> Result<()> {
        let bad = |reason: String| VitError::TextClasses { path: self.path.clone(), reason };
        let width = self.width;
        let name = spec.architecture.chars().take(MAX_SHOWN).collect::<String>();
        match spec.embedding_width() {
            Some(found) if found == width => {}
            // timm stores the projection as a classifier.
            None if is_contrastive(spec) && spec.num_classes == width => {
                spec.pooling.projection = Some(width);
                spec.pooling.projection_bias = true;
            }
            None if is_contrastive(spec) && spec.num_classes > 0 => {
                return Err(bad(format!(
                    "text embeddings of width {width}, but {name} ends in {} values; use the texts of the same model",
                    spec.num_classes
                )));
            }
            None => {
                return Err(bad(format!(
                    "{name} has no image embedding to compare with texts: it needs the whole of CLIP or SigLIP, or a \
                     tower with its projection"
                )));
            }
            Some(found) => {
                return Err(bad(format!(
                    "text embeddings of width {width}, but image embeddings of {name} have width {found}; use the texts \
                     of the same model"
                )));
            }
        }
        spec.num_classes = self.names.len();
        spec.pooling.zero_shot = true;
        spec.check()
    }
}

impl Checkpoint {
    /// The checkpoint with the classifier that `classes` make of its image tower.
    ///
    /// # Errors
    /// As [`TextClasses::classify`].
    pub fn with_classes(mut self, classes: &TextClasses) -> Result<Self> {
        classes.classify(&mut self.spec, &mut self.tensors)?;
        let names = classes.names.iter().cloned().map(Some).collect();
        self.classes = ClassNames { names, ..ClassNames::default() };
        self.notes.extend(classes.notes.iter().cloned());
        Ok(self)
    }
}

/// Whether timm's classifier of the backbone may be the projection of a model of images and texts.
fn is_contrastive(spec: &VitSpec) -> bool {
    let name = &spec.architecture;
    !spec.pooling.zero_shot && (name.contains("_clip") || name.contains("_pe_core"))
}

/// Scales `row` to length 1; false if that is impossible.
pub(crate) fn unit(row: &mut [f32]) -> bool {
    let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    let possible = length > 0.0 && length.is_finite();
    if possible {
        row.iter_mut().for_each(|value| *value /= length);
    }
    possible
}

/// The arrays of a safetensors file, and the names in its header.
fn safetensors(path: &Path) -> Result<Arrays> {
    let bad = |reason: String| VitError::TextClasses { path: path.to_owned(), reason };
    let mut first = [0];
    let read = File::open(path).and_then(|mut file| file.read(&mut first));
    read.map_err(|source| VitError::Read { path: path.to_owned(), source })?;
    if first == *b"{" {
        return Err(bad("it is JSON; give text embeddings in a safetensors or an npz file".into()));
    }
    let files = WeightFiles::open(path)?;
    let names = files.stated(NAMES).map(|text| {
        let wrong =
            || bad("the \"names\" in its metadata are no list of texts in JSON: [\"cat\", \"dog\"]".into());
        let Ok(Value::Array(names)) = serde_json::from_str(text) else { return Err(wrong()) };
        names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
    });
    let names = names.transpose()?;
    let mut arrays = Vec::new();
    for name in files.names() {
        let shape = files.shape(name).expect("it is one of the names").to_vec();
        limited(name, &shape).map_err(bad)?;
        arrays.push((name.to_owned(), (shape.clone(), files.read(name, &shape)?)));
    }
    Ok((arrays, names))
}

/// Checks that an array of `shape` is no larger than text embeddings are.
///
/// # Errors
/// The array and the limits.
fn limited(name: &str, shape: &[usize]) -> Result<(), String> {
    let values = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
    let rows =
        shape.split_last().map_or(1, |(_, rows)| rows.iter().fold(1usize, |n, m| n.saturating_mul(*m)));
    match values {
        Some(values) if values <= MAX_TEXT_VALUES && rows <= MAX_TEXT_ROWS => Ok(()),
        _ => Err(format!(
            "{name} is of shape {shape:?}, above the limits of {MAX_TEXT_ROWS} rows and {MAX_TEXT_VALUES} values"
        )),
    }
}

/// Takes the number `name` out of `arrays`; `None` if it is not there.
///
/// # Errors
/// If it is not one finite number.
fn scalar(arrays: &mut Vec<(String, Array)>, name: &str) -> Result<Option<f32>, String> {
    let Some(at) = arrays.iter().position(|(found, _)| found == name) else { return Ok(None) };
    let (_, (shape, values)) = arrays.swap_remove(at);
    match values.as_slice() {
        [value] if value.is_finite() => Ok(Some(*value)),
        _ => Err(format!("{name} of shape {shape:?} is not one finite number")),
    }
}

#[cfg(test)]
mod tests;
