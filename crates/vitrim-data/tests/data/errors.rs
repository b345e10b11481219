//! Every kind of input fails with one line that says what is wrong, where, and what to do.

use std::path::Path;
use std::sync::Arc;

use crate::scratch::{
    FLAT_SCHEMA, FOOTER, Row, SCHEMA, load, png, rows, small_transform, write_folder, write_parquet,
    write_shards,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use vitrim_data::{Dataset, Decoding, Loader, LoaderOptions, OnBadImage, Order};

/// The message of an open that must fail: one line that names the path.
fn refusal(path: &Path, split: Option<&str>) -> String {
    let message = Dataset::open(path, split).unwrap_err().to_string();
    assert!(!message.contains('\n') && message.contains(&*path.to_string_lossy()), "{message}");
    message
}

#[test]
fn paths_and_splits() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(&dir.path().join("nowhere"), None).contains("no such file or folder"));
    assert!(refusal(dir.path(), None).contains("holds no images"));
    write_folder(&dir.path().join("train"), 3);
    assert!(refusal(dir.path(), Some("test")).contains("no split `test`; it has: train"));
    write_folder(&dir.path().join("valid"), 3);
    assert!(refusal(dir.path(), None).contains("name one of: train, validation"));
    assert_eq!(Dataset::open(dir.path(), Some("val")).unwrap().split(), "validation");
    assert!(
        Decoding::default().load(dir.path().join("none.jpg")).unwrap_err().to_string().contains("none.jpg")
    );
}

#[test]
fn parquet_that_is_none_or_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.parquet");
    std::fs::write(&text, "hello").unwrap();
    assert!(refusal(&text, None).contains("not a parquet file"));
    std::fs::remove_file(&text).unwrap();
    let file = dir.path().join("train.parquet");
    write_parquet(&file, SCHEMA, Some(FOOTER), &rows(50), 10);
    let whole = std::fs::read(&file).unwrap();
    for len in (0..whole.len()).step_by(97) {
        std::fs::write(&file, &whole[..len]).unwrap();
        assert!(refusal(&file, None).contains("truncated"));
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(Dataset::open(&file, None).unwrap().len(), 50);
}

#[test]
fn a_footer_that_states_endless_rows_is_refused_before_memory_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("train.parquet");
    let schema = Arc::new(parse_message_type("message m { required binary image; }").unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer =
        SerializedFileWriter::new(std::fs::File::create(&file).unwrap(), schema, properties).unwrap();
    let mut groups = writer.next_row_group().unwrap();
    let mut column = groups.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&vec![ByteArray::from("a"); 12_345], None, None).unwrap();
    column.close().unwrap();
    groups.close().unwrap();
    writer.close().unwrap();
    assert_eq!(Dataset::open(&file, None).unwrap().len(), 12_345);

    // Thrift's variable-length numbers: 12,345 and 2^40, doubled for their sign.
    let (rows, endless) = ([0xf2, 0xc0, 0x01], [0x80, 0x80, 0x80, 0x80, 0x80, 0x40]);
    let whole = std::fs::read(&file).unwrap();
    let end = whole.len() - 8;
    let footer = end - u32::from_le_bytes(whole[end..end + 4].try_into().unwrap()) as usize;
    let mut stated = Vec::new();
    let mut rest = &whole[footer..end];
    while let Some((first, after)) = rest.split_first() {
        let is_rows = rest.starts_with(&rows);
        stated.extend_from_slice(if is_rows { &endless } else { std::slice::from_ref(first) });
        rest = if is_rows { &rest[rows.len()..] } else { after };
    }
    let length = (stated.len() as u32).to_le_bytes();
    std::fs::write(&file, [&whole[..footer], &stated, &length, b"PAR1"].concat()).unwrap();
    let message = refusal(&file, None);
    assert!(message.contains("more than 67108864 rows"), "{message}");
}

#[test]
fn damaged_pages_end_the_pass_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("train.parquet");
    write_parquet(&file, FLAT_SCHEMA, None, &rows(50), 50);
    let mut bytes = std::fs::read(&file).unwrap();
    // The first column's first page starts after the 4 magic bytes.
    bytes[4..600].fill(0xff);
    std::fs::write(&file, &bytes).unwrap();
    let dataset = Dataset::open(&file, None).unwrap();
    for order in [Order::Sequential, Order::Shuffled { seed: 0, epoch: 0 }] {
        let mut loader = Loader::new(&dataset, order, &small_transform(), LoaderOptions::default()).unwrap();
        let error = loader.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("row group 0 is damaged"), "{error}");
        assert!(loader.next().is_none());
    }
    assert!(dataset.content_hashes(&mut |_, _| {}).is_err());
    std::fs::remove_file(&file).unwrap();
    assert!(dataset.image(0).unwrap_err().to_string().contains("no such file"));
}

/// Writes one row group to the parquet file at `path`: `columns` are text, compressed to almost nothing.
fn write_texts(path: &Path, columns: &[(&str, &dyn Fn(usize) -> String)], rows: usize) {
    let fields = columns.iter().map(|(name, _)| format!("required binary {name} (UTF8);"));
    let schema = format!("message m {{ {} }}", fields.collect::<String>());
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false)
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut groups = writer.next_row_group().unwrap();
    for (_, text) in columns {
        let mut column = groups.next_column().unwrap().unwrap();
        for row in 0..rows {
            let value = [ByteArray::from(text(row).as_str())];
            column.typed::<ByteArrayType>().write_batch(&value, None, None).unwrap();
        }
        column.close().unwrap();
    }
    groups.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn words_that_a_small_file_expands_to_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("train.parquet");
    let path = |row: usize| format!("{row}.png");
    let word = |row: usize| format!("{row}{}", "a".repeat(1 << 20));
    let one = |_: usize| "cat".to_owned();
    std::fs::write(dir.path().join("0.png"), png(0)).unwrap();
    write_texts(&file, &[("image", &path), ("label", &one)], 300);
    assert_eq!(Dataset::open(&file, None).unwrap().class_names(), ["cat"]);
    for (rows, words) in [
        (70, "row group 0 is too large: the words of the labels take more than 64 MiB in all"),
        (260, "row group 0 is too large: column `label` takes more than 256 MiB"),
    ] {
        write_texts(&file, &[("image", &path), ("label", &word)], rows);
        assert!(file.metadata().unwrap().len() < 1 << 20);
        let message = refusal(&file, None);
        assert!(message.contains(words), "{message}");
    }
    std::fs::remove_file(&file).unwrap();

    // The same of a table of paths.
    let table = dir.path().join("metadata.parquet");
    for (columns, words) in [
        (
            [("file_name", &path as &dyn Fn(usize) -> String), ("label", &word)],
            "its labels take more than 64 MiB",
        ),
        ([("file_name", &word), ("label", &one)], "a path of 1048577 bytes"),
    ] {
        write_texts(&table, &columns, 70);
        let message = refusal(&table, None);
        assert!(message.contains(words), "{message}");
    }
}

/// A download or a copy may still be running, and places and labels are those of the file that was opened.
#[test]
fn a_file_that_changes_while_it_is_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let parquet = dir.path().join("a/train.parquet");
    std::fs::create_dir(dir.path().join("a")).unwrap();
    write_parquet(&parquet, FLAT_SCHEMA, None, &rows(50), 10);
    write_shards(&dir.path().join("b"), 50, 1);
    let tar = dir.path().join("b/shard-00.tar");
    for file in [parquet, tar] {
        let whole = std::fs::read(&file).unwrap();
        let open = || Dataset::open(&file, None).unwrap();
        let changes: [&dyn Fn(); 3] = [
            &|| std::fs::write(&file, &whole[..whole.len() / 2]).unwrap(),
            &|| std::fs::write(&file, [&whole[..], &whole[..]].concat()).unwrap(),
            // As long as before: another file that has taken its place.
            &|| {
                let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
                std::fs::File::options().append(true).open(&file).unwrap().set_modified(later).unwrap();
            },
        ];
        for change in changes {
            let dataset = open();
            assert!(dataset.image(40).is_ok());
            change();
            let expected = format!("{}: has changed since it was opened; wait until", file.display());
            for on_bad_image in [OnBadImage::Fail, OnBadImage::Skip] {
                let options = LoaderOptions { on_bad_image, ..LoaderOptions::default() };
                let later = Loader::new(&dataset, Order::Sequential, &small_transform(), options).unwrap();
                let error = later.collect::<Result<Vec<_>, _>>().unwrap_err().to_string();
                assert!(error.starts_with(&expected) && !error.contains('\n'), "{error}");
            }
            assert!(dataset.image(40).unwrap_err().to_string().starts_with(&expected));
            std::fs::write(&file, &whole).unwrap();
        }
    }
    // A list is read at once; of its images each is a file.
    let list = dir.path().join("list.csv");
    for name in ["0.png", "1.png"] {
        std::fs::write(dir.path().join(name), png(1)).unwrap();
    }
    std::fs::write(&list, "path,label\n0.png,0\n1.png,1\n").unwrap();
    let dataset = Dataset::open(&list, None).unwrap();
    std::fs::write(&list, "path").unwrap();
    std::fs::write(dir.path().join("1.png"), &png(1)[..40]).unwrap();
    assert_eq!((dataset.len(), dataset.label(1), dataset.image(0).is_ok()), (2, Some(1), true));
    let error = dataset.image(1).unwrap_err().to_string();
    assert!(error.contains("1.png: cannot be decoded") && !error.contains('\n'), "{error}");
}

/// The parquet crate panics on such a page. Found by the fuzz target `parquet`.
#[test]
fn pages_that_refer_to_a_dictionary_that_is_not_there_are_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("train.parquet");
    let schema = "message m { required binary image; required int64 label; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_dictionary_enabled(false).build());
    let mut writer =
        SerializedFileWriter::new(std::fs::File::create(&file).unwrap(), schema, properties).unwrap();
    let mut groups = writer.next_row_group().unwrap();
    let mut column = groups.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&[ByteArray::from("a")], None, None).unwrap();
    column.close().unwrap();
    let mut column = groups.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[7], None, None).unwrap();
    column.close().unwrap();
    groups.close().unwrap();
    writer.close().unwrap();
    assert_eq!(Dataset::open(&file, None).unwrap().label(0), Some(7));

    // In the pages' headers: encoding plain (0), levels run-length encoded (3), doubled for their sign.
    let mut bytes = std::fs::read(&file).unwrap();
    let plain = [0x15, 0, 0x15, 6, 0x15, 6];
    let pages: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(&plain)).collect();
    assert_eq!(pages.len(), 2);
    // The encoding by a dictionary is 8.
    pages.into_iter().for_each(|at| bytes[at + 1] = 16);
    std::fs::write(&file, bytes).unwrap();
    let message = refusal(&file, None);
    assert!(message.contains("row group 0 is damaged") && message.contains("panicked"), "{message}");
}

#[test]
fn columns_that_are_missing_or_of_the_wrong_type() {
    let dir = tempfile::tempdir().unwrap();
    let empty = |name: &str, schema: &str| {
        let path = dir.path().join(name);
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let writer = SerializedFileWriter::new(std::fs::File::create(&path).unwrap(), schema, properties);
        writer.unwrap().close().unwrap();
        refusal(&path, None)
    };
    let message = empty("a.parquet", "message m { required binary text (UTF8); required int64 label; }");
    assert!(
        message.contains("no image column") && message.contains("text (BYTE_ARRAY), label (INT64)"),
        "{message}"
    );
    let message = empty("b.parquet", "message m { required binary image; required boolean label; }");
    assert!(message.contains("column `label` is BOOLEAN"), "{message}");
    assert!(empty("c.parquet", FLAT_SCHEMA).contains("holds no images"));
}

#[test]
fn labels_out_of_range() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("test.parquet");
    let with = |label: Option<i64>| -> Vec<Row> { vec![(Some(png(0)), Some(2)), (Some(png(1)), label)] };
    for (label, footer, expected) in
        [(3, Some(FOOTER), "0 to 2"), (-2, Some(FOOTER), "0 to 2"), (-7, None, "0 or more")]
    {
        write_parquet(&file, SCHEMA, footer, &with(Some(label)), 5);
        let message = refusal(&file, None);
        let want = format!("row 1: label {label} is out of range; expected {expected}");
        assert!(message.contains(&want), "{message}");
    }
    // -1 and null mean unlabelled.
    for label in [Some(-1), None] {
        write_parquet(&file, SCHEMA, Some(FOOTER), &with(label), 5);
        let dataset = Dataset::open(&file, None).unwrap();
        assert_eq!((dataset.label(0), dataset.label(1)), (Some(2), None));
        assert_eq!(load(&dataset, Order::Sequential, LoaderOptions::default())[0].labels, [Some(2), None]);
    }
    write_parquet(&file, SCHEMA, Some(FOOTER), &[(Some(png(0)), Some(-1))], 5);
    assert!(!Dataset::open(&file, None).unwrap().is_labelled());
    assert!(Dataset::from_memory(vec![(png(0), Some(1))], vec!["only".into()]).is_err());
}

#[test]
fn files_of_different_data_sets() {
    let dir = tempfile::tempdir().unwrap();
    write_parquet(&dir.path().join("train-00000-of-00002.parquet"), SCHEMA, Some(FOOTER), &rows(3), 5);
    write_parquet(&dir.path().join("train-00001-of-00002.parquet"), SCHEMA, None, &rows(3), 5);
    let message = Dataset::open(dir.path(), None).unwrap_err().to_string();
    assert!(message.contains("00001-of-00002.parquet: its class names differ"), "{message}");
}
