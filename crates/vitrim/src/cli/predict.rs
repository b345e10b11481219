//! `vitrim predict`.

use std::path::PathBuf;
use std::process::ExitCode;

use vitrim::Loaded;
use vitrim::features::Features;
use vitrim::predict::{Prediction, Question, Seen, predict};
use vitrim_data::list_images;
use vitrim_hub::{Kind, local};
use vitrim_prune::Pruner;

use super::args::{BadImage, PredictArgs};
use super::{App, policy, print};

/// Images that are decoded and classified at once.
const BATCH: usize = 16;

pub fn run(app: &App, args: &PredictArgs) -> anyhow::Result<ExitCode> {
    let loaded = Loaded::open_in(&args.model, args.size.opening(args.dtype))?;
    let policy = policy::open(app, &args.policy, &loaded)?;
    let mut pruner = policy::pruner(&loaded, policy.as_ref());
    let patches = loaded.spec.num_patches();
    let question = match args.features {
        Some(kind) => Question::Features(kind.into()),
        None => Question::Classes(args.top_k),
    };
    for_each_image(app, &loaded, pruner.as_mut(), &args.images, question, args.on_bad_image, |seen| {
        if app.global.json { print::json(&seen.prediction) } else { print(&seen.prediction, patches) }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs every image below `inputs` and hands it to `then`, in order.
pub fn for_each_image(
    app: &App,
    loaded: &Loaded,
    pruner: &mut dyn Pruner,
    inputs: &[PathBuf],
    question: Question,
    on_bad_image: BadImage,
    mut then: impl FnMut(&Seen) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut paths = Vec::new();
    for input in inputs {
        paths.extend(list_images(local(input, Kind::Data)?)?);
    }
    for paths in paths.chunks(BATCH) {
        for seen in predict(loaded, pruner, paths, question)? {
            match (seen, on_bad_image) {
                (Ok(seen), _) => then(&seen)?,
                (Err(error), BadImage::Skip) => app.reporter.note(&format!("skipped: {error}")),
                (Err(error), BadImage::Fail) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn print(prediction: &Prediction, patches: usize) -> anyhow::Result<()> {
    print::line(&prediction.image.display().to_string())?;
    for class in &prediction.classes {
        let name = class.name.as_ref().map_or_else(|| format!("class {}", class.class), Clone::clone);
        print::line(&format!("  {:5.1} %  {name}", 100.0 * class.probability))?;
    }
    match &prediction.features {
        None => (),
        Some(Features::Pooled(values)) => print::line(&format!("  {} features", values.len()))?,
        Some(Features::Tokens(tokens)) => {
            let width = tokens.first().map_or(0, |token| token.features.len());
            print::line(&format!("  {} tokens of {width} features", tokens.len()))?;
        }
    }
    let stages: Vec<String> = prediction.stages.iter().map(|s| s.positions.len().to_string()).collect();
    let kept = if stages.is_empty() { String::new() } else { format!(", {} left", stages.join(", ")) };
    print::line(&format!("  {patches} patches{kept}; {:.3} GMACs", prediction.gmacs))
}
