//! Reports: a run folder as one page, `report.html`, that needs no other file: what was gained and lost, how the
//! policy was trained, and where tokens are kept.
//!
//! [`verbs`] carries out `eval` and `compare` with their pages. [`findings`] are the results of an evaluation in the
//! run folder. The page contains everything it shows; each plot is also a separate file in `plots/`. The page says
//! what a folder lacks.

mod axis;
mod chart;
mod comparison;
mod error;
pub mod export;
mod figure;
mod figures;
pub mod findings;
pub mod gather;
mod headline;
mod heat;
mod model_card;
mod numbers;
mod page;
pub mod picture;
mod raster;
mod sources;
mod tables;
pub mod verbs;
pub mod visualize;

use std::path::{Path, PathBuf};

pub use error::{ReportError, Result};
pub use findings::Findings;
use page::Page;
use raster::Rasteriser;
pub use sources::COMMAND;
use sources::Sources;
use vitrim_measure::compare::Comparison;

/// The files of a report.
pub struct Written {
    /// The page.
    pub page: PathBuf,
    /// The plots, each as SVG and as PNG.
    pub plots: Vec<PathBuf>,
    /// Whether there were findings to show.
    pub evaluated: bool,
}

/// Writes `report.html` and `plots/` into the run folder `run`, from its files.
///
/// # Errors
/// If it is not a run folder, a file in it is damaged, or a file cannot be written.
pub fn report(run: &Path) -> Result<Written> {
    let sources = Sources::read(run)?;
    let (page, plots) = write(run, &page::lay_out(&sources)?)?;
    Ok(Written { page, plots, evaluated: sources.findings.is_some() })
}

/// Writes `report.html` and `plots/` of `comparison`, which `command` printed, to `run`. Returns the page's path.
///
/// # Errors
/// If a plot cannot be drawn, or a file cannot be written.
fn compared(run: &Path, comparison: &Comparison, command: &str) -> Result<PathBuf> {
    Ok(write(run, &comparison::lay_out(comparison, command)?)?.0)
}

/// Writes `page` and its plots to `run`; returns their paths.
fn write(run: &Path, page: &Page) -> Result<(PathBuf, Vec<PathBuf>)> {
    let folder = run.join("plots");
    std::fs::create_dir_all(&folder).map_err(|source| ReportError::Write { path: folder.clone(), source })?;
    let rasteriser = Rasteriser::new();
    let mut plots = Vec::new();
    for (name, svg) in &page.plots {
        let png = rasteriser
            .png(svg)
            .map_err(|error| ReportError::Setting(format!("plot {name}: cannot become a PNG: {error}")))?;
        for (ending, bytes) in [("svg", svg.as_bytes()), ("png", &png)] {
            let path = folder.join(format!("{name}.{ending}"));
            vitrim_durable::replace(&path, bytes)?;
            plots.push(path);
        }
    }
    let path = run.join("report.html");
    vitrim_durable::replace(&path, page.html.as_bytes())?;
    Ok((path, plots))
}
