//! timm's architectures by name, and the classes of transformers.

use crate::error::{Result, VitError};
use crate::spec::{Activation, Pool, Positions, VitSpec};

/// What vitrim runs, for whoever asks for something else.
pub const SUPPORTED: &str = "timm's vit_{tiny,small,base,large,huge,giant,gigantic}_patch*_*, \
    deit_{tiny,small,base}[_distilled]_patch*_*, deit3_{small,medium,base,large,huge}_patch*_*, \
    vit_{small,base,large,giant}_patch14[_reg4]_dinov2; transformers' ViT, DeiT, Dinov2 and \
    Dinov2WithRegisters, each ...Model or ...ForImageClassification (DeiT also ...WithTeacher)";

/// A name's geometry, and the ratio that makes its MLP's width from that of the residual stream.
pub(crate) struct Architecture {
    pub spec: VitSpec,
    pub mlp_ratio: f64,
}

/// Width, blocks, heads, MLP ratio.
type Size = (usize, usize, usize, f64);

/// DINOv2's size of input, pixels.
const DINOV2_SIZE: usize = 518;

impl VitSpec {
    /// The geometry that timm gives the name: `vit_*`, `deit_*` or `deit3_*`, size, optional `distilled`, patch and
    /// image size, as in `deit_small_patch16_224` or `vit_base_patch32_384`; or DINOv2's, as in
    /// `vit_small_patch14_reg4_dinov2`, without a head. A tag after a dot, which names weights, changes nothing.
    ///
    /// # Errors
    /// [`VitError::UnsupportedArchitecture`] for any other name.
    pub fn from_timm_name(name: &str) -> Result<Self> {
        Ok(timm_architecture(name)?.spec)
    }

    /// The same backbone with an MLP as wide as timm makes it for `ratio`.
    pub(crate) fn with_mlp_ratio(mut self, ratio: f64) -> Self {
        let first = (self.dim as f64 * ratio) as usize;
        self.mlp_hidden = match self.activation {
            Activation::Gelu => first,
            Activation::SwiGlu => first / 2,
        };
        self
    }
}

/// As [`VitSpec::from_timm_name`].
pub(crate) fn timm_architecture(name: &str) -> Result<Architecture> {
    let (base, _tag) = name.split_once('.').unwrap_or((name, ""));
    let architecture = parse(base).ok_or_else(|| VitError::UnsupportedArchitecture(name.to_owned()))?;
    architecture.spec.check()?;
    Ok(architecture)
}

fn parse(name: &str) -> Option<Architecture> {
    let parts: Vec<&str> = name.split('_').collect();
    let [family, size, rest @ ..] = parts.as_slice() else { return None };
    let (distilled, rest) = match rest {
        ["distilled", rest @ ..] if *family == "deit" => (true, rest),
        rest => (false, rest),
    };
    let [patch, rest @ ..] = rest else { return None };
    let dinov2 = matches!((*family, rest), ("vit", ["dinov2"] | ["reg4", "dinov2"]));
    let registers = dinov2 && rest.len() == 2;
    let side: usize = match rest {
        _ if dinov2 => DINOV2_SIZE,
        [side] => side.parse().ok()?,
        _ => return None,
    };
    let (dim, depth, heads, mlp_ratio) = size_of(family, size, dinov2)?;
    let swiglu = dinov2 && *size == "giant";
    let deit3 = *family == "deit3";
    let spec = VitSpec {
        architecture: name.to_owned(),
        img_size: [side, side],
        patch_size: patch.strip_prefix("patch")?.parse().ok()?,
        dim,
        depth,
        heads,
        mlp_hidden: 0,
        num_classes: if dinov2 { 0 } else { 1000 },
        class_token: true,
        distilled,
        reg_tokens: if registers { 4 } else { 0 },
        positions: if deit3 || registers { Positions::Patches } else { Positions::All },
        pool: Pool::Token,
        fc_norm: false,
        qkv_bias: true,
        qk_norm: false,
        layer_scale: deit3 || dinov2,
        activation: if swiglu { Activation::SwiGlu } else { Activation::Gelu },
        norm_eps: 1e-6,
    };
    Some(Architecture { spec: spec.with_mlp_ratio(mlp_ratio), mlp_ratio })
}

fn size_of(family: &str, size: &str, dinov2: bool) -> Option<Size> {
    let size = match (family, size) {
        ("vit" | "deit", "tiny") if !dinov2 => (192, 12, 3, 4.0),
        ("vit" | "deit" | "deit3", "small") => (384, 12, 6, 4.0),
        ("deit3", "medium") => (512, 12, 8, 4.0),
        ("vit" | "deit" | "deit3", "base") => (768, 12, 12, 4.0),
        ("vit" | "deit3", "large") => (1024, 24, 16, 4.0),
        // As timm has it: 4096 for each half of SwiGLU.
        ("vit", "giant") if dinov2 => (1536, 40, 24, 2.66667 * 2.0),
        ("vit" | "deit3", "huge") if !dinov2 => (1280, 32, 16, 4.0),
        ("vit", "giant") => (1408, 40, 16, 48.0 / 11.0),
        ("vit", "gigantic") if !dinov2 => (1664, 48, 16, 64.0 / 13.0),
        _ => return None,
    };
    Some(size)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn names_have_timms_geometry() {
        let geometries: Value = serde_json::from_str(include_str!("../tests/timm_geometries.json")).unwrap();
        let geometries = geometries.as_object().unwrap();
        assert!(geometries.len() > 40, "{}", geometries.len());
        for (name, geometry) in geometries {
            let spec = VitSpec { num_classes: 1000, ..VitSpec::from_timm_name(name).unwrap() };
            let number = |key: &str| geometry[key].as_u64().unwrap() as usize;
            assert_eq!(spec.num_parameters(), number("parameters"), "{name}");
            assert_eq!((spec.num_tokens(), spec.heads), (number("tokens"), number("heads")), "{name}");
        }
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
            "vit_base_patch16_siglip_224",
            "vit_base_patch16_clip_224.openai",
            "vit_tiny_patch14_dinov2",
            "vit_huge_patch14_reg4_dinov2",
            "deit3_small_distilled_patch16_224",
            "deit_large_patch16_224",
            "vit_base_patch_224",
            "vit_base",
            "",
        ] {
            let error = VitSpec::from_timm_name(name).unwrap_err().to_string();
            assert!(error.contains(&format!("'{name}'")) && error.contains("Dinov2WithRegisters"), "{error}");
        }
        assert!(VitSpec::from_timm_name("vit_base_patch16_225").is_err(), "patches must tile the image");
    }
}
