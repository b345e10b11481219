//! Data sets for the tests, and the path of the shared folder.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use vitrim_data::image::{ImageFormat, Rgb, RgbImage};
use vitrim_data::{Batch, Dataset, Interpolation, Loader, LoaderOptions, Order, Preprocess, Transform};

/// Three classes, as the Hugging Face footer names them.
pub const FOOTER: &str = r#"{"info": {"features": {"img": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}"#;
pub const SCHEMA: &str = "message m {
    optional group img { optional binary bytes; optional binary path (UTF8); }
    optional int64 label;
}";
pub const FLAT_SCHEMA: &str = "message m { required binary image; required int64 label; }";

pub use vitrim_skips::shared;

/// A PNG that is unique to `number`.
pub fn png(number: u32) -> Vec<u8> {
    let image = RgbImage::from_fn(12, 10, |x, y| Rgb([number as u8, (number >> 8) as u8, (x * y) as u8]));
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}

/// A row of a parquet file: image and label.
pub type Row = (Option<Vec<u8>>, Option<i64>);

pub fn rows(count: u32) -> Vec<Row> {
    (0..count).map(|i| (Some(png(i)), Some(i64::from(i % 3)))).collect()
}

/// Writes `rows` under `schema` ([`SCHEMA`], also with labels of another kind, or [`FLAT_SCHEMA`]), `group` rows to a row
/// group.
pub fn write_parquet(path: &Path, schema: &str, footer: Option<&str>, rows: &[Row], group: usize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let nested = schema != FLAT_SCHEMA;
    let footer = footer.map(|json| vec![KeyValue::new("huggingface".into(), json.to_string())]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_data_page_size_limit(2048)
        .set_write_batch_size(4)
        .set_key_value_metadata(footer)
        .build();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(group) {
        let mut groups = writer.next_row_group().unwrap();
        let images: Vec<ByteArray> = rows.iter().filter_map(|r| r.0.clone()).map(ByteArray::from).collect();
        let present: Vec<i16> = rows.iter().map(|r| if r.0.is_some() { 2 } else { 1 }).collect();
        let mut column = groups.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&images, nested.then_some(&present[..]), None).unwrap();
        column.close().unwrap();
        if nested {
            let mut column = groups.next_column().unwrap().unwrap();
            let absent = vec![1; rows.len()];
            column.typed::<ByteArrayType>().write_batch(&[], Some(&absent), None).unwrap();
            column.close().unwrap();
        }
        let labels: Vec<i64> = rows.iter().filter_map(|r| r.1).collect();
        let present: Vec<i16> = rows.iter().map(|r| r.1.is_some().into()).collect();
        write_numbers(&mut groups, &labels, nested.then_some(&present[..]));
        groups.close().unwrap();
    }
    writer.close().unwrap();
}

/// Writes the next column, of numbers of any kind; `present` tells which rows have one.
fn write_numbers(groups: &mut SerializedRowGroupWriter<'_, File>, numbers: &[i64], present: Option<&[i16]>) {
    let mut column = groups.next_column().unwrap().unwrap();
    let written = match column.untyped() {
        ColumnWriter::Int64ColumnWriter(writer) => writer.write_batch(numbers, present, None),
        ColumnWriter::DoubleColumnWriter(writer) => {
            let numbers: Vec<f64> = numbers.iter().map(|number| *number as f64).collect();
            writer.write_batch(&numbers, present, None)
        }
        ColumnWriter::FloatColumnWriter(writer) => {
            let numbers: Vec<f32> = numbers.iter().map(|number| *number as f32).collect();
            writer.write_batch(&numbers, present, None)
        }
        _ => panic!("no column of numbers"),
    };
    written.unwrap();
    column.close().unwrap();
}

/// Writes a table of paths and class numbers, as `kind` (`int64`, `double`), to the parquet file at `path`.
pub fn write_path_table(path: &Path, kind: &str, rows: &[(&str, i64)]) {
    let schema = format!("message m {{ required binary file_name (UTF8); required {kind} label; }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut groups = writer.next_row_group().unwrap();
    let names: Vec<ByteArray> = rows.iter().map(|(name, _)| ByteArray::from(*name)).collect();
    let mut column = groups.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&names, None, None).unwrap();
    column.close().unwrap();
    let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
    write_numbers(&mut groups, &labels, None);
    groups.close().unwrap();
    writer.close().unwrap();
}

/// Writes `count` images of the classes `a`, `b`, `c` below `root`.
pub fn write_folder(root: &Path, count: u32) {
    for i in 0..count {
        let class = root.join(["a", "b", "c"][i as usize % 3]);
        std::fs::create_dir_all(&class).unwrap();
        std::fs::write(class.join(format!("{i:04}.png")), png(i)).unwrap();
    }
}

pub fn small_transform() -> Transform {
    let interpolation = Interpolation::Bilinear;
    Transform::new(Preprocess {
        input_size: [3, 8, 8],
        crop_pct: 1.0,
        interpolation,
        ..Preprocess::default()
    })
    .unwrap()
}

/// One pass of batches of 7.
pub fn load(dataset: &Dataset, order: Order, options: LoaderOptions) -> Vec<Batch> {
    let loader = Loader::new(dataset, order, &small_transform(), LoaderOptions { batch: 7, ..options });
    loader.unwrap().collect::<Result<_, _>>().unwrap()
}

/// The positions of the images, in the order of the batches.
pub fn indices(batches: &[Batch]) -> Vec<usize> {
    batches.iter().flat_map(|batch| batch.indices.clone()).collect()
}

/// A tar archive of `members`, in their order.
pub fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &data[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The members of samples `numbers`: `000.png` and `000.cls`, as WebDataset writes them.
pub fn members(numbers: std::ops::Range<u32>) -> Vec<(String, Vec<u8>)> {
    let sample =
        |i: u32| [(format!("{i:03}.png"), png(i)), (format!("{i:03}.cls"), (i % 3).to_string().into_bytes())];
    numbers.flat_map(sample).collect()
}

/// Writes samples `0..count` to `shards` shards `shard-00.tar`, `shard-01.tar`, ... in `root`.
pub fn write_shards(root: &Path, count: u32, shards: u32) {
    std::fs::create_dir_all(root).unwrap();
    let bound = |shard: u32| count * shard / shards;
    for shard in 0..shards {
        let members = members(bound(shard)..bound(shard + 1));
        std::fs::write(root.join(format!("shard-{shard:02}.tar")), tar(&members)).unwrap();
    }
}
