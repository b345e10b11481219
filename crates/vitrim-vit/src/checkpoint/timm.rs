//! timm's `config.json`: what the architecture's name says, changed by `model_args`.

use serde_json::{Map, Value};

use super::Described;
use super::fields::{count, flag, number, pair, square, wrong};
use crate::architectures::{Architecture, timm_architecture};
use crate::error::Result;
use crate::positions::Bicubic;
use crate::spec::{Pool, Positions, VitSpec};
use crate::tensors::Layout;
use crate::weight_files::WeightFiles;

/// Arguments of timm's `VisionTransformer` that change nothing at inference.
const INERT: [&str; 13] = [
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "fix_init",
    "dynamic_img_size",
    "dynamic_img_pad",
    "strict_img_size",
    "pretrained_strict",
    "cache_dir",
];

/// Arguments that vitrim runs with one value alone.
const FIXED: [(&str, &str); 9] = [
    ("in_chans", "3"),
    ("pos_embed", "\"learn\""),
    ("pre_norm", "false"),
    ("final_norm", "true"),
    ("pool_include_prefix", "false"),
    ("proj_bias", "true"),
    ("scale_attn_norm", "false"),
    ("scale_mlp_norm", "false"),
    ("act_layer", "\"gelu\""),
];

/// A checkpoint as timm describes it, its weights in `files`.
pub(super) fn describe(config: &Value, name: &str, files: &WeightFiles) -> Result<Described> {
    let spec = parse(config, name)?;
    let names = config.get("pretrained_cfg").and_then(|cfg| cfg.get("label_names")).and_then(Value::as_array);
    let names = names.map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    Ok(Described {
        layout: layout(&spec, files),
        spec,
        class_names: names.unwrap_or_default(),
        bicubic: Bicubic::Antialiased,
        usual_size: None,
    })
}

fn parse(config: &Value, name: &str) -> Result<VitSpec> {
    let Architecture { mut spec, mut mlp_ratio } = timm_architecture(name)?;
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
        let named = format!("model_args.{key}");
        match key.as_str() {
            // Their absence means something to timm.
            "init_values" => spec.layer_scale = !value.is_null(),
            _ if value.is_null() => {}
            "num_classes" => spec.num_classes = count(&named, value)?,
            "img_size" => spec.img_size = pair(&named, value)?,
            "patch_size" => spec.patch_size = square(&named, pair(&named, value)?)?,
            "embed_dim" => spec.dim = count(&named, value)?,
            "depth" => spec.depth = count(&named, value)?,
            "num_heads" => spec.heads = count(&named, value)?,
            "mlp_ratio" => mlp_ratio = number(&named, value)?,
            "class_token" => spec.class_token = flag(&named, value)?,
            "reg_tokens" => spec.reg_tokens = count(&named, value)?,
            "no_embed_class" if flag(&named, value)? => spec.positions = Positions::Patches,
            "no_embed_class" => spec.positions = Positions::All,
            "qkv_bias" => spec.qkv_bias = flag(&named, value)?,
            "qk_norm" => spec.qk_norm = flag(&named, value)?,
            "fc_norm" => fc_norm = Some(flag(&named, value)?),
            "global_pool" => spec.pool = parse_pool(value)?,
            other if INERT.contains(&other) => {}
            other if FIXED.contains(&(other, &value.to_string())) => {}
            _ => return Err(wrong(format!("{named} = {value} is not supported"))),
        }
    }
    spec.fc_norm = fc_norm.unwrap_or(spec.pool == Pool::Avg);
    spec = spec.with_mlp_ratio(mlp_ratio);
    spec.check()?;
    Ok(spec)
}

/// timm's names are ours. Meta's DeiT-III calls its LayerScale otherwise, and its DINOv2 keeps a token for masked
/// patches in pre-training.
fn layout(spec: &VitSpec, files: &WeightFiles) -> Layout {
    let mut layout = Layout { ignored: ["mask_token".to_owned()].into(), ..Layout::default() };
    if files.shape("blocks.0.gamma_1").is_some() {
        for (l, branch) in (0..spec.depth).flat_map(|l| [(l, 1), (l, 2)]) {
            let stored = format!("blocks.{l}.gamma_{branch}");
            layout.parts.insert(format!("blocks.{l}.ls{branch}.gamma"), vec![stored]);
        }
    }
    layout
}

fn parse_pool(value: &Value) -> Result<Pool> {
    match value.as_str() {
        Some("token") => Ok(Pool::Token),
        Some("avg") => Ok(Pool::Avg),
        _ => Err(wrong(format!("global_pool {value} is not supported; vitrim runs 'token' and 'avg'"))),
    }
}
