//! An encoded image through the decoder and the transform.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vitrim_data::{Decoding, Preprocess, Transform};

static TRANSFORM: LazyLock<Transform> = LazyLock::new(|| {
    let small = Preprocess { input_size: [3, 32, 32], ..Preprocess::default() };
    Transform::new(small).expect("timm's defaults")
});

fuzz_target!(|encoded: &[u8]| {
    if let Ok(image) = Decoding::default().decode(encoded, "input") {
        assert_eq!(TRANSFORM.pixels(&image).len(), 3 * 32 * 32);
    }
});
