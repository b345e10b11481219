//! Training, calibration and test never share an image.

use std::collections::HashSet;

use crate::scratch::{png, write_folder};
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
    let test = open("test").content_hashes(&mut quiet()).unwrap();
    let mut told = Vec::new();
    let (train, removed) = open("train").without(&test, &mut |done, all| told.push((done, all))).unwrap();
    assert_eq!((train.len(), removed), (15, 5));
    assert_eq!(told, (1..=20).map(|done| (done, 20)).collect::<Vec<_>>());
    assert!(train.content_hashes(&mut quiet()).unwrap().is_disjoint(&test));
    assert_eq!(train.without(&test, &mut quiet()).unwrap().1, 0);
    // Names follow the images.
    assert_eq!(train.name(0), "a/0006.png");
    assert_eq!(train.image(0).unwrap(), open("train").image(2).unwrap());
}
