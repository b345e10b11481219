//! Real weights and real photos, where they are at hand.

use vitrim_skips::shared;

use crate::fixtures::Scratch;

#[test]
fn photos_are_classified() {
    let Some(shared) = shared() else { return };
    let photos = vitrim_data::list_images(shared.join("data/imagenet-samples")).unwrap();
    let photos: Vec<&str> = photos.iter().take(2).map(|path| path.to_str().unwrap()).collect();
    let model = shared.join("fixtures/timm_deit");
    let args = ["predict", "--model", model.to_str().unwrap(), "--json"];
    let predictions = Scratch::new().run(&[&args[..], &photos].concat()).json();
    assert_eq!(predictions.len(), 2);
    for (prediction, photo) in predictions.iter().zip(photos) {
        assert_eq!(prediction["image"], photo);
        let classes = prediction["classes"].as_array().unwrap();
        assert_eq!(classes.len(), 5);
        let sum: f64 = classes.iter().map(|class| class["probability"].as_f64().unwrap()).sum();
        assert!(sum > 5.0 / 7.0 - 1e-9 && sum <= 1.0 + 1e-9, "{sum}");
    }
}

#[test]
fn the_cifar_backbone_has_its_top1() {
    let Some(shared) = shared() else { return };
    let (model, data) = (shared.join("models/cifar10_vit_d128"), shared.join("data/cifar10"));
    let args = ["eval", "--images", "2000", "--split", "test", "--json"];
    let args = [&args[..], &["--model", model.to_str().unwrap(), "--data", data.to_str().unwrap()]].concat();
    let evaluation = &Scratch::new().run(&args).json()[0];
    assert_eq!(evaluation["images"], 2000);
    let top1 = evaluation["dense_top1"].as_f64().unwrap();
    assert!((74.0..=79.0).contains(&top1), "{top1}");
}
