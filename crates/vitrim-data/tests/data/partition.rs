//! Training, calibration and test never share an image.

use std::collections::HashSet;

use crate::scratch::{FOOTER, SCHEMA, png, rows, write_folder, write_parquet, write_shards};
use vitrim_data::{ContentHash, Dataset, Shares, Subset};

const PARTS: [Subset; 3] = [Subset::Train, Subset::Calibration, Subset::Test];

fn quiet() -> impl FnMut(usize, usize) {
    |_, _| {}
}

#[test]
fn parts_are_disjoint_complete_and_stable() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 200);
    // Copies of two images, under other names and in another class.
    for (copy, of) in [("c/x.png", 0), ("c/y.png", 1), ("a/z.png", 1)] {
        std::fs::write(dir.path().join(copy), png(of)).unwrap();
    }
    let dataset = Dataset::open(dir.path(), None).unwrap();
    let shares = Shares::default();
    let parts = PARTS.map(|part| dataset.by_hash(part, &shares, &mut quiet()).unwrap());
    assert_eq!(parts.iter().map(Dataset::len).sum::<usize>(), 203);
    let hashes = parts.each_ref().map(|part| part.content_hashes(&mut quiet()).unwrap());
    assert_eq!(hashes.iter().map(HashSet::len).sum::<usize>(), 200);
    assert!(
        hashes[0].is_disjoint(&hashes[1])
            && hashes[0].is_disjoint(&hashes[2])
            && hashes[1].is_disjoint(&hashes[2])
    );
    for (part, want) in parts.iter().zip([0.6, 0.2, 0.2]) {
        assert!((part.len() as f64 / 203.0 - want).abs() < 0.1, "{}", part.len());
    }

    // The part depends on the image alone: not on its name, the other images or the store.
    let alone = Dataset::from_memory(vec![(png(17), None)], Vec::new()).unwrap();
    let part =
        PARTS.into_iter().find(|&p| !alone.by_hash(p, &shares, &mut quiet()).unwrap().is_empty()).unwrap();
    assert!(hashes[part as usize].contains(&ContentHash::of(&png(17))));
    assert!((0..parts[0].len()).all(|i| parts[0].label(i).is_some() && !parts[0].name(i).is_empty()));
}

#[test]
fn what_another_split_holds_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(&dir.path().join("train"), 20);
    write_folder(&dir.path().join("test"), 5);
    let open = |split| Dataset::open(dir.path(), Some(split)).unwrap();
    let (test, excluded) =
        (open("test").content_hashes(&mut quiet()).unwrap(), open("test").to_exclude(&mut quiet()).unwrap());
    let mut told = Vec::new();
    let (train, removed) = open("train").without(&excluded, &mut |done, all| told.push((done, all))).unwrap();
    assert_eq!((train.len(), removed), (15, 5));
    assert_eq!(told, (1..=20).map(|done| (done, 20)).collect::<Vec<_>>());
    assert!(train.content_hashes(&mut quiet()).unwrap().is_disjoint(&test));
    assert_eq!(train.without(&excluded, &mut quiet()).unwrap().1, 0);
    // Names follow the images.
    assert_eq!(train.name(0), "a/0006.png");
    assert_eq!(train.image(0).unwrap(), open("train").image(2).unwrap());
}

/// Without reading every image, the same images are left out as with it.
#[test]
fn images_are_left_out_of_any_store_as_by_their_whole_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder/train");
    write_folder(&folder, 30);
    let copy = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    // The length and the end of an excluded image, but other bytes; a copy under another name; files shorter than an end.
    let mut other = png(3);
    other[20] ^= 1;
    copy("a/other.png", &other);
    copy("b/copy.png", &png(3));
    copy("a/empty.png", b"");
    copy("a/short.png", b"short");
    copy("b/short.png", b"shorT");
    write_shards(&dir.path().join("tar"), 30, 7);
    let memory: Vec<_> = (0..30).map(|i| (png(i), None)).collect();
    write_parquet(&dir.path().join("parquet/train.parquet"), SCHEMA, Some(FOOTER), &rows(30), 7);

    let images = vec![(png(3), None), (png(12), None), (b"short".to_vec(), None), (Vec::new(), None)];
    let excluded = Dataset::from_memory(images, Vec::new()).unwrap().to_exclude(&mut quiet()).unwrap();
    let open: [&dyn Fn() -> Dataset; 4] = [
        &|| Dataset::open(dir.path().join("folder"), None).unwrap(),
        &|| Dataset::open(dir.path().join("tar"), None).unwrap(),
        &|| Dataset::from_memory(memory.clone(), Vec::new()).unwrap(),
        &|| Dataset::open(dir.path().join("parquet"), None).unwrap(),
    ];
    for (open, removed) in open.into_iter().zip([5, 2, 2, 2]) {
        let (rest, count) = open().without(&excluded, &mut quiet()).unwrap();
        let read = open();
        read.content_hashes(&mut quiet()).unwrap();
        let (as_read, as_read_count) = read.without(&excluded, &mut quiet()).unwrap();
        assert_eq!((count, as_read_count), (removed, removed));
        let names = |set: &Dataset| (0..set.len()).map(|index| set.name(index)).collect::<Vec<_>>();
        assert_eq!(names(&rest), names(&as_read));
    }
}

#[test]
fn an_image_that_cannot_be_read_is_left_out_if_it_is_excluded_itself() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(&dir.path().join("train"), 6);
    let [dataset, other] = [(); 2].map(|()| Dataset::open(dir.path(), None).unwrap());
    std::fs::remove_file(dir.path().join("train/a/0000.png")).unwrap();
    let excluded = dataset.first(2).to_exclude(&mut quiet()).unwrap();
    let (rest, removed) = other.without(&excluded, &mut quiet()).unwrap();
    assert_eq!((rest.len(), removed), (4, 2));
}
