//! transformers' image processor configuration, converted to [`Preprocess`].

use serde_json::Value;

use super::naflex::Naflex;
use super::preprocess::{CropMode, CropStart, Interpolation, Preprocess};
use crate::error::DataError;
use crate::limits::MAX_SIDE;

/// PIL's number of the filter.
const BILINEAR: u64 = 2;
const BICUBIC: u64 = 3;

impl Preprocess {
    /// Reads the `preprocessor_config.json` of a ViT, DeiT, Bit, CLIP, SigLIP, SigLIP 2 or DINOv3 image processor, including
    /// the forms of older versions of transformers. The 8-bit pixels are those of transformers' default processors; DINOv3's
    /// resizes in f32 instead, which differs by less than one of 255 levels.
    ///
    /// # Errors
    ///
    /// [`DataError::Preprocess`] if a field is malformed, or has an unsupported value: no resize, other filters, a
    /// rescaling other than by 1/255.
    pub fn from_processor(config: &Value) -> Result<Self, DataError> {
        if !config.is_object() {
            return Err(invalid("is not a JSON object"));
        }
        if !flag(config, "do_resize", true)? {
            return Err(invalid("do_resize is false: images must all have one size; set it to true"));
        }
        let factor = config.get("rescale_factor").and_then(Value::as_f64).unwrap_or(1.0 / 255.0);
        if !flag(config, "do_rescale", true)? || (factor * 255.0 - 1.0).abs() > 1e-6 {
            return Err(invalid("only a rescale_factor of 1/255 is supported"));
        }
        let naflex = naflex(config)?;
        let resample = config.get("resample").filter(|value| !value.is_null());
        let interpolation = match resample.map_or(naflex.map(|_| BILINEAR), Value::as_u64) {
            Some(BILINEAR) => Interpolation::Bilinear,
            Some(BICUBIC) => Interpolation::Bicubic,
            _ => return Err(invalid("resample must be 2 (bilinear) or 3 (bicubic)")),
        };
        let (mean, std) = match flag(config, "do_normalize", true)? {
            true => {
                let of = |key: &str| match config.get(key) {
                    None | Some(Value::Null) if naflex.is_some() => Ok([0.5; 3]),
                    _ => channels(config, key),
                };
                (of("image_mean")?, of("image_std")?)
            }
            false => ([0.0; 3], [1.0; 3]),
        };
        if let Some(naflex) = naflex {
            naflex.validate()?;
            let side = naflex.max_num_patches.isqrt().saturating_mul(naflex.patch_size);
            let parsed = Preprocess {
                input_size: [3, side, side],
                crop_pct: 1.0,
                interpolation,
                mean,
                std,
                naflex: Some(naflex),
                ..Preprocess::default()
            };
            parsed.validate()?;
            return Ok(parsed);
        }
        let resized = resized(config)?;
        let crop = match flag(
            config,
            "do_center_crop",
            config.get("crop_size").is_some_and(|size| !size.is_null()),
        )? {
            true => Some(sides(config, "crop_size")?),
            false => None,
        };
        let (crop_mode, [height, width], full) = match (resized, crop) {
            (Resized::To(size), crop) => (CropMode::Squash, crop.unwrap_or(size), size),
            (Resized::ShortestEdge(edge), Some(crop)) => (CropMode::Center, crop, [edge; 2]),
            (Resized::ShortestEdge(_), None) => {
                return Err(invalid("a shortest_edge without a central crop gives images of many sizes"));
            }
        };
        if height * full[1] != width * full[0] {
            return Err(invalid("size and crop_size must have sides of one ratio"));
        }
        let parsed = Preprocess {
            input_size: [3, height, width],
            crop_pct: share(height, full[0]),
            interpolation,
            mean,
            std,
            crop_mode,
            crop_start: CropStart::Floored,
            naflex: None,
        };
        parsed.validate()?;
        Ok(parsed)
    }
}

/// The patches of SigLIP 2's processor, whose images keep their aspect ratio; `None` for other processors.
fn naflex(config: &Value) -> Result<Option<Naflex>, DataError> {
    let kind = config.get("image_processor_type").and_then(Value::as_str).unwrap_or_default();
    if !kind.starts_with("Siglip2") {
        return Ok(None);
    }
    let number = |key: &str, default: usize| match config.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => {
            let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
            number.ok_or_else(|| invalid(format!("{key} must be a number, not {value}")))
        }
    };
    let Naflex { patch_size, max_num_patches } = Naflex::DEFAULT;
    Ok(Some(Naflex {
        patch_size: number("patch_size", patch_size)?,
        max_num_patches: number("max_num_patches", max_num_patches)?,
    }))
}

enum Resized {
    /// Height and width; the aspect ratio may change.
    To([usize; 2]),
    /// The shorter side; the aspect ratio is kept.
    ShortestEdge(usize),
}

fn resized(config: &Value) -> Result<Resized, DataError> {
    let size = config.get("size").ok_or_else(|| invalid("has no size"))?;
    if let Some(edge) = size.get("shortest_edge") {
        return Ok(Resized::ShortestEdge(side(edge, "size")?));
    }
    // A bare number is the shorter side for the processors of DINOv2 and CLIP, and both sides for the others.
    let kind = ["image_processor_type", "feature_extractor_type"].map(|key| config.get(key)?.as_str());
    let shorter = |kind: &str| kind.starts_with("Bit") || kind.starts_with("CLIP");
    if size.is_number() && kind.into_iter().flatten().any(shorter) {
        return Ok(Resized::ShortestEdge(side(size, "size")?));
    }
    Ok(Resized::To(sides(config, "size")?))
}

/// The ratio `share` of a crop of `crop` pixels to `full`, so that timm's `floor(crop / share)` gives `full`.
fn share(crop: usize, full: usize) -> f64 {
    let (crop, full) = (crop as f64, full as f64);
    let share = crop / full;
    if (crop / share).floor() < full { share.next_down() } else { share }
}

/// Height and width of `key`: one number, or an object of both.
fn sides(config: &Value, key: &str) -> Result<[usize; 2], DataError> {
    let value = config.get(key).ok_or_else(|| invalid(format!("has no {key}")))?;
    if value.is_number() {
        return side(value, key).map(|side| [side; 2]);
    }
    let of = |name: &str| side(value.get(name).unwrap_or(&Value::Null), key);
    Ok([of("height")?, of("width")?])
}

fn side(value: &Value, key: &str) -> Result<usize, DataError> {
    let side = value.as_u64().filter(|side| (1..=u64::from(MAX_SIDE)).contains(side));
    side.map(|side| side as usize).ok_or_else(|| {
        invalid(format!("{key} must be a number of pixels or an object with height and width, not {value}"))
    })
}

fn channels(config: &Value, key: &str) -> Result<[f32; 3], DataError> {
    let value = config.get(key).ok_or_else(|| invalid(format!("has no {key}")))?;
    serde_json::from_value(value.clone())
        .map_err(|_| invalid(format!("{key} must be three numbers, not {value}")))
}

fn flag(config: &Value, key: &str, default: bool) -> Result<bool, DataError> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => {
            value.as_bool().ok_or_else(|| invalid(format!("{key} must be true or false, not {value}")))
        }
    }
}

fn invalid(what: impl std::fmt::Display) -> DataError {
    DataError::Preprocess { what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn processor(change: Value) -> Value {
        let mut config = json!({
            "image_processor_type": "ViTImageProcessor", "do_resize": true, "resample": 2, "size": 224,
            "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        });
        let Value::Object(change) = change else { unreachable!() };
        config.as_object_mut().unwrap().extend(change);
        config
    }

    #[test]
    fn a_bare_number_is_both_sides_or_for_dinov2_the_shorter() {
        let vit = Preprocess::from_processor(&processor(json!({}))).unwrap();
        assert_eq!((vit.input_size, vit.crop_pct), ([3, 224, 224], 1.0));
        assert_eq!((vit.crop_mode, vit.interpolation), (CropMode::Squash, Interpolation::Bilinear));
        // The first published form for Meta's DeiT.
        let deit = json!({"size": 256, "crop_size": 224, "do_center_crop": true, "resample": 3});
        let deit = Preprocess::from_processor(&processor(deit)).unwrap();
        assert_eq!((deit.crop_mode, deit.crop_pct), (CropMode::Squash, 0.875));
        let bit = json!({"image_processor_type": "BitImageProcessor", "size": 256, "crop_size": 224});
        assert_eq!(Preprocess::from_processor(&processor(bit)).unwrap().crop_mode, CropMode::Center);
        // The first published form for OpenAI's CLIP.
        let clip = json!({
            "image_processor_type": null, "feature_extractor_type": "CLIPFeatureExtractor", "size": 224,
            "crop_size": 224, "do_center_crop": true, "resample": 3,
        });
        let clip = Preprocess::from_processor(&processor(clip)).unwrap();
        assert_eq!((clip.crop_mode, clip.crop_pct), (CropMode::Center, 1.0));
    }

    #[test]
    fn a_crop_of_null_is_no_crop() {
        let dinov3 = json!({
            "image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 224, "width": 224},
            "crop_size": null, "do_center_crop": null,
        });
        let dinov3 = Preprocess::from_processor(&processor(dinov3)).unwrap();
        assert_eq!((dinov3.crop_mode, dinov3.input_size), (CropMode::Squash, [3, 224, 224]));
    }

    #[test]
    fn siglip2_keeps_the_ratio_and_its_processors_defaults() {
        let bare = json!({"image_processor_type": "Siglip2ImageProcessorFast"});
        let bare = Preprocess::from_processor(&bare).unwrap();
        assert_eq!((bare.naflex, bare.input_size), (Some(Naflex::DEFAULT), [3, 256, 256]));
        assert_eq!((bare.mean, bare.std, bare.interpolation), ([0.5; 3], [0.5; 3], Interpolation::Bilinear));
        let change = json!({
            "image_processor_type": "Siglip2ImageProcessor", "patch_size": 14, "max_num_patches": 900, "size": null,
            "image_mean": [0.1, 0.2, 0.3], "resample": 3,
        });
        let other = Preprocess::from_processor(&processor(change.clone())).unwrap();
        assert_eq!(other.naflex, Some(Naflex { patch_size: 14, max_num_patches: 900 }));
        assert_eq!((other.mean, other.interpolation), ([0.1, 0.2, 0.3], Interpolation::Bicubic));
        for (key, value) in
            [("patch_size", json!([16])), ("max_num_patches", json!(0)), ("max_num_patches", json!(-1))]
        {
            let mut config = processor(change.clone());
            config[key] = value;
            let error = Preprocess::from_processor(&config).unwrap_err().to_string();
            assert!(error.contains(key) || error.contains("max_num_patches"), "{error}");
        }
    }

    #[test]
    fn every_share_leads_back_to_the_size() {
        for full in 1..600usize {
            for crop in (1..=full).step_by(7) {
                assert_eq!((crop as f64 / share(crop, full)).floor() as usize, full, "{crop} of {full}");
            }
        }
    }

    #[test]
    fn what_is_not_supported_says_so() {
        for (change, word) in [
            (json!({"do_resize": false}), "do_resize"),
            (json!({"rescale_factor": 1.0}), "1/255"),
            (json!({"do_rescale": false}), "1/255"),
            (json!({"resample": 1}), "resample"),
            (json!({"size": {"shortest_edge": 256}}), "central crop"),
            (json!({"size": {"longest_edge": 256}}), "size must be"),
            (json!({"size": {"height": 256, "width": 128}, "crop_size": 64}), "one ratio"),
            (json!({"size": -3}), "size must be"),
            (json!({"image_mean": [0.5]}), "image_mean"),
            (json!({"image_std": [0.5, 0.0, 0.5]}), "std"),
            (json!({"do_normalize": "yes"}), "do_normalize"),
        ] {
            let error = Preprocess::from_processor(&processor(change)).unwrap_err().to_string();
            assert!(error.contains(word), "no '{word}' in: {error}");
        }
        assert!(Preprocess::from_processor(&json!([])).is_err());
    }
}
