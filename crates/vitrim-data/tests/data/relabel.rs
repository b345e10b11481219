//! Labels of a data set converted to a backbone's classes.

use crate::scratch::{indices, load, write_folder, write_shards};
use vitrim_data::{Dataset, LabelMap, LoaderOptions, Order, Shares, Subset};

fn labels(dataset: &Dataset) -> Vec<Option<u32>> {
    (0..dataset.len()).map(|index| dataset.label(index)).collect()
}

fn map(json: &str) -> LabelMap {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map.json");
    std::fs::write(&path, json).unwrap();
    LabelMap::open(path).unwrap()
}

#[test]
fn class_names_find_their_index_and_batches_have_it() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 6);
    let dataset = Dataset::open(dir.path(), None).unwrap();
    let relabelled = dataset.relabelled(&map(r#"{"a": 20, "b": null, "c": 5}"#)).unwrap();
    let want = [Some(20), Some(20), None, None, Some(5), Some(5)];
    assert_eq!(labels(&relabelled), want);
    assert!(relabelled.class_names().is_empty(), "the names were the data set's own");
    assert_eq!(load(&relabelled, Order::Sequential, LoaderOptions::default())[0].labels, want);
    // The original data set is unchanged.
    assert_eq!(labels(&dataset), [Some(0), Some(0), Some(1), Some(1), Some(2), Some(2)]);
    assert_eq!(labels(&dataset.relabelled(&map("[7, 8, 9]")).unwrap())[5], Some(9));
}

#[test]
fn parts_keep_their_labels() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 60);
    let relabelled = Dataset::open(dir.path(), None).unwrap().relabelled(&map("[7, 8, 9]")).unwrap();
    let part = relabelled.by_hash(Subset::Train, &Shares::default(), &mut |_, _| {}).unwrap();
    assert!(part.len() > 10 && part.len() < 60);
    let order = Order::Shuffled { seed: 0, epoch: 0 };
    for batch in load(&part, order, LoaderOptions::default()) {
        for (label, name) in batch.labels.iter().zip(&batch.names) {
            let want = match &name[..1] {
                "a" => 7,
                "b" => 8,
                _ => 9,
            };
            assert_eq!(*label, Some(want), "{name}");
        }
    }
    assert_eq!(indices(&load(&part, Order::Sequential, LoaderOptions::default())).len(), part.len());
}

#[test]
fn a_class_that_the_map_lacks_is_named_unless_no_image_has_it() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 6);
    let dataset = Dataset::open(dir.path(), None).unwrap();
    let error = dataset.relabelled(&map(r#"{"a": 0, "c": 1}"#)).unwrap_err().to_string();
    assert!(error.contains("class `b` is not in the label map") && error.contains("0001.png"), "{error}");
    assert_eq!(dataset.first(2).relabelled(&map(r#"{"a": 4}"#)).unwrap().label(1), Some(4));
    // Without names, indices are looked up, by position or as words.
    write_shards(&dir.path().join("tar"), 6, 1);
    let numbered = Dataset::open(dir.path().join("tar"), None).unwrap();
    assert_eq!(labels(&numbered.relabelled(&map("[3, null, 1]")).unwrap())[..3], [Some(3), None, Some(1)]);
    let words = map(r#"{"0": 2, "1": 1, "2": 0}"#);
    assert_eq!(labels(&numbered.relabelled(&words).unwrap())[..3], [Some(2), Some(1), Some(0)]);
    assert!(numbered.relabelled(&map("[3]")).unwrap_err().to_string().contains("class `1`"));
}
