//! `vitrim train`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use serde_json::json;
use vitrim::overlay;
use vitrim::training::{self, RunImages, Splits};
use vitrim_measure::Loaded;
use vitrim_measure::calibrate::{BATCH, CalibrationOptions, allowed, grid};
use vitrim_measure::images::DataParts;
use vitrim_train::{Outcome, Run, RunEvent, RunFolder, Source, TrainConfig, UpdateLog, train};
use vitrim_vit::Precision;

use super::args::TrainArgs;
use super::calibrate::{HeldOut, calibrate_folder};
use super::images::tell;
use super::{App, INTERRUPTED, interrupt, print};

pub fn run(app: &App, args: &TrainArgs) -> anyhow::Result<ExitCode> {
    let mut config = configuration(args)?;
    if args.overlay.print_config {
        print::line(overlay::to_toml(&config)?.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(model), Some(data)) = (&args.model, &args.data) else {
        return Err(anyhow!("--model and --data are needed to train"));
    };
    let stop = interrupt::listen()?;
    let loaded = Loaded::open_in(model, args.size.opening(Precision::F32))?;
    if let Some(loss) = allowed(&loaded.spec, args.loss.max_drop, args.loss.max_drift)? {
        config.constraint.max_accuracy_loss = loss;
    }
    config.check(&loaded.spec).map_err(|reason| anyhow!("configuration: {reason}"))?;
    let parts = args.reading.open(data, &loaded)?;
    let images = open_images(app, args, &loaded, &parts)?;
    let out = args.out.clone().unwrap_or_else(|| training::default_out(model, &args.preset));
    let run_folder = RunFolder::open(&out)?;
    app.reporter.note(&training::open_run(&run_folder, &config)?);
    let source = Source {
        dataset: images.train.clone(),
        transform: loaded.transform.clone(),
        workers: app.global.threads,
        on_bad_image: args.reading.images.on_bad_image(),
    };
    let weights = training::weights(&loaded, &config)?;
    let run = Run {
        id: &loaded.id,
        weights: weights.as_ref(),
        config: &config,
        source: &source,
        device: args.device,
        folder: &run_folder,
    };
    if learn(app, &loaded, &run, stop)? == Outcome::Interrupted {
        let saved = training::saved(&out, config.updates)?;
        eprintln!("interrupted: {saved}; run the same command again to go on");
        return Ok(ExitCode::from(INTERRUPTED));
    }

    tell(app, &images.train);

    let folder = out.join("policy");
    let Some(calibration) = &images.calibration else {
        return uncalibrated(app, &folder);
    };
    let options = CalibrationOptions {
        thresholds: grid(),
        pilot: None,
        max_drop: config.constraint.max_accuracy_loss,
        confidence: args.confidence,
        images: args.calibration_images,
        batch: BATCH,
        workers: app.global.threads,
        on_bad_image: args.reading.images.on_bad_image(),
    };
    let held_out = HeldOut { parts: &parts, split: &args.calibration_split, dataset: calibration };
    calibrate_folder(app, &loaded, &folder, &held_out, &options, stop)
}

/// The updates that are left, with their progress.
pub fn learn(app: &App, loaded: &Loaded, run: &Run<'_>, stop: &AtomicBool) -> anyhow::Result<Outcome> {
    let mut progress = app.reporter.training();
    let mut tell = |event: RunEvent<'_, UpdateLog>| match event {
        RunEvent::Reference(done, all) => progress.reference(done, all),
        RunEvent::Entry(log, of) => progress.update(log, of),
    };
    Ok(train(&loaded.model, run, stop, &mut tell)?)
}

/// Preset, file, `--set`, and the flags that stand for keys, the last word winning.
fn configuration(args: &TrainArgs) -> anyhow::Result<TrainConfig> {
    let preset = TrainConfig::preset(&args.preset).ok_or_else(|| {
        anyhow!("--preset {}: no such preset; use one of {}", args.preset, TrainConfig::PRESETS.join(", "))
    })?;
    let mut config = overlay::merge(&preset, args.overlay.config.as_deref(), &args.overlay.set)?;
    config.updates = args.updates.unwrap_or(config.updates);
    config.seed = args.seed.unwrap_or(config.seed);
    // --print-config has no backbone to ask which of the two is meant.
    config.constraint.max_accuracy_loss =
        args.loss.max_drop.or(args.loss.max_drift).unwrap_or(config.constraint.max_accuracy_loss);
    Ok(config)
}

/// The images of a run.
fn open_images(app: &App, args: &TrainArgs, loaded: &Loaded, parts: &DataParts) -> anyhow::Result<RunImages> {
    let bar = app.reporter.bar("hashing images");
    let calibration = (!args.no_calibrate).then_some(args.calibration_split.as_str());
    let splits = Splits { train: &args.split, calibration };
    let images = RunImages::open(loaded, parts, splits, &mut |done, all| bar.set(done, all))?;
    drop(bar);
    app.reporter.note(&images.describe(args.calibration_images));
    Ok(images)
}

fn uncalibrated(app: &App, folder: &Path) -> anyhow::Result<ExitCode> {
    if app.global.json {
        print::json(&json!({ "policy": folder, "calibration": null }))?;
    } else {
        print::line(&format!("policy: {}, not calibrated", folder.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
