//! `vitrim predict`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vitrim_data::{DataError, Dataset, OnBadImage, list_images};
use vitrim_hub::{Kind, local};
use vitrim_measure::Loaded;
use vitrim_measure::model::features::Features;
use vitrim_measure::predict::{Given, Prediction, Question, Seen, predict};
use vitrim_measure::requests::{ImageArgs, PredictRequest};
use vitrim_prune::Pruner;

use super::{App, print};

/// Images per batch.
const BATCH: usize = 16;

pub fn run(app: &App, request: &PredictRequest) -> anyhow::Result<ExitCode> {
    let loaded = app.open(&request.model, request.backbone.opening(request.dtype))?;
    let pruner = app.show(|listener| request.policy.pruner(request.keep.keep, &loaded, listener))?;
    let (grid, question) = (loaded.spec.grid(), request.question(loaded.spec.depth)?);
    if let (Question::Classes(_), Some(assumption)) = (question, loaded.assumption()) {
        app.reporter.note(&format!("note: {assumption}"));
    }
    for_each_image(app, &loaded, pruner.as_ref(), &request.images, question, &request.reading, |seen| {
        if app.global.json { print::json(&seen.prediction) } else { print(&seen.prediction, grid) }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs every image in `inputs` (files, folders, data sets) and calls `then` with it, in order.
pub fn for_each_image(
    app: &App,
    loaded: &Loaded,
    pruner: &dyn Pruner,
    inputs: &[PathBuf],
    question: Question,
    reading: &ImageArgs,
    mut then: impl FnMut(&Seen) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut left_out = 0;
    let mut run = |batch: &mut Vec<Given>| -> anyhow::Result<()> {
        for seen in predict(loaded, pruner, std::mem::take(batch), reading.decoding(), question)? {
            match (seen, reading.on_bad_image) {
                (Ok(seen), _) => then(&seen)?,
                (Err(error), OnBadImage::Skip) => {
                    left_out += 1;
                    app.reporter.note(&format!("left out: {error}"));
                }
                (Err(error), OnBadImage::Fail) => return Err(error.into()),
            }
        }
        Ok(())
    };
    for input in inputs {
        let read = each_of(app, &local(input, Kind::Data)?, &mut |given| {
            batch.push(given);
            if batch.len() < BATCH { Ok(()) } else { run(&mut batch) }
        });
        if let Err(error) = read {
            // Images that were complete before a pipe broke are answered.
            run(&mut batch)?;
            return Err(error);
        }
    }
    run(&mut batch)?;
    if left_out > 1 {
        app.reporter.note(&format!("left out: {left_out} images in all"));
    }
    Ok(())
}

/// Calls `then` with the images at `path`: image files, or those of every split of a data set.
fn each_of(app: &App, path: &Path, then: &mut dyn FnMut(Given) -> anyhow::Result<()>) -> anyhow::Result<()> {
    // A folder with both images and shards is read as images.
    let files = match path.is_dir() {
        true => match list_images(path) {
            Err(DataError::Empty { .. }) => None,
            files => Some(files?),
        },
        false if Dataset::packs(path)? => None,
        false => Some(list_images(path)?),
    };
    if let Some(files) = files {
        return files.into_iter().try_for_each(|file| then(Given::File(file)));
    }
    for split in Dataset::splits(path)? {
        let mut taken = Ok(());
        let dataset = Dataset::open(path, Some(&split))?;
        for note in dataset.layout_notes() {
            app.reporter.note(&format!("note: {note}"));
        }
        dataset.unlabelled().for_each_encoded(&mut |name, bytes| {
            taken = then(Given::Encoded(name, bytes));
            taken.is_ok()
        })?;
        taken?;
    }
    Ok(())
}

/// Prints `prediction`; `grid` are the rows and columns of patches if the image has no grid of its own.
fn print(prediction: &Prediction, grid: [usize; 2]) -> anyhow::Result<()> {
    print::line(&prediction.image.display().to_string())?;
    for class in &prediction.classes {
        let name = class.name.as_ref().map_or_else(|| format!("class {}", class.class), Clone::clone);
        print::line(&format!("  {:5.1} %  {name}", 100.0 * class.probability))?;
    }
    match &prediction.features {
        None => (),
        Some(Features::Pooled(values)) => print::line(&format!("  {} features", values.len()))?,
        Some(Features::Embedding(values)) => {
            print::line(&format!("  an embedding of {} values", values.len()))?;
        }
        Some(Features::Tokens(tokens)) => {
            let width = tokens.first().map_or(0, |token| token.features.len());
            print::line(&format!("  {} tokens of {width} features", tokens.len()))?;
        }
    }
    let stages: Vec<String> = prediction.stages.iter().map(|s| s.positions.len().to_string()).collect();
    let kept = if stages.is_empty() { String::new() } else { format!(", {} left", stages.join(", ")) };
    let patches = match prediction.grid {
        Some([rows, columns]) => format!("{rows} x {columns}"),
        None => grid.iter().product::<usize>().to_string(),
    };
    print::line(&format!("  {patches} patches{kept}; {:.3} GMACs", prediction.gmacs))
}
