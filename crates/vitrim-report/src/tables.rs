//! Tables that compare the methods.

use maud::{Markup, html};
use vitrim_measure::evaluate::{Evaluation, MethodReport};
use vitrim_measure::front::Measure;
use vitrim_prune::Method;

use super::numbers::{grouped, short};

/// Cost and loss of each method, the dense model first.
pub fn quality(evaluation: &Evaluation) -> Markup {
    let stages = evaluation.methods.first().map_or(0, |method| method.keep_ratio.len());
    let header = [
        "Method",
        // With a non-breaking hyphen.
        "Top\u{2011}1, %",
        match evaluation.measure() {
            Measure::AccuracyLoss => "Drop, pp [95 %]",
            Measure::Disagreement => "Differs, % [95 %]",
            Measure::Drift => "Drift, % [95 %]",
        },
        "D",
        "Keep ratio, %",
        "GMACs",
        "% of dense",
        "p10 / p50 / p90, %",
    ];
    let dense = vec![
        "none (dense)".to_owned(),
        top1(evaluation.dense_top1),
        "0".to_owned(),
        "0".to_owned(),
        vec!["100"; stages].join(" / "),
        short(evaluation.dense_gmacs),
        "100".to_owned(),
        "100 / 100 / 100".to_owned(),
    ];
    let row = |method: &MethodReport| {
        let ((low, high), spread) = (method.interval_pp, &method.cost_spread);
        let percents = |shares: &[f64]| -> String {
            shares.iter().map(|share| format!("{:.1}", 100.0 * share)).collect::<Vec<_>>().join(" / ")
        };
        vec![
            method.label(),
            top1(method.top1),
            format!("{:.2} [{low:.2}, {high:.2}]", method.loss()),
            format!("{:.4}", method.fidelity),
            percents(&method.keep_ratio),
            short(method.gmacs),
            format!("{:.1}", 100.0 * method.cost),
            percents(&[spread.p10, spread.p50, spread.p90]),
        ]
    };
    let rows: Vec<_> = std::iter::once(dense).chain(evaluation.methods.iter().map(row)).collect();
    let images = grouped(evaluation.images);
    table(&format!("Cost and quality on {images} images"), &header, &rows)
}

/// Images/s of each method at each batch size. None if speed was not measured.
pub fn speed(evaluation: &Evaluation) -> Option<Markup> {
    let header = [
        "Method",
        "Batch",
        "Dense, images/s",
        "Pruned, images/s",
        "Pruned : dense",
        "MACs saved",
        "Dense p50 / p99, ms",
        "Pruned p50 / p99, ms",
    ];
    let mut rows = Vec::new();
    for method in &evaluation.methods {
        for speed in &method.speed {
            let latency =
                |rate: &vitrim_measure::speed::Rate| format!("{:.1} / {:.1}", rate.p50_ms, rate.p99_ms);
            rows.push(vec![
                method.method.clone(),
                speed.batch.to_string(),
                format!("{:.1}", speed.dense.images_per_s),
                format!("{:.1}", speed.pruned.images_per_s),
                format!("{:.2}x", speed.speed_up),
                format!("{:.2}x", 1.0 / method.cost),
                latency(&speed.dense),
                latency(&speed.pruned),
            ]);
        }
    }
    let title = "Speed: dense and pruned timed in alternation over the same pixels, medians over the rounds";
    (!rows.is_empty()).then(|| table(title, &header, &rows))
}

fn top1(percent: Option<f64>) -> String {
    percent.map_or_else(|| "no labels".to_owned(), |percent| format!("{percent:.2}"))
}

/// A table with a title; it has its own scroll bar if it is too wide. The policy's rows are highlighted.
pub fn table(title: &str, header: &[&str], rows: &[Vec<String>]) -> Markup {
    let policy = Method::Policy.to_string();
    html! {
        p.title { (title) }
        div.scroll.wide tabindex="0" role="region" aria-label=(title) {
            table aria-label=(title) {
                thead { tr { @for cell in header { th scope="col" { (cell) } } } }
                tbody {
                    @for row in rows {
                        tr.ours[row[0] == policy] {
                            th scope="row" { (row[0]) }
                            @for cell in &row[1..] { td { (cell) } }
                        }
                    }
                }
            }
        }
    }
}
