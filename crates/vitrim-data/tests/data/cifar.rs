//! CIFAR-10 as it is distributed on the Hugging Face Hub.

use crate::scratch::shared;
use vitrim_data::{Dataset, Loader, LoaderOptions, Order, Preprocess, Transform};

#[test]
fn cifar10_opens_whole_and_decodes() {
    let Some(shared) = shared() else { return };
    let path = shared.join("data/cifar10");
    assert_eq!(Dataset::splits(&path).unwrap(), ["train", "validation", "test"]);
    for (split, len) in [("train", 40_000), ("val", 10_000), ("test", 10_000)] {
        let dataset = Dataset::open(&path, Some(split)).unwrap();
        assert_eq!(dataset.len(), len);
        assert_eq!(dataset.class_names().len(), 10);
        assert_eq!(dataset.class_names()[0], "airplane");
        assert!((0..len).all(|i| dataset.label(i).is_some_and(|label| label < 10)));
        assert_eq!(dataset.image(0).unwrap().dimensions(), (32, 32));
        assert_eq!(dataset.image(len - 1).unwrap().dimensions(), (32, 32));
    }
}

#[test]
fn a_shuffled_pass_shows_every_image_once_at_the_right_place() {
    let Some(shared) = shared() else { return };
    let file = shared.join("data/cifar10/test-00000-of-00001.parquet");
    let dataset = Dataset::open(file, None).unwrap();
    let cfg = serde_json::json!({"input_size": [3, 32, 32], "crop_pct": 1.0});
    let transform = Transform::new(Preprocess::from_pretrained_cfg(&cfg).unwrap()).unwrap();
    let order = Order::Shuffled { seed: 1, epoch: 0 };
    let mut seen = vec![0; dataset.len()];
    for batch in Loader::new(&dataset, order, &transform, LoaderOptions::default()).unwrap() {
        let batch = batch.unwrap();
        for (place, &index) in batch.indices.iter().enumerate() {
            seen[index] += 1;
            assert_eq!(batch.labels[place], dataset.label(index));
            if index % 997 == 0 {
                let want = transform.pixels(&dataset.image(index).unwrap());
                assert_eq!(batch.pixels[place * 3072..(place + 1) * 3072], want);
            }
        }
    }
    assert!(seen.iter().all(|&count| count == 1));
}

#[test]
fn the_given_splits_share_images_until_they_are_taken_out() {
    let Some(shared) = shared() else { return };
    let path = shared.join("data/cifar10");
    let quiet = &mut |_, _| {};
    let open = |split| Dataset::open(&path, Some(split)).unwrap();
    let held_out = open("test").content_hashes(quiet).unwrap();
    let (validation, removed) =
        open("validation").without(&open("test").to_exclude(quiet).unwrap(), quiet).unwrap();
    assert_eq!(validation.len() + removed, 10_000);
    println!("validation: {removed} images are also in test");
    assert!(validation.content_hashes(quiet).unwrap().is_disjoint(&held_out));
}
