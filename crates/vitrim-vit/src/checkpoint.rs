//! A checkpoint in the layout of timm or transformers on the Hugging Face Hub, a folder with `config.json` and
//! weights; or a file of weights whose name is that of a timm architecture, as Meta publishes DeiT.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use vitrim_kernels::Precision;

use crate::classes::ClassNames;
use crate::error::{Result, VitError};
use crate::executor::CpuBackbone;
use crate::families::{self, Description, describe, resize};
use crate::names::Dialect;
use crate::spec::VitSpec;
use crate::tensors::{NamedTensor, StoredPositions, Tensors};
use crate::text;
use crate::weight_files::{WeightFiles, find_weights};

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
    /// The name of its file: `config.json`, or `open_clip_config.json`.
    pub config_file: &'static str,
    /// timm's `pretrained_cfg`, or the whole of its older flat configuration: how images are preprocessed; an empty object
    /// if there is none.
    pub pretrained_cfg: Value,
    /// transformers' `preprocessor_config.json`, the counterpart of timm's `pretrained_cfg`.
    pub preprocessor_config: Option<Value>,
    /// The names of the classes.
    pub classes: ClassNames,
    /// What was chosen among several readings, one sentence each.
    pub notes: Vec<String>,
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
        let (weights, passed_over) = find_weights(path)?;
        let (mut config, config_file) = config_beside(path, &weights)?;
        let beside = weights.with_file_name(config_file);
        let bad = |reason: String| VitError::Config { path: beside.clone(), reason };
        let preprocessor_config = read_json(&weights.with_file_name("preprocessor_config.json"))?;
        let mut files = WeightFiles::open(&weights)?;
        let described = describe(&config, preprocessor_config.as_ref()).map_err(|e| match e {
            VitError::Geometry(reason) => bad(reason),
            other => other,
        })?;
        let Description { mut spec, mut names, dialects, classes, resampling, usual_size } = described;
        let dialect = Dialect::of(dialects, &files);
        if let Some(dialect) = dialect {
            names = dialect.names;
        }
        files.unwrap(&names.known(&spec))?;
        if let Some(dialect) = dialect {
            (dialect.adapt)(&mut spec, &files);
        }
        let names = names.resolve(&spec, &files);
        let noted = |file: &Path, note: &String| format!("{}: {note}", file.display());
        let mut notes: Vec<String> =
            passed_over.iter().chain(files.notes()).map(|note| noted(&weights, note)).collect();
        notes.extend(classes.note.iter().map(|note| noted(&beside, note)));
        let size = img_size.or(usual_size).unwrap_or(spec.img_size);
        let stored = spec.grid();
        let spec = spec.at_size(size)?;
        let resized = spec.grid() != stored;
        // The positions of a NaFlex backbone stay as they are stored.
        let resized = resized && !spec.is_naflex();
        let positions = (resized && spec.position_rows() > 0).then(|| StoredPositions {
            prefix: spec.embedded_prefix(),
            from: stored,
            to: spec.grid(),
            how: resampling,
        });
        if resized {
            resize(&mut config, &spec);
        }
        let tensors = Tensors::stored(files, names, positions);
        tensors.check(&spec)?;
        let pretrained_cfg =
            families::pretrained_cfg(&config).map_or_else(|| Value::Object(Map::new()), Cow::into_owned);
        Ok(Checkpoint {
            path: path.to_owned(),
            spec,
            tensors,
            config,
            config_file,
            pretrained_cfg,
            preprocessor_config,
            classes,
            notes,
        })
    }

    /// Packs the weights for the CPU executor with arithmetic in `precision`, and closes the files.
    ///
    /// # Errors
    /// As [`CpuBackbone::in_precision`].
    pub fn into_backbone(self, precision: Precision) -> Result<CpuBackbone> {
        CpuBackbone::in_precision(&self.spec, &self.tensors, precision)
    }

    /// The name that the library gives to the file of weights.
    pub fn weights_file(&self) -> &'static str {
        if self.config_file == CONFIGS[0] { "model.safetensors" } else { "open_clip_model.safetensors" }
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
}

/// The configuration beside `weights` and the name of its file: `config.json`, else open_clip's, else what the name of the
/// weights says. `path` is what was opened.
fn config_beside(path: &Path, weights: &Path) -> Result<(Value, &'static str)> {
    for file in CONFIGS {
        if let Some(config) = read_json(&weights.with_file_name(file))? {
            return Ok((config, file));
        }
    }
    Ok((config_by_name(path, weights)?, CONFIGS[0]))
}

/// Names of configurations, in the order in which they are looked for.
const CONFIGS: [&str; 2] = ["config.json", "open_clip_config.json"];

/// OpenAI's files of CLIP, without their ends, and timm's architectures of their towers.
const OPENAI: [(&str, &str); 4] = [
    ("ViT-B-32", "vit_base_patch32_clip_quickgelu_224"),
    ("ViT-B-16", "vit_base_patch16_clip_quickgelu_224"),
    ("ViT-L-14", "vit_large_patch14_clip_quickgelu_224"),
    ("ViT-L-14-336px", "vit_large_patch14_clip_quickgelu_336"),
];

/// The `config.json` of timm for a file of weights whose name is that of an architecture, with or without a hash or a
/// tag after it, as in `deit_small_patch16_224-cd65a155.pth`.
fn config_by_name(path: &Path, weights: &Path) -> Result<Value> {
    let name = weights.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let openais = OPENAI.iter().find(|(file, _)| *file == name).map(|(_, architecture)| *architecture);
    let architecture = openais.unwrap_or_else(|| name.split('-').next().unwrap_or_default());
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
    if path.is_file() { text::read_json(path).map(Some) } else { Ok(None) }
}
