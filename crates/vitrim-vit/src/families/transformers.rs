//! transformers' side of a family: classes, and what their configurations have in common.

use serde_json::Value;

use super::description::Description;
use super::fields::{count, count_or, flag_or, number_or, pair_or, present, square, wrong};
use super::naflex;
use crate::classes::{ClassNames, class_count};
use crate::error::Result;
use crate::names::{Dialect, NameTable};
use crate::positions::Resampling;
use crate::spec::{
    AttentionSpec, Embedding, MlpActivation, MlpSpec, NormSpec, Pool, Pooling, Positions, VitSpec,
};

/// A transformers model, with all its tasks.
pub(super) struct Class {
    /// Prefix of its class names: `ViT`.
    pub name: &'static str,
    pub tasks: &'static [Task],
    /// The geometry of a configuration.
    pub geometry: fn(&Value, Task) -> Result<VitSpec>,
    /// The tensor names of a geometry.
    pub names: fn(&VitSpec) -> NameTable,
    /// How the library resamples position embeddings.
    pub resampling: Resampling,
    /// Whether the input size is that of the image processor, instead of that of the positions.
    pub sized_by_processor: bool,
    /// Other names that the tensors may have.
    pub dialects: &'static [Dialect],
}

/// The task of a class.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Without a head.
    Model,
    /// With what only pre-training needs.
    PreTraining,
    Classification,
    /// One head for the class token, one for the distillation token.
    ClassificationWithTeacher,
    /// The image tower of a model of images and texts, without a head.
    VisionModel,
    /// The image tower with the projection to the space of images and texts.
    VisionModelWithProjection,
}

impl Task {
    /// Suffix of the class name.
    fn end(self) -> &'static str {
        match self {
            Task::Model => "Model",
            Task::PreTraining => "ForPreTraining",
            Task::Classification => "ForImageClassification",
            Task::ClassificationWithTeacher => "ForImageClassificationWithTeacher",
            Task::VisionModel => "VisionModel",
            Task::VisionModelWithProjection => "VisionModelWithProjection",
        }
    }
}

impl Class {
    /// The full names of its classes.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.tasks.iter().map(|task| format!("{}{}", self.name, task.end()))
    }

    /// The task of the class named `name`; `None` if the class belongs to another model.
    pub fn task(&self, name: &str) -> Option<Task> {
        let end = name.strip_prefix(self.name)?;
        self.tasks.iter().copied().find(|task| task.end() == end)
    }
}

/// A checkpoint of class `class`; `processor` is its `preprocessor_config.json`.
pub(super) fn describe(
    config: &Value,
    class: &Class,
    task: Task,
    processor: Option<&Value>,
) -> Result<Description> {
    let spec = (class.geometry)(config, task)?;
    spec.check()?;
    let usual_size = match class.sized_by_processor {
        true if spec.is_naflex() => Some(naflex::usual_size(processor, spec.patch_size)?),
        true => processor.and_then(crop_size),
        false => None,
    };
    Ok(Description {
        names: (class.names)(&spec),
        dialects: class.dialects,
        classes: ClassNames::from_transformers(config, spec.num_classes)?,
        spec,
        resampling: class.resampling,
        usual_size,
    })
}

/// The geometry in configurations of plain Vision Transformers, for patches of `patch` pixels unless `config` says
/// otherwise, with an MLP four times as wide as the tokens.
pub(super) fn plain(config: &Value, task: Task, patch: usize) -> Result<VitSpec> {
    if count_or(config, "num_channels", 3)? != 3 {
        return Err(wrong("num_channels: only images of 3 channels are supported".into()));
    }
    let dim = count_or(config, "hidden_size", 768)?;
    let num_classes = match task {
        Task::Model | Task::PreTraining | Task::VisionModel | Task::VisionModelWithProjection => 0,
        Task::Classification | Task::ClassificationWithTeacher => {
            let named = class_count(config);
            named.map_or_else(|| count_or(config, "num_labels", 2), Ok)?
        }
    };
    Ok(VitSpec {
        architecture: class_name(config)?.to_owned(),
        img_size: pair_or(config, "image_size", 224)?,
        patch_size: square("patch_size", pair_or(config, "patch_size", patch)?)?,
        dim,
        depth: count_or(config, "num_hidden_layers", 12)?,
        num_classes,
        embedding: Embedding::default(),
        positions: Positions::All,
        attention: AttentionSpec {
            qkv_bias: flag_or(config, "qkv_bias", true)?,
            ..AttentionSpec::plain(count_or(config, "num_attention_heads", 12)?)
        },
        mlp: MlpSpec::plain(4 * dim, MlpActivation::Gelu),
        norm: NormSpec::layer(number_or(config, "layer_norm_eps", 1e-12)? as f32),
        layer_scale: false,
        pooling: Pooling::plain(Pool::Token, false),
    })
}

/// The configuration of the image tower in `config`, which may be that of a model of images and texts: `vision_config`
/// with `architectures` and the labels of the whole, and `defaults` for fields that are absent.
pub(super) fn tower(config: &Value, defaults: &[(&str, Value)]) -> Value {
    let mut tower = config.get("vision_config").unwrap_or(config).clone();
    for key in ["architectures", "id2label", "num_labels"] {
        tower[key] = config.get(key).cloned().unwrap_or(Value::Null);
    }
    for (key, default) in defaults {
        if present(&tower, key).is_none() {
            tower[*key] = default.clone();
        }
    }
    tower
}

/// The activation that `hidden_act` names.
pub(super) fn activation(config: &Value) -> Result<MlpActivation> {
    match present(config, "hidden_act").and_then(Value::as_str).unwrap_or("gelu") {
        "gelu" => Ok(MlpActivation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(MlpActivation::GeluTanh),
        "quick_gelu" => Ok(MlpActivation::QuickGelu),
        "silu" | "swish" => Ok(MlpActivation::Silu),
        other => Err(wrong(format!(
            "hidden_act '{other}' is not supported; vitrim runs 'gelu', 'gelu_pytorch_tanh', 'quick_gelu' and 'silu'"
        ))),
    }
}

/// The name of the class that wrote `config`.
pub(super) fn class_name(config: &Value) -> Result<&str> {
    let architectures = config.get("architectures").and_then(Value::as_array);
    architectures.and_then(|all| all.first()).and_then(Value::as_str).ok_or_else(|| {
        wrong(
            "neither timm's 'architecture' nor transformers' 'architectures'; one must say what this is"
                .into(),
        )
    })
}

/// Height and width of an image processor's output; `None` if it does not say.
fn crop_size(processor: &Value) -> Option<[usize; 2]> {
    let crops = processor.get("do_center_crop").and_then(Value::as_bool).unwrap_or(false);
    let size = processor.get(if crops { "crop_size" } else { "size" })?;
    if size.is_number() {
        return count("size", size).ok().map(|side| [side, side]);
    }
    let side = |key: &str| size.get(key).and_then(|value| count(key, value).ok());
    Some([side("height")?, side("width")?])
}
