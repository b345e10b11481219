//! The transform agrees with timm's, computed by timm and Pillow on photos.

use crate::scratch::shared;
use safetensors::SafeTensors;
use serde_json::Value;
use vitrim_data::{Decoding, Preprocess, Transform};

/// Largest mean absolute difference of normalised values that is due to JPEG decoders and fixed-point resizers.
const MEAN_ABSOLUTE: f64 = 0.006;
/// Bound of the mean difference, which a shift of the geometry or of the normalisation would exceed.
const MEAN_SIGNED: f64 = 0.001;

#[test]
fn pixels_agree_with_timm() {
    let Some(shared) = shared() else { return };
    let file = std::fs::read(shared.join("fixtures/preprocess/timm_eval_transform.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&file).unwrap();
    let configs = &header.metadata().as_ref().unwrap()["configs"];
    let configs: Value = serde_json::from_str(configs).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for (key, tensor) in tensors.tensors() {
        let (config, photo) = key.split_once('/').unwrap();
        let transform = Transform::new(Preprocess::from_pretrained_cfg(&configs[config]).unwrap()).unwrap();
        let rgb = Decoding::default().load(shared.join("data/imagenet-samples").join(photo)).unwrap();
        let got = transform.pixels(&rgb);
        let want: Vec<f32> =
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(got.len(), want.len(), "{key}");
        let differences = got.iter().zip(&want).map(|(g, w)| f64::from(g - w));
        let count = want.len() as f64;
        let absolute = differences.clone().map(f64::abs).sum::<f64>() / count;
        let signed = differences.clone().sum::<f64>() / count;
        let largest = differences.map(f64::abs).fold(0.0, f64::max);
        println!("{key}: mean absolute {absolute:.5}, mean signed {signed:+.5}, largest {largest:.3}");
        assert!(absolute <= MEAN_ABSOLUTE, "{key}: mean absolute difference {absolute}");
        assert!(signed.abs() <= MEAN_SIGNED, "{key}: mean signed difference {signed}");
    }
}
