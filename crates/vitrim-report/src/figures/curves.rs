//! Metrics over the updates of a training run.

use crate::axis::Axis;
use crate::chart::{Chart, Layer, Style};
use crate::error::Result;
use crate::figure::{Figure, Panel};
use crate::numbers::{grouped, short, trailing_mean};
use crate::sources::Update;

/// Window of the bold curves' trailing mean, updates.
const WINDOW: usize = 20;
/// Largest number of updates that are drawn.
const DRAWN: usize = 1000;

/// A metric that a log may have.
struct Quantity {
    name: &'static str,
    label: &'static str,
    of: fn(&Update) -> Option<f64>,
    /// Whether it is noisy between batches, so that a mean is more informative.
    noisy: bool,
}

const COST: Quantity = Quantity {
    name: "cost",
    label: "Cost, % of the dense token-layers",
    of: |u| Some(100.0 * u.cost),
    noisy: true,
};
const OTHERS: [Quantity; 8] = [
    Quantity {
        name: "divergence",
        label: "D to the dense prediction, nats",
        of: |u| u.divergence,
        noisy: true,
    },
    Quantity {
        name: "estimated-drop",
        label: "Estimated drop, pp of top-1",
        of: |u| u.estimated_drop,
        noisy: false,
    },
    // If the game follows an estimate, that is more informative than one batch.
    Quantity {
        name: "sampled-drop",
        label: "Drop in a batch, pp of top-1",
        of: |u| u.sampled_drop,
        noisy: true,
    },
    Quantity { name: "beta", label: "Price of divergence, beta", of: |u| u.beta, noisy: false },
    Quantity { name: "reward", label: "Reward of an agent's life", of: |u| u.reward, noisy: true },
    Quantity { name: "entropy", label: "Entropy of the policy, nats", of: |u| u.entropy, noisy: true },
    Quantity { name: "kl", label: "KL of an update, nats", of: |u| u.approx_kl, noisy: true },
    Quantity { name: "speed", label: "Training speed, images/s", of: |u| u.images_per_s, noisy: true },
];

/// All metrics that the log has; None without updates.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn over_updates(updates: &[Update], max_drop: Option<f64>, command: String) -> Result<Option<Figure>> {
    let Some(last) = updates.last() else { return Ok(None) };
    let estimated = updates.iter().any(|update| update.estimated_drop.is_some());
    let mut panels: Vec<Panel> = panel(&COST, updates, None)?.into_iter().collect();
    panels.push(keep_ratio(updates)?);
    let mut absent = Vec::new();
    for quantity in OTHERS.iter().filter(|quantity| !(estimated && quantity.name == "sampled-drop")) {
        let limit = max_drop.filter(|_| quantity.name == "estimated-drop");
        match panel(quantity, updates, limit)? {
            Some(panel) => panels.push(panel),
            None => absent.push(quantity.label),
        }
    }
    let every = match updates.len().div_ceil(DRAWN) {
        1 => "each update".to_owned(),
        n => format!("every {n}th update"),
    };
    let smooth = if estimated { " (the estimated drop and beta are smooth themselves)" } else { "" };
    let absent = match absent.as_slice() {
        [] => String::new(),
        labels => format!(" Not in this log: {}.", labels.join("; ")),
    };
    let caption = format!(
        "What training watched, over {} updates. Thin: {every}; bold: the mean of the last \
         {WINDOW}{smooth}. Every update plays the game on its own batch of training images.{absent}",
        grouped(last.update)
    );
    Ok(Some(Figure { panels, caption, command }))
}

fn panel(quantity: &Quantity, updates: &[Update], limit: Option<f64>) -> Result<Option<Panel>> {
    let points: Vec<(f64, f64)> =
        updates.iter().filter_map(|u| Some((u.update as f64, (quantity.of)(u)?))).collect();
    if points.is_empty() {
        return Ok(None);
    }
    let mut layers = if quantity.noisy {
        curve(&points, Style::of(0))
    } else {
        vec![Layer::Line(thinned(&points), Style::of(0))]
    };
    layers.extend(limit.map(|loss| Layer::Limit(loss, format!("allowed: {loss} pp"))));
    let alt = format!("{} over updates: {}.", quantity.label, ends(&points));
    let y = Axis::linear(quantity.label);
    let chart = Chart { x: Axis::linear("Update"), y, layers, legend: Vec::new() };
    Panel::plot(format!("curve-{}", quantity.name), alt, chart.svg()).map(Some)
}

/// One curve per stage.
fn keep_ratio(updates: &[Update]) -> Result<Panel> {
    let stages = updates.iter().map(|u| u.keep_ratio.len()).max().unwrap_or(0);
    let (mut layers, mut legend, mut words) = (Vec::new(), Vec::new(), Vec::new());
    for k in 0..stages {
        let points: Vec<(f64, f64)> =
            updates.iter().filter_map(|u| Some((u.update as f64, 100.0 * u.keep_ratio.get(k)?))).collect();
        layers.extend(curve(&points, Style::of(k)));
        legend.push((format!("stage {}", k + 1), Style::of(k)));
        words.push(format!("stage {}: {}", k + 1, ends(&points)));
    }
    let label = "Keep ratio, % of the patch tokens";
    let alt = format!("{label}, over updates. {}.", words.join("; "));
    let chart = Chart { x: Axis::linear("Update"), y: Axis::linear(label), layers, legend };
    Panel::plot("curve-keep-ratio", alt, chart.svg())
}

/// The values as a thin line, and their trailing mean as a bold one.
fn curve(points: &[(f64, f64)], style: Style) -> Vec<Layer> {
    let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    let means = points.iter().zip(trailing_mean(&values, WINDOW)).map(|((update, _), mean)| (*update, mean));
    let means: Vec<(f64, f64)> = means.collect();
    vec![Layer::Faint(thinned(points), style), Layer::Line(thinned(&means), style)]
}

/// At most the number of points that is drawn.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points.iter().copied().step_by(points.len().div_ceil(DRAWN).max(1)).collect()
}

/// First and last value of a curve, in words.
fn ends(points: &[(f64, f64)]) -> String {
    let mean = |part: &[(f64, f64)]| short(part.iter().map(|(_, v)| v).sum::<f64>() / part.len() as f64);
    let part = points.len().min(WINDOW);
    let (first, last) = (&points[..part], &points[points.len() - part..]);
    format!("a mean of {} over the first {part}, of {} over the last", mean(first), mean(last))
}
