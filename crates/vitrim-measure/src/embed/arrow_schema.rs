//! Arrow's schema of a part, as parquet files carry it under `ARROW:schema`: it makes features a fixed-size list, which
//! parquet itself does not know.
//!
//! An encapsulated IPC message, base64: <https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format>.
//! The tables are those of `Message.fbs` and `Schema.fbs` of Arrow.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, UnionWIPOffset, VOffsetT, WIPOffset};

/// The metadata key.
pub const KEY: &str = "ARROW:schema";

/// A column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrowType {
    /// Signed, of so many bits.
    Int(i32),
    /// A double.
    Double,
    /// Text.
    Utf8,
    /// So many floats.
    Floats(i32),
}

/// A column: its name, whether it may be null, its type.
pub type Field<'a> = (&'a str, bool, ArrowType);

/// `MetadataVersion::V5`.
const V5: i16 = 4;
/// `MessageHeader::Schema`.
const SCHEMA: u8 = 1;
/// `Precision` of `FloatingPoint`.
const SINGLE: i16 = 1;
const DOUBLE: i16 = 2;
/// A message begins with these bytes.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// The place of a table's field number `number`.
const fn slot(number: VOffsetT) -> VOffsetT {
    4 + 2 * number
}

/// The value of [`KEY`] for `fields`.
pub fn encoded(fields: &[Field<'_>]) -> String {
    let mut builder = FlatBufferBuilder::new();
    let fields: Vec<_> = fields.iter().map(|field| self::field(&mut builder, *field)).collect();
    let fields = builder.create_vector(&fields);
    let schema = builder.start_table();
    builder.push_slot_always(slot(1), fields);
    let schema = builder.end_table(schema);
    let message = builder.start_table();
    builder.push_slot_always(slot(0), V5);
    builder.push_slot_always(slot(1), SCHEMA);
    builder.push_slot_always(slot(2), schema);
    let message = builder.end_table(message);
    builder.finish_minimal(message);
    let mut body = builder.finished_data().to_vec();
    body.resize(body.len().next_multiple_of(8), 0);
    let length = i32::try_from(body.len()).expect("a few columns").to_le_bytes();
    BASE64_STANDARD.encode([&CONTINUATION[..], &length, &body].concat())
}

fn field<'b>(
    builder: &mut FlatBufferBuilder<'b>,
    (name, nullable, kind): Field<'_>,
) -> WIPOffset<TableFinishedWIPOffset> {
    let children: Vec<_> = match kind {
        ArrowType::Floats(_) => vec![float(builder)],
        _ => Vec::new(),
    };
    let (tag, kind) = kind_table(builder, kind);
    table_of_field(builder, name, nullable, tag, kind, &children)
}

/// The element of a list of floats.
fn float(builder: &mut FlatBufferBuilder<'_>) -> WIPOffset<TableFinishedWIPOffset> {
    let kind = builder.start_table();
    builder.push_slot_always(slot(0), SINGLE);
    let kind = builder.end_table(kind);
    table_of_field(builder, "element", false, 3, kind, &[])
}

/// The number of a type in the union `Type`, and its table.
fn kind_table(
    builder: &mut FlatBufferBuilder<'_>,
    kind: ArrowType,
) -> (u8, WIPOffset<TableFinishedWIPOffset>) {
    let table = builder.start_table();
    let tag = match kind {
        ArrowType::Int(bits) => {
            builder.push_slot_always(slot(0), bits);
            builder.push_slot_always(slot(1), true);
            2
        }
        ArrowType::Double => {
            builder.push_slot_always(slot(0), DOUBLE);
            3
        }
        ArrowType::Utf8 => 5,
        ArrowType::Floats(size) => {
            builder.push_slot_always(slot(0), size);
            16
        }
    };
    (tag, builder.end_table(table))
}

fn table_of_field(
    builder: &mut FlatBufferBuilder<'_>,
    name: &str,
    nullable: bool,
    tag: u8,
    kind: WIPOffset<TableFinishedWIPOffset>,
    children: &[WIPOffset<TableFinishedWIPOffset>],
) -> WIPOffset<TableFinishedWIPOffset> {
    let (name, children) = (builder.create_string(name), builder.create_vector(children));
    let kind: WIPOffset<UnionWIPOffset> = kind.as_union_value();
    let field = builder.start_table();
    builder.push_slot_always(slot(0), name);
    builder.push_slot_always(slot(1), nullable);
    builder.push_slot_always(slot(2), tag);
    builder.push_slot_always(slot(3), kind);
    builder.push_slot_always(slot(5), children);
    builder.end_table(field)
}
