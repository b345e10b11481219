//! A comparison of methods as a page.

use maud::html;
use vitrim_measure::compare::{
    AtCost, AtLoss, Comparison, Interval, MethodFigures, POLICY, PointFigures, with_spread,
};

use super::axis::Axis;
use super::chart::{Chart, Layer, Style};
use super::figure::{Figure, Panel};
use super::numbers::{grouped, short};
use super::page::{Numbered, Page, document};
use super::tables::table;
use crate::error::Result;

/// The page of `comparison`, which `command` printed.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn lay_out(comparison: &Comparison, command: &str) -> Result<Page> {
    let mut figures = Numbered::default();
    let (studies, methods): (Vec<_>, Vec<_>) = comparison.methods.iter().partition(|method| method.study);
    let images = grouped(comparison.images);
    let policy = comparison.methods.iter().find(|method| method.method == POLICY);
    let fronts = figure(
        "front",
        &methods,
        comparison,
        command,
        format!(
            "Drop, with paired 95 % intervals, and mean D against the mean MACs of an image, the pruner's own included, on \
         the same {images} images. Each point is a setting that lay on its method's front on other images, where all \
         its settings were tried; lower and further left is better."
        ),
    )?;
    let studied: Vec<&MethodFigures> = policy.into_iter().chain(studies.iter().copied()).collect();
    let main = html! {
        section {
            h2 { "Methods compared" }
            (figures.add(fronts))
            (at_costs(&comparison.at_cost))
            (at_drops(&comparison.at_drop))
        }
        @if studied.len() > 1 {
            section {
                h2 { "What the policy is worth, taken apart" }
                (figures.add(figure("studies", &studied, comparison, command, format!(
                    "The policy; its selection with the same budgets for every image, their mean on the images that it was \
                     calibrated on; and hand-made selections with the policy's budgets of each image. On the same {images} \
                     images."
                ))?))
            }
        }
        section {
            h2 { "Every setting" }
            (settings(comparison))
        }
    };
    let title = format!("vitrim compare: {} in {}", comparison.model, comparison.dtype);
    let result = format!(
        "Dense top-1 {:.2} % on {images} images{}, {:.3} GMACs.",
        comparison.dense_top1,
        if comparison.labelled { "" } else { " without labels, by agreement with itself" },
        comparison.dense_gmacs
    );
    Ok(document(&title, &result, &main, command, figures))
}

fn figure(
    name: &str,
    methods: &[&MethodFigures],
    comparison: &Comparison,
    command: &str,
    caption: String,
) -> Result<Figure> {
    let (mut losses, mut divergences, mut legend) = (Vec::new(), Vec::new(), Vec::new());
    // The first method, the policy, is drawn last and so on top.
    for (i, method) in methods.iter().enumerate().rev() {
        let style = Style::of(i);
        let points = || method.points.iter().map(|point| (100.0 * point.mean.cost, point));
        let loss: Vec<_> = points().map(|(cost, point)| (cost, point.drop_pp.value)).collect();
        let intervals = points().map(|(cost, point)| (cost, point.drop_pp.low, point.drop_pp.high)).collect();
        let divergence: Vec<_> =
            points().map(|(cost, point)| (cost, point.mean.divergence)).filter(|(_, d)| *d > 0.0).collect();
        losses.extend([
            Layer::Intervals(intervals, style),
            Layer::Line(loss.clone(), style),
            Layer::Markers(loss, style),
        ]);
        divergences.extend([Layer::Line(divergence.clone(), style), Layer::Markers(divergence, style)]);
        legend.insert(0, (method.method.clone(), style));
    }
    let names: Vec<&str> = methods.iter().map(|method| method.method.as_str()).collect();
    let alt =
        |what: &str| format!("{what} against cost of {}; the tables have the figures.", names.join(", "));
    let x = || Axis::linear("MACs of an image, % of the dense model's");
    let what = if comparison.labelled { "Drop, pp of top-1" } else { "Disagreement with the dense model, %" };
    let loss = Chart { x: x(), y: Axis::from_zero(what), layers: losses, legend: legend.clone() };
    let divergence = Chart { x: x(), y: Axis::log("D, nats (logarithmic)"), layers: divergences, legend };
    let panels = vec![
        Panel::plot(format!("{name}-drop"), alt("Drop"), loss.svg())?,
        Panel::plot(format!("{name}-divergence"), alt("D"), divergence.svg())?,
    ];
    Ok(Figure { panels, caption, command: command.to_owned() })
}

fn at_costs(at: &[AtCost]) -> maud::Markup {
    let header = [
        "Method",
        "% of dense MACs",
        "D, nats",
        "Drop, pp [95 %]",
        "Policy's D : this [95 %]",
        "Policy's top-1 over this, pp [95 %]",
    ];
    let rows: Vec<Vec<String>> = at
        .iter()
        .flat_map(|at| {
            at.methods.iter().map(|method| {
                vec![
                    method.method.clone(),
                    format!("{:.0}", 100.0 * at.cost),
                    with_spread(method.divergence, &method.of_seeds, 1.0, 4),
                    interval(Some(&method.drop_pp)),
                    interval(method.policy_divergence_ratio.as_ref()),
                    interval(method.policy_top1_gain_pp.as_ref()),
                ]
            })
        })
        .collect();
    table("At the same cost: mixtures of neighbouring settings that cost exactly so much", &header, &rows)
}

fn at_drops(at: &[AtLoss]) -> maud::Markup {
    let header = ["Method", "Drop, pp", "% of dense MACs", "Policy saves, % of it [95 %]"];
    let rows: Vec<Vec<String>> = at
        .iter()
        .flat_map(|at| {
            at.methods.iter().map(|method| {
                let saves = method.policy_saves.map(|saves| Interval {
                    value: 100.0 * saves.value,
                    low: 100.0 * saves.low,
                    high: 100.0 * saves.high,
                });
                vec![
                    method.method.clone(),
                    short(at.drop_pp),
                    with_spread(method.cost, &method.of_seeds, 100.0, 1),
                    interval(saves.as_ref()),
                ]
            })
        })
        .collect();
    table("At the same drop: where it is first reached on the way down from the dense model", &header, &rows)
}

fn settings(comparison: &Comparison) -> maud::Markup {
    let header = [
        "Method",
        "Setting",
        "% of dense MACs",
        "p10 / p50 / p90, %",
        "Rank correlation with confidence, object size",
        "Top\u{2011}1, %",
        "Drop, pp [95 %]",
        "D, nats",
        "Pruned : dense, images/s",
    ];
    let rows: Vec<Vec<String>> = comparison
        .methods
        .iter()
        .flat_map(|method| {
            method.points.iter().map(|point| {
                let spread = point.cost_spread;
                vec![
                    method.method.clone(),
                    point.setting.clone(),
                    format!("{:.1}", 100.0 * point.mean.cost),
                    format!(
                        "{:.0} / {:.0} / {:.0}",
                        100.0 * spread.p10,
                        100.0 * spread.p50,
                        100.0 * spread.p90
                    ),
                    correlations(point),
                    format!("{:.2}", point.mean.top1),
                    interval(Some(&point.drop_pp)),
                    format!("{:.4}", point.mean.divergence),
                    point
                        .speed_up
                        .map_or_else(|| "not measured".to_owned(), |speed_up| format!("{speed_up:.2}x")),
                ]
            })
        })
        .collect();
    table("Every setting measured", &header, &rows)
}

/// Correlations of an image's cost with the dense model's confidence and with the size of its object; dashes if there
/// are none.
fn correlations(point: &PointFigures) -> String {
    let show = |rho: Option<f64>| rho.map_or_else(|| "\u{2013}".to_owned(), |rho| format!("{rho:.2}"));
    format!("{}, {}", show(point.cost_and_confidence), show(point.cost_and_object_size))
}

/// `0.52 [0.50, 0.55]`; a dash if there is none.
fn interval(interval: Option<&Interval>) -> String {
    interval
        .map_or_else(|| "\u{2013}".to_owned(), |i| format!("{:.2} [{:.2}, {:.2}]", i.value, i.low, i.high))
}
