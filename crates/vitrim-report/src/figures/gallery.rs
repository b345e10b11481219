//! Single images with the patches that are kept.

use std::path::Path;

use image::ImageFormat;

use crate::error::{ReportError, Result};
use crate::figure::{Figure, Panel};
use crate::findings::{Findings, Group};
use crate::numbers::{grouped, short};

/// The pictures of one group. None without pictures.
///
/// # Errors
/// If a picture is missing or damaged.
pub fn of_group(run: &Path, findings: &Findings, group: Group) -> Result<Option<Figure>> {
    let pictured = findings.gallery.iter().filter(|pictured| pictured.group == group);
    let mut panels = Vec::new();
    for pictured in pictured {
        let path = run.join(&pictured.picture);
        let bad = |reason: String| {
            let reason = format!("{reason}; evaluate the run again to draw the pictures of the report");
            ReportError::Run { path: path.clone(), reason }
        };
        let png = std::fs::read(&path).map_err(|error| bad(format!("cannot be read ({error})")))?;
        let image = image::load_from_memory_with_format(&png, ImageFormat::Png)
            .map_err(|error| bad(format!("not a PNG ({error})")))?;
        let caption =
            format!("{} ({} % of the dense MACs)", pictured.caption, short(100.0 * f64::from(pictured.cost)));
        let alt = format!("An image, and what is kept of it after each stage. {caption}");
        panels.push(Panel::Picture { alt, png, width: image.width(), height: image.height(), caption });
    }
    if panels.is_empty() {
        return Ok(None);
    }
    let (name, place) = match group {
        Group::Cheap => ("Cheap", "among those that cost the least"),
        Group::Typical => ("Typical", "around the median cost"),
        Group::Expensive => ("Expensive", "among those that cost the most"),
    };
    let caption = format!(
        "{name} images: {} of {} of the {} split, {place}. First what the model sees, then what each stage keeps; \
         patches that left are grey with a line through them: dropped, or merged into one that is like them.",
        panels.len(),
        grouped(findings.evaluation.images),
        findings.split
    );
    Ok(Some(Figure { panels, caption, command: findings.command.clone() }))
}
