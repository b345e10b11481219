//! Initial weights, and the writing of weights in a library's Hub layout.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use vitrim_data::{Interpolation, Preprocess};
use vitrim_durable::replace;
use vitrim_random::SplitMix64;
use vitrim_vit::{Checkpoint, NamedTensor, Tensors, VitSpec};

use crate::error::{Result, TrainError};
use crate::perceptron::orthogonal;

/// Standard deviation of a linear layer's initial weights times the square root of its inputs.
const GAIN: f64 = 0.5;
/// Standard deviation of the head's initial weights.
const HEAD_STD: f64 = 0.02;
/// Amplitude of the initial positions.
const POSITION_SCALE: f64 = 0.5;
/// Ratio of the longest wavelength of the positions to the shortest one, in patches.
const LONGEST_WAVE: f64 = 30.0;

/// Data type of the written weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// As trained.
    F32,
    /// Rounded, at half the size.
    Bf16,
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightType::F32 => "f32",
            WeightType::Bf16 => "bf16",
        })
    }
}

impl FromStr for WeightType {
    type Err = TrainError;

    /// Reads "f32" or "bf16".
    ///
    /// # Errors
    /// [`TrainError::UnknownWeightType`] for anything else.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(WeightType::F32),
            "bf16" => Ok(WeightType::Bf16),
            other => Err(TrainError::UnknownWeightType(other.to_owned())),
        }
    }
}

/// Initial weights from which a small ViT learns quickly on few images; a pure function of `seed`.
///
/// Positions start as sines and cosines of row and column (as in MAE: He et al., 2022), and queries equal keys
/// (similar to mimetic initialisation: Trockman and Kolter, 2023), so that tokens attend to their neighbours from the
/// first step on. The patch embedding starts like PyTorch's convolution, the class token near zero, and other linear
/// layers with a normal distribution, cut at two standard deviations; biases are 0.
pub fn initial_weights(spec: &VitSpec, seed: u64) -> Tensors {
    let mut random = SplitMix64::new(seed ^ 0x7665_6967_6874_7300);
    let tensors = spec.tensor_shapes().into_iter().map(|(name, shape)| {
        let count: usize = shape.iter().product();
        let inputs = count / shape[0].max(1);
        let values = if name.contains("norm") && name.ends_with("weight") {
            vec![1.0; count]
        } else if name.ends_with("bias") {
            vec![0.0; count]
        } else if name == "patch_embed.proj.weight" {
            let bound = (1.0 / inputs as f64).sqrt();
            (0..count).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32).collect()
        } else if name == "pos_embed" {
            positions(spec)
        } else if name.ends_with("token") {
            (0..count).map(|_| (1e-6 * random.normal()) as f32).collect()
        } else {
            let std = if name.starts_with("head") { HEAD_STD } else { GAIN / (inputs as f64).sqrt() };
            let mut values: Vec<f32> = (0..count).map(|_| (std * cut_normal(&mut random)) as f32).collect();
            if name.ends_with("qkv.weight") {
                let d = spec.dim;
                for head in values[..d * d].chunks_exact_mut(d * d / spec.attention.heads) {
                    head.copy_from_slice(&orthogonal(d / spec.attention.heads, d, 1.0, &mut random));
                }
                values.copy_within(..d * d, d * d);
            }
            values
        };
        (name, (shape, values))
    });
    Tensors::Owned(tensors.collect())
}

/// Position embeddings, `[N, D]`: 0 for prefix tokens; for patches, a quarter of the channels each for the sine and
/// the cosine of the row, then of the column.
fn positions(spec: &VitSpec) -> Vec<f32> {
    let [rows, columns] = spec.grid();
    let d = spec.dim;
    let quarter = d / 4;
    let mut values = vec![0.0; spec.num_prefix_tokens() * d];
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        let mut token = vec![0.0; d];
        for i in 0..quarter {
            let frequency = LONGEST_WAVE.powf(-(i as f64) / quarter as f64);
            for (axis, place) in [row, column].into_iter().enumerate() {
                let (sine, cosine) = (place as f64 * frequency).sin_cos();
                token[2 * axis * quarter + i] = (POSITION_SCALE * sine) as f32;
                token[(2 * axis + 1) * quarter + i] = (POSITION_SCALE * cosine) as f32;
            }
        }
        values.extend(token);
    }
    values
}

/// Standard normal within two standard deviations.
fn cut_normal(random: &mut SplitMix64) -> f64 {
    loop {
        let value = random.normal();
        if value.abs() <= 2.0 {
            return value;
        }
    }
}

/// Writes `config.json` and `model.safetensors` into `folder` in timm's layout on the Hugging Face Hub;
/// `timm.create_model("local-dir:<folder>")` loads it.
///
/// # Errors
/// If a file cannot be written.
pub fn save_backbone(
    folder: &Path,
    spec: &VitSpec,
    tensors: &Tensors,
    preprocess: &Preprocess,
    class_names: &[String],
    weight_type: WeightType,
) -> Result<()> {
    fs::create_dir_all(folder).map_err(TrainError::file("create", folder))?;
    let pool = spec.pooling.pool.timm_name();
    let config = json!({
        "architecture": spec.architecture,
        "num_classes": spec.num_classes,
        "num_features": spec.dim,
        "global_pool": pool,
        "model_args": {
            "num_classes": spec.num_classes,
            "img_size": spec.img_size,
            "patch_size": spec.patch_size,
            "embed_dim": spec.dim,
            "depth": spec.depth,
            "num_heads": spec.attention.heads,
            "mlp_ratio": spec.mlp.first() as f64 / spec.dim as f64,
            "global_pool": pool,
        },
        "pretrained_cfg": {
            "input_size": preprocess.input_size,
            "fixed_input_size": true,
            "interpolation": match preprocess.interpolation {
                Interpolation::Bicubic => "bicubic",
                Interpolation::Bilinear => "bilinear",
            },
            "crop_pct": preprocess.crop_pct,
            "crop_mode": preprocess.crop_mode,
            "mean": preprocess.mean.map(shortest),
            "std": preprocess.std.map(shortest),
            "num_classes": spec.num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "label_names": class_names,
        },
    });
    let shapes = spec.tensor_shapes().into_iter();
    let named = shapes
        .map(|(name, shape)| Ok((name.clone(), shape.clone(), tensors.get(&name, &shape)?.into_owned())));
    // The weights are last: a folder that has them is complete.
    let config = serde_json::to_string_pretty(&config).expect("plain data");
    replace(&folder.join("config.json"), (config + "\n").as_bytes())?;
    save_weights(&folder.join("model.safetensors"), &named.collect::<Result<Vec<_>>>()?, weight_type)
}

/// Writes `tensors`, which are other weights for the geometry of `checkpoint`, into `folder` in the layout of the
/// checkpoint's library.
///
/// # Errors
/// If a tensor is missing, or a file cannot be written.
pub fn save_as(
    folder: &Path,
    checkpoint: &Checkpoint,
    tensors: &Tensors,
    weight_type: WeightType,
) -> Result<()> {
    fs::create_dir_all(folder).map_err(TrainError::file("create", folder))?;
    // The weights are last: a folder that has them is complete.
    let json = |value: &Value| serde_json::to_string_pretty(value).expect("plain data") + "\n";
    if let Some(processor) = &checkpoint.preprocessor_config {
        replace(&folder.join("preprocessor_config.json"), json(processor).as_bytes())?;
    }
    replace(&folder.join(checkpoint.config_file), json(&checkpoint.config).as_bytes())?;
    save_weights(&folder.join(checkpoint.weights_file()), &checkpoint.in_its_layout(tensors)?, weight_type)
}

/// Writes `tensors` to the safetensors file `path`.
fn save_weights(path: &Path, tensors: &[NamedTensor], weight_type: WeightType) -> Result<()> {
    let bytes = |values: &[f32]| match weight_type {
        WeightType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        WeightType::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
    };
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, values)| bytes(values)).collect();
    let dtype = match weight_type {
        WeightType::F32 => Dtype::F32,
        WeightType::Bf16 => Dtype::BF16,
    };
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name, TensorView::new(dtype, shape.clone(), bytes).expect("as many bytes as the shape says"))
    });
    let metadata = [("format".to_owned(), "pt".to_owned())];
    let file = safetensors::serialize(views, Some(metadata.into())).expect("the names are distinct");
    Ok(replace(path, &file)?)
}

/// The shortest decimal number for an f32: 0.485, not 0.48500001430511475.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
