//! `vitrim.evaluate`, `calibrate`, `compare` and `report`: what the commands of these names do.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use serde_json::json;
use vitrim_data::{Dataset, OnBadImage};
use vitrim_measure::calibrate::{
    BATCH, CalibrationOptions, MAX_DROP, allowed, calibrate as calibrate_policy, calibrated_on, grid, record,
};
use vitrim_measure::compare::{CompareOptions, Compared, Contender, POLICY, compare as compare_methods};
use vitrim_measure::evaluate::{EvalOptions, evaluate as evaluate_methods};
use vitrim_measure::images::{DataParts, name};
use vitrim_measure::statistics::Confidence;
use vitrim_measure::{Loaded, Progress};
use vitrim_prune::Method;
use vitrim_prune::Policy;
use vitrim_prune::keep_shares;
use vitrim_report::gather::{About, GatherOptions, gather};
use vitrim_report::{compared, report as lay_out};

use crate::interruptible::{Event, interruptible, send, steps};
use crate::model::Model;
use crate::plain::plain;
use crate::pruning::Pruning;
use crate::refusal::{from_library, refused};

/// Images that a report's fronts are measured on.
const FRONT_IMAGES: usize = 2_000;

/// What a corrupt image does.
///
/// # Errors
/// For any word but "fail" and "skip".
pub fn on_bad_image(word: &str) -> PyResult<OnBadImage> {
    match word {
        "fail" => Ok(OnBadImage::Fail),
        "skip" => Ok(OnBadImage::Skip),
        other => Err(refused(format!("on_bad_image={other:?}: use \"fail\" or \"skip\""))),
    }
}

fn methods(names: &[String]) -> PyResult<Vec<Method>> {
    names.iter().map(|name| name.parse().map_err(from_library)).collect()
}

/// The images that `split` names (the final ones, where it names none), checked against the backbone's classes.
fn part(
    loaded: &Loaded,
    parts: &DataParts,
    split: Option<&str>,
    progress: &mut dyn FnMut(usize, usize),
) -> vitrim::Result<(Dataset, String)> {
    let split = split.unwrap_or(name(parts.final_part()));
    let dataset = parts.named(split, progress)?;
    loaded.check_classes(&parts.path(), &dataset)?;
    Ok((dataset, split.to_owned()))
}

/// The trained policy of `pruning`, with its folder.
fn learned(pruning: &Pruning) -> Option<(&Policy, &PathBuf)> {
    match pruning {
        Pruning::Learned { policy, folder } => Some((policy.as_ref(), folder)),
        _ => None,
    }
}

/// Measures the model's policy, the dense model and the hand-made methods on a data set's images.
#[pyfunction]
#[pyo3(signature = (
    model, data, *, split, images, methods, keep, speed, batch, on_bad_image, report, command, teller
))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn evaluate<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    split: Option<String>,
    images: Option<usize>,
    methods: Vec<String>,
    keep: Option<Vec<f64>>,
    speed: Option<f64>,
    batch: usize,
    on_bad_image: &str,
    report: Option<PathBuf>,
    command: String,
    teller: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let model = model.get();
    let threads = model.threads().started()?;
    let (loaded, pruning) = (model.loaded(), model.pruning());
    let mut methods = self::methods(&methods)?;
    let profile = match &*pruning {
        Pruning::Python { .. } => {
            return Err(refused(
                "evaluate measures policies and the methods that it knows by name; run a pruner of your own with \
                 model(pixel_values), and compare its logits with the dense model's",
            ));
        }
        Pruning::HandMade { method, stages, keep } => {
            if !methods.contains(method) {
                methods.push(*method);
            }
            Some((stages.clone(), keep.clone()))
        }
        Pruning::Learned { .. } => None,
        Pruning::Dense => {
            let stages = loaded.spec.default_stages();
            let shares =
                keep.map(|keep| keep_shares(&keep, stages.len())).transpose().map_err(from_library)?;
            shares.map(|shares| (stages, shares))
        }
    };
    let policy = learned(&pruning);
    if report.is_some() && policy.is_none() {
        return Err(refused(
            "report= needs a model with a calibrated policy; load it with policy=\"path/to/policy\"",
        ));
    }
    let options = EvalOptions {
        batch: batch.max(1),
        workers: model.threads().workers(),
        images,
        on_bad_image: self::on_bad_image(on_bad_image)?,
        corruption: None,
        methods,
        hand_made_images: None,
        profile,
        speed,
    };
    let (evaluation, split) = interruptible(teller, |stop, events| {
        threads.install(|| {
            let parts = DataParts::for_backbone(&data, loaded)?;
            let (dataset, split) =
                part(loaded, &parts, split.as_deref(), &mut steps(events, "hashing images"))?;
            if policy.is_some_and(|(policy, _)| calibrated_on(policy, &parts.path(), &split)) {
                let note = "note: the threshold was chosen on these images; only others give a fair drop";
                send(events, Event::Note(note.to_owned()));
            }
            let mut progress = steps(events, "evaluating");
            let mut watch = Progress { stop, progress: &mut progress };
            let (Some(run), Some((policy, folder))) = (&report, policy) else {
                let policy = policy.map(|(policy, _)| policy);
                return Ok((evaluate_methods(loaded, &dataset, policy, &options, &mut watch)?.0, split));
            };
            let dtype = loaded.model.weights().precision();
            let about = About {
                title: format!("{} in {dtype} on {} ({split})", loaded.origin, parts.path()),
                command,
                command_trains: false,
                data: parts.path(),
                split: split.clone(),
            };
            let record = record(policy, folder)?;
            let options =
                GatherOptions { about, run: run.clone(), eval: options, front_images: FRONT_IMAGES };
            let started = Instant::now();
            let mut findings = gather(loaded, policy, record.widest(), &dataset, &options, &mut watch)?;
            findings.seconds.push(("evaluation".to_owned(), started.elapsed().as_secs_f64()));
            findings.write(run)?;
            send(events, Event::Note(format!("report: {}", lay_out(run)?.page.display())));
            Ok((findings.evaluation, split))
        })
    })?;
    let figures = plain(py, &evaluation)?;
    let read_out = policy.map(|(policy, _)| policy.read_out.to_string());
    let dtype = loaded.model.weights().precision().to_string();
    figures.call_method1(
        "update",
        (plain(
            py,
            &json!({ "model": loaded.origin, "dtype": dtype, "split": split, "read_out": read_out }),
        )?,),
    )?;
    Ok(figures)
}

/// Chooses the threshold of the model's policy so that the drop stays within a limit, and writes it into its folder.
#[pyfunction]
#[pyo3(signature = (model, data, *, max_drop, max_drift, confidence, split, images, on_bad_image, teller))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn calibrate<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    max_drop: Option<f64>,
    max_drift: Option<f64>,
    confidence: f64,
    split: &str,
    images: usize,
    on_bad_image: &str,
    teller: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let model = model.get();
    let threads = model.threads().started()?;
    let (loaded, pruning) = (model.loaded(), model.pruning());
    let Some((policy, folder)) = learned(&pruning) else {
        return Err(refused(
            "calibrate needs a model with a trained policy; load it with policy=\"path/to/policy\"",
        ));
    };
    // Such as a reference to the Hub.
    if !folder.is_dir() {
        return Err(refused(format!(
            "{}: the calibrated policy cannot be written there; load a copy in a folder of yours",
            folder.display()
        )));
    }
    let given = allowed(&loaded.spec, max_drop, max_drift).map_err(from_library)?;
    let before = || record(policy, folder).map(|record| record.max_drop).ok();
    let options = CalibrationOptions {
        thresholds: grid(),
        pilot: None,
        max_drop: given.or_else(before).unwrap_or(MAX_DROP),
        confidence: Confidence::new(confidence).map_err(refused)?,
        images,
        batch: BATCH,
        workers: model.threads().workers(),
        on_bad_image: self::on_bad_image(on_bad_image)?,
    };
    let mut policy = policy.clone();
    let policy = interruptible(teller, |stop, events| {
        threads.install(|| {
            let parts = DataParts::for_backbone(&data, loaded)?;
            let (dataset, split) = part(loaded, &parts, Some(split), &mut steps(events, "hashing images"))?;
            let mut progress = steps(events, "calibrating");
            let mut watch = Progress { stop, progress: &mut progress };
            let place = (parts.path(), split);
            let choice =
                calibrate_policy(loaded, &mut policy, (&place.0, &place.1), &dataset, &options, &mut watch)?;
            policy.save(folder)?;
            send(events, Event::Note(choice.to_string()));
            Ok(policy)
        })
    })?;
    let calibration = plain(py, &record(&policy, folder).map_err(from_library)?)?;
    model.set_pruning(py, Pruning::Learned { policy: Box::new(policy), folder: folder.clone() })?;
    Ok(calibration)
}

/// Compares whole fronts of methods, and methods at the same cost and the same drop; the folder gets the page.
#[pyfunction]
#[pyo3(signature = (
    model, data, *, report, policies, rivals, split, images, sweep_split, sweep_images, methods, costs, drops, near,
    studies, speed, batch, on_bad_image, command, teller
))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn compare<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    report: PathBuf,
    policies: Vec<PathBuf>,
    rivals: Vec<(String, PathBuf)>,
    split: Option<String>,
    images: Option<usize>,
    sweep_split: String,
    sweep_images: usize,
    methods: Vec<String>,
    costs: Vec<f64>,
    drops: Vec<f64>,
    near: Option<NonZeroUsize>,
    studies: Vec<String>,
    speed: Option<f64>,
    batch: usize,
    on_bad_image: &str,
    command: String,
    teller: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let model = model.get();
    let threads = model.threads().started()?;
    let (loaded, pruning): (_, Arc<Pruning>) = (model.loaded(), model.pruning());
    if let Pruning::HandMade { .. } | Pruning::Python { .. } = *pruning {
        return Err(refused(
            "compare sweeps the methods that it knows by name, and a trained policy; load the model with \
             policy=\"path/to/policy\", or without one",
        ));
    }
    let speed = speed.map(Duration::try_from_secs_f64).transpose().map_err(refused)?;
    let options = CompareOptions {
        batch: batch.max(1),
        workers: model.threads().workers(),
        on_bad_image: self::on_bad_image(on_bad_image)?,
        methods: self::methods(&methods)?,
        studies: studies.iter().map(|name| name.parse().map_err(from_library)).collect::<PyResult<_>>()?,
        sweep_images,
        images,
        costs,
        drops,
        near,
        speed,
    };
    let comparison = interruptible(teller, |stop, events| {
        threads.install(|| {
            let parts = DataParts::for_backbone(&data, loaded)?;
            let mut hashing = steps(events, "hashing images");
            let (images, _) = part(loaded, &parts, split.as_deref(), &mut hashing)?;
            let (sweep, _) = part(loaded, &parts, Some(&sweep_split), &mut hashing)?;
            let data = parts.path();
            let own = learned(&pruning).map(|(policy, folder)| Contender {
                name: POLICY.to_owned(),
                policy: policy.clone(),
                folder: folder.clone(),
            });
            let seeds = policies.iter().map(|folder| (POLICY, folder));
            let named = rivals.iter().map(|(name, folder)| (name.as_str(), folder));
            let others = seeds.chain(named).map(|(name, folder)| Contender::open(name, folder, loaded));
            let contenders: Vec<Contender> =
                own.map(Ok).into_iter().chain(others).collect::<Result<_, _>>()?;
            let compared_on =
                Compared { loaded, contenders: &contenders, data: &data, sweep: &sweep, images: &images };
            let mut progress = steps(events, "comparing");
            let mut watch = Progress { stop, progress: &mut progress };
            let mut note = |line: &str| send(events, Event::Note(line.to_owned()));
            let comparison = compare_methods(compared_on, &options, &report, &mut watch, &mut note)?;
            let figures = serde_json::to_vec_pretty(&comparison).expect("figures are plain data");
            vitrim_durable::replace(&report.join("comparison.json"), &figures)?;
            note(&format!("report: {}", compared(&report, &comparison, &command)?.display()));
            Ok(comparison)
        })
    })?;
    plain(py, &comparison)
}

/// Lays out a run folder as a page; returns its path.
#[pyfunction]
pub fn report(py: Python<'_>, run: PathBuf) -> PyResult<PathBuf> {
    Ok(py.detach(|| lay_out(&run)).map_err(from_library)?.page)
}
