//! Pixels agree with those of transformers' image processors, which `scripts/make_fixtures.py` writes.

use std::path::Path;

use safetensors::SafeTensors;
use vitrim_data::{CropMode, Decoding, Preprocess, Transform};

/// One step of an 8-bit value, normalised with ImageNet's smallest deviation.
const STEP: f32 = 1.0 / 255.0 / 0.224;
/// Largest mean absolute difference that is due to the rounding of two fixed-point resizers.
const MEAN_ABSOLUTE: f32 = STEP / 20.0;
/// Largest difference that is due to their rounding.
const LARGEST: f32 = 1.01 * STEP;
/// Bound of the mean difference, which a shift of the geometry or of the normalisation would exceed.
const MEAN_SIGNED: f32 = 0.001;

#[test]
fn pixels_agree_with_transformers() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/processors"));
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let images = [("", "image.png"), ("_tall", "tall.png")]
        .map(|(end, file)| (end, Decoding::default().load(folder.join(file)).unwrap()));
    for (name, mode, [height, width]) in [
        ("vit", CropMode::Squash, [24, 24]),
        ("deit", CropMode::Squash, [28, 28]),
        ("dinov2", CropMode::Center, [28, 28]),
        ("clip", CropMode::Center, [28, 28]),
        ("siglip", CropMode::Squash, [20, 28]),
        ("dinov3", CropMode::Squash, [24, 24]),
    ] {
        let config = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        let preprocess = Preprocess::from_processor(&serde_json::from_slice(&config).unwrap()).unwrap();
        assert_eq!((preprocess.crop_mode, preprocess.input_size), (mode, [3, height, width]), "{name}");
        for (end, image) in &images {
            let name = format!("{name}{end}");
            let tensor = expected.tensor(&name).unwrap();
            assert_eq!(tensor.shape(), [3, height, width]);
            let words = tensor.data().chunks_exact(4);
            let want: Vec<f32> = words.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let got = Transform::new(preprocess.clone()).unwrap().pixels(image);
            assert_eq!(got.len(), want.len());
            let differences = got.iter().zip(&want).map(|(g, w)| g - w);
            let count = want.len() as f32;
            let absolute = differences.clone().map(f32::abs).sum::<f32>() / count;
            let largest = differences.clone().map(f32::abs).fold(0.0, f32::max);
            let signed = differences.sum::<f32>() / count;
            println!("{name}: mean absolute {absolute:.5}, largest {largest:.5}, mean signed {signed:+.5}");
            assert!(absolute <= MEAN_ABSOLUTE, "{name}: mean absolute difference {absolute}");
            assert!(largest <= LARGEST, "{name}: largest difference {largest}");
            assert!(signed.abs() <= MEAN_SIGNED, "{name}: mean signed difference {signed}");
        }
    }
}
