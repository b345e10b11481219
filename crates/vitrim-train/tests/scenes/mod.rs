//! Scenes with the preprocessing of small backbones.

use vitrim_data::Preprocess;

/// 96 pixels per side, normalised with 0.5.
pub fn preprocess() -> Preprocess {
    Preprocess {
        input_size: [3, 96, 96],
        crop_pct: 1.0,
        mean: [0.5; 3],
        std: [0.5; 3],
        ..Preprocess::default()
    }
}
