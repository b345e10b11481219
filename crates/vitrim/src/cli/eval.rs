//! `vitrim eval`.

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use serde_json::json;
use vitrim::shared_passes::SharedPasses;
use vitrim_measure::Loaded;
use vitrim_measure::evaluate::{Evaluation, MethodReport};
use vitrim_measure::requests::{EvalRequest, Request, named_images};
use vitrim_report::verbs::{Evaluated, Evaluee, evaluate};

use super::{App, print, ranks};

pub fn run(app: &App, request: &EvalRequest) -> anyhow::Result<ExitCode> {
    if !app.ranks.is_alone() {
        check_for_ranks(request)?;
        ranks::refuse_gaps(app.ranks, &request.reading)?;
    }
    let loaded = app.open(&request.model, request.backbone.opening(request.dtype))?;
    let keep = request.keep_of_policy()?;
    let stop = AtomicBool::new(false);
    let evaluated = app.follow(&stop, |listener| -> anyhow::Result<Option<Evaluated>> {
        let policy = request.policy.open(keep, &loaded, listener)?;
        ranks::agree(app.ranks, &loaded, policy.as_ref())?;
        let passes = SharedPasses {
            ranks: app.ranks,
            loaded: &loaded,
            policy: policy.as_ref(),
            workers: request.threads,
            stop: &stop,
        };
        if !app.ranks.is_first() {
            let parts = request.reading.open(&request.data, &loaded)?;
            let (dataset, _) = named_images(&loaded, &parts, request.split.as_deref(), listener)?;
            passes.serve(&dataset)?;
            return Ok(None);
        }
        let evaluee = match (&policy, &request.policy.policy) {
            (Some(policy), Some(folder)) => Evaluee::Policy(policy, folder),
            _ => Evaluee::Dense,
        };
        let elsewhere = passes.elsewhere();
        let done = evaluate(request, &loaded, evaluee, elsewhere, &Request::command_line, listener)?;
        passes.end()?;
        Ok(Some(done))
    })?;
    let Some(evaluated) = evaluated else { return Ok(ExitCode::SUCCESS) };
    let Evaluated { evaluation, dataset, data, split, read_out } = evaluated;
    if app.global.json {
        let decoding = (!request.no_speed).then(|| dataset.decode_rate());
        let given = json!({ "model": loaded.origin, "dtype": request.dtype.to_string(), "data": data, "split": split, "read_out": read_out, "label_notes": dataset.label_notes(), "layout_notes": dataset.layout_notes(), "left_out": dataset.bad_images().first(), "decoding": decoding });
        print::json(&merged(given, serde_json::to_value(&evaluation)?))?;
    } else {
        print(&loaded, &split, read_out.as_deref(), &evaluation)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks that several ranks can measure what is asked for.
fn check_for_ranks(request: &EvalRequest) -> anyhow::Result<()> {
    let fitted = request.methods.iter().find(|method| method.is_fitted());
    let what = match (request.no_speed, request.corrupt, fitted) {
        (false, ..) => "speeds are measured by one process; give --no-speed".to_owned(),
        (_, Some(_), _) => "--corrupt: corrupted images are measured by one process".to_owned(),
        (.., Some(method)) => format!("{method} is fitted first, by one process; leave it out of --methods"),
        _ => return Ok(()),
    };
    Err(anyhow!("{what}, or start it without mpirun"))
}

fn merged(mut first: serde_json::Value, second: serde_json::Value) -> serde_json::Value {
    if let (Some(into), serde_json::Value::Object(fields)) = (first.as_object_mut(), second) {
        into.extend(fields);
    }
    first
}

/// Prints the comparison as tables.
pub fn print(
    loaded: &Loaded,
    split: &str,
    read_out: Option<&str>,
    evaluation: &Evaluation,
) -> anyhow::Result<()> {
    let labels = match evaluation.dense_top1 {
        Some(top1) => format!("dense top-1 {top1:.2} %"),
        None if loaded.spec.num_classes == 0 => {
            "no classes: drift is 100 (1 - cos) of its pooled features to the dense ones".to_owned()
        }
        None => "no labels: disagreement with the dense model bounds the drop".to_owned(),
    };
    let read_out = read_out.map(|r| format!(", policy read out by {r}")).unwrap_or_default();
    print::line(&format!(
        "{} in {}: {} images of {split}, {labels}, dense {:.3} GMACs{read_out}",
        loaded.origin,
        loaded.model.weights().precision(),
        evaluation.images,
        evaluation.dense_gmacs
    ))?;
    if evaluation.methods.is_empty() {
        return Ok(());
    }
    print::line("")?;
    let loss = format!("{} [95 %]", evaluation.measure().header());
    let header = [
        "method",
        "top-1 %",
        &loss,
        "differs %",
        "D",
        "kept after stage",
        "GMACs",
        "of dense %",
        "p10 p50 p90",
    ];
    let rows = std::iter::once(none(evaluation)).chain(evaluation.methods.iter().map(quality));
    print::table(&header, rows.collect())?;
    if evaluation.methods.iter().any(|method| !method.speed.is_empty()) {
        print::line("")?;
        let header = ["method", "batch", "dense images/s", "pruned images/s", "speed-up", "MACs saved"];
        print::table(&header, evaluation.methods.iter().flat_map(speed).collect())?;
    }
    Ok(())
}

/// The dense model's own row.
fn none(evaluation: &Evaluation) -> Vec<String> {
    let stages = evaluation.methods.first().map_or(0, |method| method.keep_ratio.len());
    vec![
        "none".to_owned(),
        evaluation.dense_top1.map_or_else(|| "-".to_owned(), |top1| format!("{top1:.2}")),
        "0".to_owned(),
        "0".to_owned(),
        "0".to_owned(),
        print::ratios(&vec![1.0; stages]),
        format!("{:.3}", evaluation.dense_gmacs),
        "100".to_owned(),
        "100 100 100".to_owned(),
    ]
}

fn quality(method: &MethodReport) -> Vec<String> {
    let (low, high) = method.interval_pp;
    let spread = &method.cost_spread;
    vec![
        method.label(),
        method.top1.map_or_else(|| "-".to_owned(), |top1| format!("{top1:.2}")),
        format!("{:.2} [{low:.2}, {high:.2}]", method.loss()),
        method.disagreement.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}")),
        format!("{:.4}", method.fidelity),
        print::ratios(&method.keep_ratio),
        format!("{:.3}", method.gmacs),
        format!("{:.1}", 100.0 * method.cost),
        format!("{:.0} {:.0} {:.0}", 100.0 * spread.p10, 100.0 * spread.p50, 100.0 * spread.p90),
    ]
}

fn speed(method: &MethodReport) -> Vec<Vec<String>> {
    let cell = |cell: &vitrim_measure::speed::SpeedUp| {
        vec![
            method.method.clone(),
            cell.batch.to_string(),
            format!("{:.1}", cell.dense.images_per_s),
            format!("{:.1}", cell.pruned.images_per_s),
            format!("{:.2}x", cell.speed_up),
            format!("{:.2}x", 1.0 / method.cost),
        ]
    };
    method.speed.iter().map(cell).collect()
}
