//! Maps of where in the image patches survive.

use crate::error::Result;
use crate::figure::{Figure, Panel};
use crate::findings::Findings;
use crate::heat::HeatMap;
use crate::numbers::grouped;

/// One map per stage, on one scale. None without stages.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn by_stage(findings: &Findings) -> Result<Option<Figure>> {
    let shares = || findings.keep_maps.iter().flatten().map(|share| f64::from(*share));
    let (Some(low), Some(high)) = (shares().reduce(f64::min), shares().reduce(f64::max)) else {
        return Ok(None);
    };
    let tenth_below = (10.0 * low).floor().min(9.0) / 10.0;
    let tenth_above = ((10.0 * high).ceil() / 10.0).max(tenth_below + 0.1);
    let [rows, columns] = findings.grid;
    let (mut panels, mut numbers) = (Vec::new(), Vec::new());
    for (k, (map, block)) in findings.keep_maps.iter().zip(&findings.stages).enumerate() {
        let title = format!("Stage {}, block {block}", k + 1);
        let mean = map.iter().map(|share| f64::from(*share)).sum::<f64>() / map.len() as f64;
        let (low, high) = map.iter().fold((1f32, 0f32), |(low, high), s| (low.min(*s), high.max(*s)));
        let words =
            format!("stage {}: {:.1} / {:.1} / {:.1} %", k + 1, 100.0 * low, 100.0 * mean, 100.0 * high);
        let alt =
            format!("Map of {rows} x {columns} patches. {title}: least, mean and largest share, {words}.");
        let map = HeatMap { title, rows, columns, shares: map, range: (tenth_below, tenth_above) };
        panels.push(Panel::plot(format!("keep-map-stage-{}", k + 1), alt, map.svg())?);
        numbers.push(words);
    }
    let caption = format!(
        "In what share of {} images of the {} split the patch at each place of the image survives the stage \
         ({rows} x {columns} patches, one scale for all stages). Least, mean and largest share: {}.",
        grouped(findings.evaluation.images),
        findings.split,
        numbers.join("; ")
    );
    Ok(Some(Figure { panels, caption, command: findings.command.clone() }))
}
