//! The parquet file of a part.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use vitrim_kernels::InstructionSet;

use super::arrow_schema::{self, ArrowType};
use super::folder::Manifest;
use super::parts::Part;
use crate::error::{MeasureError, Result};
use crate::predict::ClassProbability;

/// The metadata with the manifest, as JSON.
const MANIFEST: &str = "vitrim";
/// The metadata with the images that were left out, as JSON.
const LEFT_OUT: &str = "vitrim.left_out";
/// The metadata with the set of instructions of the processor.
const INSTRUCTIONS: &str = "vitrim.instruction_set";

/// An image that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Its position in the split.
    pub index: usize,
    /// Its name.
    pub key: String,
    /// Why.
    pub error: String,
}

/// The answer for one image.
pub(super) struct Row<'a> {
    pub index: usize,
    pub key: &'a str,
    pub class: Option<ClassProbability>,
    pub features: Option<&'a [f32]>,
    pub gmacs: f64,
}

/// The answers of a part, by column.
pub(super) struct Table<'a> {
    manifest: &'a Manifest,
    split: &'a str,
    index: Vec<i64>,
    key: Vec<ByteArray>,
    class: Vec<i32>,
    /// Names of the classes that have one.
    class_name: Vec<ByteArray>,
    /// Whether each image's class has a name.
    named: Vec<bool>,
    probability: Vec<f64>,
    features: Vec<f32>,
    gmacs: Vec<f64>,
    /// The images that were left out.
    pub left_out: Vec<Left>,
}

impl<'a> Table<'a> {
    pub(super) fn new(manifest: &'a Manifest, part: &Part) -> Self {
        let width = manifest.features.as_ref().map_or(0, |features| features.width);
        Table {
            manifest,
            split: &manifest.splits[part.split].name,
            index: Vec::with_capacity(part.images),
            key: Vec::with_capacity(part.images),
            class: Vec::new(),
            class_name: Vec::new(),
            named: Vec::new(),
            probability: Vec::new(),
            features: Vec::with_capacity(part.images * width),
            gmacs: Vec::with_capacity(part.images),
            left_out: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, row: Row<'_>) {
        self.index.push(row.index as i64);
        self.key.push(ByteArray::from(row.key));
        if let Some(class) = row.class {
            self.class.push(i32::try_from(class.class).expect("a class of a head in memory"));
            self.probability.push(class.probability);
            self.named.push(class.name.is_some());
            self.class_name.extend(class.name.as_deref().map(ByteArray::from));
        }
        self.features.extend_from_slice(row.features.unwrap_or_default());
        self.gmacs.push(row.gmacs);
    }

    /// The columns: parquet's declaration, and Arrow's field.
    fn columns(&self) -> Vec<(String, arrow_schema::Field<'static>)> {
        use ArrowType::{Double, Floats, Int, Utf8};
        let mut columns = vec![
            ("required binary split (STRING)".to_owned(), ("split", false, Utf8)),
            ("required int64 index".to_owned(), ("index", false, Int(64))),
            ("required binary key (STRING)".to_owned(), ("key", false, Utf8)),
        ];
        if self.manifest.classes.is_some() {
            columns.extend([
                ("required int32 class".to_owned(), ("class", false, Int(32))),
                ("optional binary class_name (STRING)".to_owned(), ("class_name", true, Utf8)),
                ("required double probability".to_owned(), ("probability", false, Double)),
            ]);
        }
        if let Some(features) = &self.manifest.features {
            let list = "required group features (LIST) { repeated group list { required float element; } }";
            let width = i32::try_from(features.width).expect("a width of a backbone in memory");
            columns.push((list.to_owned(), ("features", false, Floats(width))));
        }
        columns.extend([
            ("required double gmacs".to_owned(), ("gmacs", false, Double)),
            ("optional double certified_loss".to_owned(), ("certified_loss", true, Double)),
        ]);
        columns
    }

    /// The bytes of the file.
    pub(super) fn encode(&self) -> Result<Vec<u8>, ParquetError> {
        let columns = self.columns();
        let declarations = columns.iter().map(|(declaration, _)| match declaration.ends_with('}') {
            true => declaration.clone(),
            false => format!("{declaration};"),
        });
        let schema = format!("message schema {{ {} }}", declarations.collect::<Vec<_>>().join(" "));
        let fields: Vec<_> = columns.iter().map(|(_, field)| *field).collect();
        let json = |value: serde_json::Result<String>| value.expect("plain data");
        let metadata = [
            (arrow_schema::KEY, arrow_schema::encoded(&fields)),
            (MANIFEST, json(serde_json::to_string(self.manifest))),
            (INSTRUCTIONS, InstructionSet::current().to_string()),
            (LEFT_OUT, json(serde_json::to_string(&self.left_out))),
        ];
        let metadata = metadata.into_iter().map(|(key, value)| KeyValue::new(key.to_owned(), value));
        // Floats of features hardly repeat or compress.
        let features = ColumnPath::new(["features", "list", "element"].map(str::to_owned).to_vec());
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_column_compression(features.clone(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(features.clone(), false)
            .set_column_statistics_enabled(features, EnabledStatistics::None)
            .set_key_value_metadata(Some(metadata.collect()))
            .build();
        let mut writer = SerializedFileWriter::new(
            Vec::new(),
            Arc::new(parse_message_type(&schema)?),
            Arc::new(properties),
        )?;
        let mut group = writer.next_row_group()?;
        for (_, (name, _, _)) in &columns {
            let mut column = group.next_column()?.expect("a writer for each column of the schema");
            self.write(name, &mut column)?;
            column.close()?;
        }
        group.close()?;
        writer.into_inner()
    }

    /// Writes the column called `name`.
    fn write(&self, name: &str, column: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let rows = self.index.len();
        match name {
            "split" => {
                let split = vec![ByteArray::from(self.split); rows];
                column.typed::<ByteArrayType>().write_batch(&split, None, None)?
            }
            "index" => column.typed::<Int64Type>().write_batch(&self.index, None, None)?,
            "key" => column.typed::<ByteArrayType>().write_batch(&self.key, None, None)?,
            "class" => column.typed::<Int32Type>().write_batch(&self.class, None, None)?,
            "class_name" => {
                let defined: Vec<i16> = self.named.iter().map(|named| i16::from(*named)).collect();
                column.typed::<ByteArrayType>().write_batch(&self.class_name, Some(&defined), None)?
            }
            "probability" => column.typed::<DoubleType>().write_batch(&self.probability, None, None)?,
            "features" => {
                let width = self.manifest.features.as_ref().map_or(1, |features| features.width);
                // A list begins at each value that does not repeat.
                let repeated: Vec<i16> =
                    (0..self.features.len()).map(|i| i16::from(!i.is_multiple_of(width))).collect();
                let defined = vec![1; self.features.len()];
                column.typed::<FloatType>().write_batch(&self.features, Some(&defined), Some(&repeated))?
            }
            "gmacs" => column.typed::<DoubleType>().write_batch(&self.gmacs, None, None)?,
            "certified_loss" => {
                let bound = self.manifest.certified.as_ref().map(|certified| certified.at_most);
                let values: Vec<f64> = bound.map_or_else(Vec::new, |bound| vec![bound; rows]);
                let defined = vec![i16::from(bound.is_some()); rows];
                column.typed::<DoubleType>().write_batch(&values, Some(&defined), None)?
            }
            other => unreachable!("no column is called {other}"),
        };
        Ok(())
    }
}

/// Number of images answered in the part at `path`, and those that were left out.
///
/// # Errors
/// If it cannot be read.
pub fn contents(path: &Path) -> Result<(usize, Vec<Left>)> {
    let bad = |reason: String| MeasureError::Run { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|error| bad(format!("cannot be read ({error})")))?;
    let damaged =
        |reason: String| bad(format!("damaged ({reason}); remove it, and the same command writes it again"));
    let reader = SerializedFileReader::new(file).map_err(|error| damaged(error.to_string()))?;
    let file = reader.metadata().file_metadata();
    let metadata = file.key_value_metadata().into_iter().flatten();
    let left_out = metadata.filter(|pair| pair.key == LEFT_OUT).find_map(|pair| pair.value.as_deref());
    let left_out = serde_json::from_str(left_out.unwrap_or_default()).map_err(|e| damaged(e.to_string()))?;
    Ok((usize::try_from(file.num_rows()).unwrap_or(0), left_out))
}
