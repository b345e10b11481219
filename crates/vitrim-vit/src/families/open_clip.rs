//! open_clip's folders (<https://github.com/mlfoundations/open_clip>): `open_clip_config.json` describes a model of images
//! and texts, whose image tower is timm's or open_clip's own Vision Transformer.

use serde_json::{Map, Value, json};

use super::authors;
use super::description::Description;
use super::fields::{count_or, flag_or, number_or, pair_or, present, shown, wrong};
use super::{timm, timm_family};
use crate::classes::ClassNames;
use crate::error::Result;
use crate::names::{Dialect, NameTable};
use crate::positions::Resampling;
use crate::spec::{
    AttentionSpec, Embedding, EmbeddingNorm, MlpActivation, MlpSpec, NormSpec, Pool, Pooling, Positions,
    VitSpec,
};

/// Channels of a head unless the configuration says otherwise.
const HEAD_WIDTH: usize = 64;

/// Whether `config` is one of open_clip's.
pub(super) fn is_config(config: &Value) -> bool {
    config.get("model_cfg").and_then(|model| model.get("vision_cfg")).is_some()
}

/// The image tower of the model that `config` describes.
pub(super) fn describe(config: &Value) -> Result<Description> {
    let model = &config["model_cfg"];
    let (vision, width) = (&model["vision_cfg"], count_or(model, "embed_dim", 512)?);
    let (spec, names, dialects) = match present(vision, "timm_model_name").and_then(Value::as_str) {
        Some(name) => of_timm(name, vision, width)?,
        None => (own(model, vision, width)?, authors::OPENAI, &[] as &'static [Dialect]),
    };
    spec.check()?;
    Ok(Description {
        spec,
        names,
        dialects,
        classes: ClassNames::default(),
        resampling: Resampling::Bicubic,
        usual_size: None,
    })
}

/// The tower of timm's `name`, whose output is projected to `width` values unless `timm_proj` is "none" (`TimmModel` of
/// open_clip). A key that is missing has open_clip's default; null and "" leave the choice to timm.
fn of_timm(name: &str, vision: &Value, width: usize) -> Result<(VitSpec, NameTable, &'static [Dialect])> {
    let (mut draft, family) = timm_family(name)?;
    draft.spec.num_classes = 0;
    draft.spec.img_size = pair_or(vision, "image_size", draft.spec.img_size[0])?;
    let pool = vision.get("timm_pool").map_or(Some("avg"), Value::as_str);
    let projection = vision.get("timm_proj").map_or(Some("linear"), Value::as_str);
    if projection == Some("linear") {
        // open_clip changes the pooling of a built tower, whose norms stay those of its own pooling.
        draft.fc_norm = draft.fc_norm.or(Some(draft.spec.pooling.pool == Pool::Avg));
    }
    match pool {
        None | Some("") => {}
        Some(pool) => draft.spec.pooling.pool = timm::pool("timm_pool", &json!(pool))?,
    }
    match projection {
        Some("none") => {}
        Some("linear") => {
            draft.spec.pooling.projection = Some(width);
            draft.spec.pooling.projection_bias = flag_or(vision, "timm_proj_bias", false)?;
        }
        // The tower's classifier is the projection.
        None | Some("") => {
            draft.spec.pooling.projection = Some(width);
            draft.spec.pooling.projection_bias = true;
        }
        Some(other) => {
            return Err(wrong(format!(
                "timm_proj '{other}' is not supported; vitrim runs a linear projection, or none"
            )));
        }
    }
    Ok((draft.finish()?, family.class.names, family.class.dialects))
}

/// open_clip's own Vision Transformer.
fn own(model: &Value, vision: &Value, width: usize) -> Result<VitSpec> {
    if present(vision, "layers").is_some_and(Value::is_array) {
        return Err(wrong(
            "the image tower is a ResNet, which needs convolutions; vitrim runs transformers".into(),
        ));
    }
    const OTHER: [&str; 7] = [
        "attentional_pool",
        "qk_norm",
        "scaled_cosine_attn",
        "scale_heads",
        "scale_attn",
        "scale_attn_inner",
        "scale_fc",
    ];
    for key in OTHER {
        if present(vision, key).is_some_and(|value| *value != Value::Bool(false)) {
            return Err(wrong(format!("vision_cfg.{key} = {} is not supported", shown(&vision[key]))));
        }
    }
    let dim = count_or(vision, "width", 768)?;
    let head_width = count_or(vision, "head_width", HEAD_WIDTH)?.max(1);
    let tanh = present(vision, "act_kwargs").and_then(|kwargs| kwargs.get("approximate"));
    let activation = match (flag_or(model, "quick_gelu", false)?, tanh.and_then(Value::as_str)) {
        (true, _) => MlpActivation::QuickGelu,
        (false, Some("tanh")) => MlpActivation::GeluTanh,
        (false, _) => MlpActivation::Gelu,
    };
    let ratio = number_or(vision, "mlp_ratio", 4.0)?;
    let pool = match present(vision, "pool_type").and_then(Value::as_str) {
        None | Some("tok") => Pool::Token,
        Some("avg") => Pool::Avg,
        Some(other) => {
            return Err(wrong(format!("pool_type '{other}' is not supported; vitrim runs 'tok' and 'avg'")));
        }
    };
    let eps = present(vision, "norm_kwargs").map_or(Ok(1e-5), |kwargs| number_or(kwargs, "eps", 1e-5))?;
    let norm_pre = !flag_or(vision, "no_ln_pre", false)?;
    Ok(VitSpec {
        architecture: "open_clip VisionTransformer".to_owned(),
        img_size: pair_or(vision, "image_size", 224)?,
        patch_size: count_or(vision, "patch_size", 16)?,
        dim,
        depth: count_or(vision, "layers", 12)?,
        num_classes: 0,
        embedding: Embedding {
            patch_bias: false,
            norm: if norm_pre { EmbeddingNorm::Tokens } else { EmbeddingNorm::None },
            ..Embedding::default()
        },
        positions: Positions::All,
        attention: AttentionSpec::plain(dim / head_width),
        mlp: MlpSpec::plain((dim as f64 * ratio) as usize, activation),
        norm: NormSpec::layer(eps as f32),
        layer_scale: present(vision, "ls_init_value").is_some(),
        pooling: Pooling {
            projection: Some(width),
            ..Pooling::plain(pool, flag_or(vision, "final_ln_after_pool", false)?)
        },
    })
}

/// How images are preprocessed, under timm's names; open_clip's defaults are those of OpenAI.
pub(super) fn pretrained_cfg(config: &Value) -> Value {
    let (empty, vision) = (Value::Object(Map::new()), &config["model_cfg"]["vision_cfg"]);
    let given = present(config, "preprocess_cfg").unwrap_or(&empty);
    let or = |key: &str, default: Value| present(given, key).cloned().unwrap_or(default);
    let side = present(vision, "image_size").cloned().unwrap_or(json!(224));
    let size = if side.is_array() { json!([3, side[0], side[1]]) } else { json!([3, side, side]) };
    json!({
        "input_size": size,
        "mean": or("mean", json!([0.481_454_66, 0.457_827_5, 0.408_210_73])),
        "std": or("std", json!([0.268_629_54, 0.261_302_58, 0.275_777_11])),
        "interpolation": or("interpolation", json!("bicubic")),
        "crop_pct": 1.0,
        "crop_mode": match or("resize_mode", json!("shortest")).as_str() {
            Some("squash") => "squash",
            Some("longest") => "border",
            _ => "center",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tower_of_timms_has_open_clips_defaults() {
        for (pool, projection, expected) in [
            (None, None, (Pool::Avg, false, Some(24), false)),
            (Some(json!(null)), Some(json!(null)), (Pool::Token, false, Some(24), true)),
            (Some(json!("avg")), Some(json!("")), (Pool::Avg, true, Some(24), true)),
            (Some(json!("token")), Some(json!("none")), (Pool::Token, false, None, false)),
        ] {
            let mut vision = json!({"timm_model_name": "vit_tiny_patch16_224"});
            for (key, value) in [("timm_pool", pool), ("timm_proj", projection)] {
                if let Some(value) = value {
                    vision[key] = value;
                }
            }
            let config = json!({"model_cfg": {"embed_dim": 24, "vision_cfg": vision}});
            let found = describe(&config).unwrap().spec.pooling;
            let found = (found.pool, found.fc_norm, found.projection, found.projection_bias);
            assert_eq!(found, expected, "{config}");
        }
    }
}
