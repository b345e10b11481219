//! `vitrim train`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use serde_json::json;
use vitrim::calibrate::{CalibrationOptions, grid};
use vitrim::error::write_whole;
use vitrim::parts::DataParts;
use vitrim::{Loaded, VitrimError, overlay};
use vitrim_data::Dataset;
use vitrim_train::{Outcome, Progress, Run, Source, TrainConfig, session, train};

use super::args::TrainArgs;
use super::calibrate::{BATCH, HeldOut, calibrate_folder};
use super::policy::check_max_drop;
use super::{App, INTERRUPTED, interrupt, print};

pub fn run(app: &App, args: &TrainArgs) -> anyhow::Result<ExitCode> {
    let config = configuration(args)?;
    if args.overlay.print_config {
        print::line(overlay::to_toml(&config)?.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(model), Some(data)) = (&args.model, &args.data) else {
        return Err(anyhow!("--model and --data are needed to train"));
    };
    let stop = interrupt::listen()?;
    let loaded = Loaded::open(model)?;
    config.check(&loaded.spec).map_err(|reason| anyhow!("configuration: {reason}"))?;
    let parts = DataParts::of(data)?;
    let images = Images::open(app, args, &loaded, &parts)?;
    let out = args.out.clone().unwrap_or_else(|| default_out(model, &args.preset));
    open_run(app, &out, &config)?;
    let source = Source {
        dataset: images.train.clone(),
        transform: loaded.transform.clone(),
        workers: app.global.threads,
        on_bad_image: args.on_bad_image.into(),
    };
    let run = Run { id: &loaded.id, config: &config, source: &source, device: args.device, folder: &out };
    if learn(app, &loaded, &run, stop)? == Outcome::Interrupted {
        let of = config.updates;
        let saved = session::updates_done(&out)?.map_or("nothing was saved yet".to_owned(), |done| {
            format!("update {done} of {of} is saved in {}", out.display())
        });
        eprintln!("interrupted: {saved}; run the same command again to go on");
        return Ok(ExitCode::from(INTERRUPTED));
    }

    let folder = out.join("policy");
    let Some(calibration) = &images.calibration else {
        return uncalibrated(app, &folder);
    };
    let options = CalibrationOptions {
        thresholds: grid(),
        max_drop: config.constraint.max_drop,
        confidence: args.confidence,
        images: args.calibration_images,
        batch: BATCH,
        workers: app.global.threads,
        on_bad_image: args.on_bad_image.into(),
    };
    let held_out = HeldOut { parts: &parts, split: &args.calibration_split, dataset: calibration };
    calibrate_folder(app, &loaded, &folder, &held_out, &options, stop)
}

/// The updates that are left, with their progress.
pub fn learn(app: &App, loaded: &Loaded, run: &Run<'_>, stop: &AtomicBool) -> anyhow::Result<Outcome> {
    let mut progress = app.reporter.training();
    let mut tell = |event: Progress<'_>| match event {
        Progress::Reference(done, all) => progress.reference(done, all),
        Progress::Update(log, of) => progress.update(log, of),
    };
    Ok(train(&loaded.model, run, stop, &mut tell)?)
}

/// Preset, file, `--set`, and the flags that stand for keys, the last word winning.
fn configuration(args: &TrainArgs) -> anyhow::Result<TrainConfig> {
    let preset = TrainConfig::preset(&args.preset)
        .ok_or_else(|| anyhow!("--preset {}: no such preset; use default, drop or paper", args.preset))?;
    let mut config = overlay::merge(&preset, args.overlay.config.as_deref(), &args.overlay.set)?;
    config.updates = args.updates.unwrap_or(config.updates);
    config.seed = args.seed.unwrap_or(config.seed);
    if let Some(max_drop) = args.max_drop {
        config.constraint.max_drop = check_max_drop(max_drop)?;
    }
    Ok(config)
}

/// The images of a run.
struct Images {
    train: Dataset,
    /// `None` if the policy shall stay uncalibrated.
    calibration: Option<Dataset>,
}

impl Images {
    /// Opens them, and leaves out of training what calibration or test also has.
    fn open(app: &App, args: &TrainArgs, loaded: &Loaded, parts: &DataParts) -> anyhow::Result<Self> {
        let bar = app.reporter.bar("hashing images");
        let mut progress = |done, all| bar.set(done, all);
        let all = parts.named(&args.split, &mut progress)?;
        loaded.check_classes(&parts.path(), &all)?;
        let calibration = match args.no_calibrate {
            true => None,
            false => Some(parts.named(&args.calibration_split, &mut progress)?),
        };
        if let Some(calibration) = &calibration {
            loaded.check_classes(&parts.path(), calibration)?;
        }
        let held_out = parts.held_out(calibration.as_ref(), &mut progress)?;
        let (train, removed) = all.without(&held_out, &mut progress)?;
        drop(bar);
        if train.is_empty() {
            let reason =
                "no image left to train on: all of them are held out; name another --split".to_owned();
            return Err(VitrimError::Part { data: parts.path(), reason }.into());
        }
        let count = calibration.as_ref().map_or(0, Dataset::len).min(args.calibration_images);
        app.reporter.note(&format!(
            "{} images to train on ({removed} left out, which calibration or test also has), {count} to calibrate on",
            train.len()
        ));
        Ok(Images { train, calibration })
    }
}

/// `runs/` and the model's name, and the preset's unless it is the default.
fn default_out(model: &Path, preset: &str) -> PathBuf {
    let absolute = model.canonicalize().unwrap_or_else(|_| model.to_owned());
    let name = absolute.file_name().unwrap_or_default().to_string_lossy();
    let suffix = if preset == "default" { String::new() } else { format!("-{preset}") };
    Path::new("runs").join(format!("{name}{suffix}"))
}

/// Says whether the run goes on, and writes down the configuration of a new one.
pub fn open_run(app: &App, out: &Path, config: &TrainConfig) -> anyhow::Result<()> {
    let shown = out.display();
    match session::updates_done(out)? {
        None => {
            std::fs::create_dir_all(out)
                .map_err(|source| VitrimError::Write { path: out.to_owned(), source })?;
            write_whole(&out.join("config.toml"), overlay::to_toml(config)?.as_bytes())?;
            app.reporter.note(&format!("training in {shown}"));
        }
        Some(done) if done >= config.updates => {
            app.reporter.note(&format!("{shown} has all {done} updates; only calibrating"));
        }
        Some(done) => {
            app.reporter.note(&format!("going on in {shown} from update {done} of {}", config.updates));
        }
    }
    Ok(())
}

fn uncalibrated(app: &App, folder: &Path) -> anyhow::Result<ExitCode> {
    if app.global.json {
        print::json(&json!({ "policy": folder, "calibration": null }))?;
    } else {
        print::line(&format!("policy: {}, not calibrated", folder.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
