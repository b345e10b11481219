//! timm's side of a family: sizes by name, the arguments of a class, and tensor names.
//!
//! The arguments of a class are a table. It applies the `model_args` of a `config.json`, and it names the attributes
//! from which Python's `from_timm` reads the same arguments of a live module.

use serde_json::{Map, Value};
use vitrim_kernels::Activation;

use super::description::Description;
use super::fields::{count, flag, number, pair, present, shown, square, wrong};
use super::{authors, eva};
use crate::classes::ClassNames;
use crate::error::{Result, VitError};
use crate::names::{Dialect, NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{
    AttentionPool, AttentionSpec, Embedding, EmbeddingNorm, MlpActivation, MlpSpec, NormSpec, Pool, Pooling,
    Positions, VitSpec,
};

/// A family's names in timm.
pub(super) struct Names {
    /// The family's names in the error for other names; `{size}` is any of `sizes`.
    pub patterns: &'static [&'static str],
    pub sizes: &'static [Size],
    /// The geometry of a name; `None` if the name belongs to another family.
    pub geometry: fn(&Name<'_>) -> Option<Draft>,
    /// The timm class that builds the family.
    pub class: &'static Class,
    /// Python classes of live modules, each with the architecture to start from if the module has no name.
    pub modules: &'static [(&'static str, &'static str)],
}

impl Names {
    /// The patterns with sizes filled in, for the error message.
    pub fn patterns(&self) -> impl Iterator<Item = String> {
        let sizes: Vec<&str> = self.sizes.iter().map(|size| size.name).collect();
        let sizes = format!("{{{}}}", sizes.join(","));
        self.patterns.iter().map(move |pattern| pattern.replace("{size}", &sizes))
    }
}

/// A timm class that builds families: its arguments and its tensor names.
pub(super) struct Class {
    pub arguments: &'static [TimmArgument],
    /// Arguments that the class shares with another; those of `arguments` come first.
    pub shared: &'static [TimmArgument],
    pub names: NameTable,
    /// Other names that the tensors may have.
    pub dialects: &'static [Dialect],
}

/// One size of a family.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub name: &'static str,
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    pub mlp_ratio: f64,
}

impl Size {
    /// A size whose MLP is four times as wide as the tokens.
    pub const fn new(name: &'static str, dim: usize, depth: usize, heads: usize) -> Self {
        Size { name, dim, depth, heads, mlp_ratio: 4.0 }
    }

    pub fn find(sizes: &[Size], name: &str) -> Option<Self> {
        sizes.iter().copied().find(|size| size.name == name)
    }
}

/// A name without its tag, cut at its patch size: `deit_small_distilled_patch16_224`.
pub(super) struct Name<'n> {
    whole: &'n str,
    /// Parts before the patch size: `["deit", "small", "distilled"]`.
    pub before: Vec<&'n str>,
    patch_size: usize,
    /// Parts after the patch size: `["224"]`.
    pub after: Vec<&'n str>,
}

impl<'n> Name<'n> {
    pub fn parse(whole: &'n str) -> Option<Self> {
        let parts: Vec<&str> = whole.split('_').collect();
        let at = parts.iter().position(|part| part.starts_with("patch"))?;
        let patch_size = parts[at].strip_prefix("patch")?.parse().ok().filter(|size| *size > 0)?;
        Some(Name { whole, before: parts[..at].to_vec(), patch_size, after: parts[at + 1..].to_vec() })
    }
}

/// A geometry that starts from a name and is changed by arguments.
pub(super) struct Draft {
    pub spec: VitSpec,
    /// Ratio of the outputs of the MLP's first layer to the width.
    pub mlp_ratio: f64,
    /// Whether `mlp_ratio` is that of the inputs of the second layer (timm's `Eva`), and of what they are a multiple.
    pub hidden_ratio: Option<usize>,
    /// Whether an attention pool pools prefix tokens, too (timm's `Eva`).
    pub pool_prefix: bool,
    /// The argument `fc_norm`, if it was given.
    pub fc_norm: Option<bool>,
    /// How positions are resampled to another grid.
    pub resampling: Resampling,
    /// The input size, if it is not that of the learned positions.
    pub usual_size: Option<[usize; 2]>,
    /// Heads, ratio of the MLP and activation of an attention pool, if they are not those of the blocks.
    pub pool: (Option<usize>, Option<f64>, Option<MlpActivation>),
}

impl Draft {
    /// timm's plain Vision Transformer of `size` for square inputs of `side` pixels.
    pub fn plain(name: &Name<'_>, size: Size, side: usize) -> Self {
        let spec = VitSpec {
            architecture: name.whole.to_owned(),
            img_size: [side, side],
            patch_size: name.patch_size,
            dim: size.dim,
            depth: size.depth,
            num_classes: 1000,
            embedding: Embedding::default(),
            positions: Positions::All,
            attention: AttentionSpec::plain(size.heads),
            mlp: MlpSpec::plain(0, MlpActivation::Gelu),
            norm: NormSpec::layer(1e-6),
            layer_scale: false,
            pooling: Pooling::plain(Pool::Token, false),
        };
        Draft {
            spec,
            mlp_ratio: size.mlp_ratio,
            hidden_ratio: None,
            pool_prefix: false,
            fc_norm: None,
            resampling: Resampling::Bicubic,
            usual_size: None,
            pool: (None, None, None),
        }
    }

    /// The finished geometry, checked.
    pub fn finish(self) -> Result<VitSpec> {
        let Draft { mut spec, mlp_ratio, hidden_ratio, pool_prefix, fc_norm, pool, .. } = self;
        let (heads, pool_ratio, activation) = pool;
        spec.pooling.fc_norm = fc_norm.unwrap_or(spec.pooling.pool == Pool::Avg);
        let width = |ratio: f64| (spec.dim as f64 * ratio) as usize;
        spec.pooling.attention = (spec.pooling.pool == Pool::Map).then(|| AttentionPool {
            heads: heads.unwrap_or(spec.attention.heads),
            prefix: pool_prefix,
            query: true,
            bias: true,
            mlp: Some(MlpSpec::plain(
                width(pool_ratio.unwrap_or(mlp_ratio)),
                activation.unwrap_or(MlpActivation::of(spec.mlp.activation.function(), false)),
            )),
        });
        spec.mlp = match hidden_ratio {
            Some(multiple) => MlpSpec { hidden: width(mlp_ratio).next_multiple_of(multiple), ..spec.mlp },
            None => spec.mlp.of_outputs(width(mlp_ratio)),
        };
        spec.check()?;
        Ok(spec)
    }

    /// A norm over all tokens before block 0; the patch embedding has no bias then. Without it, a norm of the patches
    /// stays.
    pub fn set_pre_norm(&mut self, there: bool) {
        let embedding = &mut self.spec.embedding;
        if there || embedding.norm == EmbeddingNorm::Tokens {
            embedding.norm = if there { EmbeddingNorm::Tokens } else { EmbeddingNorm::None };
            embedding.patch_bias = !there;
        }
    }

    /// Applies the argument `name` of `class`.
    fn apply(&mut self, class: &Class, name: &str, value: &Value) -> Result<()> {
        let named = format!("model_args.{name}");
        let argument = class.arguments.iter().chain(class.shared).find(|argument| argument.name == name);
        match argument.map(|argument| argument.effect) {
            Some(Effect::SetsGiven(set)) => {
                set(&mut self.spec, !matches!(value, Value::Null | Value::Bool(false)));
                Ok(())
            }
            Some(_) | None if value.is_null() => Ok(()),
            Some(Effect::Sets(set)) => set(self, &named, value),
            Some(Effect::Only(only)) if only.parse::<Value>().is_ok_and(|only| only == *value) => Ok(()),
            Some(Effect::Nothing) => Ok(()),
            Some(Effect::Only(_)) | None => Err(not_supported(&named, value)),
        }
    }
}

/// An argument of a timm class.
pub struct TimmArgument {
    /// Name of the argument in timm.
    pub name: &'static str,
    /// How to read it from a live module.
    pub live: Live,
    effect: Effect,
}

/// Where a live module keeps an argument. A path is a chain of attributes; all but the last must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// The module does not keep it.
    Unknown,
    /// The value of this attribute, which must exist.
    Value(&'static str),
    /// The value of the first of these attributes that exists.
    First(&'static [&'static str]),
    /// The number of items of the attribute.
    Length(&'static str),
    /// The name of the attribute's class.
    Class(&'static str),
    /// Whether the attribute exists, and is neither `None` nor timm's `Identity`.
    Built(&'static str),
    /// As [`Live::Built`], of any of these attributes.
    AnyBuilt(&'static [&'static str]),
    /// The ratio of the first of these attributes that exists to the last argument.
    Ratio(&'static [&'static str], &'static str),
}

#[derive(Clone, Copy)]
pub(super) enum Effect {
    /// Changes the geometry, unless the value is null.
    Sets(fn(&mut Draft, &str, &Value) -> Result<()>),
    /// Changes the geometry by whether the value is given: neither null nor false.
    SetsGiven(fn(&mut VitSpec, bool)),
    /// Only this value (as JSON) is supported.
    Only(&'static str),
    /// Changes nothing at inference.
    Nothing,
}

/// timm's `VisionTransformer`, of plain blocks.
pub(super) static VISION_TRANSFORMER: Class =
    Class { arguments: ARGUMENTS, shared: &[], names: NAMES, dialects: &authors::OF_VISION_TRANSFORMER };

/// Our tensor names are timm's. Meta's DeiT-III has another name for LayerScale, and its DINOv2 has a mask token for
/// pre-training.
pub(super) const NAMES: NameTable = NameTable {
    prefix: "",
    rows: &[&LAYER_SCALE, &eva::GATES],
    heads: &[],
    ignored: &["mask_token"],
    one_tower: false,
};

pub(super) const LAYER_SCALE: [NameRow; 2] = [
    ("blocks.{l}.ls1.gamma", &[Stored::As("blocks.{l}.ls1.gamma"), Stored::As("blocks.{l}.gamma_1")]),
    ("blocks.{l}.ls2.gamma", &[Stored::As("blocks.{l}.ls2.gamma"), Stored::As("blocks.{l}.gamma_2")]),
];

pub(super) const fn argument(name: &'static str, live: Live, effect: Effect) -> TimmArgument {
    TimmArgument { name, live, effect }
}

/// An argument that changes the geometry.
pub(super) const fn sets(
    name: &'static str,
    live: Live,
    set: fn(&mut Draft, &str, &Value) -> Result<()>,
) -> TimmArgument {
    argument(name, live, Effect::Sets(set))
}

/// An argument with one supported value, which a module does not keep.
pub(super) const fn only(name: &'static str, value: &'static str) -> TimmArgument {
    argument(name, Live::Unknown, Effect::Only(value))
}

/// An argument that changes nothing at inference.
const fn inert(name: &'static str) -> TimmArgument {
    argument(name, Live::Unknown, Effect::Nothing)
}

pub(super) static ARGUMENTS: &[TimmArgument] = &[
    sets("img_size", Live::Value("patch_embed.img_size"), |draft, named, value| {
        draft.spec.img_size = pair(named, value)?;
        Ok(())
    }),
    sets("patch_size", Live::Value("patch_embed.patch_size"), |draft, named, value| {
        draft.spec.patch_size = square(named, pair(named, value)?)?;
        Ok(())
    }),
    argument("in_chans", Live::Value("patch_embed.proj.in_channels"), Effect::Only("3")),
    sets("num_classes", Live::Value("num_classes"), |draft, named, value| {
        draft.spec.num_classes = count(named, value)?;
        Ok(())
    }),
    sets("global_pool", Live::Value("global_pool"), |draft, named, value| {
        draft.spec.pooling.pool = pool(named, value)?;
        Ok(())
    }),
    sets("embed_dim", Live::Value("embed_dim"), |draft, named, value| {
        draft.spec.dim = count(named, value)?;
        Ok(())
    }),
    sets("depth", Live::Length("blocks"), |draft, named, value| {
        draft.spec.depth = count(named, value)?;
        Ok(())
    }),
    sets("num_heads", Live::Value("blocks.0.attn.num_heads"), |draft, named, value| {
        draft.spec.attention.heads = count(named, value)?;
        Ok(())
    }),
    sets("mlp_ratio", Live::Ratio(&FIRST_LAYER, "embed_dim"), |draft, named, value| {
        draft.mlp_ratio = number(named, value)?;
        Ok(())
    }),
    sets("mlp_layer", Live::Class("blocks.0.mlp"), |draft, named, value| {
        let (gated, hidden_ratio) = match value.as_str() {
            Some("Mlp") => (false, None),
            // One first layer, of which timm's ratio tells the outputs.
            Some("GluMlp") => (true, None),
            // Two, whose ratio is that of the second layer's inputs.
            Some("SwiGLU") => (true, Some(1)),
            _ => return Err(not_supported(named, value)),
        };
        let activation = &mut draft.spec.mlp.activation;
        *activation = MlpActivation::of(activation.function(), gated);
        draft.hidden_ratio = hidden_ratio;
        Ok(())
    }),
    // Not a timm argument: an argument of timm's `GluMlp`.
    argument("gate_last", Live::First(&["blocks.0.mlp.gate_last"]), Effect::Only("false")),
    sets("act_layer", Live::Class("blocks.0.mlp.act"), |draft, named, value| {
        let activation = &mut draft.spec.mlp.activation;
        *activation = MlpActivation::of(function(named, value)?, activation.is_gated());
        Ok(())
    }),
    sets("class_token", Live::Built("cls_token"), class_token),
    sets("reg_tokens", Live::First(&["num_reg_tokens"]), reg_tokens),
    sets("no_embed_class", Live::First(&["no_embed_class"]), |draft, named, value| {
        draft.spec.positions = if flag(named, value)? { Positions::Patches } else { Positions::All };
        Ok(())
    }),
    sets("qkv_bias", Live::Built("blocks.0.attn.qkv.bias"), |draft, named, value| {
        draft.spec.attention.qkv_bias = flag(named, value)?;
        Ok(())
    }),
    sets("qk_norm", Live::Built("blocks.0.attn.q_norm"), |draft, named, value| {
        draft.spec.attention.qk_norm = flag(named, value)?;
        Ok(())
    }),
    argument(
        "init_values",
        Live::Built("blocks.0.ls1"),
        Effect::SetsGiven(|spec, given| spec.layer_scale = given),
    ),
    sets("fc_norm", Live::Built("fc_norm"), |draft, named, value| {
        draft.fc_norm = Some(flag(named, value)?);
        Ok(())
    }),
    // Not a timm argument: an argument of timm's `norm_layer`.
    sets("norm_eps", Live::First(&["norm.eps", "fc_norm.eps"]), |draft, named, value| {
        draft.spec.norm.eps = number(named, value)? as f32;
        Ok(())
    }),
    sets("pre_norm", Live::Built("norm_pre"), |draft, named, value| {
        draft.set_pre_norm(flag(named, value)?);
        Ok(())
    }),
    argument("pool_include_prefix", Live::First(&["pool_include_prefix"]), Effect::Only("false")),
    only("pos_embed", "\"learn\""),
    sets("final_norm", Live::Unknown, |draft, named, value| {
        draft.spec.pooling.final_norm = flag(named, value)?;
        Ok(())
    }),
    sets("proj_bias", Live::Unknown, |draft, named, value| {
        let biased = flag(named, value)?;
        (draft.spec.attention.proj_bias, draft.spec.mlp.bias) = (biased, biased);
        Ok(())
    }),
    sets("scale_attn_norm", Live::Built("blocks.0.attn.norm"), |draft, named, value| {
        draft.spec.attention.inner_norm = flag(named, value)?;
        Ok(())
    }),
    sets("scale_mlp_norm", Live::Built("blocks.0.mlp.norm"), |draft, named, value| {
        draft.spec.mlp.norm = flag(named, value)?;
        Ok(())
    }),
    inert("drop_rate"),
    inert("pos_drop_rate"),
    inert("patch_drop_rate"),
    inert("proj_drop_rate"),
    inert("attn_drop_rate"),
    inert("drop_path_rate"),
    inert("weight_init"),
    inert("fix_init"),
    inert("dynamic_img_size"),
    inert("dynamic_img_pad"),
    inert("strict_img_size"),
    inert("pretrained_strict"),
    inert("cache_dir"),
];

/// Where the width of the MLP's first layer is; timm's `SwiGLU` has two of them, each as wide as the second's inputs.
const FIRST_LAYER: [&str; 2] = ["blocks.0.mlp.fc1.out_features", "blocks.0.mlp.fc2.in_features"];

/// Whether there is a class token.
pub(super) fn class_token(draft: &mut Draft, named: &str, value: &Value) -> Result<()> {
    draft.spec.embedding.class_token = flag(named, value)?;
    Ok(())
}

/// The number of register tokens.
pub(super) fn reg_tokens(draft: &mut Draft, named: &str, value: &Value) -> Result<()> {
    draft.spec.embedding.reg_tokens = count(named, value)?;
    Ok(())
}

/// The activation that timm's `act_layer` names.
pub(super) fn function(named: &str, value: &Value) -> Result<Activation> {
    match value.as_str() {
        Some("gelu" | "GELU") => Ok(Activation::Gelu),
        Some("gelu_tanh" | "GELUTanh") => Ok(Activation::GeluTanh),
        Some("quick_gelu" | "QuickGELU") => Ok(Activation::QuickGelu),
        Some("silu" | "swish" | "SiLU") => Ok(Activation::Silu),
        _ => Err(not_supported(named, value)),
    }
}

pub(super) fn pool(named: &str, value: &Value) -> Result<Pool> {
    let known = [Pool::Token, Pool::Avg, Pool::Map];
    let known = known.into_iter().find(|pool| pool.timm_name() == value.as_str());
    known.ok_or_else(|| {
        wrong(format!("{named} {} is not supported; vitrim runs 'token', 'avg' and 'map'", shown(value)))
    })
}

/// Checks that `value` is one of `words`.
pub(super) fn fixed(named: &str, value: &Value, words: &[&str]) -> Result<()> {
    if value.as_str().is_some_and(|value| words.contains(&value)) {
        return Ok(());
    }
    Err(not_supported(named, value))
}

pub(super) fn not_supported(named: &str, value: &Value) -> VitError {
    wrong(format!("{named} = {} is not supported", shown(value)))
}

/// A checkpoint in timm's description: `draft` is the geometry of its architecture's name. What is at the root of
/// `config` goes before what is in its `pretrained_cfg`.
pub(super) fn describe(config: &Value, mut draft: Draft, class: &Class) -> Result<Description> {
    let cfg = present(config, "pretrained_cfg").unwrap_or(config);
    let stated = |key: &str| present(config, key).or_else(|| present(cfg, key));
    if let Some(classes) = stated("num_classes") {
        draft.spec.num_classes = count("num_classes", classes)?;
    }
    if let Some(given) = stated("global_pool") {
        draft.spec.pooling.pool = pool("global_pool", given)?;
    }
    let fixed = present(cfg, "fixed_input_size") == Some(&Value::Bool(true));
    if let Some(Value::Array(size)) =
        present(cfg, "input_size").filter(|_| fixed || draft.usual_size.is_some())
    {
        let size = pair("input_size", &size.iter().skip(1).cloned().collect())?;
        *draft.usual_size.as_mut().unwrap_or(&mut draft.spec.img_size) = size;
    }
    let empty = Map::new();
    let arguments = match present(config, "model_args") {
        None => &empty,
        Some(given) => given.as_object().ok_or_else(|| wrong("model_args must be an object".into()))?,
    };
    for (name, value) in arguments {
        draft.apply(class, name, value)?;
    }
    let (resampling, usual_size) = (draft.resampling, draft.usual_size);
    let spec = draft.finish()?;
    // Older files call them `labels`.
    let names = ["label_names", "labels"].into_iter().find_map(stated);
    let classes = ClassNames::from_timm(names, stated("label_descriptions"), spec.num_classes)?;
    Ok(Description { names: class.names, dialects: class.dialects, spec, classes, resampling, usual_size })
}
