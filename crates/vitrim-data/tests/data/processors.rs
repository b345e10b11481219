//! Pixels agree with transformers' image processors, which `scripts/make_fixtures.py` asked.

use std::path::Path;

use safetensors::SafeTensors;
use vitrim_data::{CropMode, Preprocess, Transform, load_image};

/// One level of 8 bits, divided by the least standard deviation: fixed-point resizers round differently.
const LARGEST: f32 = 1.01 / 255.0 / 0.224;

#[test]
fn pixels_agree_with_transformers() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/processors"));
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let image = load_image(folder.join("image.png")).unwrap();
    for (name, mode, side) in
        [("vit", CropMode::Squash, 24), ("deit", CropMode::Squash, 28), ("dinov2", CropMode::Center, 28)]
    {
        let config = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        let preprocess = Preprocess::from_processor(&serde_json::from_slice(&config).unwrap()).unwrap();
        assert_eq!((preprocess.crop_mode, preprocess.input_size), (mode, [3, side, side]), "{name}");
        let tensor = expected.tensor(name).unwrap();
        assert_eq!(tensor.shape(), [3, side, side]);
        let words = tensor.data().chunks_exact(4);
        let want: Vec<f32> = words.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let got = Transform::new(preprocess).unwrap().pixels(&image);
        assert_eq!(got.len(), want.len());
        let differences: Vec<f32> = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).collect();
        let largest = differences.iter().fold(0f32, |m, d| m.max(*d));
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        println!("{name}: mean {mean:.5}, largest {largest:.5}");
        assert!(largest <= LARGEST, "{name}: a pixel differs by {largest}");
        assert!(mean <= 0.002, "{name}: pixels differ by {mean} in the mean");
    }
}
