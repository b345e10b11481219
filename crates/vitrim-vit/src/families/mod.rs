//! Families of backbones: from a configuration to geometry and tensor names.
//!
//! Each family is a file. It says which names of timm and which classes of transformers belong to the family, what
//! geometry a configuration of either means, and in which tables the tensor names are (`names.rs`). `FAMILIES` lists
//! the families. The supported architectures, the error for others, and what Python's `from_timm` reads from a live
//! module follow from the list.
//!
//! To add a family:
//!
//! 1. Write `families/<family>.rs` with a constant `FAMILY`, following `vit.rs`. For timm: the sizes by name, and, if
//!    it is not `VISION_TRANSFORMER`, the timm class that builds the family, with its arguments and tensor names. For
//!    transformers: a function from `config.json` to a [`VitSpec`], and a table of tensor names.
//! 2. Declare the file and add its `FAMILY` to `FAMILIES`.
//! 3. Only if its arithmetic is new: add a variant or a field to a part in `spec/parts.rs`. Matches are exhaustive, so
//!    that the compiler leads to the code that has to handle it: the tensors' shapes (`spec/shapes.rs`), the cost
//!    (`cost.rs`), the executor and the Burn model. Operations that depend on a token's place on the grid belong in
//!    `executor/heads.rs`, and in `for_scores` of the Burn model's attention.
//! 4. Only if its tensors are stored in a new way: add a variant to `Stored` in `names.rs`.
//! 5. Add small checkpoints to `scripts/make_fixtures.py`, and their names to `tests/fixtures.rs` here and to
//!    `tests/burn_vit.rs` and `tests/layouts.rs` of `vitrim-train`.

mod aimv2;
mod authors;
mod beit;
mod clip;
mod deit;
mod deit3;
mod description;
mod dinov2;
mod dinov3;
mod eva;
mod family;
mod fields;
mod missing;
mod naflex;
mod naflexvit;
mod open_clip;
mod siglip;
mod timm;
mod transformers;
mod vit;

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::error::{Result, VitError};
use crate::limits::MAX_SHOWN;
use crate::spec::VitSpec;
pub(crate) use description::Description;
use family::Family;
pub(crate) use fields::present;
use timm::Draft;
pub use timm::{Live, TimmArgument};

/// All families. A name or class belongs to the first family that recognises it.
static FAMILIES: &[Family] = &[
    vit::FAMILY,
    deit::FAMILY,
    deit3::FAMILY,
    dinov2::FAMILY,
    dinov3::FAMILY,
    clip::FAMILY,
    siglip::FAMILY,
    naflex::FAMILY,
    naflexvit::FAMILY,
    eva::EVA02,
    eva::PE_CORE,
    aimv2::FAMILY,
    beit::FAMILY,
];

/// The checkpoint that `config` describes; `processor` is transformers' `preprocessor_config.json`.
///
/// # Errors
/// If the architecture is not supported, or a field of `config` has an invalid value.
pub(crate) fn describe(config: &Value, processor: Option<&Value>) -> Result<Description> {
    match config.get("architecture").and_then(Value::as_str) {
        Some(name) => {
            let (draft, names) = timm_family(name)?;
            timm::describe(config, draft, names.class)
        }
        None if open_clip::is_config(config) => open_clip::describe(config),
        None => {
            let name = transformers::class_name(config)?;
            let classes = FAMILIES.iter().flat_map(|family| family.transformers);
            let known = classes.filter_map(|class| Some((class, class.task(name)?))).next();
            let (class, task) = known.ok_or_else(|| unsupported(name))?;
            transformers::describe(config, class, task, processor)
        }
    }
}

/// The part of a timm configuration that says how images are preprocessed; `None` for transformers, and where there is
/// none. In timm's first form of `config.json`, everything is one flat object (`_parse_model_cfg` of
/// `timm/models/_hub.py`).
pub(crate) fn pretrained_cfg(config: &Value) -> Option<Cow<'_, Value>> {
    if open_clip::is_config(config) {
        return Some(Cow::Owned(open_clip::pretrained_cfg(config)));
    }
    config.get("architecture")?;
    Some(Cow::Borrowed(present(config, "pretrained_cfg").unwrap_or(config)))
}

/// Sets the input size in a library's configuration to that of `spec`.
pub(crate) fn resize(config: &mut Value, spec: &VitSpec) {
    let size = spec.img_size;
    if naflexvit::resize(config, spec) {
        return;
    }
    if config.get("architecture").is_some() {
        config["model_args"]["img_size"] = json!(size);
    } else if open_clip::is_config(config) {
        config["model_cfg"]["vision_cfg"]["image_size"] = json!(size);
    } else {
        let towers = config.get("vision_config").is_some();
        let config = if towers { &mut config["vision_config"] } else { config };
        config["image_size"] = if size[0] == size[1] { json!(size[0]) } else { json!(size) };
    }
}

impl VitSpec {
    /// The geometry of a timm name: `vit_*`, `deit_*` or `deit3_*`, size, optional `distilled`, patch and image size,
    /// as in `deit_small_patch16_224` or `vit_base_patch32_384`; or a DINOv2 name, as in
    /// `vit_small_patch14_reg4_dinov2`, without a head. A tag after a dot names weights and is ignored.
    ///
    /// # Errors
    /// [`VitError::UnsupportedArchitecture`] for any other name.
    pub fn from_timm_name(name: &str) -> Result<Self> {
        let draft = timm_family(name)?.0;
        let usual_size = draft.usual_size;
        let spec = draft.finish()?;
        usual_size.map_or(Ok(spec.clone()), |size| spec.at_size(size))
    }
}

/// The attributes to read from a live timm module.
pub struct TimmModule {
    /// The architecture to start from if the module does not name its own.
    pub unnamed: &'static str,
    /// The arguments of its class; of several with one name, the first counts.
    pub arguments: Vec<&'static TimmArgument>,
}

/// What to read from a module that is an instance of the Python classes `classes`, the most derived first; `None` if
/// none of them builds a family.
pub fn timm_module<'c>(classes: impl IntoIterator<Item = &'c str>) -> Option<TimmModule> {
    let known = |class: &str| {
        let (names, (_, unnamed)) = timm_modules().find(|(_, (known, _))| *known == class)?;
        let mut arguments: Vec<&TimmArgument> = names.class.arguments.iter().collect();
        let own = arguments.len();
        for argument in names.class.shared {
            if arguments[..own].iter().all(|known| known.name != argument.name) {
                arguments.push(argument);
            }
        }
        Some(TimmModule { unnamed, arguments })
    };
    classes.into_iter().find_map(known)
}

/// The Python classes of timm modules that [`timm_module`] supports.
pub fn timm_classes() -> Vec<&'static str> {
    timm_modules().map(|(_, (class, _))| *class).collect()
}

fn timm_modules() -> impl Iterator<Item = (&'static timm::Names, &'static (&'static str, &'static str))> {
    FAMILIES.iter().flat_map(|family| family.timm.modules.iter().map(|module| (&family.timm, module)))
}

/// The geometry of timm's `name`, with or without a tag, before any argument; and the names of its family.
fn timm_family(name: &str) -> Result<(Draft, &'static timm::Names)> {
    let (base, _tag) = name.split_once('.').unwrap_or((name, ""));
    let of = |name: &timm::Name<'_>| {
        FAMILIES.iter().find_map(|family| Some(((family.timm.geometry)(name)?, &family.timm)))
    };
    timm::Name::parse(base).as_ref().and_then(of).ok_or_else(|| unsupported(name))
}

/// The error for an unsupported `architecture`.
fn unsupported(architecture: &str) -> VitError {
    let missing = missing::missing(architecture).map(|missing| format!(": it needs {missing}"));
    VitError::UnsupportedArchitecture {
        name: architecture.chars().take(MAX_SHOWN).collect(),
        missing: missing.unwrap_or_default(),
        supported: supported(),
    }
}

/// The supported architectures, for the error message.
fn supported() -> String {
    let timm: Vec<String> = FAMILIES.iter().flat_map(|family| family.timm.patterns()).collect();
    let classes = FAMILIES.iter().flat_map(|family| family.transformers);
    let classes: Vec<String> = classes.flat_map(transformers::Class::names).collect();
    format!("timm's {}; transformers' {}", timm.join(", "), classes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_timms_geometry() {
        let geometries: Value =
            serde_json::from_str(include_str!("../../tests/timm_geometries.json")).unwrap();
        let geometries = geometries.as_object().unwrap();
        assert!(geometries.len() > 40, "{}", geometries.len());
        for (name, geometry) in geometries {
            let spec = VitSpec { num_classes: 1000, ..VitSpec::from_timm_name(name).unwrap() };
            let number = |key: &str| geometry[key].as_u64().unwrap() as usize;
            assert_eq!(spec.num_parameters(), number("parameters"), "{name}");
            assert_eq!(
                (spec.num_tokens(), spec.attention.heads),
                (number("tokens"), number("heads")),
                "{name}"
            );
        }
    }

    /// A live module says that it has no norm before the blocks, and nothing of that of its patches.
    #[test]
    fn the_norm_of_aimv2s_patches_stays_without_one_before_the_blocks() {
        let name = "aimv2_large_patch14_224";
        let of = |arguments: Value| {
            let config = serde_json::json!({"architecture": name, "num_classes": 0, "model_args": arguments});
            describe(&config, None).unwrap().spec
        };
        let plain = VitSpec::from_timm_name(name).unwrap();
        assert_eq!(plain.embedding.norm, crate::EmbeddingNorm::Patches);
        assert_eq!(of(serde_json::json!({"pre_norm": false})), plain);
        assert_ne!(of(serde_json::json!({"pre_norm": true})), plain);
    }

    #[test]
    fn a_tag_names_weights_and_not_a_geometry() {
        let tagged = VitSpec::from_timm_name("vit_base_patch14_reg4_dinov2.lvd142m").unwrap();
        assert_eq!(tagged, VitSpec::from_timm_name("vit_base_patch14_reg4_dinov2").unwrap());
        assert_eq!((tagged.num_classes, tagged.num_prefix_tokens()), (0, 5));
    }

    #[test]
    fn others_are_refused_with_the_list() {
        for name in [
            "resnet50",
            "vit_base_patch16_siglip_na",
            "eva02_small_patch14_clip_224",
            "convnext_tiny",
            "vit_tiny_patch14_dinov2",
            "vit_huge_patch14_reg4_dinov2",
            "deit3_small_distilled_patch16_224",
            "deit_large_patch16_224",
            "vit_base_patch_224",
            "vit_pe_core_base_patch0_224",
            "naflexvit_base_patch0_gap",
            "vit_base",
            "",
        ] {
            let error = VitSpec::from_timm_name(name).unwrap_err().to_string();
            assert!(error.contains(&format!("'{name}'")) && error.contains("Dinov2WithRegisters"), "{error}");
        }
        assert!(VitSpec::from_timm_name("vit_base_patch16_225").is_err(), "patches must tile the image");
    }

    #[test]
    fn what_is_missing_is_said() {
        for (name, missing) in [
            ("convnext_tiny.fb_in22k", "convolutions"),
            ("swin_tiny_patch4_window7_224", "attention within windows"),
            ("beit_base_patch16_224", "a relative position bias"),
            ("beitv2_base_patch16_224", "a relative position bias"),
            ("hiera_tiny_224", "pooling between stages"),
            ("vit_base_patch16_rope_mixed_224", "learned for each block and head"),
            ("naflexvit_base_patch16_parfac_gap", "positions of rows and columns"),
            ("Swinv2ForImageClassification", "attention within windows"),
        ] {
            let error = unsupported(name).to_string();
            let begins = error.starts_with(&format!("unsupported architecture '{name}': it needs "));
            assert!(begins && error.contains(missing), "{error}");
        }
        let error = VitSpec::from_timm_name("vit_base_patch16_rope_mixed_224").unwrap_err();
        assert!(error.to_string().contains("it needs rotary frequencies"), "{error}");
        assert!(unsupported("mine").to_string().starts_with("unsupported architecture 'mine'; supported: "));
    }

    #[test]
    fn the_list_is_that_of_the_families() {
        let list = supported();
        for part in [
            "timm's vit_{tiny,small,base,large,huge,giant,gigantic}_patch*_*, ",
            "deit_{tiny,small,base}[_distilled]_patch*_*, ",
            "deit3_{small,medium,base,large,huge}_patch*_*, ",
            "vit_{small,base,large,giant}_patch*[_reg4]_dinov2, ",
            "vit_{tiny,small,small_plus,base,large,huge_plus,7b}_patch*_dinov3[_qkvb], ",
            "vit_pe_core_{tiny,small,base,large,gigantic}_patch*_*, ",
            "beit3_{base,large,giant}_patch*_*; ",
            "transformers' ViTModel, ViTForImageClassification, ",
            ", DeiTModel, ",
            "DeiTForImageClassificationWithTeacher, ",
            ", Dinov2WithRegistersForImageClassification, ",
            ", CLIPModel, ",
            ", SiglipVisionModel, ",
            ", Siglip2VisionModel, ",
        ] {
            assert!(list.contains(part), "no '{part}' in {list}");
        }
    }

    #[test]
    fn a_live_module_is_asked_by_its_most_derived_known_class() {
        let asked = |classes: &[&str]| timm_module(classes.iter().copied()).map(|module| module.unnamed);
        let plain = asked(&["Mine", "VisionTransformer", "Module"]);
        assert_eq!(plain, Some("vit_tiny_patch16_224"));
        let distilled = asked(&["VisionTransformerDistilled", "VisionTransformer", "Module"]);
        assert_eq!(distilled, Some("deit_tiny_distilled_patch16_224"));
        assert_eq!(asked(&["ResNet", "Module"]), None);
        assert_eq!(timm_classes(), ["VisionTransformer", "VisionTransformerDistilled", "NaFlexVit", "Eva"]);
    }

    /// What an `Eva` keeps elsewhere than a `VisionTransformer` is asked once, there.
    #[test]
    fn an_argument_of_a_live_module_is_asked_once() {
        let names: Vec<&str> =
            timm_module(["Eva"]).unwrap().arguments.iter().map(|asked| asked.name).collect();
        let distinct: std::collections::BTreeSet<&&str> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert!(distinct.contains(&"rope_type") && distinct.contains(&"img_size"), "{names:?}");
    }
}
