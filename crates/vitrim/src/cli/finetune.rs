//! `vitrim finetune`.

use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::json;
use vitrim::overlay;
use vitrim::training::{RunImages, Splits, describe_finetuning};
use vitrim_measure::Loaded;
use vitrim_measure::model::open_checkpoint;
use vitrim_train::finetune::{FinetuneConfig, Finetuning, HeldOut, finetune, steps_done};
use vitrim_train::{Outcome, RunFolder};
use vitrim_vit::Precision;

use super::args::FinetuneArgs;
use super::steps::{interrupted, open_run};
use super::{App, images, interrupt, policy, print};

pub fn run(app: &App, args: &FinetuneArgs) -> anyhow::Result<ExitCode> {
    let mut config = overlay::merge(
        &FinetuneConfig::default(),
        args.run.overlay.config.as_deref(),
        &args.run.overlay.set,
    )?;
    config.images = args.run.images.unwrap_or(config.images);
    config.seed = args.run.seed.unwrap_or(config.seed);
    if args.run.overlay.print_config {
        print::line(overlay::to_toml(&config)?.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    config.check().map_err(|reason| anyhow!("configuration: {reason}"))?;
    let (Some(model), Some(data)) = (&args.model, &args.data) else {
        return Err(anyhow!("--model and --data are needed to train"));
    };
    if args.policy.policy.is_none() && !args.dense {
        return Err(anyhow!(
            "--policy names the policy to train under; --dense trains the control without one"
        ));
    }
    let stop = interrupt::listen()?;
    let loaded = Loaded::open_in(model, Precision::F32)?;
    let policy = policy::open(app, &args.policy, args.keep.keep, &loaded)?;
    let checkpoint = open_checkpoint(model, None)?;
    let parts = args.reading.open(data, &loaded)?;
    let bar = app.reporter.bar("hashing images");
    let splits = Splits { train: &args.run.split, calibration: Some(&args.run.held_out_split) };
    let found = RunImages::open(&loaded, &parts, splits, &mut |done, all| bar.set(done, all))?;
    drop(bar);
    let held_out = found.calibration.as_ref().expect("asked for");
    let out = &args.out;
    let folder = RunFolder::open(out)?;
    open_run(app, &folder, &overlay::to_toml(&config)?, steps_done(out)?, config.steps())?;
    app.reporter.note(&found.describe_held_out(config.held_out_images));
    let run = Finetuning {
        config: &config,
        checkpoint: &checkpoint,
        policy: policy.as_ref(),
        train: &found.train,
        held_out,
        transform: &loaded.transform,
        workers: app.global.threads,
        on_bad_image: args.reading.images.on_bad_image(),
        device: args.run.device,
        threads: rayon::current_num_threads(),
        weight_type: args.run.weights,
        folder: &folder,
    };
    let (mut progress, mut last) = (app.reporter.steps("fine-tuning"), None);
    let (outcome, best) = finetune(&run, stop, &mut |log, steps| {
        last = log.held_out.or(last);
        progress.entry(log.step, steps, &describe_finetuning(log, last), log.held_out.is_some());
    })?;
    drop(progress);
    if outcome == Outcome::Interrupted {
        return Ok(interrupted(out, steps_done(out)?, config.steps()));
    }
    images::tell(app, &found.train);
    tell(app, args, best)?;
    Ok(ExitCode::SUCCESS)
}

fn tell(app: &App, args: &FinetuneArgs, best: Option<HeldOut>) -> anyhow::Result<()> {
    let model = args.out.join("model");
    let policy = (!args.dense).then(|| args.out.join("policy"));
    if app.global.json {
        return print::json(&json!({ "model": model, "policy": policy, "held_out": best }));
    }
    if let Some(best) = best {
        let cost = format!("{:.1} % of the dense MACs", 100.0 * best.cost);
        print::line(&match best.top1.zip(best.teacher_top1) {
            Some((now, before)) => format!(
                "held-out images: {now:.2} % top-1 at {cost}, D {:.4}; the dense model before: {before:.2} %",
                best.divergence
            ),
            None => format!(
                "held-out images: a drift of {:.2} % from the dense model's features before, at {cost}",
                100.0 * best.divergence
            ),
        })?;
    }
    print::line(&format!("backbone: {}", model.display()))?;
    match policy {
        Some(policy) => {
            print::line(&format!("policy: {}, not calibrated on these weights", policy.display()))
        }
        None => Ok(()),
    }
}
