//! Results on stdout.

use std::io::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

/// Prints `text` and a line break.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints `value` as JSON on one line.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Prints a table: the first column left-aligned, figures right-aligned.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    for row in rows {
        let align = |i| if i == 0 { CellAlignment::Left } else { CellAlignment::Right };
        table.add_row(row.into_iter().enumerate().map(|(i, text)| Cell::new(text).set_alignment(align(i))));
    }
    line(&table.to_string())
}

/// Ratios in one cell: `0.93 0.85 0.78`.
pub fn ratios(values: &[f64]) -> String {
    values.iter().map(|v| format!("{v:.3}")).collect::<Vec<_>>().join(" ")
}
