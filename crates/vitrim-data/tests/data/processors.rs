//! Pixels agree with those of transformers' image processors, which `scripts/make_fixtures.py` writes.

use std::path::Path;

use safetensors::SafeTensors;
use vitrim_data::{CropMode, Decoding, Naflex, Preprocess, Transform};

/// One step of an 8-bit value, normalised with ImageNet's smallest deviation.
const STEP: f32 = 1.0 / 255.0 / 0.224;
/// Equal 8-bit values: scaling and normalising, which transformers fuses, rounds differently.
const EQUAL: f32 = 1e-6;

#[test]
fn pixels_agree_with_transformers() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/processors"));
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let images = [("", "image.png"), ("_tall", "tall.png")]
        .map(|(end, file)| (end, Decoding::default().load(folder.join(file)).unwrap()));
    // DINOv3's processor resizes in f32; ours rounds to 8 bits after each of two passes.
    for (name, mode, [height, width], bound) in [
        ("vit", CropMode::Squash, [24, 24], EQUAL),
        ("deit", CropMode::Squash, [28, 28], EQUAL),
        ("dinov2", CropMode::Center, [28, 28], EQUAL),
        ("clip", CropMode::Center, [28, 28], EQUAL),
        ("siglip", CropMode::Squash, [20, 28], EQUAL),
        ("dinov3", CropMode::Squash, [24, 24], STEP),
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
            let differences = got.iter().zip(&want).map(|(g, w)| (g - w).abs());
            let largest = differences.fold(0.0, f32::max);
            assert!(largest <= bound, "{name}: largest difference {largest}, and the bound is {bound}");
        }
    }
}

/// SigLIP 2 keeps the aspect ratio: both size and pixels are transformers'.
#[test]
fn naflex_sizes_and_pixels_agree_with_transformers() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/processors"));
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let config = std::fs::read(folder.join("siglip2.json")).unwrap();
    let preprocess = Preprocess::from_processor(&serde_json::from_slice(&config).unwrap()).unwrap();
    assert_eq!(preprocess.naflex, Some(Naflex { patch_size: 8, max_num_patches: 14 }));
    let transform = Transform::new(preprocess).unwrap();
    for (name, file, size) in [("siglip2", "image.png", [24, 32]), ("siglip2_tall", "tall.png", [32, 24])] {
        let tensor = expected.tensor(name).unwrap();
        assert_eq!(tensor.shape(), [3, size[0], size[1]], "{name}");
        let image = Decoding::default().load(folder.join(file)).unwrap();
        let crop = transform.cropped(&image);
        assert_eq!([crop.height() as usize, crop.width() as usize], size, "{name}");
        let words = tensor.data().chunks_exact(4);
        let want = words.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let differences = transform.normalized(&crop).into_iter().zip(want).map(|(g, w)| (g - w).abs());
        let largest = differences.fold(0.0, f32::max);
        assert!(largest <= EQUAL, "{name}: largest difference {largest}");
    }
}
