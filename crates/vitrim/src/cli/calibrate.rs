//! `vitrim calibrate`, and the end of `vitrim train`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use serde_json::json;
use vitrim::VitrimError;
use vitrim_data::Dataset;
use vitrim_hub::is_reference;
use vitrim_measure::MeasureError;
use vitrim_measure::calibrate::{BATCH, CalibrationOptions, MAX_DROP, allowed, calibrate, grid, record};
use vitrim_measure::front::{Choice, Verdict};
use vitrim_measure::images::DataParts;
use vitrim_measure::model::open_policy;
use vitrim_measure::{Loaded, Progress};
use vitrim_prune::Policy;

use super::args::CalibrateArgs;
use super::{App, INTERRUPTED, images, interrupt, print};

/// Held-out images, and what they are called.
pub struct HeldOut<'a> {
    pub parts: &'a DataParts,
    pub split: &'a str,
    pub dataset: &'a Dataset,
}

pub fn run(app: &App, args: &CalibrateArgs) -> anyhow::Result<ExitCode> {
    if is_reference(&args.policy) {
        let reason = "the calibrated policy cannot be written there; give a copy in a folder of yours".into();
        return Err(MeasureError::Policy { path: args.policy.clone(), reason }.into());
    }
    let stop = interrupt::listen()?;
    let loaded = Loaded::open_in(&args.model, args.size.opening(args.dtype))?;
    let policy = open_policy(&args.policy, &loaded)?;
    let before = || record(&policy, &args.policy).map(|record| record.max_drop).ok();
    let given = allowed(&loaded.spec, args.loss.max_drop, args.loss.max_drift)?;
    let max_drop = given.or_else(before).unwrap_or(MAX_DROP);
    let parts = args.reading.open(&args.data, &loaded)?;
    let bar = app.reporter.bar("hashing images");
    let dataset = parts.named(&args.split, &mut |done, all| bar.set(done, all))?;
    drop(bar);
    loaded.check_classes(&parts.path(), &dataset)?;
    let options = CalibrationOptions {
        thresholds: grid(),
        pilot: None,
        max_drop,
        confidence: args.confidence,
        images: args.calibration_images,
        batch: BATCH,
        workers: app.global.threads,
        on_bad_image: args.reading.images.on_bad_image(),
    };
    let held_out = HeldOut { parts: &parts, split: &args.split, dataset: &dataset };
    calibrate_folder(app, &loaded, &args.policy, &held_out, &options, stop)
}

/// Calibrates the policy in `folder` and prints the answer.
pub fn calibrate_folder(
    app: &App,
    loaded: &Loaded,
    folder: &Path,
    held_out: &HeldOut<'_>,
    options: &CalibrationOptions,
    stop: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let mut policy = open_policy(folder, loaded)?;
    let data = held_out.parts.path();
    let bar = app.reporter.bar("calibrating");
    let mut progress = |done, all| bar.set(done, all);
    let place = (data.as_str(), held_out.split);
    let mut watch = Progress { stop, progress: &mut progress };
    let answer = calibrate(loaded, &mut policy, place, held_out.dataset, options, &mut watch);
    drop(bar);
    images::tell(app, held_out.dataset);
    match answer {
        Err(MeasureError::Interrupted) => {
            let folder = folder.display();
            eprintln!("interrupted: {folder} is as it was; run the same command again to calibrate it");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error.into()),
        Ok(choice) => {
            policy.save(folder).map_err(VitrimError::from)?;
            print(app, folder, &policy, &choice)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print(app: &App, folder: &Path, policy: &Policy, choice: &Choice) -> anyhow::Result<()> {
    let read_out = policy.read_out.to_string();
    if app.global.json {
        return print::json(
            &json!({ "policy": folder, "read_out": read_out, "calibration": policy.calibration }),
        );
    }
    let record = record(policy, folder)?;
    let row = |point: &vitrim_measure::front::FrontPoint| -> anyhow::Result<Vec<String>> {
        let loss = point.loss()?;
        Ok(vec![
            point.setting.to_string(),
            format!("{:.1}", 100.0 * point.cost),
            format!("{:.2}", loss.measured()),
            format!("{:.2}", loss.upper_bound(choice.confidence)),
            format!("{:.4}", point.fidelity),
            print::ratios(&point.keep_ratio),
        ])
    };
    // Of thresholds that decide alike, the last speaks for all.
    let points = record.front.points();
    let alike = |i: usize| points.get(i + 1).is_some_and(|next| next.keep_ratio == points[i].keep_ratio);
    let shown = (0..points.len()).filter(|i| !alike(*i)).map(|i| row(&points[i]));
    let rows = shown.collect::<anyhow::Result<_>>()?;
    print::table(
        &["threshold", "of dense %", choice.measure.header(), "upper bound", "D", "kept after stage"],
        rows,
    )?;
    print::line("")?;
    print::line(&choice.to_string())?;
    if !record.certified {
        print::line("the policy is set to keep everything, as the dense model does")?;
    } else if let Verdict::Certified(chosen) = choice.verdict
        && chosen.cost >= 1.0
    {
        print::line("this setting saves nothing: train for longer, or allow a larger drop")?;
    }
    print::line(&format!("policy: {}, read out by {read_out}", folder.display()))
}
