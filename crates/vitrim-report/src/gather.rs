//! Measures on held-out images (with `vitrim-measure`) everything that a report shows, and writes it to the run
//! folder.

use std::path::{Path, PathBuf};

use vitrim_data::Dataset;
use vitrim_measure::evaluate::{EvalOptions, evaluate};
use vitrim_measure::examples::{Example, examples};
use vitrim_measure::front::Front;
use vitrim_measure::fronts::method_fronts;
use vitrim_measure::model::Loaded;
use vitrim_measure::progress::Listener;
use vitrim_measure::seen::{SeenImages, hashes_at};
use vitrim_measure::speed::machine;
use vitrim_prune::AnyPolicy;

use crate::error::{ReportError, Result};
use crate::findings::{Findings, Pictured};
use crate::picture::{captions, kept_tokens, patches_of};
use crate::visualize::png;

/// Folder of the pictures in a run folder.
const GALLERY: &str = "gallery";

/// Title and origin of the figures.
#[derive(Clone, Debug)]
pub struct About {
    /// The report's title.
    pub title: String,
    /// The command that prints the figures.
    pub command: String,
    /// Whether that command also trained and calibrated the policy.
    pub command_trains: bool,
    /// The data set.
    pub data: String,
    /// The part of the data set to evaluate.
    pub split: String,
}

/// What to measure, and where to write it.
#[derive(Clone, Debug)]
pub struct GatherOptions<'a> {
    /// Title and origin of the figures.
    pub about: About,
    /// The run folder for the pictures.
    pub run: PathBuf,
    /// The comparison at the policy's cost; fronts and pictures use the same images, with the same corruption.
    pub eval: EvalOptions<'a>,
    /// Number of images for the fronts: the first of the data set.
    pub front_images: usize,
}

/// Measures `policy`, which has seen `seen`, on `dataset` and draws the gallery into the run folder.
///
/// `front` is a front of the policy on other images ([`vitrim_measure::Calibration::widest`]): it gives the
/// settings, and the keep ratios of the hand-made methods.
///
/// # Errors
/// If images cannot be read, there are none, a picture cannot be written, or the work was asked to stop.
pub fn gather(
    loaded: &Loaded,
    (policy, seen): (&AnyPolicy, &SeenImages),
    front: &Front,
    dataset: &Dataset,
    options: &GatherOptions<'_>,
    listener: &mut Listener<'_>,
) -> Result<Findings> {
    let eval = &options.eval;
    let (evaluation, details) =
        listener.follow("evaluating", |progress| evaluate(loaded, dataset, Some(policy), eval, progress))?;
    let first = eval.pass.first(options.front_images);
    let fits = listener.follow("fitting", |progress| eval.fits(loaded, &mut progress.tell()))?;
    let fronts = listener.follow("measuring fronts", |progress| {
        method_fronts(loaded, policy, front, dataset, (&eval.methods, &fits), &first, progress)
    })?;
    let seen = if *seen == SeenImages::default() {
        None
    } else {
        let hashes = hashes_at(dataset, &details.indices, &mut listener.steps("hashing images"))?;
        hashes.and_then(|hashes| seen.overlap(&hashes))
    };
    let sizes = details.indices.iter().map(|index| dataset.object_size(*index)).collect();
    let mut gallery = Vec::new();
    for example in examples(loaded, policy, dataset, &details, eval.pass.corruption)? {
        gallery.push(pictured(loaded, dataset, &example, &gallery, &options.run)?);
    }
    // A method's last site is none where nothing that it does there changes the answer.
    let sites = policy.sites(&loaded.spec)?;
    let stages = sites.into_iter().take(details.keep_maps.len()).map(|site| site.block).collect();
    let About { title, command, command_trains, data, split } = options.about.clone();
    Ok(Findings {
        title,
        command,
        command_trains,
        model: loaded.origin.clone(),
        dtype: Some(loaded.model.weights().precision().to_string()),
        data,
        split,
        seen,
        read_out: policy.dial().to_string(),
        machine: machine::describe(),
        seconds: Vec::new(),
        evaluation,
        fronts,
        grid: loaded.spec.grid(),
        stages,
        keep_maps: details.keep_maps,
        costs: details.costs,
        object_sizes: sizes,
        gallery,
    })
}

/// Draws `example` into the run folder, numbered after the pictures `before`.
fn pictured(
    loaded: &Loaded,
    dataset: &Dataset,
    example: &Example,
    before: &[Pictured],
    run_folder: &Path,
) -> Result<Pictured> {
    let group = example.group;
    let number = before.iter().filter(|pictured| pictured.group == group).count() + 1;
    let picture = PathBuf::from(GALLERY).join(format!("{group}-{number}.png"));
    let patch = loaded.spec.patch_size as u32;
    let lines = captions(&example.kept, patches_of(&example.crop, patch));
    let drawn = kept_tokens(&example.crop, patch, &example.kept, &lines)?;
    let folder = run_folder.join(GALLERY);
    std::fs::create_dir_all(&folder).map_err(|source| ReportError::Write { path: folder, source })?;
    vitrim_durable::replace(&run_folder.join(&picture), &png(&drawn)?)?;
    Ok(Pictured { group, picture, caption: caption(loaded, dataset, example), cost: example.cost })
}

/// The caption of `example`.
fn caption(loaded: &Loaded, dataset: &Dataset, example: &Example) -> String {
    let name = |class: usize| {
        let of_data = || dataset.class_names().get(class).cloned();
        let named = match loaded.class_names.is_empty() {
            true => of_data().or_else(|| loaded.class_name(class)),
            false => loaded.class_name(class),
        };
        named.unwrap_or_else(|| format!("class {class}"))
    };
    let mut caption = dataset.name(example.index);
    if let Some(label) = dataset.label(example.index) {
        caption = format!("{caption}: {}", name(label as usize));
    }
    if let Some(size) = dataset.object_size(example.index) {
        caption = format!("{caption}, {size:.0} px across");
    }
    if let Some(class) = example.class {
        caption = format!("{caption}; taken for {}", name(class));
    }
    caption
}
