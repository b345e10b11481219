//! A checkpoint in the layout of timm or transformers on the Hugging Face Hub, a folder with `config.json` and
//! weights; or a file of weights whose name is that of a timm architecture, as Meta publishes DeiT.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use vitrim_kernels::Precision;

use crate::error::{Result, VitError};
use crate::executor::CpuBackbone;
use crate::families::{Description, describe, resize};
use crate::spec::VitSpec;
use crate::tensors::{NamedTensor, StoredPositions, Tensors};
use crate::weight_files::WeightFiles;

/// File names of weights on the Hub, in the order in which they are looked for.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// An opened checkpoint. The geometry is read and checked against the weights; tensors are read on demand.
pub struct Checkpoint {
    /// The folder, or the file of weights.
    pub path: PathBuf,
    /// The geometry.
    pub spec: VitSpec,
    /// The weights.
    pub tensors: Tensors,
    /// The library's `config.json`, for the input size in use.
    pub config: Value,
    /// timm's `pretrained_cfg`: how images are preprocessed; an empty object if there is none.
    pub pretrained_cfg: Value,
    /// transformers' `preprocessor_config.json`, the counterpart of timm's `pretrained_cfg`.
    pub preprocessor_config: Option<Value>,
    class_names: Vec<String>,
}

impl Checkpoint {
    /// Opens the folder or the file of weights `path`, at the checkpoint's own input size.
    ///
    /// # Errors
    /// If a file is missing or damaged, the architecture is not supported, or the weights do not match.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_at(path, None)
    }

    /// Opens `path` for inputs of `img_size` (height, width), in pixels; position embeddings are resampled as the
    /// checkpoint's library does.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], or if the patches do not tile the size.
    pub fn open_at(path: &Path, img_size: Option<[usize; 2]>) -> Result<Self> {
        let weights = find_weights(path)?;
        let beside = weights.with_file_name("config.json");
        let mut config = match read_json(&beside)? {
            Some(config) => config,
            None => config_by_name(path, &weights)?,
        };
        let bad = |reason: String| VitError::Config { path: beside.clone(), reason };
        let preprocessor_config = read_json(&weights.with_file_name("preprocessor_config.json"))?;
        let files = WeightFiles::open(&weights)?;
        let described = describe(&config, &files, preprocessor_config.as_ref()).map_err(|e| match e {
            VitError::Geometry(reason) => bad(reason),
            other => other,
        })?;
        let Description { spec, names, class_names, bicubic, usual_size } = described;
        let size = img_size.or(usual_size).unwrap_or(spec.img_size);
        let stored = spec.grid();
        let spec = spec.at_size(size)?;
        let positions = (spec.grid() != stored).then(|| StoredPositions {
            prefix: spec.embedded_prefix(),
            from: stored,
            to: spec.grid(),
            how: bicubic,
        });
        if positions.is_some() {
            resize(&mut config, size);
        }
        let tensors = Tensors::stored(files, names, positions);
        tensors.check(&spec)?;
        let pretrained_cfg =
            config.get("pretrained_cfg").cloned().unwrap_or_else(|| Value::Object(Map::new()));
        Ok(Checkpoint {
            path: path.to_owned(),
            spec,
            tensors,
            config,
            pretrained_cfg,
            preprocessor_config,
            class_names,
        })
    }

    /// Packs the weights for the CPU executor with arithmetic in `precision`, and closes the files.
    ///
    /// # Errors
    /// As [`CpuBackbone::in_precision`].
    pub fn into_backbone(self, precision: Precision) -> Result<CpuBackbone> {
        CpuBackbone::in_precision(&self.spec, &self.tensors, precision)
    }

    /// `tensors`, which are other weights of the same geometry, under the names and in the shapes of the checkpoint's
    /// library, together with the tensors that it stores besides them. Written next to [`Checkpoint::config`], they
    /// are a checkpoint that the library loads.
    ///
    /// # Errors
    /// If one of `tensors` is missing or has the wrong shape, or the other stored tensors cannot be read.
    pub fn in_its_layout(&self, tensors: &Tensors) -> Result<Vec<NamedTensor>> {
        self.tensors.translate(&self.spec, tensors)
    }

    /// The name of each class, from timm's `label_names` or transformers' `id2label`; empty if there are no names.
    pub fn class_names(&self) -> Vec<String> {
        self.class_names.clone()
    }
}

/// The file of weights, or the index of its shards, at `path`.
fn find_weights(path: &Path) -> Result<PathBuf> {
    let missing = |reason: String| VitError::NotACheckpoint { path: path.to_owned(), reason };
    if path.is_file() {
        return Ok(path.to_owned());
    }
    if !path.is_dir() {
        let reason = "no such folder; give the folder that holds config.json and model.safetensors";
        return Err(missing(reason.into()));
    }
    if let Some(found) = WEIGHTS.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(found);
    }
    let entries =
        std::fs::read_dir(path).map_err(|source| VitError::Read { path: path.to_owned(), source })?;
    let pickles = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(|file| {
        file.extension().and_then(|e| e.to_str()).is_some_and(|e| matches!(e, "pth" | "pt" | "bin"))
    });
    match pickles.collect::<Vec<_>>().as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(missing(
            "it holds no model.safetensors, model.safetensors.index.json, pytorch_model.bin or .pth file"
                .into(),
        )),
        several => Err(missing(format!("it holds {} files of weights; name one of them", several.len()))),
    }
}

/// The `config.json` of timm for a file of weights whose name is that of an architecture, with or without a hash or a
/// tag after it, as in `deit_small_patch16_224-cd65a155.pth`.
fn config_by_name(path: &Path, weights: &Path) -> Result<Value> {
    let name = weights.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let architecture = name.split('-').next().unwrap_or_default();
    if VitSpec::from_timm_name(architecture).is_ok() {
        return Ok(json!({ "architecture": architecture }));
    }
    let reason = if path.is_dir() {
        "it holds no config.json".to_owned()
    } else {
        format!(
            "there is no config.json beside it, and '{architecture}' is no architecture of timm's; write one with \
             the architecture's name, {{\"architecture\": \"deit_small_patch16_224\"}}"
        )
    };
    Err(VitError::NotACheckpoint { path: path.to_owned(), reason })
}

/// The JSON value in `path`; `None` if there is no such file.
fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = vitrim_text::read(path).map_err(|source| VitError::Read { path: path.to_owned(), source })?;
    let parsed = serde_json::from_str(&text);
    parsed
        .map(Some)
        .map_err(|e| VitError::Config { path: path.to_owned(), reason: format!("not valid JSON: {e}") })
}
