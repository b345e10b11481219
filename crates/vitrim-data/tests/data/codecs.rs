//! Every format and mode is decoded like Pillow does. The images and Pillow's results are written by
//! `scripts/make_image_fixtures.py`.

use std::path::PathBuf;

use serde_json::Value;
use vitrim_data::Decoding;
use vitrim_data::image::RgbImage;

/// Largest difference of a value from Pillow's, and largest mean difference. JPEG decoders differ in the rounding of
/// transforms and the filtering of coarse chroma, and so do VP8's; all other formats are exact.
fn tolerance(name: &str) -> (u8, f64) {
    match name {
        // libjpeg-turbo interpolates between chroma samples as zune-jpeg does, but rounds elsewhere.
        "rgb_420.jpg" => (8, 1.0),
        "lossy.webp" => (4, 1.0),
        // Two roundings, one before and one after the black channel is multiplied in.
        "ycck.jpg" => (5, 1.5),
        name if name.ends_with(".jpg") => (3, 0.7),
        "cmyk.tif" => (1, 0.5),
        _ => (0, 0.0),
    }
}

pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/images"))
}

/// The images: name, bytes, and the entry in `expected.json`.
pub fn images() -> Vec<(String, Vec<u8>, Value)> {
    let expected = std::fs::read(folder().join("expected.json")).unwrap();
    let Value::Object(expected) = serde_json::from_slice(&expected).unwrap() else { panic!("no object") };
    let images = expected.into_iter().filter(|(name, _)| name.contains('.'));
    images.map(|(name, value)| (name.clone(), std::fs::read(folder().join(name)).unwrap(), value)).collect()
}

/// The difference between `got` and Pillow's result for image `name`, if it exceeds the tolerance.
fn difference(name: &str, got: &RgbImage, size: &Value, pillow: &str) -> Option<String> {
    let side = |at: usize| size[at].as_u64().unwrap() as u32;
    assert_eq!(got.dimensions(), (side(0), side(1)), "{name}");
    let want = std::fs::read(folder().join(pillow)).unwrap();
    assert_eq!(got.as_raw().len(), want.len(), "{name}");
    let differences: Vec<u8> = got.as_raw().iter().zip(&want).map(|(g, w)| g.abs_diff(*w)).collect();
    let largest = *differences.iter().max().unwrap();
    let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / want.len() as f64;
    let (most, most_mean) = tolerance(name);
    println!("{pillow}: largest difference {largest}, mean {mean:.3}");
    (largest > most || mean > most_mean).then(|| format!("{pillow}: largest {largest}, mean {mean:.3}"))
}

#[test]
fn every_image_is_pillows() {
    let images = images();
    assert!(images.len() >= 40, "{}", images.len());
    let different = images.into_iter().filter_map(|(name, encoded, expected)| {
        let plain = Decoding::default().decode(&encoded, &name).unwrap();
        difference(&name, &plain, &expected["size"], &format!("{name}.rgb"))
    });
    assert_eq!(different.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn exif_turns_images_only_when_asked_and_tiff_always() {
    let mut met = 0;
    for (name, encoded, expected) in images() {
        let turned = Decoding { exif: true }.decode(&encoded, &name).unwrap();
        if expected["exif_size"].is_null() {
            assert_eq!(turned, Decoding::default().decode(&encoded, &name).unwrap(), "{name}");
        } else {
            let different = difference(&name, &turned, &expected["exif_size"], &format!("{name}.exif.rgb"));
            assert_eq!(different, None);
            met += 1;
        }
    }
    assert_eq!(met, 4, "JPEG, PNG, WebP, TIFF");
}
