//! Hugging Face's ImageFolder: labels in metadata tables.

use std::path::{Path, PathBuf};

use crate::scratch::{png, write_path_table};
use vitrim_data::{Dataset, LoaderOptions, OnBadImage, Order};

/// Nine images `00.png` to `22.png` in `folder`, whose first digit is the class.
fn images(folder: &Path) -> Vec<String> {
    std::fs::create_dir_all(folder).unwrap();
    let names: Vec<String> = (0..9).map(|i| format!("{}{}.png", i / 3, i % 3)).collect();
    for (number, name) in (0..).zip(&names) {
        std::fs::write(folder.join(name), png(number)).unwrap();
    }
    names
}

/// Writes the table `kind` of `rows` in `folder`.
fn table(folder: &Path, kind: &str, rows: &[(String, i64)]) -> PathBuf {
    let path = folder.join(format!("metadata.{kind}"));
    let lines =
        |line: &dyn Fn(&str, i64) -> String| rows.iter().map(|(p, k)| line(p, *k)).collect::<String>();
    match kind {
        "csv" => {
            let text = format!("file_name,label,caption\n{}", lines(&|p, k| format!("{p},{k},\"a, b\"\n")));
            std::fs::write(&path, text).unwrap();
        }
        "jsonl" => {
            let text = lines(&|p, k| format!("{{\"file_name\": \"{p}\", \"label\": {k}}}\n"));
            std::fs::write(&path, text).unwrap();
        }
        _ => {
            let rows: Vec<(&str, i64)> = rows.iter().map(|(p, k)| (p.as_str(), *k)).collect();
            write_path_table(&path, if kind == "parquet" { "int64" } else { panic!("{kind}") }, &rows);
        }
    }
    path
}

/// The rows of `names`, below `prefix`: the class is the first digit.
fn rows(names: &[String], prefix: &str) -> Vec<(String, i64)> {
    names.iter().map(|name| (format!("{prefix}{name}"), i64::from(name.as_bytes()[0] - b'0'))).collect()
}

fn open(path: &Path, split: &str) -> Dataset {
    Dataset::open(path, Some(split)).unwrap()
}

/// Checks that each of the nine images has the class of its name.
fn check(dataset: &Dataset, what: &str) {
    assert_eq!(dataset.len(), 9, "{what}");
    for index in 0..9 {
        let name = dataset.name(index);
        let class = name.rsplit('/').next().unwrap().as_bytes()[0] - b'0';
        assert_eq!(dataset.label(index), Some(class.into()), "{what}: {name}");
    }
    assert!(dataset.label_notes().is_empty(), "{what}: {:?}", dataset.label_notes());
}

#[test]
fn tables_beside_the_images_or_above_them_are_read() {
    for kind in ["csv", "jsonl", "parquet"] {
        let dir = tempfile::tempdir().unwrap();
        let names = images(&dir.path().join("test"));
        let beside = table(&dir.path().join("test"), kind, &rows(&names, ""));
        assert_eq!(Dataset::splits(dir.path()).unwrap(), ["test"]);
        check(&open(dir.path(), "test"), kind);
        check(&Dataset::open(dir.path().join("test"), None).unwrap(), kind);
        check(&open(&beside, "test"), kind);

        std::fs::remove_file(beside).unwrap();
        let names = rows(&names, "test/");
        images(&dir.path().join("train"));
        let train = rows(&images(&dir.path().join("train")), "./train/");
        let above = table(dir.path(), kind, &[names, train].concat());
        for data in [dir.path(), &above] {
            assert_eq!(Dataset::splits(data).unwrap().len(), 2, "{kind}");
            for split in ["train", "test"] {
                check(&open(data, split), kind);
            }
        }
    }
}

#[test]
fn a_single_folder_of_images_is_no_class() {
    let dir = tempfile::tempdir().unwrap();
    let names = images(&dir.path().join("images"));
    table(dir.path(), "csv", &rows(&names, "images/"));
    check(&Dataset::open(dir.path(), None).unwrap(), "images");
}

#[test]
fn words_of_a_table_are_the_classes_of_all_splits() {
    let dir = tempfile::tempdir().unwrap();
    for split in ["train", "test"] {
        images(&dir.path().join(split));
    }
    let text =
        "file_name,label\ntrain/00.png,ant\ntrain/01.png,moth\ntrain/02.png,zebra\ntest/00.png,zebra\n";
    std::fs::write(dir.path().join("metadata.csv"), text).unwrap();
    let test = open(dir.path(), "test");
    assert_eq!(
        (test.class_names(), test.label(0), test.label(1)),
        (&["ant", "moth", "zebra"].map(String::from)[..], Some(2), None)
    );
    let notes = test.label_notes();
    assert!(notes[0].contains("8 of 9 images have no label") && notes[0].contains("01.png"), "{notes:?}");
    let table = open(&dir.path().join("metadata.csv"), "test");
    assert_eq!((table.len(), table.class_names().len(), table.label(0)), (1, 3, Some(2)));
}

#[test]
fn a_row_without_its_file_is_one_bad_image() {
    let dir = tempfile::tempdir().unwrap();
    let names = [images(dir.path()), vec!["2x.png".to_string()]].concat();
    table(dir.path(), "csv", &rows(&names, ""));
    let dataset = Dataset::open(dir.path(), None).unwrap();
    assert_eq!(dataset.len(), 10);
    let options = LoaderOptions { on_bad_image: OnBadImage::Skip, ..Default::default() };
    crate::scratch::load(&dataset, Order::Sequential, options);
    assert!(dataset.bad_images().count() == 1 && dataset.bad_images().first()[0].contains("2x.png"));
}

#[test]
fn class_folders_and_a_table_have_to_agree() {
    let dir = tempfile::tempdir().unwrap();
    for (number, name) in (0..).zip(["ant/0.png", "moth/0.png", "zebra/0.png"]) {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, png(number)).unwrap();
    }
    let classes = |labels: [&str; 3]| {
        let row = |(name, label): (&str, &str)| format!("{name}/0.png,{label}\n");
        let rows: String = ["ant", "moth", "zebra"].into_iter().zip(labels).map(row).collect();
        std::fs::write(dir.path().join("metadata.csv"), format!("file_name,label\n{rows}")).unwrap();
        Dataset::open(dir.path(), None)
    };
    for labels in [["ant", "moth", "zebra"], ["0", "1", "2"], ["0.0", "", "2.0"], ["Ant", "moth", "ZEBRA"]] {
        let dataset = classes(labels).unwrap();
        assert_eq!(
            (0..3).map(|i| dataset.label(i)).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(2)],
            "{labels:?}"
        );
    }
    for (labels, words) in [
        (["1", "2", "0"], "ant/0.png: its folder says class `ant` (0 in their order), metadata.csv says `1`"),
        (
            ["ant", "zebra", "zebra"],
            "moth/0.png: its folder says class `moth` (1 in their order), metadata.csv says `zebra`",
        ),
    ] {
        let error = classes(labels).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("--data ") && !error.contains('\n'), "{error}");
        let table = Dataset::open(dir.path().join("metadata.csv"), None).unwrap();
        assert!(table.is_labelled() && table.len() == 3);
    }
    // An image beside the class folders, which these would leave out.
    std::fs::write(dir.path().join("loose.png"), png(7)).unwrap();
    std::fs::write(dir.path().join("metadata.csv"), "file_name,label\nant/0.png,0\nloose.png,1\n").unwrap();
    let error = Dataset::open(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("loose.png: metadata.csv names it, but it lies in no class folder"), "{error}");
}

#[test]
fn other_tables_of_that_name_are_left_alone_and_contradictions_refused() {
    let dir = tempfile::tempdir().unwrap();
    images(dir.path());
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    for (text, notes) in [
        ("lesion,dx\n1,mel\n", 0),
        ("file_name,text\n00.png,a cat\n", 0),
        ("file_name,label\nelsewhere/1.png,3\n", 1),
    ] {
        write("metadata.csv", text);
        let dataset = Dataset::open(dir.path(), None).unwrap();
        assert_eq!(
            (dataset.len(), dataset.is_labelled(), dataset.label_notes().len()),
            (9, false, notes),
            "{text}"
        );
    }
    let notes = Dataset::open(dir.path(), None).unwrap().label_notes();
    assert!(notes[0].contains("metadata.csv names no image of its folder"), "{notes:?}");
    write("metadata.csv", "file_name,label\n00.png,1\n./00.png,2\n");
    let error = Dataset::open(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("metadata.csv, line 3: ./00.png has another label than in line 2"), "{error}");
    write("metadata.csv", "file_name,label\n00.png,1\n");
    write("metadata.jsonl", "{\"file_name\": \"00.png\", \"label\": 2}\n");
    let error = Dataset::open(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("metadata.csv and metadata.jsonl both have labels"), "{error}");
}
