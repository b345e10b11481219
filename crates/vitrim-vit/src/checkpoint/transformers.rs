//! transformers' `config.json`, and what its tensors are called: ViT, DeiT, DINOv2, DINOv2 with registers.

use serde_json::Value;

use super::Described;
use super::fields::{count, count_or, flag_or, number_or, pair_or, present, square, wrong};
use crate::error::{Result, VitError};
use crate::positions::Bicubic;
use crate::spec::{Activation, Pool, Positions, VitSpec};
use crate::tensors::Layout;
use crate::weight_files::WeightFiles;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Vit,
    Deit,
    Dinov2,
    Dinov2WithRegisters,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    /// Without a head.
    Model,
    Classification,
    /// One head for the class token, one for the distillation token.
    ClassificationWithTeacher,
}

impl Family {
    /// The names of a class: what comes before `Model` or `ForImageClassification`, and before tensors' names.
    const ALL: [(Family, &str, &str); 4] = [
        (Family::Vit, "ViT", "vit."),
        (Family::Deit, "DeiT", "deit."),
        (Family::Dinov2, "Dinov2", "dinov2."),
        (Family::Dinov2WithRegisters, "Dinov2WithRegisters", "dinov2_with_registers."),
    ];

    fn is_dinov2(self) -> bool {
        matches!(self, Family::Dinov2 | Family::Dinov2WithRegisters)
    }
}

/// A checkpoint as transformers describes it, its weights in `files`; `processor` is its `preprocessor_config.json`.
pub(super) fn describe(config: &Value, files: &WeightFiles, processor: Option<&Value>) -> Result<Described> {
    let architectures = config.get("architectures").and_then(Value::as_array);
    let class = architectures.and_then(|all| all.first()).and_then(Value::as_str).ok_or_else(|| {
        wrong(
            "neither timm's 'architecture' nor transformers' 'architectures'; one must say what this is"
                .into(),
        )
    })?;
    let unsupported = || VitError::UnsupportedArchitecture(class.to_owned());
    let known = Family::ALL.iter().find_map(|(family, name, prefix)| {
        let task = match class.strip_prefix(name)? {
            "Model" => Task::Model,
            "ForImageClassification" => Task::Classification,
            "ForImageClassificationWithTeacher" if *family == Family::Deit => Task::ClassificationWithTeacher,
            _ => return None,
        };
        Some((*family, task, *prefix))
    });
    let (family, task, prefix) = known.ok_or_else(unsupported)?;
    let names = labels(config);
    let classes = match task {
        Task::Model => 0,
        _ => match &names {
            Some(names) => names.len(),
            None => count_or(config, "num_labels", 2)?,
        },
    };
    let spec = parse(config, class, family, task, classes)?;
    let bicubic = if family == Family::Dinov2WithRegisters { Bicubic::Antialiased } else { Bicubic::Plain };
    Ok(Described {
        layout: layout(&spec, family, prefix, files),
        spec,
        class_names: names.filter(|names| !are_numbers(names)).unwrap_or_default(),
        bicubic,
        // DINOv2 is published at 518 pixels, takes any size, and is fed what its processor gives.
        usual_size: processor.filter(|_| family.is_dinov2()).and_then(crop_size),
    })
}

fn parse(config: &Value, class: &str, family: Family, task: Task, classes: usize) -> Result<VitSpec> {
    let dim = count_or(config, "hidden_size", 768)?;
    let swiglu = family.is_dinov2() && flag_or(config, "use_swiglu_ffn", false)?;
    let act = present(config, "hidden_act").and_then(Value::as_str).unwrap_or("gelu");
    if act != "gelu" && !swiglu {
        return Err(wrong(format!("hidden_act '{act}' is not supported; vitrim runs 'gelu'")));
    }
    if count_or(config, "num_channels", 3)? != 3 {
        return Err(wrong("num_channels: only images of 3 channels are supported".into()));
    }
    let ratio = (dim as f64 * number_or(config, "mlp_ratio", 4.0)?) as usize;
    let mlp_hidden = match (family.is_dinov2(), swiglu) {
        (true, true) => (ratio * 2 / 3).next_multiple_of(8),
        (true, false) => ratio,
        (false, _) => count_or(config, "intermediate_size", 3072)?,
    };
    let patch_size = pair_or(config, "patch_size", if family.is_dinov2() { 14 } else { 16 })?;
    let registers = match family {
        // Without a head of its own, the distillation token is a register with a position.
        Family::Deit if task != Task::ClassificationWithTeacher => 1,
        Family::Dinov2WithRegisters => count_or(config, "num_register_tokens", 4)?,
        _ => 0,
    };
    let with_registers = family == Family::Dinov2WithRegisters;
    let spec = VitSpec {
        architecture: class.to_owned(),
        img_size: pair_or(config, "image_size", 224)?,
        patch_size: square("patch_size", patch_size)?,
        dim,
        depth: count_or(config, "num_hidden_layers", 12)?,
        heads: count_or(config, "num_attention_heads", 12)?,
        mlp_hidden,
        num_classes: classes,
        class_token: true,
        distilled: task == Task::ClassificationWithTeacher,
        reg_tokens: registers,
        positions: if with_registers { Positions::ClassAndPatches } else { Positions::All },
        pool: if family.is_dinov2() && classes > 0 { Pool::TokenAvg } else { Pool::Token },
        fc_norm: false,
        qkv_bias: flag_or(config, "qkv_bias", true)?,
        qk_norm: false,
        layer_scale: family.is_dinov2(),
        activation: if swiglu { Activation::SwiGlu } else { Activation::Gelu },
        norm_eps: number_or(config, "layer_norm_eps", if family.is_dinov2() { 1e-6 } else { 1e-12 })? as f32,
    };
    spec.check()?;
    Ok(spec)
}

/// Where each tensor of `spec` is; `prefix` comes before the names of all but the heads, if anything does.
fn layout(spec: &VitSpec, family: Family, prefix: &str, files: &WeightFiles) -> Layout {
    let prefixed = files.shape(&format!("{prefix}embeddings.cls_token")).is_some();
    let prefix = if prefixed { prefix } else { "" };
    // Since transformers 5, SwiGLU's first layer may come in halves.
    let halves = files.shape(&format!("{prefix}encoder.layer.0.mlp.gate_proj.weight")).is_some();
    let stored = |name: &str| -> Vec<String> {
        if let Some(token) = token(name, family) {
            return vec![format!("{prefix}embeddings.{token}")];
        }
        let (layer, end) = name.rsplit_once('.').expect("layers have a weight and a bias");
        let names = match layer.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            None => match layer {
                "patch_embed.proj" => vec![format!("{prefix}embeddings.patch_embeddings.projection")],
                "head" if spec.distilled => vec!["cls_classifier".to_owned()],
                "head" => vec!["classifier".to_owned()],
                "head_dist" => vec!["distillation_classifier".to_owned()],
                _ => vec![format!("{prefix}layernorm")],
            },
            // LayerScale has a single tensor.
            Some((l, scale @ ("ls1" | "ls2"))) => {
                return vec![format!("{prefix}encoder.layer.{l}.layer_scale{}.lambda1", &scale[2..])];
            }
            Some((l, part)) => {
                let parts = block_parts(part, family, spec.activation, halves);
                parts.iter().map(|part| format!("{prefix}encoder.layer.{l}.{part}")).collect()
            }
        };
        names.into_iter().map(|name| format!("{name}.{end}")).collect()
    };
    let parts = spec.tensor_shapes().into_iter().map(|(name, _)| (name.clone(), stored(&name)));
    // For masked images in pre-training, and ViT's tanh layer over the class token, which no classifier sees.
    let unused = ["embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"];
    Layout {
        parts: parts.collect(),
        ignored: unused.into_iter().map(|name| format!("{prefix}{name}")).collect(),
        positions: None,
    }
}

/// What stands below `embeddings` for our token or position embedding `name`.
fn token(name: &str, family: Family) -> Option<&'static str> {
    match name {
        "cls_token" => Some("cls_token"),
        "dist_token" => Some("distillation_token"),
        "reg_token" if family == Family::Deit => Some("distillation_token"),
        "reg_token" => Some("register_tokens"),
        "pos_embed" => Some("position_embeddings"),
        _ => None,
    }
}

/// The layers that layer `part` of a block is stored as, one after another along the outputs.
fn block_parts(part: &str, family: Family, activation: Activation, halves: bool) -> &'static [&'static str] {
    match (part, family.is_dinov2(), activation) {
        ("attn.qkv", ..) => {
            &["attention.attention.query", "attention.attention.key", "attention.attention.value"]
        }
        ("attn.proj", ..) => &["attention.output.dense"],
        ("norm1", true, _) => &["norm1"],
        ("norm2", true, _) => &["norm2"],
        ("mlp.fc1", true, Activation::SwiGlu) if halves => &["mlp.gate_proj", "mlp.up_proj"],
        ("mlp.fc1", true, Activation::SwiGlu) => &["mlp.weights_in"],
        ("mlp.fc1", true, Activation::Gelu) => &["mlp.fc1"],
        ("mlp.fc2", true, Activation::SwiGlu) if halves => &["mlp.down_proj"],
        ("mlp.fc2", true, Activation::SwiGlu) => &["mlp.weights_out"],
        ("mlp.fc2", true, Activation::Gelu) => &["mlp.fc2"],
        ("norm1", false, _) => &["layernorm_before"],
        ("norm2", false, _) => &["layernorm_after"],
        ("mlp.fc1", false, _) => &["intermediate.dense"],
        ("mlp.fc2", false, _) => &["output.dense"],
        _ => unreachable!("transformers' blocks have no {part}"),
    }
}

/// The classes' names by index, of `id2label`; `None` where it is absent, or has gaps.
fn labels(config: &Value) -> Option<Vec<String>> {
    let labels = present(config, "id2label")?.as_object()?;
    let name = |i: usize| labels.get(&i.to_string()).and_then(Value::as_str).map(str::to_owned);
    (0..labels.len()).map(name).collect()
}

/// Whether they are what transformers writes where nobody named the classes.
fn are_numbers(names: &[String]) -> bool {
    names.iter().enumerate().all(|(i, name)| *name == format!("LABEL_{i}"))
}

/// Height and width of what an image processor gives; `None` where it does not say.
fn crop_size(processor: &Value) -> Option<[usize; 2]> {
    let crops = processor.get("do_center_crop").and_then(Value::as_bool).unwrap_or(false);
    let size = processor.get(if crops { "crop_size" } else { "size" })?;
    if size.is_number() {
        return count("size", size).ok().map(|side| [side, side]);
    }
    let side = |key: &str| size.get(key).and_then(|value| count(key, value).ok());
    Some([side("height")?, side("width")?])
}
