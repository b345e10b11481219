//! Loss and D against cost.

use vitrim_measure::calibrate::Calibration;
use vitrim_measure::front::{FrontPoint, Measure, Verdict, choose};
use vitrim_measure::statistics::Confidence;
use vitrim_prune::Method;

use crate::axis::Axis;
use crate::chart::{Chart, Layer, Style};
use crate::error::Result;
use crate::figure::{Figure, Panel};
use crate::findings::Findings;
use crate::numbers::{grouped, short};

/// The points of a method.
struct Series<'a> {
    method: &'a str,
    points: Vec<&'a FrontPoint>,
}

/// A highlighted point.
struct Marked {
    cost: f64,
    loss: f64,
    fidelity: f64,
    name: String,
}

/// Every method at several costs, on the evaluated images. None if no front was measured.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn evaluated(findings: &Findings) -> Result<Option<Figure>> {
    let series: Vec<Series<'_>> =
        findings.fronts.iter().map(|front| Series::new(&front.method, &front.points)).collect();
    let Some(images) = series.iter().flat_map(|series| &series.points).map(|point| point.images).next()
    else {
        return Ok(None);
    };
    let policy = Method::Policy.to_string();
    let at_work = findings.evaluation.methods.iter().find(|method| method.method == policy);
    let marked = at_work.map(|method| Marked {
        cost: method.cost,
        loss: method.loss(),
        fidelity: method.fidelity,
        name: "operating point".to_owned(),
    });
    let settings: Vec<String> =
        series.iter().map(|series| format!("{} at {}", series.method, series.points.len())).collect();
    let circle = if marked.is_some() {
        format!(" The circle is the policy as it is used, read out by {}.", findings.read_out)
    } else {
        String::new()
    };
    let caption = format!(
        "{}, with paired 95 % intervals, and mean D against the mean MACs of an image, the pruner's own \
         included. Lower and further left is better. Settings measured: {}; all on the same {} images of the \
         {} split of {}.{circle}",
        measure(findings.evaluation.measure()).0,
        settings.join(", "),
        grouped(images),
        findings.split,
        findings.data,
    );
    let panels = panels("front", &series, findings.evaluation.measure(), marked.as_ref(), None)?;
    Ok(Some(Figure { panels, caption, command: findings.command.clone() }))
}

/// The policy at the thresholds of its calibration.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn calibrated(record: &Calibration, command: String) -> Result<Figure> {
    let front = &record.front;
    let name = Method::Policy.to_string();
    let series = [Series::new(&name, front.points())];
    let chosen = match choose(front, record.max_drop, record.confidence).verdict {
        Verdict::Certified(chosen) => Some(&front.points()[chosen.index]),
        Verdict::NotCertified { .. } => None,
    };
    let marked = match chosen {
        Some(point) => Some(Marked {
            cost: point.cost,
            loss: point.loss()?.measured(),
            fidelity: point.fidelity,
            name: format!("chosen: threshold {}", point.setting),
        }),
        None => None,
    };
    let limit = (record.max_drop, format!("allowed: {} {}", record.max_drop, front.measure().unit()));
    let caption = format!(
        "{}, with paired 95 % intervals, and mean D against the mean MACs of an image, at {} thresholds on \
         the {} images of the {} split of {}, from which the threshold was chosen: these figures are not a \
         fair test of it.",
        measure(front.measure()).0,
        front.points().len(),
        grouped(front.images()),
        record.split,
        record.data,
    );
    let panels = panels("calibration", &series, front.measure(), marked.as_ref(), Some(limit))?;
    Ok(Figure { panels, caption, command })
}

impl<'a> Series<'a> {
    /// Sorts the points from the cheapest to the costliest.
    fn new(method: &'a str, points: &'a [FrontPoint]) -> Self {
        let mut points: Vec<&FrontPoint> = points.iter().collect();
        points.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        Series { method, points }
    }

    /// The method's style, the same in every figure.
    fn style(&self) -> Style {
        let known = Method::all().position(|method| method.name() == self.method);
        Style::of(known.unwrap_or(Method::all().count()))
    }
}

/// The measure of the loss, and its unit.
fn measure(measure: Measure) -> (&'static str, &'static str) {
    match measure {
        Measure::AccuracyLoss => ("Drop", "pp of top-1"),
        Measure::Disagreement => ("Disagreement with the dense model", "% of images"),
        Measure::Drift => ("Drift of the features, 100 (1 - cos)", "%"),
    }
}

fn panels(
    prefix: &str,
    series: &[Series<'_>],
    of: Measure,
    marked: Option<&Marked>,
    limit: Option<(f64, String)>,
) -> Result<Vec<Panel>> {
    let (measure, unit) = measure(of);
    let interval = Confidence::new(0.95)?;
    let (mut losses, mut divergences) = (Vec::new(), Vec::new());
    let (mut losses_in_words, mut divergences_in_words) = (Vec::new(), Vec::new());
    if let Some((loss, name)) = limit {
        losses.push(Layer::Limit(loss, name));
    }
    // The first series, the policy, is drawn last and so on top.
    for series in series.iter().rev() {
        let style = series.style();
        let (mut loss, mut intervals, mut divergence) = (Vec::new(), Vec::new(), Vec::new());
        for point in &series.points {
            let (cost, paired) = (100.0 * point.cost, point.loss()?);
            let (low, high) = paired.interval(interval);
            loss.push((cost, paired.measured()));
            intervals.push((cost, low, high));
            // If every token stays, D is 0, which a logarithmic axis cannot show.
            if point.fidelity > 0.0 {
                divergence.push((cost, point.fidelity));
            }
        }
        losses_in_words.push(ends(series.method, &loss, of.unit()));
        divergences_in_words.push(ends(series.method, &divergence, "of D"));
        losses.extend([
            Layer::Intervals(intervals, style),
            Layer::Line(loss.clone(), style),
            Layer::Markers(loss, style),
        ]);
        divergences.extend([Layer::Line(divergence.clone(), style), Layer::Markers(divergence, style)]);
    }
    if let Some(Marked { cost, loss, fidelity, name }) = marked {
        losses.push(Layer::Ring((100.0 * cost, *loss), name.clone()));
        if *fidelity > 0.0 {
            divergences.push(Layer::Ring((100.0 * cost, *fidelity), name.clone()));
        }
    }
    let legend: Vec<(String, Style)> =
        series.iter().map(|series| (series.method.to_owned(), series.style())).collect();
    let x = || Axis::linear("MACs of an image, % of the dense model's");
    let loss = Chart {
        x: x(),
        y: Axis::from_zero(format!("{measure}, {unit}")),
        layers: losses,
        legend: legend.clone(),
    };
    let divergence = Chart {
        x: x(),
        y: Axis::log(format!("D, {} (logarithmic)", if of == Measure::Drift { "1 - cos" } else { "nats" })),
        layers: divergences,
        legend,
    };
    let alt = |what: &str, words: Vec<String>| format!("{what} against cost. {}.", words.join("; "));
    Ok(vec![
        Panel::plot(format!("{prefix}-drop"), alt(measure, losses_in_words), loss.svg())?,
        Panel::plot(format!("{prefix}-divergence"), alt("D", divergences_in_words), divergence.svg())?,
    ])
}

/// A curve described in words.
fn ends(method: &str, points: &[(f64, f64)], unit: &str) -> String {
    match (points.first(), points.last()) {
        (Some((cheap, there)), Some((dear, here))) => format!(
            "{method}: from {} {unit} at {} % of the dense MACs to {} {unit} at {} %",
            short(*here),
            short(*dear),
            short(*there),
            short(*cheap)
        ),
        _ => format!("{method}: not measured"),
    }
}
