//! `vitrim eval`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::json;
use vitrim::VitrimError;
use vitrim_measure::calibrate::{calibrated_on, record};
use vitrim_measure::evaluate::{EvalOptions, Evaluation, MethodReport, SPEED_SECONDS, evaluate};
use vitrim_measure::images::name;
use vitrim_measure::{Loaded, Progress};
use vitrim_prune::keep_shares;
use vitrim_report::gather::{About, GatherOptions, gather};
use vitrim_report::report;
use vitrim_vit::Precision;

use super::args::EvalArgs;
use super::{App, images, policy, print};

/// Images that a report's fronts are measured on.
const FRONT_IMAGES: usize = 2_000;

pub fn run(app: &App, args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let loaded = Loaded::open_in(&args.model, args.size.opening(args.dtype))?;
    let keep = match (args.keep.as_slice(), &args.policy.policy) {
        ([], _) | (_, None) => None,
        ([keep], Some(_)) => Some(*keep),
        (ratios, Some(_)) => {
            let reason =
                format!("--keep {ratios:?}: a policy is asked for one keep ratio; give a single one");
            return Err(VitrimError::Setting(reason).into());
        }
    };
    let policy = policy::open(app, &args.policy, keep, &loaded)?;
    let parts = args.reading.open(&args.data, &loaded)?;
    let split = args.split.as_deref().unwrap_or(name(parts.final_part()));
    let bar = app.reporter.bar("hashing images");
    let dataset = parts.named(split, &mut |done, all| bar.set(done, all))?;
    drop(bar);
    loaded.check_classes(&parts.path(), &dataset)?;
    if policy.as_ref().is_some_and(|policy| calibrated_on(policy, &parts.path(), split)) {
        app.reporter.note("note: the threshold was chosen on these images; only others give a fair drop");
    }

    let stages = loaded.spec.default_stages();
    let profile = match args.keep.as_slice() {
        [] => None,
        _ if policy.is_some() => None,
        given => Some((stages.clone(), keep_shares(given, stages.len())?)),
    };
    let options = EvalOptions {
        batch: args.batch.max(1),
        workers: app.global.threads,
        images: args.images,
        on_bad_image: args.reading.images.on_bad_image(),
        corruption: args.corrupt,
        methods: args.methods.clone(),
        hand_made_images: None,
        profile,
        speed: (!args.no_speed).then_some(SPEED_SECONDS),
    };
    let bar = app.reporter.bar("evaluating");
    let mut progress = |done, all| bar.set(done, all);
    // Nothing is half done by an evaluation: an interruption just ends the program.
    let mut watch = Progress { stop: &AtomicBool::new(false), progress: &mut progress };
    let evaluation = match (&args.report, &policy) {
        (Some(run), Some(policy)) => {
            let about = About {
                title: format!("{} in {} on {} ({split})", loaded.origin, args.dtype, parts.path()),
                command: command(args, split),
                command_trains: false,
                data: parts.path(),
                split: split.to_owned(),
            };
            let record = record(policy, args.policy.policy.as_deref().unwrap_or(run))?;
            let options =
                GatherOptions { about, run: run.clone(), eval: options, front_images: FRONT_IMAGES };
            let started = Instant::now();
            let mut findings = gather(&loaded, policy, record.widest(), &dataset, &options, &mut watch)?;
            findings.seconds.push(("evaluation".to_owned(), started.elapsed().as_secs_f64()));
            findings.write(run)?;
            let page = report(run)?.page;
            app.reporter.note(&format!("report: {}", page.display()));
            findings.evaluation
        }
        _ => evaluate(&loaded, &dataset, policy.as_ref(), &options, &mut watch)?.0,
    };
    drop(bar);
    images::tell(app, &dataset);
    let read_out = policy.as_ref().map(|policy| policy.read_out.to_string());
    if app.global.json {
        let decoding = (!args.no_speed).then(|| dataset.decode_rate());
        let given = json!({ "model": loaded.origin, "dtype": args.dtype.to_string(), "data": parts.path(), "split": split, "read_out": read_out, "left_out": dataset.bad_images().first(), "decoding": decoding });
        print::json(&merged(given, serde_json::to_value(&evaluation)?))?;
    } else {
        print(&loaded, split, read_out.as_deref(), &evaluation)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The command line that prints these figures again.
fn command(args: &EvalArgs, split: &str) -> String {
    let path = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
    let mut command = format!(
        "vitrim eval --model {} --data {} --split {split} --policy {}",
        args.model.display(),
        args.data.display(),
        path(args.policy.policy.as_deref()),
    );
    if args.dtype != Precision::F32 {
        command += &format!(" --dtype {}", args.dtype);
    }
    if let Some(read_out) = &args.policy.read_out {
        command += &format!(" --read-out {read_out}");
    }
    if let Some(max_drop) = args.policy.max_drop {
        command += &format!(" --max-drop {max_drop}");
    }
    if let Some(max_drift) = args.policy.max_drift {
        command += &format!(" --max-drift {max_drift}");
    }
    if let Some(confidence) = args.policy.confidence {
        command += &format!(" --confidence {confidence}");
    }
    if let Some(gmacs) = args.policy.gmacs {
        command += &format!(" --gmacs {gmacs}");
    }
    if let [keep] = args.keep.as_slice() {
        command += &format!(" --keep {keep}");
    }
    if let Some(corruption) = args.corrupt {
        command += &format!(" --corrupt {corruption}");
    }
    if let Some(images) = args.images {
        command += &format!(" --images {images}");
    }
    command += &args.reading.given();
    command + &format!(" --report {}", path(args.report.as_deref()))
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
