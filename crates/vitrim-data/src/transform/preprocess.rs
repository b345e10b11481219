//! The preprocessing of a backbone's input: the fields of timm's `pretrained_cfg`, under timm's names.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::naflex::Naflex;
use crate::error::DataError;
use crate::limits::{MAX_INPUT_PIXELS, MAX_SIDE};

/// Preprocessing parameters. Field names and defaults are timm's (`timm.data.resolve_data_config`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preprocess {
    /// Channels, height, width; `[3, 224, 224]` by default. Channels must be 3.
    pub input_size: [usize; 3],
    /// Share of the resized image's side that the crop keeps; 0.875 by default. Held as `f64`, because in `f32`
    /// timm's `floor(size / crop_pct)` can give another integer.
    pub crop_pct: f64,
    /// The resize filter; bicubic by default.
    pub interpolation: Interpolation,
    /// Per channel, in units of 255; ImageNet's by default.
    pub mean: [f32; 3],
    /// Per channel, in units of 255; ImageNet's by default.
    pub std: [f32; 3],
    /// How the resize before the central crop treats the aspect ratio.
    pub crop_mode: CropMode,
    /// Where the central crop begins when the margin is odd.
    #[serde(skip_serializing_if = "CropStart::is_rounded")]
    pub crop_start: CropStart,
    /// Where images keep their aspect ratio: how large they become, instead of resize and crop to `input_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub naflex: Option<Naflex>,
}

/// A resize filter as in Pillow: wider when shrinking, to avoid aliasing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Cubic convolution with a = -0.5.
    #[default]
    Bicubic,
    /// Triangle filter.
    Bilinear,
}

/// How the resize before the central crop treats the aspect ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropMode {
    /// Resize the shorter side; the aspect ratio is kept.
    #[default]
    Center,
    /// Resize both sides to the input size; the aspect ratio changes.
    Squash,
}

/// Where the central crop begins: half of the margin, in pixels, when that is no whole number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropStart {
    /// Rounded, halves to even: torchvision's `CenterCrop`, which timm uses.
    #[default]
    Rounded,
    /// Rounded down: transformers' image processors.
    Floored,
}

impl CropStart {
    fn is_rounded(&self) -> bool {
        *self == CropStart::Rounded
    }
}

impl Default for Preprocess {
    fn default() -> Self {
        Self {
            input_size: [3, 224, 224],
            crop_pct: 0.875,
            interpolation: Interpolation::Bicubic,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            crop_mode: CropMode::Center,
            crop_start: CropStart::Rounded,
            naflex: None,
        }
    }
}

impl Preprocess {
    /// Reads a checkpoint's `pretrained_cfg` object; a field that is absent or null has timm's default.
    ///
    /// # Errors
    ///
    /// [`DataError::Preprocess`] if a field is malformed, or has an unsupported value: other than 3 channels, crop
    /// mode `border`, other filters.
    pub fn from_pretrained_cfg(cfg: &Value) -> Result<Self, DataError> {
        let Value::Object(fields) = cfg else {
            return Err(invalid("is not a JSON object; take it from the checkpoint's config.json"));
        };
        if fields.get("crop_mode").and_then(Value::as_str) == Some("border") {
            return Err(invalid(
                "crop_mode `border` is not supported; use a checkpoint with `center` or `squash`",
            ));
        }
        // timm treats null, 0 and empty values as absent.
        let present = fields.iter().filter(|(_, value)| match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            Value::Number(number) => number.as_f64() != Some(0.0),
            _ => true,
        });
        let present: serde_json::Map<_, _> = present.map(|(k, v)| (k.clone(), v.clone())).collect();
        let parsed = serde_json::from_value::<Self>(Value::Object(present))
            .map_err(|error| invalid(format!("{error}; correct it in config.json")))?;
        parsed.validate()?;
        Ok(parsed)
    }

    /// Height and width that an image of the input's ratio is resized to, before the central crop.
    pub(crate) fn resized(&self) -> [f64; 2] {
        let [_, height, width] = self.input_size;
        [height, width].map(|side| (side as f64 / self.crop_pct).floor().max(1.0))
    }

    /// Checks that all numbers are valid.
    ///
    /// # Errors
    ///
    /// [`DataError::Preprocess`] with the first invalid field.
    pub fn validate(&self) -> Result<(), DataError> {
        let [channels, height, width] = self.input_size;
        if channels != 3 {
            return Err(invalid(format!("input_size has {channels} channels; only 3 are supported")));
        }
        let side = 1..=MAX_SIDE as usize;
        if !side.contains(&height) || !side.contains(&width) {
            return Err(invalid(format!(
                "input_size is {height} x {width}; each side must be 1 to {}",
                side.end()
            )));
        }
        if !(self.crop_pct.is_finite() && (0.1..=10.0).contains(&self.crop_pct)) {
            return Err(invalid(format!(
                "crop_pct is {}; give a share from 0.1 to 10, such as 0.9",
                self.crop_pct
            )));
        }
        if let Some(naflex) = self.naflex {
            naflex.validate()?;
        }
        let resized = self.resized();
        if resized.iter().any(|side| *side > f64::from(MAX_SIDE))
            || resized[0] * resized[1] > MAX_INPUT_PIXELS as f64
        {
            return Err(invalid(format!(
                "input_size {height} x {width} at crop_pct {} is cut from {} x {} pixels; at most {MAX_INPUT_PIXELS} \
                 pixels are supported",
                self.crop_pct, resized[0], resized[1]
            )));
        }
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return Err(invalid(format!("mean is {:?}; give three finite numbers", self.mean)));
        }
        if !self.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return Err(invalid(format!("std is {:?}; give three numbers above 0", self.std)));
        }
        Ok(())
    }
}

pub(super) fn invalid(what: impl Into<String>) -> DataError {
    DataError::Preprocess { what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_fields_take_timms_defaults() {
        let empty = Preprocess::from_pretrained_cfg(&json!({})).unwrap();
        assert_eq!(empty, Preprocess::default());
        let nulls = json!({"crop_pct": null, "mean": [], "interpolation": null, "crop_mode": null});
        assert_eq!(Preprocess::from_pretrained_cfg(&nulls).unwrap(), Preprocess::default());
    }

    #[test]
    fn fields_are_read_and_strangers_ignored() {
        let cfg = json!({
            "tag": "cifar10", "input_size": [3, 32, 48], "crop_pct": 1.0, "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "crop_mode": "center", "pool_size": null
        });
        let got = Preprocess::from_pretrained_cfg(&cfg).unwrap();
        assert_eq!(got.input_size, [3, 32, 48]);
        assert_eq!((got.crop_pct, got.interpolation), (1.0, Interpolation::Bilinear));
        assert_eq!((got.mean, got.std), ([0.5; 3], [0.25; 3]));
        let again: Preprocess = serde_json::from_str(&serde_json::to_string(&got).unwrap()).unwrap();
        assert_eq!(again, got);
    }

    #[test]
    fn what_is_not_supported_says_so() {
        for (cfg, word) in [
            (json!([1]), "JSON object"),
            (json!({"crop_mode": "border"}), "border"),
            (json!({"input_size": [1, 28, 28]}), "1 channels"),
            (json!({"input_size": [3, 0, 28]}), "0 x 28"),
            (json!({"interpolation": "lanczos"}), "lanczos"),
            (json!({"std": [0.5, 0.0, 0.5]}), "std"),
            (json!({"input_size": [3, 4096, 4096], "crop_pct": 0.1}), "40960 x 40960"),
            (json!({"input_size": [3, 16384, 16384], "crop_pct": 1.0}), "16777216 pixels"),
            (json!({"mean": [0.5]}), "length"),
            (json!({"crop_pct": -1.0}), "crop_pct"),
        ] {
            let error = Preprocess::from_pretrained_cfg(&cfg).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
