//! Classes or features of single images, and the patches behind the answer.

use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;
use vitrim_data::{DataError, Decoding, RgbImage, Transform, guarded, image_key};
use vitrim_prune::{Pruner, StageRecord, block_macs, image_macs, run_blocks, run_to_answer};
use vitrim_vit::{Backbone, HostState, PixelBatch, VitSpec, Want, cost};

use crate::error::Result;
use crate::model::Loaded;
use crate::model::features::{FeatureKind, Features, block_features, features};
use crate::requests::as_text;

/// The answer for one image.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// The image file, or the position of the image in a shard or a list.
    #[serde(serialize_with = "as_text::path")]
    pub image: PathBuf,
    /// The most probable classes, best first; empty if features were requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ClassProbability>,
    /// The image's features, if they were requested.
    #[serde(flatten)]
    pub features: Option<Features>,
    /// Rows and columns of the image's patches, if each image has a grid of its own (NaFlex).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<[usize; 2]>,
    /// Survivors of each stage, `[K]`.
    pub stages: Vec<Survivors>,
    /// MACs, in units of 1e9, the pruner's own scoring included.
    pub gmacs: f64,
}

/// A class and its probability.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClassProbability {
    /// Its index.
    pub class: usize,
    /// Its name, if the checkpoint has one.
    pub name: Option<String>,
    /// Whether the name is ImageNet-1k's, which is assumed of a checkpoint with 1,000 classes without names; absent if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub name_assumed: bool,
    /// Softmax probability.
    pub probability: f64,
}

/// The survivors of a stage.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Survivors {
    /// The 0-based block of the stage.
    pub block: usize,
    /// Row-major grid positions.
    pub positions: Vec<usize>,
}

impl Survivors {
    /// The survivors of image `b` of a batch at `stage`.
    pub fn of(stage: &StageRecord, b: usize) -> Self {
        Survivors { block: stage.site.block, positions: stage.grid_positions(b) }
    }
}

/// An image as the model sees it, with the model's answer.
pub struct Seen {
    /// The crop.
    pub crop: RgbImage,
    /// The answer.
    pub prediction: Prediction,
}

/// What to compute for each image.
#[derive(Clone, Copy, Debug)]
pub enum Question {
    /// The most probable classes, of this number.
    Classes(usize),
    /// Features, which a backbone without a head also has.
    Features(FeatureKind),
    /// The patch tokens after the first so many blocks: see [`block_features`].
    Blocks(usize),
}

/// The model's answer for one image.
pub struct Answer {
    /// As [`Prediction::classes`].
    pub classes: Vec<ClassProbability>,
    /// As [`Prediction::features`].
    pub features: Option<Features>,
    /// Rows and columns of the image's patches.
    pub grid: [usize; 2],
    /// As [`Prediction::stages`].
    pub stages: Vec<Survivors>,
    /// MACs, the pruner's own scoring included.
    pub macs: u64,
}

/// An image given to `predict`.
pub enum Given {
    /// An image file.
    File(PathBuf),
    /// Its name, and its bytes or the error of reading them.
    Encoded(String, Result<Arc<[u8]>, DataError>),
}

impl Given {
    /// The image's name, and the crop that `transform` makes of it; a panic of the decoder counts as a bad image.
    fn crop(self, decoding: Decoding, transform: &Transform) -> (PathBuf, Result<RgbImage, DataError>) {
        match self {
            Given::File(path) => {
                let crop = || Ok(transform.cropped(&decoding.load(&path)?));
                let crop = guarded(|| path.display().to_string(), crop);
                (path, crop)
            }
            Given::Encoded(name, bytes) => {
                let crop = || Ok(transform.cropped(&decoding.decode(&bytes?, &name)?));
                let crop = guarded(|| name.clone(), crop);
                (PathBuf::from(name), crop)
            }
        }
    }
}

/// Runs `images`, decoded by `decoding`, through `loaded`, pruned by `pruner`, and answers `question` for each.
/// Images that cannot be read give errors, at their positions.
///
/// # Errors
/// If the backbone or the pruner returns an error.
pub fn predict(
    loaded: &Loaded,
    pruner: &dyn Pruner,
    images: Vec<Given>,
    decoding: Decoding,
    question: Question,
) -> Result<Vec<Result<Seen, DataError>>> {
    let crop = |given: Given| given.crop(decoding, &loaded.transform);
    let crops: Vec<(PathBuf, Result<RgbImage, DataError>)> = images.into_par_iter().map(crop).collect();
    let good: Vec<&RgbImage> = crops.iter().filter_map(|(_, crop)| crop.as_ref().ok()).collect();
    let mut answers = answer(loaded, &loaded.model, pruner, &good, question)?.into_iter();
    let seen = crops.into_iter().map(|(image, crop)| {
        crop.map(|crop| {
            let Answer { classes, features, grid, stages, macs } =
                answers.next().expect("one answer for each good image");
            let (grid, gmacs) = (loaded.spec.is_naflex().then_some(grid), macs as f64 / 1e9);
            Seen { crop, prediction: Prediction { image, classes, features, grid, stages, gmacs } }
        })
    });
    Ok(seen.collect())
}

/// Height and width of `crop`, pixels.
pub fn size_of(crop: &RgbImage) -> [usize; 2] {
    [crop.height() as usize, crop.width() as usize]
}

/// Runs `crops`, which the model's transform made, through `model`, a session of `loaded`, pruned by `pruner`, and
/// answers `question` for each. Random decisions are keyed by each crop ([`image_key`]).
///
/// # Errors
/// If the backbone or the pruner returns an error.
pub fn answer(
    loaded: &Loaded,
    model: &impl Backbone<State = HostState>,
    pruner: &dyn Pruner,
    crops: &[&RgbImage],
    question: Question,
) -> Result<Vec<Answer>> {
    if crops.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<u64> = crops.par_iter().map(|crop| image_key(crop)).collect();
    let pixels: Vec<f32> = crops.par_iter().flat_map_iter(|crop| loaded.transform.normalized(crop)).collect();
    let batch = crops.len();
    let sizes: Vec<[usize; 2]> = crops.iter().map(|crop| size_of(crop)).collect();
    let mut state = model.embed(PixelBatch::of_sizes(&pixels, &sizes))?;
    let stages = match question {
        Question::Blocks(blocks) => run_blocks(model, pruner, &mut state, &keys, blocks)?,
        Question::Features(FeatureKind::Tokens) => {
            run_blocks(model, pruner, &mut state, &keys, loaded.spec.depth)?
        }
        Question::Classes(_) | Question::Features(_) => run_to_answer(model, pruner, &mut state, &keys)?,
    };
    let answer = |b: usize| {
        let grid = state.packed.grids[b];
        let spec = loaded.spec.of_grid(grid);
        Answer {
            classes: Vec::new(),
            features: None,
            grid,
            stages: stages.iter().map(|stage| Survivors::of(stage, b)).collect(),
            macs: match question {
                Question::Blocks(blocks) => block_macs(&spec, pruner, &stages, b, blocks),
                Question::Features(kind) => feature_macs(&spec, pruner, &stages, b, kind),
                Question::Classes(_) => image_macs(&spec, pruner, &stages, b),
            },
        }
    };
    let mut answers: Vec<Answer> = (0..batch).map(answer).collect();
    match question {
        Question::Classes(top_k) => {
            let logits = model.finish(&state, Want::Logits)?;
            for (b, answer) in answers.iter_mut().enumerate() {
                answer.classes = top_classes(loaded, logits.row(b), top_k);
            }
        }
        Question::Blocks(_) => {
            for (answer, features) in answers.iter_mut().zip(block_features(&loaded.spec, &state)) {
                answer.features = Some(features);
            }
        }
        Question::Features(kind) => {
            for (answer, features) in answers.iter_mut().zip(features(model, &state, kind)?) {
                answer.features = Some(features);
            }
        }
    }
    Ok(answers)
}

/// MACs of features of image `b` of a batch that went through `stages`, for which no logits were computed. They do not need
/// the head, and those of tokens no pooling, but all of the last block. `spec` as for [`image_macs`].
pub fn feature_macs(
    spec: &VitSpec,
    pruner: &dyn Pruner,
    stages: &[StageRecord],
    b: usize,
    kind: FeatureKind,
) -> u64 {
    let without_head = || image_macs(spec, pruner, stages, b) - cost::head_macs(spec);
    match kind {
        FeatureKind::Pooled => without_head(),
        FeatureKind::Tokens => block_macs(spec, pruner, stages, b, spec.depth),
        FeatureKind::Embedding => without_head() + cost::projection_macs(spec),
    }
}

/// The `top_k` most probable classes of `loaded` by `logits: [C]`, best first, with their names.
pub fn top_classes(loaded: &Loaded, logits: &[f32], top_k: usize) -> Vec<ClassProbability> {
    let mut classes = ranked(logits, top_k);
    for class in &mut classes {
        class.name = loaded.class_name(class.class);
        class.name_assumed = loaded.assumes_names();
    }
    classes
}

/// The `top_k` most probable classes, without their names.
fn ranked(logits: &[f32], top_k: usize) -> Vec<ClassProbability> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|z| f64::from(z - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let best = order.into_iter().take(top_k);
    best.map(|class| ClassProbability {
        class,
        name: None,
        name_assumed: false,
        probability: weights[class] / sum,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_ranked_with_their_probabilities() {
        let top = ranked(&[0.0, 3f32.ln(), -1e9], 2);
        assert_eq!((top[0].class, top[1].class), (1, 0));
        assert!((top[0].probability - 0.75).abs() < 1e-6);
        assert_eq!(ranked(&[1.0; 3], 9).len(), 3);
    }
}
