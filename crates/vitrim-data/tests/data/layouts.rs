//! Layouts that archives, editors, disks and other tools leave: what is read, what is left out, and what is said.

use std::path::Path;

use crate::scratch::{indices, load, png, tar, write_folder};
use vitrim_data::{Dataset, LoaderOptions, OnBadImage, Order};

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn splits_are_read_under_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, count) in [("Training", 9), ("Dev", 6), ("Testing", 3)] {
        write_folder(&dir.path().join(folder), count);
    }
    assert_eq!(Dataset::splits(dir.path()).unwrap(), ["train", "validation", "test"]);
    for (wanted, count) in [
        ("train", 9),
        ("Training", 9),
        ("TRAIN", 9),
        ("dev", 6),
        ("val", 6),
        ("validation", 6),
        ("test", 3),
        ("Testing", 3),
        ("evaluation", 3),
    ] {
        let dataset = Dataset::open(dir.path(), Some(wanted)).unwrap();
        assert_eq!((dataset.len(), dataset.class_names().join(",")), (count, "a,b,c".into()), "{wanted}");
        assert!(dataset.layout_notes().is_empty());
    }
    write_folder(&dir.path().join("extra"), 3);
    let notes = Dataset::open(dir.path(), Some("test")).unwrap().layout_notes().to_vec();
    assert!(notes[0].contains("beside the split folders are not read: extra"), "{notes:?}");
}

#[test]
fn an_archive_beside_its_folders_changes_nothing_but_a_note() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(&dir.path().join("train"), 9);
    write_folder(&dir.path().join("val"), 6);
    let before = Dataset::open(dir.path(), Some("val")).unwrap();
    write(&dir.path().join("ILSVRC2012_img_val.tar"), &tar(&[("x.png".into(), png(1))]));
    let after = Dataset::open(dir.path(), Some("val")).unwrap();
    assert_eq!((after.len(), after.label(5)), (before.len(), before.label(5)));
    let notes = after.layout_notes();
    assert!(
        notes[0].ends_with("the images are read, not the archives beside them: ILSVRC2012_img_val.tar"),
        "{notes:?}"
    );
}

#[cfg(unix)]
#[test]
fn an_image_link_to_nothing_is_one_bad_image() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 6);
    std::os::unix::fs::symlink("/nowhere/gone.png", dir.path().join("b/gone.png")).unwrap();
    std::os::unix::fs::symlink("/nowhere/README", dir.path().join("b/README")).unwrap();
    let dataset = Dataset::open(dir.path(), None).unwrap();
    assert_eq!((dataset.len(), dataset.name(4).as_str(), dataset.label(4)), (7, "b/gone.png", Some(1)));
    assert!(dataset.image(4).unwrap_err().to_string().contains("gone.png: no such file"));
    let options = LoaderOptions { on_bad_image: OnBadImage::Skip, ..Default::default() };
    assert_eq!(indices(&load(&dataset, Order::Sequential, options)), [0, 1, 2, 3, 5, 6]);
    let bad = dataset.bad_images();
    assert!(bad.count() == 1 && bad.first()[0].contains("b/gone.png"), "{:?}", bad.first());
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf8_are_read_and_told_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    for (i, name) in [&b"caf\xe8.png"[..], b"caf\xe9.png"].into_iter().enumerate() {
        write(&dir.path().join(OsStr::from_bytes(name)), &png(i as u32));
    }
    let dataset = Dataset::open(dir.path(), None).unwrap();
    let batch = &load(&dataset, Order::Sequential, LoaderOptions::default())[0];
    assert_eq!(batch.names, ["caf\\xe8.png", "caf\\xe9.png"]);
    assert_ne!(dataset.image(0).unwrap(), dataset.image(1).unwrap());
}
