//! One property per test: order, resume, threads, bad images, for every kind of store.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::scratch::{
    FLAT_SCHEMA, FOOTER, SCHEMA, indices, load, png, rows, small_transform, write_folder, write_parquet,
    write_shards,
};
use vitrim_data::{Batch, BatchShare, DataError, Dataset, Loader, LoaderOptions, OnBadImage, Order};

const COUNT: usize = 103;

/// The same number of images as a folder, as parquet in two files of several row groups, as one giant
/// row group, as tar shards in a folder and by a pattern, in memory, and as a part of a parquet.
fn stores(dir: &Path) -> Vec<Dataset> {
    write_folder(&dir.join("folder"), COUNT as u32);
    let all = rows(COUNT as u32);
    write_parquet(&dir.join("two/data/train-00000-of-00002.parquet"), SCHEMA, Some(FOOTER), &all[..60], 9);
    write_parquet(&dir.join("two/data/train-00001-of-00002.parquet"), SCHEMA, Some(FOOTER), &all[60..], 50);
    write_parquet(&dir.join("one/train.parquet"), FLAT_SCHEMA, None, &all, COUNT);
    write_parquet(&dir.join("more/train.parquet"), SCHEMA, Some(FOOTER), &rows(COUNT as u32 + 40), 11);
    write_shards(&dir.join("tar"), COUNT as u32, 4);
    let memory = all.iter().map(|(image, _)| (image.clone().unwrap(), None)).collect();
    let excluded = (0..40).map(|i| (png(i * 3), None)).collect();
    let excluded = Dataset::from_memory(excluded, Vec::new()).unwrap().to_exclude(&mut |_, _| {}).unwrap();
    let more = Dataset::open(dir.join("more"), None).unwrap();
    vec![
        Dataset::open(dir.join("folder"), None).unwrap(),
        Dataset::open(dir.join("two"), Some("train")).unwrap(),
        Dataset::open(dir.join("one"), None).unwrap(),
        Dataset::open(dir.join("tar"), None).unwrap(),
        Dataset::open(dir.join("tar/shard-{00..03}.tar"), None).unwrap(),
        Dataset::from_memory(memory, Vec::new()).unwrap(),
        more.without(&excluded, &mut |_, _| {}).unwrap().0,
    ]
}

fn orders() -> [Order; 3] {
    [Order::Sequential, Order::Shuffled { seed: 3, epoch: 0 }, Order::Shuffled { seed: 3, epoch: 1 }]
}

#[test]
fn every_order_visits_every_image_once_whatever_the_workers() {
    let dir = tempfile::tempdir().unwrap();
    for dataset in stores(dir.path()) {
        let mut met = Vec::new();
        for order in orders() {
            let one = load(&dataset, order, LoaderOptions { workers: 1, ..Default::default() });
            for workers in [2, 5] {
                assert_eq!(load(&dataset, order, LoaderOptions { workers, ..Default::default() }), one);
            }
            let sizes: Vec<usize> = one.iter().map(|batch| batch.len()).collect();
            assert_eq!((sizes.len(), sizes[0], sizes[14]), (15, 7, 5));
            assert_eq!(one[14].sizes, [[8, 8]; 5]);
            assert_eq!(one[14].pixels.len(), 5 * 3 * 8 * 8);
            let mut sorted = indices(&one);
            met.push(sorted.clone());
            sorted.sort_unstable();
            assert_eq!(sorted, (0..COUNT).collect::<Vec<_>>());
        }
        assert_eq!(met[0], (0..COUNT).collect::<Vec<_>>());
        assert!(met[1] != met[0] && met[2] != met[0] && met[1] != met[2]);
    }
}

#[test]
fn the_shares_of_each_batch_are_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    for dataset in stores(dir.path()) {
        // The last batch has 3 images.
        let options = LoaderOptions { skip: 12, limit: Some(38), workers: 3, ..Default::default() };
        for order in orders() {
            let whole = load(&dataset, order, options);
            // With more parts than images in the last batch, some have none of it.
            for of in [1, 2, 3, 4] {
                let shares: Vec<Vec<Batch>> = (0..of)
                    .map(|part| {
                        let share = BatchShare::part(part, of);
                        load(&dataset, order, LoaderOptions { share, ..options })
                    })
                    .collect();
                for (at, batch) in whole.iter().enumerate() {
                    let mut first = 0;
                    for share in &shares {
                        let own = &share[at];
                        assert_eq!(*own, batch.part(first..first + own.len()), "{of} parts, batch {at}");
                        first += own.len();
                    }
                    assert_eq!(first, batch.len());
                }
                assert!(shares.iter().all(|share| share.len() == whole.len()));
            }
        }
    }
}

#[test]
fn a_share_goes_on_behind_whole_batches_and_does_not_fill_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = &stores(dir.path())[0];
    let options = LoaderOptions { batch: 8, share: BatchShare::part(1, 3), ..Default::default() };
    let mut loader = Loader::new(dataset, Order::Sequential, &small_transform(), options).unwrap();
    assert_eq!(loader.next().unwrap().unwrap().indices, [2, 3, 4]);
    assert_eq!(loader.position(), 8);
    let resumed = LoaderOptions { skip: 8, ..options };
    let mut resumed = Loader::new(dataset, Order::Sequential, &small_transform(), resumed).unwrap();
    assert_eq!(resumed.next().unwrap().unwrap(), loader.next().unwrap().unwrap());
    assert_eq!((loader.position(), resumed.position()), (16, 16));

    let images = (0..8).map(|i| (if i == 3 { vec![0; 20] } else { png(i) }, None)).collect();
    let broken = Dataset::from_memory(images, Vec::new()).unwrap();
    let options = LoaderOptions { on_bad_image: OnBadImage::Skip, ..options };
    let share = |part| {
        let options = LoaderOptions { share: BatchShare::part(part, 2), ..options };
        Loader::new(&broken, Order::Sequential, &small_transform(), options).unwrap().next().unwrap()
    };
    assert!(share(0).unwrap_err().to_string().contains("cannot be decoded"));
    assert_eq!(share(1).unwrap().indices, [4, 5, 6, 7]);
}

#[test]
fn pixels_labels_and_names_belong_to_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let transform = small_transform();
    for dataset in stores(dir.path()) {
        for batch in load(&dataset, Order::Shuffled { seed: 9, epoch: 4 }, LoaderOptions::default()) {
            for (place, &index) in batch.indices.iter().enumerate() {
                let want = transform.pixels(&dataset.image(index).unwrap());
                assert_eq!(batch.pixels[place * 192..(place + 1) * 192], want);
                assert_eq!(batch.labels[place], dataset.label(index));
                assert_eq!(batch.names[place], dataset.name(index));
            }
        }
    }
}

#[test]
fn skipping_equals_dropping_the_first() {
    let dir = tempfile::tempdir().unwrap();
    for dataset in stores(dir.path()) {
        for order in orders() {
            let all = indices(&load(&dataset, order, LoaderOptions::default()));
            for skip in [0, 1, 8, 50, 61, COUNT - 1, COUNT, COUNT + 5] {
                for limit in [None, Some(0), Some(13)] {
                    let options = LoaderOptions { skip, limit, ..Default::default() };
                    let rest = &all[skip.min(COUNT)..];
                    let want = &rest[..limit.unwrap_or(COUNT).min(rest.len())];
                    assert_eq!(
                        indices(&load(&dataset, order, options)),
                        want,
                        "skip {skip}, limit {limit:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_shuffle_over_several_windows_is_whole_and_resumes_anywhere() {
    // Row groups of 5,000, as CIFAR-10 has them; a window holds three of them.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("train.parquet");
    let all: Vec<_> = (0..32_000i64).map(|i| (Some(png(0)), Some(i % 3))).collect();
    write_parquet(&file, FLAT_SCHEMA, None, &all, 5000);
    let dataset = Dataset::open(&file, None).unwrap();
    let order = Order::Shuffled { seed: 5, epoch: 2 };
    let whole = indices(&load(&dataset, order, LoaderOptions::default()));
    let mut sorted = whole.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..32_000).collect::<Vec<_>>());
    // Neighbours come from different row groups more often than not.
    let crossings = whole[..12_000].windows(2).filter(|pair| pair[0] / 5000 != pair[1] / 5000).count();
    assert!(crossings > 6_000, "{crossings}");
    for skip in [4_999, 11_000, 14_999, 15_000, 28_000, 31_990] {
        let options = LoaderOptions { skip, limit: Some(50), ..Default::default() };
        assert_eq!(
            indices(&load(&dataset, order, options)),
            whole[skip..(skip + 50).min(32_000)],
            "skip {skip}"
        );
    }
}

#[test]
fn bad_images_fail_or_are_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = rows(30);
    all[4].0.as_mut().unwrap().truncate(40);
    all[11].0 = None;
    let file = dir.path().join("train.parquet");
    write_parquet(&file, SCHEMA, Some(FOOTER), &all, 8);
    let dataset = Dataset::open(&file, None).unwrap();

    let failing = LoaderOptions { batch: 4, workers: 3, ..Default::default() };
    let mut loader = Loader::new(&dataset, Order::Sequential, &small_transform(), failing).unwrap();
    assert_eq!(loader.next().unwrap().unwrap().indices, [0, 1, 2, 3]);
    let error = loader.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("train.parquet, row 4: cannot be decoded"), "{error}");
    assert!(loader.next().is_none());

    let skipping = LoaderOptions { on_bad_image: OnBadImage::Skip, ..failing };
    let mut loader = Loader::new(&dataset, Order::Sequential, &small_transform(), skipping).unwrap();
    let bad = loader.bad_images();
    loader.next().unwrap().unwrap();
    assert!(loader.left_out().is_empty());
    assert_eq!(loader.next().unwrap().unwrap().indices, [5, 6, 7, 8]);
    let [(4, error)] = loader.left_out() else { panic!("{:?}", loader.left_out()) };
    assert!(error.to_string().contains("row 4"), "{error}");
    // A resumed pass starts after the bad image, not one early.
    assert_eq!(loader.position(), 9);
    let rest: Vec<_> = loader.map(Result::unwrap).collect();
    assert_eq!(indices(&rest), [9, 10].into_iter().chain(12..30).collect::<Vec<_>>());
    assert_eq!(bad.count(), 2);
    // What was left out behind the last image comes with its batch, or with the end.
    for (batch, at_end) in [(1, true), (4, false)] {
        let last = LoaderOptions { batch, skip: 10, limit: Some(2), ..skipping };
        let mut loader = Loader::new(&dataset, Order::Sequential, &small_transform(), last).unwrap();
        assert_eq!(loader.next().unwrap().unwrap().indices, [10]);
        assert_eq!(loader.left_out().len(), usize::from(!at_end));
        assert!(loader.next().is_none());
        assert_eq!(loader.left_out().len(), usize::from(at_end));
    }
    assert!(bad.first()[1].contains("row 11") && bad.first()[1].contains("no image"), "{:?}", bad.first());
}

#[test]
fn a_vanished_file_is_a_bad_image() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 9);
    let dataset = Dataset::open(dir.path(), None).unwrap();
    std::fs::remove_file(dir.path().join("b/0004.png")).unwrap();
    let options = LoaderOptions { on_bad_image: OnBadImage::Skip, ..Default::default() };
    let mut loader = Loader::new(&dataset, Order::Sequential, &small_transform(), options).unwrap();
    assert_eq!(loader.next().unwrap().unwrap().len(), 8);
    assert!(loader.bad_images().first()[0].contains("0004.png"));
}

#[test]
fn dropping_a_loader_early_does_not_hang() {
    let dir = tempfile::tempdir().unwrap();
    for dataset in stores(dir.path()) {
        for order in orders() {
            for taken in [0, 1, 3] {
                let started = Instant::now();
                let options = LoaderOptions { batch: 2, workers: 4, ..Default::default() };
                let mut loader = Loader::new(&dataset, order, &small_transform(), options).unwrap();
                for _ in 0..taken {
                    loader.next().unwrap().unwrap();
                }
                drop(loader);
                assert!(started.elapsed() < Duration::from_secs(5));
            }
        }
    }
}

#[test]
fn senseless_options_are_refused() {
    let dataset = Dataset::from_memory(vec![(png(0), None)], Vec::new()).unwrap();
    let options = LoaderOptions { batch: 0, ..Default::default() };
    let refused = Loader::new(&dataset, Order::Sequential, &small_transform(), options).err();
    assert!(matches!(refused, Some(DataError::ZeroBatch)));
    assert!(matches!(dataset.image(1), Err(DataError::IndexOutOfRange { index: 1, len: 1 })));
    let huge =
        LoaderOptions { batch: usize::MAX, workers: 1000, limit: Some(usize::MAX), ..Default::default() };
    assert_eq!(Loader::new(&dataset, Order::Sequential, &small_transform(), huge).unwrap().count(), 1);
}
