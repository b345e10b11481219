//! `vitrim demo`: the whole of vitrim on drawn scenes, before the user's eyes.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use serde_json::json;
use vitrim::{VitrimError, bundled, training};
use vitrim_data::{Dataset, OnBadImage};
use vitrim_kernels::InstructionSet;
use vitrim_measure::calibrate::{
    Calibration, CalibrationOptions, calibrate, check_max_drop, grid, pilot, record,
};
use vitrim_measure::evaluate::EvalOptions;
use vitrim_measure::model::open_policy;
use vitrim_measure::statistics::Confidence;
use vitrim_measure::{Loaded, Progress};
use vitrim_prune::Policy;
use vitrim_report::gather::{About, GatherOptions, gather};
use vitrim_report::{Findings, report};
use vitrim_train::{LOG_FILE, Outcome, Run, RunFolder, Source, TrainConfig};

use super::args::DemoArgs;
use super::{App, INTERRUPTED, eval, interrupt, print, train};

/// The data set of the demo.
const DATA: &str = "scenes";
/// Images a batch.
const BATCH: usize = 64;

/// How much of everything.
struct Size {
    updates: usize,
    /// Training images that the thresholds to calibrate are chosen on.
    pilot: usize,
    /// Where those lie, see [`pilot`]: the fewer images there are, the milder a threshold must be to be certified.
    beyond: &'static [f64],
    /// Images to calibrate on, and as many others to evaluate on.
    held_out: usize,
    /// The first of those that the hand-made methods are evaluated on.
    hand_made: usize,
    /// Images that fronts are measured on.
    front: usize,
    /// Seconds to time a method for at each batch size.
    speed_seconds: f64,
}

const FULL: Size = Size {
    updates: 60,
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

pub fn run(app: &App, args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = interrupt::listen()?;
    let max_drop = check_max_drop(args.max_drop)?;
    let out = &args.out;
    let outcome = match show(app, args, max_drop, stop) {
        Err(error) if interrupt::is_interruption(&error) => Outcome::Interrupted,
        outcome => outcome?,
    };
    if outcome == Outcome::Interrupted {
        eprintln!("interrupted: {} has what is done; run the same command again to go on", out.display());
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(app: &App, args: &DemoArgs, max_drop: f64, stop: &AtomicBool) -> anyhow::Result<Outcome> {
    let size = if args.quick { QUICK } else { FULL };
    let (out, note) = (&args.out, |line: &str| app.reporter.note(line));
    let folder = RunFolder::open(out)?;
    let backbone = out.join("backbone");
    bundled::unpack(&backbone)?;
    let loaded = Loaded::open_in(&backbone, InstructionSet::current().fastest_precision())?;
    let held_out = size.held_out;
    let mut config = training(&size, args.seed);
    let stages: Vec<String> = config.stages(&loaded.spec).iter().map(ToString::to_string).collect();
    note(&format!(
        "a Vision Transformer that tells ten shapes in drawn scenes apart; each of its {} patch tokens is an \
         agent that stays, or leaves into the token that is most like it, in blocks {}",
        loaded.spec.num_patches(),
        stages.join(", "),
    ));
    config.constraint.max_accuracy_loss = max_drop;
    note(&format!(
        "1/3 the policy learns by MAPPO, {} updates of {} scenes",
        config.updates, config.images_per_update
    ));
    if learn(app, &loaded, &config, &folder, stop)? == Outcome::Interrupted {
        return Ok(Outcome::Interrupted);
    }

    let policy_folder = out.join("policy");
    note(&format!("2/3 calibration to a drop of {max_drop} pp on {held_out} other scenes"));
    let started = Instant::now();
    let policy = calibrated(app, &loaded, &policy_folder, max_drop, args.confidence, &size, stop)?;
    let calibration_seconds = started.elapsed().as_secs_f64();
    let record = record(&policy, &policy_folder)?;
    note(&record.choice);

    note(&format!("3/3 evaluation on {held_out} scenes that neither has seen"));
    let started = Instant::now();
    let test = Dataset::scenes("test")?.first(held_out);
    let options = GatherOptions {
        about: About {
            title: "vitrim demo: ten shapes in cluttered scenes".to_owned(),
            command: command(args),
            command_trains: true,
            data: DATA.to_owned(),
            split: "test".to_owned(),
        },
        run: out.clone(),
        eval: EvalOptions {
            batch: BATCH,
            workers: app.global.threads,
            images: None,
            on_bad_image: OnBadImage::Fail,
            corruption: None,
            methods: ["policy", "random", "cls-attention"]
                .map(|name| name.parse().expect("a method's name"))
                .to_vec(),
            hand_made_images: Some(size.hand_made),
            profile: None,
            speed: Some(size.speed_seconds),
        },
        front_images: size.front,
    };
    let bar = app.reporter.bar("evaluating");
    let mut watch = Progress { stop, progress: &mut |done, all| bar.set(done, all) };
    let mut findings = gather(&loaded, &policy, record.widest(), &test, &options, &mut watch)?;
    drop(bar);
    findings.seconds = vec![
        ("training".to_owned(), training_seconds(out, &config)?),
        ("calibration".to_owned(), calibration_seconds),
        ("evaluation".to_owned(), started.elapsed().as_secs_f64()),
    ];
    findings.write(out)?;
    let written = report(out)?;
    print(app, &loaded, &findings, &record, &written.page)?;
    Ok(Outcome::Finished)
}

/// The default preset, for a few updates on scenes.
fn training(size: &Size, seed: u64) -> TrainConfig {
    let mut config = TrainConfig::default_preset();
    config.updates = size.updates;
    config.seed = seed;
    config
}

/// The updates that are left.
fn learn(
    app: &App,
    loaded: &Loaded,
    config: &TrainConfig,
    folder: &RunFolder,
    stop: &AtomicBool,
) -> anyhow::Result<Outcome> {
    app.reporter.note(&training::open_run(folder, config)?);
    let source = Source {
        // Splits of scenes share no image, so that nothing needs to be hashed.
        dataset: Dataset::scenes("train")?,
        transform: loaded.transform.clone(),
        workers: app.global.threads,
        on_bad_image: OnBadImage::Fail,
    };
    let run =
        Run { id: &loaded.id, weights: None, config, source: &source, device: Default::default(), folder };
    train::learn(app, loaded, &run, stop)
}

/// The policy in `folder`, calibrated as asked: now, unless its record says that it is.
fn calibrated(
    app: &App,
    loaded: &Loaded,
    folder: &Path,
    max_drop: f64,
    confidence: Confidence,
    size: &Size,
    stop: &AtomicBool,
) -> anyhow::Result<Policy> {
    let mut policy = open_policy(folder, loaded)?;
    let as_asked = |record: Calibration| {
        (record.max_drop, record.confidence, record.front.images()) == (max_drop, confidence, size.held_out)
            && record.dtype == loaded.model.weights().precision()
    };
    if policy.calibration.is_some() && as_asked(record(&policy, folder)?) {
        return Ok(policy);
    }
    let mut options = CalibrationOptions {
        // Coarse: between them, the pilot interpolates.
        thresholds: grid().into_iter().step_by(3).collect(),
        pilot: None,
        max_drop,
        confidence,
        images: size.pilot,
        batch: BATCH,
        workers: app.global.threads,
        on_bad_image: OnBadImage::Fail,
    };
    let bar = app.reporter.bar("calibrating");
    let mut watch = Progress { stop, progress: &mut |done, all| bar.set(done, all) };
    // The policy may have learned from some of these: that moves the thresholds that are tried, not what the
    // held-out scenes then certify.
    let train = Dataset::scenes("train")?;
    let (thresholds, front) = pilot(loaded, &policy, &train, size.beyond, &options, &mut watch)?;
    (options.thresholds, options.pilot) = (thresholds, Some(front));
    options.images = size.held_out;
    let held_out = Dataset::scenes("validation")?.first(size.held_out);
    calibrate(loaded, &mut policy, (DATA, "calibration"), &held_out, &options, &mut watch)?;
    policy.save(folder).map_err(VitrimError::from)?;
    Ok(policy)
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

/// The command line that does this again.
fn command(args: &DemoArgs) -> String {
    let mut command = format!("vitrim demo --out {}", args.out.display());
    if args.quick {
        command += " --quick";
    }
    command += &format!(" --max-drop {} --confidence {}", args.max_drop, args.confidence);
    command + &format!(" --seed {}", args.seed)
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
            "report": page,
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
