//! `vitrim pretrain`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::json;
use vitrim::error::write_whole;
use vitrim::loaded::{open_checkpoint, preprocess};
use vitrim::{VitrimError, overlay};
use vitrim_data::{Preprocess, Transform};
use vitrim_train::Outcome;
use vitrim_train::pretrain::{PretrainConfig, Pretraining, pretrain, steps_done};
use vitrim_vit::{Checkpoint, VitSpec};

use super::args::PretrainArgs;
use super::{App, INTERRUPTED, images, interrupt, print};

/// Mean and standard deviation that pixels are normalised with, in every channel.
const MEAN_AND_STD: [f32; 3] = [0.5; 3];

pub fn run(app: &App, args: &PretrainArgs) -> anyhow::Result<ExitCode> {
    let preset = PretrainConfig::preset(&args.preset)
        .ok_or_else(|| anyhow!("--preset {}: no such preset; use default or scenes", args.preset))?;
    let mut config = overlay::merge(&preset, args.overlay.config.as_deref(), &args.overlay.set)?;
    config.images = args.images.unwrap_or(config.images);
    config.seed = args.seed.unwrap_or(config.seed);
    if args.overlay.print_config {
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
    let held_out = parts.named(&args.held_out_split, &mut hashing)?;
    let all = parts.named(&args.split, &mut hashing)?;
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
    match steps_done(out)? {
        None => {
            std::fs::create_dir_all(out)
                .map_err(|source| VitrimError::Write { path: out.clone(), source })?;
            write_whole(&out.join("config.toml"), overlay::to_toml(&config)?.as_bytes())?;
        }
        Some(done) => {
            let (shown, steps) = (out.display(), config.steps());
            app.reporter.note(&format!("going on in {shown} from step {done} of {steps}"));
        }
    }
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
        device: args.device,
        threads: rayon::current_num_threads(),
        weight_type: args.weights.into(),
        folder: out,
    };
    let mut progress = app.reporter.pretraining();
    let (outcome, best) = pretrain(&run, stop, &mut |entry, steps| progress.entry(entry, steps))?;
    drop(progress);
    if outcome == Outcome::Interrupted {
        let done = steps_done(out)?.unwrap_or(0);
        let (shown, steps) = (out.display(), config.steps());
        eprintln!(
            "interrupted: step {done} of {steps} is saved in {shown}; run the same command again to go on"
        );
        return Ok(ExitCode::from(INTERRUPTED));
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
