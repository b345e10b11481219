//! Everything that a report shows of held-out images, measured on them and written into the run folder.

use std::path::{Path, PathBuf};

use vitrim_data::{Dataset, Loader, LoaderOptions, Order};
use vitrim_measure::MeasureError;
use vitrim_measure::evaluate::{Details, EvalOptions, evaluate};
use vitrim_measure::front::{Front, FrontPoint};
use vitrim_measure::metrics::Metrics;
use vitrim_measure::model::Loaded;
use vitrim_measure::progress::Progress;
use vitrim_measure::speed::machine;
use vitrim_prune::Method;
use vitrim_prune::{LearnedPruner, Policy, Pruned, Pruner, ReadOut, first_site, run, run_from};
use vitrim_vit::{Backbone, PixelBatch, Site, Taps, Want};

use crate::error::{ReportError, Result};
use crate::findings::{Findings, Group, MethodFront, Pictured};
use crate::picture::{captions, kept_tokens};
use crate::visualize::png;

/// Points of each method's front at most.
const FRONT_POINTS: usize = 7;
/// Settings from here on keep nearly everything, and say nothing about a front.
const NEARLY_DENSE: f64 = 0.98;
/// The folder of the pictures in a run folder.
const GALLERY: &str = "gallery";
/// Where cheap, typical and expensive images are taken from, as shares of all images ranked by cost.
const RANKS: [(Group, [f64; 3]); 3] = [
    (Group::Cheap, [0.01, 0.03, 0.05]),
    (Group::Typical, [0.48, 0.50, 0.52]),
    (Group::Expensive, [0.95, 0.97, 0.99]),
];

/// What the figures are called, and where they come from.
#[derive(Clone, Debug)]
pub struct About {
    /// The report's title.
    pub title: String,
    /// The command that prints them.
    pub command: String,
    /// Whether that command also trained and calibrated the policy.
    pub command_trains: bool,
    /// The data set.
    pub data: String,
    /// The part of it that is evaluated on.
    pub split: String,
}

/// What to measure, and where to leave it.
#[derive(Clone, Debug)]
pub struct GatherOptions {
    /// What the figures are called.
    pub about: About,
    /// The run folder that pictures are drawn into.
    pub run: PathBuf,
    /// The comparison at the policy's cost.
    pub eval: EvalOptions,
    /// Images that fronts are measured on: the first of the data set.
    pub front_images: usize,
}

/// Measures `policy` on `dataset` and draws the gallery into the run folder.
///
/// `front` is one of the policy's on other images ([`vitrim_measure::calibrate::Calibration::widest`]): its thresholds, and the keep ratios at which
/// the hand-made methods run beside them.
///
/// # Errors
/// If images cannot be read, there are none, a picture cannot be written, or it was ended.
pub fn gather(
    loaded: &Loaded,
    policy: &Policy,
    front: &Front,
    dataset: &Dataset,
    options: &GatherOptions,
    progress: &mut Progress<'_>,
) -> Result<Findings> {
    let (evaluation, details) = evaluate(loaded, dataset, Some(policy), &options.eval, progress)?;
    let fronts = fronts(loaded, policy, front, dataset, options, progress)?;
    let sizes = details.indices.iter().map(|index| dataset.object_size(*index)).collect();
    let gallery = gallery(loaded, policy, dataset, &details, &options.run)?;
    let About { title, command, command_trains, data, split } = options.about.clone();
    Ok(Findings {
        title,
        command,
        command_trains,
        model: loaded.origin.clone(),
        dtype: Some(loaded.model.weights().precision().to_string()),
        data,
        split,
        read_out: policy.read_out.to_string(),
        machine: machine::describe(),
        seconds: Vec::new(),
        evaluation,
        fronts,
        grid: loaded.spec.grid(),
        stages: policy.stages.clone(),
        keep_maps: details.keep_maps,
        costs: details.costs,
        object_sizes: sizes,
        gallery,
    })
}

/// One setting of one method while it is measured.
struct Contender {
    method: Method,
    setting: f64,
    pruner: Box<dyn Pruner>,
    metrics: Metrics,
}

/// The policy at thresholds of `front`, and the hand-made methods at the same keep ratios.
fn fronts(
    loaded: &Loaded,
    policy: &Policy,
    front: &Front,
    dataset: &Dataset,
    options: &GatherOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<MethodFront>> {
    let drop_stages = policy.drop_stages();
    let methods: Vec<Method> =
        options.eval.methods.iter().copied().filter(|method| method.can_act(&drop_stages)).collect();
    let points = spread(front);
    let mut contenders = Vec::new();
    for (method, point) in methods.iter().flat_map(|method| points.iter().map(move |point| (*method, point)))
    {
        let threshold = ReadOut::Threshold { threshold: point.setting };
        let pruner: Box<dyn Pruner> = match method {
            Method::Policy => Box::new(LearnedPruner::new(&loaded.spec, policy).with_read_out(threshold)),
            method => method.at_shares(&loaded.spec, &drop_stages, &point.keep_ratio)?,
        };
        let metrics = Metrics::new(&loaded.spec);
        contenders.push(Contender { method, setting: point.setting, pruner, metrics });
    }

    let first = first_site(contenders.iter().map(|contender| contender.pruner.as_ref()), &loaded.spec);
    let (site, taps) = first.unwrap_or((Site::input_of(0), Taps::NONE));
    let model = &loaded.model;
    let mut loader = loader(loaded, dataset, options)?;
    while let Some(batch) = loader.next().transpose()? {
        let keys = batch.keys();
        let mut state = model.embed(PixelBatch::new(&batch.pixels, batch.len()))?;
        model.advance(&mut state, site, taps)?;
        let mut unpruned = state.clone();
        model.advance(&mut unpruned, Site::end(&loaded.spec), Taps::NONE)?;
        let dense = model.finish(&unpruned, Want::answer(&loaded.spec))?;
        for contender in &mut contenders {
            let pruned = run_from(model, contender.pruner.as_ref(), state.clone(), &keys)?;
            contender.metrics.add(&dense, &pruned, &batch.labels);
        }
        progress.at(loader.position(), loader.total())?;
    }
    let front_of = |method: Method| {
        let points = contenders.iter().filter(|contender| contender.method == method);
        let points = points.map(|contender| contender.metrics.front_point(contender.setting));
        Ok(MethodFront { method: method.to_string(), points: points.collect::<Result<_, MeasureError>>()? })
    };
    methods.into_iter().map(front_of).collect()
}

fn loader(loaded: &Loaded, dataset: &Dataset, options: &GatherOptions) -> Result<Loader> {
    let loader_options = LoaderOptions {
        batch: options.eval.batch,
        workers: options.eval.workers,
        limit: Some(options.front_images.min(options.eval.images.unwrap_or(usize::MAX))),
        on_bad_image: options.eval.on_bad_image,
        ..LoaderOptions::default()
    };
    Ok(Loader::new(dataset, Order::Sequential, &loaded.transform, loader_options)?)
}

/// Up to [`FRONT_POINTS`] points of `front` that differ in cost, evenly spread over those there are.
fn spread(front: &Front) -> Vec<FrontPoint> {
    let mut points: Vec<&FrontPoint> = front.points().iter().filter(|p| p.cost < NEARLY_DENSE).collect();
    points.dedup_by(|later, earlier| later.keep_ratio == earlier.keep_ratio);
    if points.is_empty() {
        points.extend(front.points().last());
    }
    let last = points.len() - 1;
    let wanted = FRONT_POINTS.min(points.len());
    (0..wanted).map(|i| points[(i * last).checked_div(wanted - 1).unwrap_or(0)].clone()).collect()
}

/// Draws some images at each rank of cost.
fn gallery(
    loaded: &Loaded,
    policy: &Policy,
    dataset: &Dataset,
    details: &Details,
    run_folder: &Path,
) -> Result<Vec<Pictured>> {
    let mut order: Vec<usize> = (0..details.costs.len()).collect();
    order.sort_by(|a, b| details.costs[*a].total_cmp(&details.costs[*b]));
    let folder = run_folder.join(GALLERY);
    let mut gallery: Vec<Pictured> = Vec::new();
    let mut drawn = Vec::new();
    for (group, ranks) in RANKS {
        for rank in ranks {
            let Some(&i) = order.get((rank * order.len() as f64) as usize) else { continue };
            if drawn.contains(&i) {
                continue;
            }
            drawn.push(i);
            let number = gallery.iter().filter(|pictured| pictured.group == group).count() + 1;
            let picture = PathBuf::from(GALLERY).join(format!("{group}-{number}.png"));
            let (bytes, caption) = picture_of(loaded, policy, dataset, details.indices[i])?;
            std::fs::create_dir_all(&folder)
                .map_err(|source| ReportError::Write { path: folder.clone(), source })?;
            vitrim_durable::replace(&run_folder.join(&picture), &bytes)?;
            gallery.push(Pictured { group, picture, caption, cost: details.costs[i] });
        }
    }
    Ok(gallery)
}

/// The picture of the image at `index` as PNG, and what there is to say about it.
fn picture_of(
    loaded: &Loaded,
    policy: &Policy,
    dataset: &Dataset,
    index: usize,
) -> Result<(Vec<u8>, String)> {
    let crop = loaded.transform.cropped(&dataset.image(index)?);
    let pixels = loaded.transform.normalized(&crop);
    let pruner = LearnedPruner::new(&loaded.spec, policy);
    let pruned: Pruned = run(&loaded.model, &pruner, PixelBatch::new(&pixels, 1), &[index as u64])?;
    let kept: Vec<Vec<usize>> = pruned.stages.iter().map(|stage| stage.grid_positions(0)).collect();
    let lines = captions(&kept, loaded.spec.num_patches());
    let picture = kept_tokens(&crop, loaded.spec.patch_size as u32, &kept, &lines)?;

    let name = |class: usize| {
        let names = if loaded.class_names.is_empty() { dataset.class_names() } else { &loaded.class_names };
        names.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
    };
    let mut caption = dataset.name(index);
    if let Some(label) = dataset.label(index) {
        caption = format!("{caption}: {}", name(label as usize));
    }
    if let Some(size) = dataset.object_size(index) {
        caption = format!("{caption}, {size:.0} px across");
    }
    if loaded.spec.num_classes > 0 {
        caption = format!("{caption}; taken for {}", name(pruned.answer.argmax()[0]));
    }
    Ok((png(&picture)?, caption))
}
