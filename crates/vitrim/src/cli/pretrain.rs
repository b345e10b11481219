//! `vitrim pretrain`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::json;
use vitrim::overlay;
use vitrim_data::{Preprocess, Transform};
use vitrim_measure::model::{open_checkpoint, preprocess};
use vitrim_train::pretrain::{PretrainConfig, Pretraining, pretrain, steps_done};
use vitrim_train::{Outcome, RunFolder};
use vitrim_vit::{Checkpoint, VitSpec};

use super::args::PretrainArgs;
use super::steps::{interrupted, open_run};
use super::{App, images, interrupt, print};

/// Mean and standard deviation that pixels are normalised with, in every channel.
const MEAN_AND_STD: [f32; 3] = [0.5; 3];

pub fn run(app: &App, args: &PretrainArgs) -> anyhow::Result<ExitCode> {
    let preset = PretrainConfig::preset(&args.preset)
        .ok_or_else(|| anyhow!("--preset {}: no such preset; use default or scenes", args.preset))?;
    let mut config = overlay::merge(&preset, args.run.overlay.config.as_deref(), &args.run.overlay.set)?;
    config.images = args.run.images.unwrap_or(config.images);
    config.seed = args.run.seed.unwrap_or(config.seed);
    if args.run.overlay.print_config {
        print::line(overlay::to_toml(&config)?.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    config.check().map_err(|reason| anyhow!("configuration: {reason}"))?;
    let Some(data) = &args.data else {
        return Err(anyhow!("--data is needed to train"));
    };
    let stop = interrupt::listen()?;
    let parts = args.reading.open(data)?;
    let bar = app.reporter.bar("hashing images");
    let mut hashing = |done, all| bar.set(done, all);
    let held_out = parts.named(&args.run.held_out_split, &mut hashing)?;
    let all = parts.named(&args.run.split, &mut hashing)?;
    let (train, removed) = all.without(&parts.held_out(Some(&held_out), &mut hashing)?, &mut hashing)?;
    drop(bar);
    let init = args.init.as_deref().map(|init| open_checkpoint(init, None)).transpose()?;
    let side = config.model.img_size;
    let preprocess = match &init {
        Some(init) => {
            check_geometry(init, &config.spec(train.class_names().len())?, args)?;
            preprocess(init)?
        }
        None => Preprocess {
            input_size: [3, side, side],
            crop_pct: 1.0,
            mean: MEAN_AND_STD,
            std: MEAN_AND_STD,
            ..Preprocess::default()
        },
    };
    let out = &args.out;
    let folder = RunFolder::open(out)?;
    open_run(app, &folder, &overlay::to_toml(&config)?, steps_done(out)?, config.steps())?;
    app.reporter.note(&format!(
        "{} images to train on ({removed} left out, which calibration or test also has), {} held out",
        train.len(),
        held_out.len().min(config.held_out_images)
    ));
    let run = Pretraining {
        config: &config,
        train: &train,
        held_out: &held_out,
        transform: &Transform::new(preprocess)?,
        workers: app.global.threads,
        init: init.as_ref().map(|init| &init.tensors),
        on_bad_image: args.reading.on_bad_image(),
        device: args.run.device,
        threads: rayon::current_num_threads(),
        weight_type: args.run.weights,
        folder: &folder,
    };
    let (mut progress, mut last) = (app.reporter.steps("pre-training"), None);
    let (outcome, best) = pretrain(&run, stop, &mut |log, steps| {
        last = log.held_out_top1.or(last);
        let held_out = last.map_or_else(|| "?".to_owned(), |top1| format!("{top1:.2} %"));
        let figures = format!(
            "{:.0} images/s, loss {:.3}, top-1 {:.1} %, held out {held_out}",
            log.images_per_s, log.loss, log.train_top1
        );
        progress.entry(log.step, steps, &figures, log.held_out_top1.is_some());
    })?;
    drop(progress);
    if outcome == Outcome::Interrupted {
        return Ok(interrupted(out, steps_done(out)?, config.steps()));
    }
    images::tell(app, &train);
    let model = out.join("model");
    if app.global.json {
        print::json(&json!({ "model": model, "held_out_top1": best }))?;
    } else {
        print::line(&format!("backbone: {}, {best:.2} % top-1 on held-out images", model.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses weights to start from that are not of the geometry to train.
fn check_geometry(init: &Checkpoint, spec: &VitSpec, args: &PretrainArgs) -> anyhow::Result<()> {
    if init.spec.tensor_shapes() == spec.tensor_shapes() && init.spec.img_size == spec.img_size {
        return Ok(());
    }
    let folder = args.init.as_deref().unwrap_or(Path::new("")).display();
    let of = |spec: &VitSpec| {
        let [height, width] = spec.img_size;
        let VitSpec { patch_size, dim, depth, num_classes, .. } = spec;
        format!(
            "{depth} blocks of width {dim} on {height}x{width} pixels in patches of {patch_size}, {num_classes} classes"
        )
    };
    let (its, wanted) = (of(&init.spec), of(spec));
    Err(anyhow!("--init {folder}: has {its}, but {wanted} are to be trained; set model.* and --data to fit"))
}
