//! A `config.json` of transformers beside small weights, and after a zero byte its `preprocessor_config.json`.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use vitrim_data::{Preprocess, RgbImage, Transform};
use vitrim_fuzz::{file, fixture, folder};
use vitrim_vit::Checkpoint;

static WEIGHTS: Once = Once::new();

fuzz_target!(|configs: &[u8]| {
    WEIGHTS.call_once(|| {
        let weights = fixture("hf_vit/model.safetensors");
        std::fs::copy(weights, folder().join("model.safetensors")).expect("the fixture");
    });
    let mut parts = configs.splitn(2, |byte| *byte == 0);
    file("config.json", parts.next().unwrap_or_default());
    file("preprocessor_config.json", parts.next().unwrap_or(b"{}"));
    let processor = std::fs::read(folder().join("preprocessor_config.json")).unwrap_or_default();
    if let Ok(processor) = serde_json::from_slice(&processor)
        && let Ok(preprocess) = Preprocess::from_processor(&processor)
        && let Ok(transform) = Transform::new(preprocess)
        && transform.pixel_count() < 1 << 20
    {
        transform.pixels(&RgbImage::new(40, 7));
    }
    let _ = Checkpoint::open(folder());
});
