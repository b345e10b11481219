//! Hugging Face parquet in the Hub's layouts: many shards, other column names, split folders.

use std::sync::Arc;

use crate::scratch::{FLAT_SCHEMA, FOOTER, SCHEMA, indices, load, png, rows, write_parquet};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use vitrim_data::{Dataset, Decoding, LoaderOptions, Order};

#[test]
fn many_shards_are_one_data_set() {
    let dir = tempfile::tempdir().unwrap();
    let all = rows(150);
    for (shard, rows) in all.chunks(5).enumerate() {
        let name = format!("data/train-{shard:05}-of-00030.parquet");
        write_parquet(&dir.path().join(name), SCHEMA, Some(FOOTER), rows, 2);
    }
    write_parquet(&dir.path().join("data/test-00000-of-00001.parquet"), SCHEMA, Some(FOOTER), &all[..4], 9);
    assert_eq!(Dataset::splits(dir.path()).unwrap(), ["train", "test"]);
    let dataset = Dataset::open(dir.path(), Some("train")).unwrap();
    assert_eq!((dataset.len(), dataset.name(149).as_str()), (150, "train-00029-of-00030.parquet#4"));
    for order in [Order::Sequential, Order::Shuffled { seed: 5, epoch: 2 }] {
        let batches = load(&dataset, order, LoaderOptions::default());
        let mut met = indices(&batches);
        for (label, index) in batches.iter().flat_map(|b| b.labels.iter().zip(&b.indices)) {
            assert_eq!(*label, Some(*index as u32 % 3));
        }
        met.sort_unstable();
        assert_eq!(met, (0..150).collect::<Vec<_>>());
    }
}

#[test]
fn folders_named_as_splits_hold_splits() {
    let dir = tempfile::tempdir().unwrap();
    // As the Hub's `refs/convert/parquet` lays them out.
    for (split, count) in [("train", 5), ("test", 3)] {
        let file = dir.path().join(format!("default/{split}/0000.parquet"));
        write_parquet(&file, FLAT_SCHEMA, None, &rows(count), 9);
    }
    assert_eq!(Dataset::splits(dir.path()).unwrap(), ["train", "test"]);
    assert_eq!(Dataset::open(dir.path(), Some("test")).unwrap().len(), 3);
}

#[test]
fn the_footer_says_which_columns_hold_images_and_labels() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.parquet");
    let schema = "message m {
        required binary label;
        required int32 species;
        optional group scan { optional binary path (UTF8); optional binary bytes; }
    }";
    let footer = r#"{"info": {"features": {"label": {"dtype": "string", "_type": "Value"},
        "species": {"names": ["x", "y"], "_type": "ClassLabel"}, "scan": {"_type": "Image"}}}}"#;
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".into(), footer.to_string())]))
        .build();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let words = [ByteArray::from("n/a"), ByteArray::from("n/a")];
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&words, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&[1, 0], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&words, Some(&[2, 2]), None).unwrap();
    column.close().unwrap();
    let images = [ByteArray::from(png(1)), ByteArray::from(png(2))];
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&images, Some(&[2, 2]), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();

    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!((dataset.class_names(), dataset.label(0)), (&["x".to_string(), "y".to_string()][..], Some(1)));
    assert_eq!(dataset.image(1).unwrap(), Decoding::default().decode(&png(2), "png").unwrap());
}
