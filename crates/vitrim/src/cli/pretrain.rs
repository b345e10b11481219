//! `vitrim pretrain`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use serde_json::{Value, json};
use vitrim::overlay;
use vitrim::requests::PretrainRequest;
use vitrim::training::{ALIKE, facts_of_program, facts_of_run, open_run_of_steps};
use vitrim_data::{BackboneClasses, CropStart, Preprocess, Transform};
use vitrim_measure::Listener;
use vitrim_measure::model::{open_checkpoint, preprocess};
use vitrim_measure::progress::Event;
use vitrim_measure::requests::{note_opened, note_reading};
use vitrim_text::shown;
use vitrim_train::pretrain::{Pretraining, pretrain, steps_done};
use vitrim_train::{Outcome, RunFolder};
use vitrim_vit::{Checkpoint, VitSpec};

use super::{App, interrupt, print};

/// Mean and standard deviation for normalising the pixels, in every channel.
const MEAN_AND_STD: [f32; 3] = [0.5; 3];

pub fn run(app: &App, request: &PretrainRequest) -> anyhow::Result<ExitCode> {
    let config = request.configuration()?;
    if request.run.overlay.print_config {
        print::line(overlay::to_toml(&config)?.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    config.check().map_err(|reason| anyhow!("configuration: {reason}"))?;
    let Some(data) = &request.data else {
        return Err(anyhow!("--data is needed to train"));
    };
    let stop = interrupt::listen(app.ranks)?;
    let parts = request.reading.open(data)?;
    let progress = &mut app.reporter.show();
    let mut listener = Listener { stop, tell: &mut |event| progress.event(event) };
    let mut hashing = listener.steps("hashing images");
    let held_out = parts.named(&request.run.held_out_split, &mut hashing)?;
    let all = parts.named(&request.run.split, &mut hashing)?;
    let (train, removed) = all.without(&parts.held_out(Some(&held_out), &mut hashing)?, &mut hashing)?;
    drop(hashing);
    // The classes are those of the training images: a held-out split may lack one, or name another.
    let names = train.class_names();
    let classes = BackboneClasses::new(names.len(), names.iter().map(String::as_str));
    let held_out =
        if names.is_empty() { held_out } else { held_out.labelled_for(&Arc::new(classes), None)? };
    note_opened([&train, &held_out], &mut listener);
    let init = request.init.as_deref().map(|init| open_checkpoint(init, None)).transpose()?;
    let side = config.model.img_size;
    let preprocess = match &init {
        Some(init) => {
            check_geometry(init, &config.spec(train.class_names().len())?, request)?;
            // The crop as timm has it, whose configuration is written.
            Preprocess { crop_start: CropStart::Rounded, ..preprocess(init)? }
        }
        None => Preprocess {
            input_size: [3, side, side],
            crop_pct: 1.0,
            mean: MEAN_AND_STD,
            std: MEAN_AND_STD,
            ..Preprocess::default()
        },
    };
    let (out, toml) = (&request.out, overlay::to_toml(&config)?);
    let mut facts = facts_of_program();
    facts.extend(facts_of_run(&train, Some(&held_out), &toml));
    let start = init.as_ref().map(|init| init.tensors.fingerprint(&init.spec)).transpose()?;
    facts.push(("start", start.unwrap_or_default()));
    app.ranks.agree(&facts, ALIKE)?;
    let folder = RunFolder::among(app.ranks, out)?;
    if let Some(line) = open_run_of_steps(&folder, &toml, config.steps(), steps_done, app.ranks)? {
        listener.note(&line);
    }
    listener.note(&format!(
        "{} images to train on ({removed} left out, which calibration or test also has), {} held out",
        train.len(),
        held_out.len().min(config.held_out_images)
    ));
    let run = Pretraining {
        config: &config,
        train: &train,
        held_out: &held_out,
        transform: &Transform::new(preprocess)?,
        workers: request.threads,
        init: init.as_ref().map(|init| &init.tensors),
        on_bad_image: request.reading.on_bad_image,
        device: request.run.device,
        ranks: app.ranks,
        weight_type: request.run.weights,
        folder: &folder,
    };
    let mut last = None;
    let (outcome, best) = pretrain(&run, stop, &mut |log, all| {
        last = log.held_out_top1.or(last);
        let held_out = last.map_or_else(|| "?".to_owned(), |top1| format!("{top1:.2} %"));
        let line = format!(
            "{:.0} images/s, loss {:.3}, top-1 {:.1} %, held out {held_out}",
            log.images_per_s, log.loss, log.train_top1
        );
        let (done, evaluated) = (log.step, log.held_out_top1.is_some());
        let entry = Event::Entry { unit: "step", done, all, line: &line, figures: &Value::Null, evaluated };
        (listener.tell)(entry);
    })?;
    if outcome == Outcome::Interrupted {
        let done = if app.ranks.is_first() { steps_done(out)? } else { None }.unwrap_or(0);
        let (all, shown) = (config.steps(), out.display());
        return Ok(app.interrupted(&format!(
            "interrupted: step {done} of {all} is saved in {shown}; run the same command again to go on"
        )));
    }
    note_reading(&train, &mut listener);
    if !app.ranks.is_first() {
        return Ok(ExitCode::SUCCESS);
    }
    let model = out.join("model");
    if app.global.json {
        print::json(&json!({ "model": shown(&model), "held_out_top1": best }))?;
    } else {
        print::line(&format!("backbone: {}, {best:.2} % top-1 on held-out images", model.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An error if the initial weights `init` do not have the geometry to train.
fn check_geometry(init: &Checkpoint, spec: &VitSpec, request: &PretrainRequest) -> anyhow::Result<()> {
    if init.spec.tensor_shapes() == spec.tensor_shapes() && init.spec.img_size == spec.img_size {
        return Ok(());
    }
    let folder = request.init.as_deref().unwrap_or(Path::new("")).display();
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
