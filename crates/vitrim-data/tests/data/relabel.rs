//! Labels of a data set converted to a backbone's classes.

use std::sync::Arc;

use crate::scratch::{
    FOOTER, Row, SCHEMA, indices, load, png, rows, write_folder, write_parquet, write_shards,
};
use vitrim_data::{BackboneClasses, Dataset, LabelMap, LabelOrder, LoaderOptions, Order, Shares, Subset};

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

/// A folder with an image in each of the class folders `names`, in the order of text.
fn folders<'a>(names: impl IntoIterator<Item = &'a str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (number, name) in (0..).zip(names) {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("x.png"), png(number)).unwrap();
    }
    dir
}

fn backbone(count: usize, names: &[&'static str]) -> Arc<BackboneClasses> {
    Arc::new(BackboneClasses::new(count, names.iter().copied()))
}

#[test]
fn class_folders_called_by_number_are_read_as_numbers_or_refused() {
    let numbers: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    let dir = folders(numbers.iter().map(String::as_str));
    let dataset = Dataset::open(dir.path(), None).unwrap();
    let twelve = backbone(12, &[]);
    let labelled = dataset.labelled_for(&twelve, None).unwrap();
    for index in 0..12 {
        let folder: u32 = labelled.name(index).split('/').next().unwrap().parse().unwrap();
        assert_eq!(labelled.label(index), Some(folder));
    }
    assert!(
        labelled.label_notes()[0].contains("the class: `10` is class 10"),
        "{:?}",
        labelled.label_notes()
    );
    let as_text = dataset.labelled_for(&twelve, Some(LabelOrder::Own)).unwrap();
    assert_eq!((as_text.label(2), as_text.label_notes().len()), (Some(2), 0));

    // A list of classes, or a map without the folder's name, goes by the number, too.
    let reversed = dataset.relabelled(&map("[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]")).unwrap();
    for index in 0..12 {
        assert_eq!(reversed.label(index), labelled.label(index).map(|class| 11 - class));
    }
    let lacking = dataset.relabelled(&map(r#"{"0": 0, "1": 1, "2": 2}"#)).unwrap_err().to_string();
    assert!(lacking.contains("class `10` is not in the label map"), "{lacking}");

    let counted: Vec<String> = (1..13).map(|n| format!("class_{n}")).collect();
    let dir = folders(counted.iter().map(String::as_str));
    let dataset = Dataset::open(dir.path(), None).unwrap();
    let error = dataset.labelled_for(&twelve, None).unwrap_err().to_string();
    assert!(error.starts_with(&*dir.path().to_string_lossy()) && error.contains("two orders"), "{error}");
    let by_number = dataset.labelled_for(&twelve, Some(LabelOrder::Number)).unwrap();
    let of =
        |name: &str| (0..12).find(|&i| by_number.name(i).starts_with(name)).and_then(|i| by_number.label(i));
    assert_eq!((of("class_1/"), of("class_2/"), of("class_12/")), (Some(0), Some(1), Some(11)));
}

#[test]
fn names_of_which_all_but_one_are_known_are_refused() {
    let dir = folders(["ant", "moht", "zebra"]);
    let dataset = Dataset::open(dir.path(), None).unwrap();
    let error = dataset.labelled_for(&backbone(3, &["zebra", "ant", "moth"]), None).unwrap_err().to_string();
    assert!(error.contains("`moht` (nearest: `moth`)") && !error.contains('\n'), "{error}");
    let spelled = dataset.labelled_for(&backbone(3, &["Zebra", "ANT", "moht"]), None).unwrap();
    assert_eq!(labels(&spelled), [Some(1), Some(2), Some(0)]);
    assert!(spelled.label_notes()[0].contains("`zebra` is `Zebra`"), "{:?}", spelled.label_notes());
    // Parts and relabelled data sets say it, too; images without labels have nothing to say.
    assert_eq!(spelled.first(1).label_notes().len(), 1);
    assert!(spelled.unlabelled().label_notes().is_empty());
}

#[test]
fn the_numbers_of_a_parquet_file_stay_where_its_names_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    write_parquet(&dir.path().join("test.parquet"), SCHEMA, Some(FOOTER), &rows(6), 6);
    let dataset = Dataset::open(dir.path(), None).unwrap();
    let unknown = dataset.labelled_for(&backbone(3, &[]), None).unwrap();
    assert_eq!((labels(&unknown), unknown.label_notes().len()), (labels(&dataset), 1));
    let known = dataset.labelled_for(&backbone(3, &["c", "b", "a"]), None).unwrap();
    assert_eq!(
        (labels(&known)[..3].to_vec(), known.label_notes().len()),
        (vec![Some(2), Some(1), Some(0)], 0)
    );
    assert!(dataset.labelled_for(&backbone(3, &["b", "a", "x"]), None).is_err());
}

#[test]
fn labels_of_a_parquet_file_may_be_whole_floats() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.parquet");
    let schema = |kind: &str| SCHEMA.replace("int64", kind);
    let row = |number, label| -> Row { (Some(png(number)), label) };
    let stored = [row(0, Some(10)), row(1, None), row(2, Some(2))];
    for kind in ["double", "float"] {
        write_parquet(&path, &schema(kind), None, &stored, 2);
        let dataset = Dataset::open(&path, None).unwrap();
        assert_eq!(labels(&dataset), [Some(10), None, Some(2)], "{kind}");
    }
}
