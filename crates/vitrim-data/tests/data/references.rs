//! Parquet files that hold paths or URLs of images, and words as labels.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::scratch::{load, png};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use vitrim_data::{Dataset, LoaderOptions, OnBadImage, Order};

/// A column of byte arrays with nulls; a leaf of a group has two levels.
type Column<'a> = (i16, Vec<Option<&'a [u8]>>);

/// Writes `columns` under `schema`, in row groups of two rows.
fn write(path: &Path, schema: &str, columns: &[Column<'_>]) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let rows = columns[0].1.len();
    for start in (0..rows).step_by(2) {
        let mut group = writer.next_row_group().unwrap();
        for (present, values) in columns {
            let rows = &values[start..rows.min(start + 2)];
            let levels: Vec<i16> =
                rows.iter().map(|v| if v.is_some() { *present } else { present - 1 }).collect();
            let values: Vec<ByteArray> = rows.iter().flatten().map(|v| ByteArray::from(v.to_vec())).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

const NESTED: &str = "message m {
    optional group image { optional binary bytes; optional binary path (UTF8); }
    optional binary label (UTF8);
}";
const PATHS: &str = "message m { optional binary file_name (UTF8); optional binary label (UTF8); }";

fn pictures(dir: &Path) {
    std::fs::create_dir(dir.join("p")).unwrap();
    for i in 0..4 {
        std::fs::write(dir.join(format!("p/{i}.png")), png(i)).unwrap();
    }
}

#[test]
fn rows_without_bytes_are_read_from_their_paths_and_words_are_classes() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let file = dir.path().join("train.parquet");
    let paths: Vec<String> = (0..4).map(|i| format!("p/{i}.png")).collect();
    let paths: Vec<Option<&[u8]>> = paths.iter().map(|path| Some(path.as_bytes())).collect();
    let labels = vec![Some(&b"dog"[..]), Some(b"cat"), None, Some(b"dog")];
    let (zero, three) = (png(0), png(3));
    let whole = Dataset::open(dir.path().join("p"), None).unwrap();
    let nested =
        [(2, vec![Some(&zero[..]), None, None, Some(&three)]), (2, paths.clone()), (1, labels.clone())];
    let flat = [(1, paths), (1, labels)];
    for (schema, columns) in [(NESTED, &nested[..]), (PATHS, &flat[..])] {
        write(&file, schema, columns);
        let dataset = Dataset::open(&file, None).unwrap();
        assert_eq!(dataset.class_names(), ["cat", "dog"]);
        let want = [Some(1), Some(0), None, Some(1)];
        for order in [Order::Sequential, Order::Shuffled { seed: 3, epoch: 0 }] {
            for batch in load(&dataset, order, LoaderOptions::default()) {
                for (index, label) in batch.indices.iter().zip(&batch.labels) {
                    assert_eq!(*label, want[*index]);
                }
            }
        }
        for row in 0..4 {
            assert_eq!(dataset.image(row).unwrap(), whole.image(row).unwrap(), "row {row}");
        }
        assert_eq!(dataset.first(3).image(2).unwrap(), whole.image(2).unwrap());
    }
}

#[test]
fn urls_and_images_as_text_are_refused_by_that_name() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let file = dir.path().join("test.parquet");
    let long = "iVBORw0KGgo".repeat(1000);
    let images = vec![
        Some(&b"https://example.org/0.jpg"[..]),
        Some(b"p/1.png"),
        Some(b"p/nine.png"),
        Some(long.as_bytes()),
    ];
    write(&file, "message m { optional binary url (UTF8); }", &[(1, images)]);
    let dataset = Dataset::open(&file, None).unwrap();
    let error = |row: usize| dataset.image(row).unwrap_err().to_string();
    let url = "row 0: cannot be decoded (the file holds the URL https://example.org/0.jpg instead of the image; download \
               the images first)";
    assert!(error(0).contains(url), "{}", error(0));
    assert!(error(2).contains("nine.png: no such file"), "{}", error(2));
    assert!(error(3).contains("11000 bytes of text instead of an image or a path"), "{}", error(3));
    let options = LoaderOptions { on_bad_image: OnBadImage::Skip, ..Default::default() };
    assert_eq!(load(&dataset, Order::Sequential, options)[0].indices, [1]);
    assert_eq!(dataset.bad_images().count(), 3);
}
