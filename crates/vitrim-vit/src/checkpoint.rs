//! A checkpoint folder as timm lays it out on the Hugging Face Hub: `config.json` and
//! `model.safetensors`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use vitrim_kernels::Precision;

use crate::error::{Result, VitError};
use crate::executor::CpuBackbone;
use crate::spec::{Pool, VitSpec};
use crate::tensors::Tensors;

/// An opened checkpoint: geometry read and checked against the weights, weights mapped.
pub struct Checkpoint {
    /// The folder.
    pub path: PathBuf,
    /// The geometry.
    pub spec: VitSpec,
    /// The weights.
    pub tensors: Tensors,
    /// timm's `pretrained_cfg`: how images are preprocessed; an empty object if there is none.
    pub pretrained_cfg: Value,
}

impl Checkpoint {
    /// Opens `folder`.
    ///
    /// # Errors
    /// If a file is missing or damaged, the architecture is not supported, or the weights do not match.
    pub fn open(folder: &Path) -> Result<Self> {
        let missing =
            |reason: &str| VitError::NotACheckpoint { path: folder.to_owned(), reason: reason.into() };
        if !folder.is_dir() {
            return Err(missing(
                "no such folder; give the folder that holds config.json and model.safetensors",
            ));
        }
        let config_path = folder.join("config.json");
        let weights_path = folder.join("model.safetensors");
        if !config_path.is_file() {
            return Err(missing("it holds no config.json"));
        }
        if !weights_path.is_file() {
            return Err(missing("it holds no model.safetensors"));
        }
        let text = std::fs::read_to_string(&config_path)
            .map_err(|source| VitError::Read { path: config_path.clone(), source })?;
        let bad = |reason: String| VitError::Config { path: config_path.clone(), reason };
        let config: Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
        let spec = parse_config(&config).map_err(|e| match e {
            VitError::Geometry(reason) => bad(reason),
            other => other,
        })?;
        let tensors = Tensors::open(&weights_path)?;
        tensors.check(&spec)?;
        let pretrained_cfg =
            config.get("pretrained_cfg").cloned().unwrap_or_else(|| Value::Object(Map::new()));
        Ok(Checkpoint { path: folder.to_owned(), spec, tensors, pretrained_cfg })
    }

    /// Packs the weights for the CPU executor, to multiply in `precision`, and gives the mapping up.
    ///
    /// # Errors
    /// As [`CpuBackbone::in_precision`].
    pub fn into_backbone(self, precision: Precision) -> Result<CpuBackbone> {
        CpuBackbone::in_precision(&self.spec, &self.tensors, precision)
    }

    /// Class names, where `pretrained_cfg` has `label_names`.
    pub fn class_names(&self) -> Vec<String> {
        let names = self.pretrained_cfg.get("label_names").and_then(Value::as_array);
        let names = names.map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        names.unwrap_or_default()
    }
}

/// `config.json` to geometry: what the architecture's name says, changed by `model_args`.
fn parse_config(config: &Value) -> Result<VitSpec> {
    let wrong = |what: &str| VitError::Geometry(what.to_owned());
    let architecture = config.get("architecture").and_then(Value::as_str).ok_or_else(|| {
        wrong("no 'architecture': only timm's config.json is supported so far (transformers' is not)")
    })?;
    let mut spec = VitSpec::from_timm_name(architecture)?;
    if let Some(classes) = config.get("num_classes") {
        spec.num_classes = count("num_classes", classes)?;
    }
    if let Some(pool) = config.get("global_pool") {
        spec.pool = parse_pool(pool)?;
    }
    let mut fc_norm = None;
    let empty = Map::new();
    let args = config.get("model_args").and_then(Value::as_object).unwrap_or(&empty);
    for (key, value) in args {
        let flag =
            || value.as_bool().ok_or_else(|| wrong(&format!("model_args.{key} must be true or false")));
        match key.as_str() {
            "num_classes" => spec.num_classes = count(key, value)?,
            "img_size" => spec.img_size = pair(key, value)?,
            "patch_size" => {
                let [height, width] = pair(key, value)?;
                if height != width {
                    return Err(wrong("model_args.patch_size: only square patches are supported"));
                }
                spec.patch_size = height;
            }
            "embed_dim" => spec.dim = count(key, value)?,
            "depth" => spec.depth = count(key, value)?,
            "num_heads" => spec.heads = count(key, value)?,
            "mlp_ratio" | "in_chans" => {} // below, once the width is known
            "class_token" => spec.class_token = flag()?,
            "qkv_bias" => spec.qkv_bias = flag()?,
            "fc_norm" if value.is_null() => {}
            "fc_norm" => fc_norm = Some(flag()?),
            "global_pool" => spec.pool = parse_pool(value)?,
            _ => return Err(wrong(&format!("model_args.{key} = {value} is not supported"))),
        }
    }
    if args.get("in_chans").is_some_and(|channels| channels != 3) {
        return Err(wrong("model_args.in_chans: only images of 3 channels are supported"));
    }
    let ratio = match args.get("mlp_ratio") {
        None => 4.0,
        Some(ratio) => ratio.as_f64().ok_or_else(|| wrong("model_args.mlp_ratio must be a number"))?,
    };
    spec.mlp_hidden = (spec.dim as f64 * ratio) as usize;
    spec.fc_norm = fc_norm.unwrap_or(spec.pool == Pool::Avg);
    spec.check()?;
    Ok(spec)
}

fn parse_pool(value: &Value) -> Result<Pool> {
    match value.as_str() {
        Some("token") => Ok(Pool::Token),
        Some("avg") => Ok(Pool::Avg),
        _ => Err(VitError::Geometry(format!(
            "global_pool {value} is not supported; vitrim runs 'token' and 'avg'"
        ))),
    }
}

fn count(key: &str, value: &Value) -> Result<usize> {
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n < 1 << 24);
    number.ok_or_else(|| VitError::Geometry(format!("{key} must be a count, not {value}")))
}

/// One number for both, or [height, width].
fn pair(key: &str, value: &Value) -> Result<[usize; 2]> {
    match value.as_array().map(Vec::as_slice) {
        None => count(key, value).map(|side| [side, side]),
        Some([height, width]) => Ok([count(key, height)?, count(key, width)?]),
        Some(_) => Err(VitError::Geometry(format!("{key} must be a number or [height, width], not {value}"))),
    }
}
