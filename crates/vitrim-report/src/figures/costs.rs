//! Figures of the cost of single images.

use vitrim_measure::statistics::Quantiles;
use vitrim_measure::statistics::spearman;

use crate::axis::Axis;
use crate::chart::{Chart, Layer, Style};
use crate::error::Result;
use crate::figure::{Figure, Panel};
use crate::findings::Findings;
use crate::numbers::{binned, grouped, histogram, plain, short};

/// Approximate number of bins of the histogram, and of object sizes.
const BINS: usize = 30;
const SIZE_BINS: usize = 8;

const COST: &str = "MACs of an image, % of the dense model's";

/// Histogram of the cost of images. None without images.
///
/// # Errors
/// If the plot cannot be drawn.
pub fn spread(findings: &Findings) -> Result<Option<Figure>> {
    let costs = percent(findings);
    let Some(quantiles) = Quantiles::of(costs.clone()) else { return Ok(None) };
    let bars = histogram(&costs, BINS).into_iter().map(|bin| (bin.from, bin.to, bin.n as f64)).collect();
    let chart = Chart {
        x: Axis::linear(COST),
        y: Axis::from_zero("Images"),
        layers: vec![Layer::Bars(bars, Style::of(0))],
        legend: Vec::new(),
    };
    let mean = costs.iter().sum::<f64>() / costs.len() as f64;
    let [p10, p50, p90] = [0.1, 0.5, 0.9].map(|p| short(quantiles.at(p)));
    let numbers = format!(
        "a tenth of the images take less than {p10} %, half less than {p50} %, a tenth more than {p90} %; the \
         mean is {} %",
        short(mean)
    );
    let caption = format!(
        "How the policy's compute differs between {} images of the {} split: {numbers}.",
        grouped(costs.len()),
        findings.split
    );
    let alt = format!("Histogram of the cost of an image: {numbers}.");
    let panels = vec![Panel::plot("cost-histogram", alt, chart.svg())?];
    Ok(Some(Figure { panels, caption, command: findings.command.clone() }))
}

/// Cost against the size of the object. None if sizes are unknown, or there are no images.
///
/// # Errors
/// If the plot cannot be drawn.
pub fn by_object_size(findings: &Findings) -> Result<Option<Figure>> {
    let Some(sizes) = &findings.object_sizes else { return Ok(None) };
    let sizes: Vec<f64> = sizes.iter().map(|size| f64::from(*size)).collect();
    let costs = percent(findings);
    let bins = binned(&sizes, &costs, SIZE_BINS);
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else { return Ok(None) };
    let middle = |from: f64, to: f64| (from + to) / 2.0;
    let medians: Vec<(f64, f64)> = bins.iter().map(|bin| (middle(bin.from, bin.to), bin.median)).collect();
    let band = bins.iter().map(|bin| (middle(bin.from, bin.to), bin.p10, bin.p90)).collect();
    let lowest = bins.iter().map(|bin| bin.p10).fold(f64::INFINITY, f64::min);
    let highest = bins.iter().map(|bin| bin.p90).fold(f64::NEG_INFINITY, f64::max);
    // A row of counts above the band.
    let [row, above] = [0.07, 0.17].map(|share| highest + share * (highest - lowest));
    let mut counts: Vec<(f64, f64, String)> =
        bins.iter().map(|bin| (middle(bin.from, bin.to), row, grouped(bin.n))).collect();
    counts[0].2.insert_str(0, "n = ");
    let chart = Chart {
        x: Axis::linear("Size of the object, px").holding([first.from, last.to]),
        y: Axis::linear(COST).holding([above]),
        layers: vec![
            Layer::Band(band, Style::of(0)),
            Layer::Line(medians.clone(), Style::of(0)),
            Layer::Markers(medians, Style::of(0)),
            Layer::Notes(counts),
        ],
        legend: Vec::new(),
    };
    let correlation = match spearman(&sizes, &costs) {
        Some(rho) => format!("Spearman's rank correlation of size and cost is {rho:.2}"),
        None => "Sizes or costs are all alike, so that they have no rank correlation".to_owned(),
    };
    let caption = format!(
        "What an image costs, by the size of its object: the median, and the band from the 10th to the 90th \
         percentile, of the images in each range of sizes ({} px wide); above, their number n. {correlation}, \
         over {} images.",
        plain(first.to - first.from),
        grouped(sizes.len())
    );
    let alt = format!(
        "Cost against object size: median {} % at {} px, {} % at {} px. {correlation}.",
        short(first.median),
        short(middle(first.from, first.to)),
        short(last.median),
        short(middle(last.from, last.to))
    );
    let panels = vec![Panel::plot("cost-by-object-size", alt, chart.svg())?];
    Ok(Some(Figure { panels, caption, command: findings.command.clone() }))
}

fn percent(findings: &Findings) -> Vec<f64> {
    findings.costs.iter().map(|cost| 100.0 * f64::from(*cost)).collect()
}
