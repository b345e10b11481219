//! WebDataset tar shards: with an index, and as a stream, as from a pipe.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::scratch::{indices, load, members, png, small_transform, tar, write_shards};
use flate2::Compression;
use flate2::write::GzEncoder;
use vitrim_data::image::{ImageFormat, Rgb, RgbImage};
use vitrim_data::{
    BackboneClasses, Batch, Dataset, Decoding, LabelOrder, Loader, LoaderOptions, OnBadImage, Order, Shares,
    Subset,
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A named pipe in `dir` that gives `bytes` to its first reader.
#[cfg(unix)]
fn pipe(dir: &Path, bytes: Vec<u8>) -> std::path::PathBuf {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = dir.join(format!("pipe-{number}"));
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let at = path.clone();
    // A reader that closes early ends the write with an error, as it should.
    std::thread::spawn(move || std::fs::write(at, bytes).ok());
    path
}

fn sequential(dataset: &Dataset) -> Vec<Batch> {
    load(dataset, Order::Sequential, LoaderOptions::default())
}

/// Pixels and labels, image by image, without names, which contain those of the shards.
fn contents(batches: &[Batch]) -> Vec<(Vec<f32>, Option<u32>)> {
    let each = |batch: &Batch| -> Vec<_> {
        let size = batch.pixels.len() / batch.len();
        batch.pixels.chunks(size).map(<[f32]>::to_vec).zip(batch.labels.clone()).collect()
    };
    batches.iter().flat_map(each).collect()
}

#[test]
fn reading_by_index_equals_streaming() {
    let dir = tempfile::tempdir().unwrap();
    write_shards(dir.path(), 50, 3);
    let by_index = Dataset::open(dir.path(), None).unwrap();
    assert_eq!((by_index.len(), by_index.name(0).as_str()), (50, "shard-00.tar/000.png"));
    let want = contents(&sequential(&by_index));
    assert_eq!(want[7].1, Some(1));
    for (row, (pixels, _)) in want.iter().enumerate() {
        assert_eq!(*pixels, small_transform().pixels(&by_index.image(row).unwrap()));
    }

    let read = |shard: u32| std::fs::read(dir.path().join(format!("shard-{shard:02}.tar"))).unwrap();
    let compressed = dir.path().join("gz");
    std::fs::create_dir(&compressed).unwrap();
    for shard in 0..3 {
        std::fs::write(compressed.join(format!("s-{shard}.tar.gz")), gzip(&read(shard))).unwrap();
    }
    let streamed = Dataset::open(&compressed, Some("any")).unwrap();
    assert!(streamed.is_stream() && streamed.split() == "any");
    assert_eq!(streamed.len(), 0, "nothing has come by");
    let batches = sequential(&streamed);
    assert_eq!((contents(&batches), streamed.len()), (want.clone(), 50));
    assert_eq!((batches[0].names[3].as_str(), streamed.label(7)), ("003.png", Some(1)));
    // A file can be read again; a pattern stands for the same shards.
    assert_eq!(contents(&sequential(&streamed)), want);
    let pattern = Dataset::open(compressed.join("s-{0..2}.tar.gz"), None).unwrap();
    assert_eq!(contents(&sequential(&pattern)), want);

    // `cat shard-*.tar`, with the zeros that end each in the middle.
    #[cfg(unix)]
    for whole in [[read(0), read(1), read(2)].concat(), gzip(&[read(0), read(1), read(2)].concat())] {
        let piped = Dataset::open(pipe(dir.path(), whole), None).unwrap();
        assert_eq!(contents(&sequential(&piped)), want);
        let mut again =
            Loader::new(&piped, Order::Sequential, &small_transform(), LoaderOptions::default()).unwrap();
        let error = again.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("cannot be read a second time"), "{error}");
    }
}

#[test]
fn shuffling_over_shards_meets_each_image_once() {
    let dir = tempfile::tempdir().unwrap();
    write_shards(dir.path(), 200, 7);
    let dataset = Dataset::open(dir.path().join("shard-{00..06}.tar"), None).unwrap();
    let batches = load(&dataset, Order::Shuffled { seed: 9, epoch: 4 }, LoaderOptions::default());
    let mut met = indices(&batches);
    // Images of one batch come from several shards.
    let shards: std::collections::HashSet<&str> = batches[0].names.iter().map(|name| &name[..8]).collect();
    assert!(shards.len() > 2, "{shards:?}");
    for (name, index) in batches.iter().flat_map(|batch| batch.names.iter().zip(&batch.indices)) {
        assert!(name.ends_with(&format!("/{index:03}.png")), "{name}");
    }
    met.sort_unstable();
    assert_eq!(met, (0..200).collect::<Vec<_>>());
}

#[test]
fn labels_are_numbers_or_words_in_cls_or_json() {
    let dir = tempfile::tempdir().unwrap();
    let member = |name: &str, data: &[u8]| (name.to_string(), data.to_vec());
    let path = dir.path().join("a.tar");
    let words = [
        member("x/1.jpg", &png(1)),
        member("x/1.json", br#"{"label": "dog", "caption": "a dog"}"#),
        member("x/2.json", br#"{"label": "fox"}"#),
        member("x/._2.png", b"left by macOS"),
        member("x/2.cls", b"cat\n"),
        member("x/2.png", &png(2)),
        member("notes.txt", b"no image"),
        member("x/3.png", &png(3)),
    ];
    std::fs::write(&path, tar(&words)).unwrap();
    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!(dataset.class_names(), ["cat", "dog"]);
    let labels = |dataset: &Dataset| (0..dataset.len()).map(|i| dataset.label(i)).collect::<Vec<_>>();
    assert_eq!(labels(&dataset), [Some(1), Some(0), None]);
    assert_eq!(dataset.name(1), "a.tar/x/2.png");

    // Class names of a stream cannot be sorted before its end: it needs the backbone's names.
    let gz = dir.path().join("a.tar.gz");
    std::fs::write(&gz, gzip(&tar(&words))).unwrap();
    let streamed = Dataset::open(&gz, None).unwrap();
    let first = |dataset: &Dataset| {
        let options = LoaderOptions::default();
        Loader::new(dataset, Order::Sequential, &small_transform(), options).unwrap().next().unwrap()
    };
    assert!(first(&streamed).unwrap_err().to_string().contains("without knowing the backbone's classes"));
    let backbone = |count, names: &[&'static str], order| {
        streamed.labelled_for(&Arc::new(BackboneClasses::new(count, names.iter().copied())), order).unwrap()
    };
    let known = backbone(3, &["cat", "cow", "dog"], None);
    assert_eq!(first(&known).unwrap().labels, [Some(2), Some(0), None]);
    assert!(known.label_notes().is_empty());
    let spelled = backbone(3, &["Cat", "cow", "dog"], None);
    assert_eq!(first(&spelled).unwrap().labels, [Some(2), Some(0), None]);
    assert!(spelled.label_notes()[0].contains("`cat`"), "{:?}", spelled.label_notes());
    for (dataset, words) in [
        (backbone(2, &["cat", "dogs"], None), "x/1.jpg: class `dog` (nearest: `dogs`) is not among"),
        (backbone(2, &["cat", "dog"], Some(LabelOrder::Number)), "label `dog` is a word"),
        (backbone(2, &["cat", "dog"], Some(LabelOrder::Index)), "class `dog` has not one number"),
    ] {
        let error = first(&dataset).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }

    let numbers =
        [member("1.png", &png(1)), member("1.cls", b"12"), member("2.png", &png(2)), member("2.cls", b"-1")];
    std::fs::write(&path, tar(&numbers)).unwrap();
    std::fs::write(&gz, gzip(&tar(&numbers))).unwrap();
    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!((labels(&dataset), dataset.class_names().len()), (vec![Some(12), None], 0));
    let streamed = Dataset::open(&gz, None).unwrap();
    assert_eq!(first(&streamed).unwrap().labels, [Some(12), None]);
    let of_backbone = |count, names: &[&'static str]| {
        let backbone = BackboneClasses::new(count, names.iter().copied());
        first(&streamed.labelled_for(&Arc::new(backbone), None).unwrap())
    };
    let too_few = of_backbone(12, &[]).unwrap_err().to_string();
    assert!(too_few.contains("1.png: label 12 is out of range; expected 0 to 11"), "{too_few}");
    assert_eq!(of_backbone(13, &[]).unwrap().labels, [Some(12), None]);
    // A number is a class by its index, also where classes are called by numbers.
    assert_eq!(of_backbone(13, &["12", "11", "10"]).unwrap().labels, [Some(12), None]);
}

/// The members of `stems`, images and labels (the stem's first digit), in the order that `order` makes of both.
fn apart(order: impl Fn(&[String], &[String]) -> Vec<String>) -> Vec<(String, Vec<u8>)> {
    let stems: Vec<String> = (0..9).map(|i| format!("set/{}{}", i / 3, i % 3)).collect();
    let named = |end: &str| stems.iter().map(|stem| format!("{stem}{end}")).collect::<Vec<_>>();
    let member = |name: String| {
        let class = name.as_bytes()[4] - b'0';
        let data = if name.ends_with(".cls") { vec![b'0' + class] } else { png(class.into()) };
        (name, data)
    };
    order(&named(".png"), &named(".cls")).into_iter().map(member).collect()
}

#[test]
fn members_that_lie_apart_are_joined_in_a_file_and_refused_in_a_stream() {
    let every =
        |names: &[String], first: usize| names[first..].iter().step_by(2).cloned().collect::<Vec<_>>();
    let dir = tempfile::tempdir().unwrap();
    let (path, gz) = (dir.path().join("a.tar"), dir.path().join("a.tar.gz"));
    for (what, members, first) in [
        ("images first", apart(|images, labels| [images, labels].concat()), "set/00"),
        ("labels first", apart(|images, labels| [labels, images].concat()), "set/00"),
        (
            "mixed",
            apart(|images, labels| {
                [every(images, 0), every(labels, 1), every(images, 1), every(labels, 0)].concat()
            }),
            "set/01",
        ),
    ] {
        std::fs::write(&path, tar(&members)).unwrap();
        let dataset = Dataset::open(&path, None).unwrap();
        assert_eq!(dataset.len(), 9, "{what}");
        for index in 0..9 {
            let class = dataset.name(index).as_bytes()["a.tar/set/".len()] - b'0';
            assert_eq!(dataset.label(index), Some(class.into()), "{what}: {}", dataset.name(index));
            assert_eq!(dataset.image(index).unwrap().get_pixel(0, 0)[0], class, "{what}");
        }
        std::fs::write(&gz, gzip(&tar(&members))).unwrap();
        let streamed = Dataset::open(&gz, None).unwrap();
        let loader = Loader::new(&streamed, Order::Sequential, &small_transform(), LoaderOptions::default());
        let error = loader.unwrap().last().unwrap().unwrap_err().to_string();
        assert!(
            error.contains(&format!("a.tar.gz: the members of sample {first} lie apart")),
            "{what}: {error}"
        );
    }
    // Copies of whole samples are samples of their own, as in shards that were concatenated.
    let twice = [members(0..3), members(0..3)].concat();
    std::fs::write(&path, tar(&twice)).unwrap();
    std::fs::write(&gz, gzip(&tar(&twice))).unwrap();
    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!((0..6).map(|i| dataset.label(i)).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2].map(Some));
    assert_eq!(sequential(&Dataset::open(&gz, None).unwrap()).iter().map(Batch::len).sum::<usize>(), 6);
    // A second label for a labelled image is a contradiction.
    let mut changed = members(0..3);
    changed.push(("000.cls".to_string(), b"2".to_vec()));
    std::fs::write(&path, tar(&changed)).unwrap();
    let error = Dataset::open(&path, None).unwrap_err().to_string();
    assert!(error.contains("a.tar, sample 000: has two labels that lie apart, 0 and 2"), "{error}");
}

#[test]
fn labels_of_shards_may_be_whole_floats() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let member = |name: &str, data: &[u8]| (name.to_string(), data.to_vec());
    let mut all = vec![
        member("1.png", &png(1)),
        member("1.cls", b"10.0\n"),
        member("2.png", &png(2)),
        member("2.json", br#"{"label": 2.0}"#),
    ];
    std::fs::write(&path, tar(&all)).unwrap();
    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!((dataset.label(0), dataset.label(1)), (Some(10), Some(2)));
    let gz = dir.path().join("a.tar.gz");
    std::fs::write(&gz, gzip(&tar(&all))).unwrap();
    assert_eq!(sequential(&Dataset::open(&gz, None).unwrap())[0].labels, [Some(10), Some(2)]);
    all[1].1 = b"1.5".to_vec();
    std::fs::write(&path, tar(&all)).unwrap();
    let error = Dataset::open(&path, None).unwrap_err().to_string();
    assert!(error.contains("a.tar, 1.png: label 1.5 is not a whole number"), "{error}");
}

#[test]
fn bad_members_fail_or_are_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = members(0..9);
    all[6].1 = b"no image".to_vec();
    all[10].1.truncate(30);
    let path = dir.path().join("a.tar");
    std::fs::write(&path, tar(&all)).unwrap();
    let gz = dir.path().join("a.tar.gz");
    std::fs::write(&gz, gzip(&tar(&all))).unwrap();
    for path in [path, gz] {
        let dataset = Dataset::open(&path, None).unwrap();
        let options = LoaderOptions { on_bad_image: OnBadImage::Skip, ..Default::default() };
        assert_eq!(indices(&load(&dataset, Order::Sequential, options)), [0, 1, 2, 4, 6, 7, 8]);
        let bad = dataset.bad_images();
        assert_eq!(bad.count(), 2);
        assert!(bad.first()[0].contains("003.png") && bad.first()[0].contains(&*path.to_string_lossy()));
        let failing = Loader::new(&dataset, Order::Sequential, &small_transform(), LoaderOptions::default());
        let error = failing.unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("003.png: cannot be decoded"), "{error}");
    }
}

#[test]
fn damaged_shards_are_named_and_none_panics() {
    let dir = tempfile::tempdir().unwrap();
    let whole = tar(&members(0..4));
    let path = dir.path().join("a.tar");
    let gz = dir.path().join("a.tar.gz");
    let end = whole.len() - 1024; // two empty blocks
    assert!(whole[end..].iter().all(|byte| *byte == 0));
    let boundaries = (512..=end).step_by(512);
    for len in (1..end).step_by(101).chain(boundaries) {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = Dataset::open(&path, None).unwrap_err().to_string();
        assert!(
            error.contains("a.tar: not a tar archive, or a damaged one") && !error.contains('\n'),
            "{error}"
        );
        let ended = |streamed: Dataset| {
            let options = LoaderOptions::default();
            let loader = Loader::new(&streamed, Order::Sequential, &small_transform(), options).unwrap();
            loader.last().unwrap().unwrap_err().to_string()
        };
        let compressed = gzip(&whole);
        std::fs::write(&gz, &compressed[..len.min(compressed.len() - 9)]).unwrap();
        let error = ended(Dataset::open(&gz, None).unwrap());
        assert!(error.contains("a.tar.gz: not a tar archive"), "cut to {len}: {error}");
        #[cfg(unix)]
        {
            let error = ended(Dataset::open(pipe(dir.path(), whole[..len].to_vec()), None).unwrap());
            assert!(error.contains("not a tar archive, or a damaged one"), "cut to {len}: {error}");
        }
    }
    for garbage in [vec![0x55; 3000], b"hello".to_vec(), vec![0; 5000], Vec::new()] {
        std::fs::write(&path, &garbage).unwrap();
        let error = Dataset::open(&path, None).unwrap_err().to_string();
        assert!(error.contains("a.tar"), "{error}");
    }
    // The header states a larger size than the member has.
    let mut long = whole.clone();
    long[124..135].copy_from_slice(b"77777777777");
    let sum: u32 = long[..512]
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
        .sum();
    long[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    std::fs::write(&path, &long).unwrap();
    let error = Dataset::open(&path, None).unwrap_err().to_string();
    assert!(error.contains("ends within its last member"), "{error}");
}

#[test]
fn a_stream_says_what_it_cannot_do_and_takes_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let gz = dir.path().join("train-0.tar.gz");
    std::fs::write(&gz, gzip(&tar(&members(0..20)))).unwrap();
    let dataset = Dataset::open(&gz, Some("train")).unwrap();
    assert!(!dataset.is_empty() && dataset.image(0).is_err());
    let error = dataset.by_hash(Subset::Train, &Shares::default(), &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("cannot be parted") && error.contains("train-0.tar.gz"), "{error}");
    let order = Order::Shuffled { seed: 0, epoch: 0 };
    let mut loader = Loader::new(&dataset, order, &small_transform(), LoaderOptions::default()).unwrap();
    assert!(loader.next().unwrap().unwrap_err().to_string().contains("cannot be shuffled"));
    let options = LoaderOptions { skip: 3, limit: Some(8), ..Default::default() };
    assert_eq!(indices(&load(&dataset, Order::Sequential, options)), (3..11).collect::<Vec<_>>());
    let mut loader =
        Loader::new(&dataset, Order::Sequential, &small_transform(), LoaderOptions::default()).unwrap();
    while loader.next().transpose().unwrap().is_some() {}
    let rate = loader.rate();
    assert_eq!((loader.total(), loader.position(), rate.images), (20, 20, 20));
    assert!(rate.images_per_s > 0.0 && rate.threads > 0);
    drop(loader);
    // The total of all passes so far, including the one with a limit; the refused pass decoded nothing.
    assert!(dataset.decode_rate().images >= 28, "{:?}", dataset.decode_rate());
}

/// A header for a member of `size` stored bytes.
fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header
}

/// A BMP of 32 x 32 pixels that is black between its bytes 512 and 3072.
fn image_with_a_hole() -> Vec<u8> {
    let picture = RgbImage::from_fn(32, 32, |x, y| {
        if y > 28 || (y == 0 && x > 20) { Rgb([x as u8, 9, 200]) } else { Rgb([0; 3]) }
    });
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Bmp).unwrap();
    let file = file.into_inner();
    assert!(file.len() == 3126 && file[512..3072].iter().all(|byte| *byte == 0));
    file
}

#[test]
fn links_are_followed_in_a_file_and_named_in_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut member = |name: &str, data: &[u8]| {
        archive.append_data(&mut header(tar::EntryType::Regular, data.len() as u64), name, data).unwrap();
    };
    member("./a/0.png", &png(0));
    member("./a/0.cls", b"7");
    let mut link =
        |name: &str, target: &str, kind| archive.append_link(&mut header(kind, 0), name, target).unwrap();
    link("a/1.png", "./a/0.png", tar::EntryType::Link);
    link("a/1.cls", "0.cls", tar::EntryType::Symlink);
    link("b/2.png", "../c/later.bin", tar::EntryType::Symlink);
    link("b/3.png", "/etc/hostname", tar::EntryType::Symlink);
    link("b/4.png", "4.png", tar::EntryType::Symlink);
    link("b/notes", "/nowhere", tar::EntryType::Symlink);
    archive
        .append_data(&mut header(tar::EntryType::Regular, png(2).len() as u64), "c/later.bin", &png(2)[..])
        .unwrap();
    let bytes = archive.into_inner().unwrap();
    let path = dir.path().join("a.tar");
    std::fs::write(&path, &bytes).unwrap();
    let dataset = Dataset::open(&path, None).unwrap();
    let labels: Vec<_> = (0..dataset.len()).map(|row| dataset.label(row)).collect();
    assert_eq!(labels, [Some(7), Some(7), None, None, None]);
    let decoded = |number| Decoding::default().decode(&png(number), "png").unwrap();
    assert_eq!([0, 1, 2].map(|row| dataset.image(row).unwrap()), [0, 0, 2].map(decoded));
    for (row, what) in
        [(3, "a link to /etc/hostname, which is no file"), (4, "a link to b/4.png, which is no file")]
    {
        let error = dataset.image(row).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }

    let gz = dir.path().join("a.tar.gz");
    std::fs::write(&gz, gzip(&bytes)).unwrap();
    let first = |dataset: &Dataset| {
        let options = LoaderOptions { on_bad_image: OnBadImage::Skip, ..Default::default() };
        Loader::new(dataset, Order::Sequential, &small_transform(), options).unwrap().next().unwrap()
    };
    let error = first(&Dataset::open(&gz, None).unwrap()).unwrap_err().to_string();
    assert!(error.contains("a/1.cls: a link to a/0.cls, which cannot be followed in a stream"), "{error}");
}

#[test]
fn sparse_members_have_their_holes_back() {
    let dir = tempfile::tempdir().unwrap();
    let whole = image_with_a_hole();
    let stored = [&whole[..512], &whole[3072..]].concat();
    let mut sparse = header(tar::EntryType::GNUSparse, stored.len() as u64);
    sparse.set_path("0.bmp").unwrap();
    let gnu = sparse.as_gnu_mut().unwrap();
    for (place, (offset, length)) in gnu.sparse.iter_mut().zip([(0, 512), (3072, 54)]) {
        place.offset = octal(offset);
        place.numbytes = octal(length);
    }
    gnu.realsize = octal(whole.len() as u64);
    sparse.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&sparse, &stored[..]).unwrap();
    let data = png(1);
    archive.append_data(&mut header(tar::EntryType::Regular, data.len() as u64), "1.png", &data[..]).unwrap();
    archive
        .append_pax_extensions([("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.name", &b"2.png"[..])])
        .unwrap();
    let name = "GNUSparseFile.7/2.png";
    archive.append_data(&mut header(tar::EntryType::Regular, data.len() as u64), name, &data[..]).unwrap();
    let bytes = archive.into_inner().unwrap();
    let (path, gz) = (dir.path().join("a.tar"), dir.path().join("a.tar.gz"));
    std::fs::write(&path, &bytes).unwrap();
    std::fs::write(&gz, gzip(&bytes)).unwrap();
    let want = small_transform().pixels(&Decoding::default().decode(&whole, "bmp").unwrap());
    for path in [path, gz] {
        let dataset = Dataset::open(&path, None).unwrap();
        let options = LoaderOptions { on_bad_image: OnBadImage::Skip, ..Default::default() };
        let batch = &load(&dataset, Order::Sequential, options)[0];
        assert_eq!(batch.indices, [0, 1]);
        assert!(batch.pixels[..want.len()] == want[..], "{}", path.display());
        let bad = dataset.bad_images().first();
        assert!(bad[0].contains("2.png") && bad[0].contains("holes in the form of PAX"), "{bad:?}");
    }
}

/// A number as a header has it.
fn octal(number: u64) -> [u8; 12] {
    format!("{number:011o}\0").into_bytes().try_into().unwrap()
}
