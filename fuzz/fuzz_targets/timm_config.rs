//! A `config.json` of timm beside small weights, and its preprocessing.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use vitrim_data::{Preprocess, RgbImage, Transform};
use vitrim_fuzz::{file, fixture, folder};
use vitrim_vit::Checkpoint;

static WEIGHTS: Once = Once::new();

fuzz_target!(|config: &[u8]| {
    WEIGHTS.call_once(|| {
        let weights = fixture("timm_distilled/model.safetensors");
        std::fs::copy(weights, folder().join("model.safetensors")).expect("the fixture");
    });
    file("config.json", config);
    let Ok(checkpoint) = Checkpoint::open(folder()) else { return };
    let Ok(preprocess) = Preprocess::from_pretrained_cfg(&checkpoint.pretrained_cfg) else { return };
    let Ok(transform) = Transform::new(preprocess) else { return };
    if transform.pixel_count() < 1 << 20 {
        transform.pixels(&RgbImage::new(40, 7));
    }
});
