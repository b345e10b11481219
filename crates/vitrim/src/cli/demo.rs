//! `vitrim demo`: training, calibration and evaluation of a policy on generated images.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use serde_json::json;
use vitrim::requests::{DemoRequest, ground, learn};
use vitrim::{VitrimError, bundled, training};
use vitrim_data::{Dataset, OnBadImage};
use vitrim_kernels::InstructionSet;
use vitrim_measure::Loaded;
use vitrim_measure::calibrate::{Calibration, CalibrationOptions, check_max_loss, grid, pilot, record};
use vitrim_measure::evaluate::EvalOptions;
use vitrim_measure::model::open_policy;
use vitrim_measure::passes::PassOptions;
use vitrim_measure::requests::{Request, calibrate_folder};
use vitrim_measure::seen::SeenImages;
use vitrim_prune::AnyPolicy;
use vitrim_report::gather::{About, GatherOptions, gather};
use vitrim_report::{Findings, report};
use vitrim_text::shown;
use vitrim_train::{Aim, LOG_FILE, Run, RunFolder, Source, TrainConfig};

use super::{App, eval, interrupt, print};

/// The data set of the demo.
const DATA: &str = "scenes";

/// Sizes of the demo's steps.
struct Size {
    updates: usize,
    /// Number of training images for the pilot, which chooses the thresholds to calibrate.
    pilot: usize,
    /// Positions of those thresholds, see [`pilot`]: with fewer images, a threshold must be milder to be certified.
    beyond: &'static [f64],
    /// Number of images to calibrate on, and number of other images to evaluate on.
    held_out: usize,
    /// Number of evaluation images for the hand-made methods (the first ones).
    hand_made: usize,
    /// Number of images for the fronts.
    front: usize,
    /// Seconds to measure the speed of a method for at each batch size.
    speed_seconds: f64,
}

const FULL: Size = Size {
    updates: 110,
    pilot: 600,
    beyond: &[0.06, 0.005],
    held_out: 20_000,
    hand_made: 4_000,
    front: 500,
    speed_seconds: 1.0,
};
const QUICK: Size = Size {
    updates: 30,
    pilot: 300,
    beyond: &[0.2, 0.1, 0.045, 0.005],
    held_out: 2_400,
    hand_made: 1_600,
    front: 200,
    speed_seconds: 0.7,
};

pub fn run(app: &App, request: &DemoRequest) -> anyhow::Result<ExitCode> {
    let stop = interrupt::listen(app.ranks)?;
    check_max_loss(request.max_drop)?;
    match show(app, request, stop) {
        Err(error) if interrupt::is_interruption(&error) => Ok(app.interrupted(&format!(
            "interrupted: {} has what is done; run the same command again to go on",
            request.out.display()
        ))),
        shown => shown.map(|()| ExitCode::SUCCESS),
    }
}

fn show(app: &App, request: &DemoRequest, stop: &AtomicBool) -> anyhow::Result<()> {
    let size = if request.quick { QUICK } else { FULL };
    let (out, note) = (&request.out, |line: &str| app.reporter.note(line));
    let backbone = out.join("backbone");
    bundled::unpack(&backbone)?;
    let loaded = Loaded::open_in(&backbone, InstructionSet::current().fastest_precision())?;
    let held_out = size.held_out;
    let mut config = training(&size, request.seed);
    let stages: Vec<String> = config.stages(&loaded.spec).iter().map(ToString::to_string).collect();
    note(&format!(
        "a Vision Transformer that tells ten shapes in generated scenes apart; each of its {} patch tokens is an \
         agent that stays, or leaves into the token that is most like it, in blocks {}",
        loaded.spec.num_patches(),
        stages.join(", "),
    ));
    config.constraint.max_accuracy_loss = request.max_drop;
    note(&format!(
        "1/3 the policy learns by MAPPO, {} updates of {} scenes",
        config.updates, config.images_per_update
    ));
    train(app, &loaded, &config, request, stop)?;

    let folder = out.join("policy");
    note(&format!("2/3 calibration to a drop of {} pp on {held_out} other scenes", request.max_drop));
    let started = Instant::now();
    let policy = calibrated(app, &loaded, &folder, request, &size, stop)?;
    let calibration_seconds = started.elapsed().as_secs_f64();
    let record = record(&policy, &folder)?;
    note(&record.choice);

    note(&format!("3/3 evaluation on {held_out} scenes that neither has seen"));
    let started = Instant::now();
    let test = Dataset::scenes("test")?.first(held_out);
    let options = GatherOptions {
        about: About {
            title: "vitrim demo: ten shapes in cluttered scenes".to_owned(),
            command: request.command_line(),
            command_trains: true,
            data: DATA.to_owned(),
            split: "test".to_owned(),
        },
        run: out.clone(),
        eval: EvalOptions {
            pass: PassOptions { workers: request.threads, ..PassOptions::default() },
            methods: ["policy", "random", "cls-attention"]
                .map(|name| name.parse().expect("a method's name"))
                .to_vec(),
            hand_made_images: Some(size.hand_made),
            profile: None,
            speed: Some(size.speed_seconds),
            fit_images: None,
            elsewhere: None,
        },
        front_images: size.front,
    };
    let seen = SeenImages::read(&folder)?;
    let mut findings = app.follow(stop, |listener| {
        gather(&loaded, (&policy, &seen), record.widest(), &test, &options, listener)
    })?;
    findings.seconds = vec![
        ("training".to_owned(), training_seconds(out, &config)?),
        ("calibration".to_owned(), calibration_seconds),
        ("evaluation".to_owned(), started.elapsed().as_secs_f64()),
    ];
    findings.write(out)?;
    let written = report(out)?;
    print(app, &loaded, &findings, &record, &written.page)?;
    Ok(())
}

/// The default preset, for a small number of updates on scenes.
fn training(size: &Size, seed: u64) -> TrainConfig {
    let mut config = TrainConfig::default_preset();
    config.updates = size.updates;
    config.seed = seed;
    config
}

/// Runs the remaining updates.
fn train(
    app: &App,
    loaded: &Loaded,
    config: &TrainConfig,
    request: &DemoRequest,
    stop: &AtomicBool,
) -> Result<(), VitrimError> {
    let folder = RunFolder::open(&request.out)?;
    app.reporter.note(&training::open_run(&folder, config)?);
    let source = Source {
        // Splits of scenes share no image.
        dataset: Dataset::scenes("train")?,
        transform: loaded.transform.clone(),
        workers: request.threads,
        on_bad_image: OnBadImage::Fail,
    };
    let grounds = [ground(loaded, &loaded.id.architecture, &source)];
    let run = Run {
        grounds: &grounds,
        aim: Aim::OneBackbone(None),
        start: None,
        config,
        device: Default::default(),
        folder: &folder,
        ranks: app.ranks,
    };
    app.follow(stop, |listener| learn(&run, None, listener)).map(drop)
}

/// The policy in `folder`, calibrated as requested: it is calibrated now, unless its record shows that it already is.
fn calibrated(
    app: &App,
    loaded: &Loaded,
    folder: &Path,
    request: &DemoRequest,
    size: &Size,
    stop: &AtomicBool,
) -> anyhow::Result<AnyPolicy> {
    let policy = open_policy(folder, loaded)?;
    let as_asked = |record: Calibration| {
        (record.max_drop, record.confidence, record.front.images())
            == (request.max_drop, request.confidence, size.held_out)
            && record.dtype == loaded.model.weights().precision()
    };
    if policy.calibration().is_some() && as_asked(record(&policy, folder)?) {
        return Ok(policy);
    }
    let pass = PassOptions { workers: request.threads, images: Some(size.pilot), ..PassOptions::default() };
    let mut options = CalibrationOptions {
        // A coarse grid: the pilot interpolates.
        settings: grid().into_iter().step_by(3).collect(),
        pilot: None,
        max_loss: request.max_drop,
        confidence: request.confidence,
        pass,
        elsewhere: None,
    };
    // The policy may have been trained on some of these images. That affects which thresholds are tried, but not what
    // the held-out scenes then certify.
    let train = Dataset::scenes("train")?;
    let held_out = Dataset::scenes("validation")?.first(size.held_out);
    app.follow(stop, |listener| {
        let (settings, front) = listener.follow("calibrating", |progress| {
            pilot(loaded, &policy, &train, size.beyond, &options, progress)
        })?;
        (options.settings, options.pilot) = (settings, Some(front));
        options.pass.images = Some(size.held_out);
        Ok(calibrate_folder(loaded, folder, (DATA, "calibration", &held_out), &options, listener)?.0)
    })
}

/// Seconds that the updates took, from the run's log, so that interruptions do not count.
fn training_seconds(out: &Path, config: &TrainConfig) -> anyhow::Result<f64> {
    let path = out.join(LOG_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let seconds = text.lines().filter_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(config.images_per_update as f64 / entry.get("images_per_s")?.as_f64()?)
    });
    Ok(seconds.sum())
}

fn print(
    app: &App,
    loaded: &Loaded,
    findings: &Findings,
    record: &Calibration,
    page: &Path,
) -> anyhow::Result<()> {
    if app.global.json {
        return print::json(&json!({
            "report": shown(page),
            "calibration": { "choice": record.choice, "certified": record.certified, "threshold": record.threshold },
            "seconds": findings.seconds,
            "evaluation": findings.evaluation,
        }));
    }
    eval::print(loaded, &findings.split, Some(&findings.read_out), &findings.evaluation)?;
    print::line("")?;
    print::line(&record.choice)?;
    let seconds = |(what, seconds): &(String, f64)| format!("{what} {seconds:.0} s");
    let seconds: Vec<String> = findings.seconds.iter().map(seconds).collect();
    print::line(&format!("{}; {}", seconds.join(", "), findings.machine))?;
    print::line(&format!("report: {}", page.display()))
}
