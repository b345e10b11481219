//! Lists of files: one path per line, CSV, JSON lines.

use std::path::{Path, PathBuf};

use crate::scratch::{indices, load, png};
use vitrim_data::{Dataset, LoaderOptions, OnBadImage, Order, Shares, Subset};

/// A folder with `photos/0.png` to `photos/5.png` and a list beside it.
fn listed(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("photos")).unwrap();
    for i in 0..6 {
        std::fs::write(dir.path().join(format!("photos/{i}.png")), png(i)).unwrap();
    }
    let list = dir.path().join(name);
    std::fs::write(&list, text).unwrap();
    (dir, list)
}

fn labels(dataset: &Dataset) -> Vec<Option<u32>> {
    (0..dataset.len()).map(|index| dataset.label(index)).collect()
}

fn refusal(list: &Path) -> String {
    let message = Dataset::open(list, None).unwrap_err().to_string();
    assert!(!message.contains('\n') && message.contains(&*list.to_string_lossy()), "{message}");
    message
}

#[test]
fn a_path_a_line() {
    let (dir, list) = listed("images.txt", "photos/3.png\n\n  photos/1.png\r\n");
    let dataset = Dataset::open(&list, None).unwrap();
    assert_eq!(
        (dataset.len(), dataset.name(0).as_str(), labels(&dataset)),
        (2, "photos/3.png", vec![None, None])
    );
    assert!(!dataset.is_labelled() && dataset.class_names().is_empty());
    let whole = Dataset::open(dir.path().join("photos"), None).unwrap();
    assert_eq!(dataset.image(0).unwrap(), whole.image(3).unwrap());
    assert_eq!(dataset.image(1).unwrap(), whole.image(1).unwrap());
    // Absolute paths are unchanged, and a number after a path is its class.
    let absolute = format!("{}/photos/2.png 7\nphotos/0.png\t4\n", dir.path().display());
    let (_elsewhere, other) = listed("val.txt", &absolute);
    let dataset = Dataset::open(&other, None).unwrap();
    assert_eq!((dataset.split(), labels(&dataset)), ("validation", vec![Some(7), Some(4)]));
    assert_eq!(dataset.image(0).unwrap(), whole.image(2).unwrap());
}

#[test]
fn tables_and_json_lines_have_labels() {
    for (name, text) in [
        ("a.csv", "id,path,label\n0,photos/2.png,dog\n1,\"photos/0.png\",\"a cat\"\n2,photos/1.png,\n"),
        ("a.tsv", "Class\tFile_Name\ndog\tphotos/2.png\na cat\tphotos/0.png\n\tphotos/1.png\n"),
        (
            "a.jsonl",
            "{\"file\": \"photos/2.png\", \"class\": \"dog\"}\n\n{\"image\": \"photos/0.png\", \"category\": \"a cat\"}\n{\"path\": \"photos/1.png\"}\n",
        ),
    ] {
        let (_dir, list) = listed(name, text);
        let dataset = Dataset::open(&list, None).unwrap();
        assert_eq!(dataset.class_names(), ["a cat", "dog"], "{name}");
        assert_eq!(labels(&dataset), [Some(1), Some(0), None], "{name}");
        let batch = &load(&dataset, Order::Sequential, LoaderOptions::default())[0];
        assert_eq!((batch.names[0].as_str(), &batch.labels), ("photos/2.png", &labels(&dataset)), "{name}");
    }
    let (_dir, list) = listed("a.csv", "path,label\nphotos/2.png,3\nphotos/0.png,-1\n");
    let dataset = Dataset::open(&list, None).unwrap();
    assert_eq!((labels(&dataset), dataset.class_names().len()), (vec![Some(3), None], 0));
}

#[test]
fn whole_floats_are_class_numbers() {
    let photos = |end: &str| (0..3).map(|i| format!("photos/{i}.png{end}\n")).collect::<String>();
    for (name, text) in [
        ("a.csv", "path,label\nphotos/0.png,10.0\nphotos/1.png,\nphotos/2.png,2.0\n".to_string()),
        ("a.csv", "path,label\nphotos/0.png,1.00e+01\nphotos/1.png,nan\nphotos/2.png,2.00e+00\n".to_string()),
        ("a.tsv", "path\tlabel\nphotos/0.png\t10\nphotos/1.png\tNaN\nphotos/2.png\t2.0\n".to_string()),
        (
            "a.jsonl",
            "{\"path\": \"photos/0.png\", \"label\": 10.0}\n{\"path\": \"photos/1.png\", \"label\": null}\n\
             {\"path\": \"photos/2.png\", \"label\": 2.0}\n"
                .to_string(),
        ),
        ("a.txt", photos(" 2.0").replacen("2.0", "10.0", 1).replace("1.png 2.0", "1.png")),
    ] {
        let (_dir, list) = listed(name, &text);
        let dataset = Dataset::open(&list, None).unwrap();
        assert_eq!(labels(&dataset), [Some(10), None, Some(2)], "{name}: {text}");
        assert!(dataset.class_names().is_empty(), "{name}");
    }
    for (name, text) in [
        ("a.csv", "path,label\nphotos/0.png,1.0\nphotos/1.png,2.5\n"),
        ("a.txt", "photos/0.png 1\nphotos/1.png 2.5\n"),
    ] {
        let (_dir, list) = listed(name, text);
        assert!(refusal(&list).contains("label 2.5 is not a whole number"), "{name}");
    }
}

#[test]
fn a_missing_file_is_one_bad_image() {
    let (_dir, list) = listed("images.txt", "photos/0.png\nphotos/nine.png\nphotos/2.png\n");
    let dataset = Dataset::open(&list, None).unwrap();
    let options = LoaderOptions { on_bad_image: OnBadImage::Skip, ..Default::default() };
    assert_eq!(indices(&load(&dataset, Order::Sequential, options)), [0, 2]);
    load(&dataset, Order::Shuffled { seed: 1, epoch: 0 }, options);
    // Two passes encountered the bad image; it counts once.
    assert_eq!(dataset.bad_images().count(), 1);
    assert!(dataset.bad_images().first()[0].contains("nine.png"));
    // The bad image belongs to one of the parts, and does not prevent the partition of the others.
    let shares = Shares { train: 0.5, calibration: 0.5, test: 0.0 };
    let part = |part| dataset.by_hash(part, &shares, &mut |_, _| {}).unwrap().len();
    assert_eq!(part(Subset::Train) + part(Subset::Calibration), 3);
}

#[test]
fn what_is_wrong_in_a_list_is_said() {
    for (name, text, words) in [
        ("a.txt", "", "names no image"),
        ("a.txt", "pictures/0.png\n", "its first image, pictures/0.png, is not there"),
        ("a.csv", "id,label\n1,2\n", "names no column of paths"),
        ("a.csv", "path,label\nphotos/0.png,1\n,2\n", "line 3 has no path"),
        ("a.csv", "path,label\nphotos/0.png\n", "record 1 (line: 2"),
        ("a.jsonl", "{\"path\": \"photos/0.png\"}\nphotos/1.png\n", "line 2 is not a JSON object"),
        ("a.jsonl", "{\"caption\": \"x\"}\n", "line 1 has no path"),
        ("a.csv", "path,label\nphotos/0.png,1\nphotos/1.png,-5\n", "line 3: label -5"),
    ] {
        let (_dir, list) = listed(name, text);
        let message = refusal(&list);
        assert!(message.contains(words), "{message}");
    }
}
