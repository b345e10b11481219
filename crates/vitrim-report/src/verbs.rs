//! `eval` and `compare` with their pages, in the same way for the command line and for Python.

use std::path::Path;
use std::time::Instant;

use vitrim_data::Dataset;
use vitrim_measure::calibrate::{calibrated_on, record};
use vitrim_measure::compare::{Comparison, Contender};
use vitrim_measure::elsewhere::Elsewhere;
use vitrim_measure::evaluate::{EvalOptions, Evaluation, evaluate as measure};
use vitrim_measure::images::DataParts;
use vitrim_measure::model::Loaded;
use vitrim_measure::progress::Listener;
use vitrim_measure::requests::{CompareRequest, EvalRequest, named_images, note_reading};
use vitrim_measure::seen::SeenImages;
use vitrim_prune::{AnyPolicy, FIT_IMAGES, keep_shares};
use vitrim_ranks::Ranks;

use crate::error::Result;
use crate::gather::{About, GatherOptions, gather};
use crate::{compared, report};

/// Part of a data set that methods are fitted to.
const CALIBRATION: &str = "calibration";
/// Number of images for a report's fronts.
const FRONT_IMAGES: usize = 2_000;

/// The result of an evaluation.
pub struct Evaluated {
    /// The figures.
    pub evaluation: Evaluation,
    /// The images.
    pub dataset: Dataset,
    /// The data set's path.
    pub data: String,
    /// Name of the part that was evaluated.
    pub split: String,
    /// What the policy is set to, if there is a policy.
    pub read_out: Option<String>,
}

/// What is evaluated together with the hand-made methods.
pub enum Evaluee<'a> {
    /// A policy, read from this folder.
    Policy(&'a AnyPolicy, &'a Path),
    /// No policy: the hand-made methods run at these stages and shares of N0.
    Profile(Vec<usize>, Vec<f64>),
    /// No policy: the hand-made methods run at the requested keep ratios, if any.
    Dense,
}

/// Runs `request` on `loaded`, and writes the requested report, if any; `elsewhere` are other processes that measure, if
/// this one does not, and `command` gives the command line of the request.
///
/// # Errors
/// If images cannot be read, there are none, a report is requested and the policy is not calibrated, or the work was
/// asked to stop.
pub fn evaluate(
    request: &EvalRequest,
    loaded: &Loaded,
    evaluee: Evaluee<'_>,
    elsewhere: Option<Elsewhere<'_>>,
    command: &dyn Fn(&EvalRequest) -> String,
    listener: &mut Listener<'_>,
) -> Result<Evaluated> {
    let parts = request.reading.open(&request.data, loaded)?;
    let (dataset, split) = named_images(loaded, &parts, request.split.as_deref(), listener)?;
    let data = parts.path();
    let (policy, profile) = match evaluee {
        Evaluee::Policy(policy, folder) => (Some((policy, folder)), None),
        Evaluee::Profile(stages, keep) => (None, Some((stages, keep))),
        Evaluee::Dense if request.keep.is_empty() => (None, None),
        Evaluee::Dense => {
            let stages = loaded.spec.default_stages();
            let keep = keep_shares(&request.keep, stages.len())?;
            (None, Some((stages, keep)))
        }
    };
    if policy.is_some_and(|(policy, _)| calibrated_on(policy, &data, &split)) {
        listener.note("note: the setting was chosen on these images; only others give a fair drop");
    }
    let options = EvalOptions {
        pass: request.pass(),
        methods: request.methods.clone(),
        hand_made_images: None,
        profile,
        speed: request.speed(),
        fit_images: fit_images(request, loaded, &parts, &split, listener)?,
        elsewhere,
    };
    let evaluation = match (&request.report, policy) {
        (Some(run), Some((policy, folder))) => {
            let taken = EvalRequest { split: Some(split.clone()), ..request.clone() };
            let dtype = loaded.model.weights().precision();
            let about = About {
                title: format!("{} in {dtype} on {data} ({split})", loaded.origin),
                command: command(&taken),
                command_trains: false,
                data: data.clone(),
                split: split.clone(),
            };
            let folder = vitrim_hub::local(folder, vitrim_hub::Kind::Policy)?;
            let (record, seen) = (record(policy, &folder)?, SeenImages::read(&folder)?);
            let options =
                GatherOptions { about, run: run.clone(), eval: options, front_images: FRONT_IMAGES };
            let started = Instant::now();
            let mut findings =
                gather(loaded, (policy, &seen), record.widest(), &dataset, &options, listener)?;
            findings.seconds.push(("evaluation".to_owned(), started.elapsed().as_secs_f64()));
            findings.write(run)?;
            listener.note(&format!("report: {}", report(run)?.page.display()));
            findings.evaluation
        }
        _ => {
            let policy = policy.map(|(policy, _)| policy);
            let measured = listener
                .follow("evaluating", |progress| measure(loaded, &dataset, policy, &options, progress));
            measured?.0
        }
    };
    note_reading(&dataset, listener);
    let read_out = policy.map(|(policy, _)| policy.dial().to_string());
    Ok(Evaluated { evaluation, dataset, data, split, read_out })
}

/// The images that the methods of `request` are fitted to, if any of them needs images: the calibration part or, if there
/// is none, the evaluated images (`split`).
fn fit_images(
    request: &EvalRequest,
    loaded: &Loaded,
    parts: &DataParts,
    split: &str,
    listener: &mut Listener<'_>,
) -> Result<Option<Dataset>> {
    let fitted = request.methods.iter().filter(|method| method.needs_images(&loaded.spec));
    let fitted: Vec<&str> = fitted.map(|method| method.name()).collect();
    if fitted.is_empty() {
        return Ok(None);
    }
    let found = parts.named(CALIBRATION, &mut listener.steps("hashing images"));
    let (images, part) = match found {
        Ok(images) => (images, CALIBRATION),
        Err(_) => (parts.named(split, &mut listener.steps("hashing images"))?, split),
    };
    let same = if part == split { "; a fair figure needs other images" } else { "" };
    let fitted = fitted.join(", ");
    listener.note(&format!("note: fitted to the first {FIT_IMAGES} images of {part}: {fitted}{same}"));
    Ok(Some(images))
}

/// Runs `request` on `loaded`, comparing also `own` if that is given, and writes the page; `command` gives the
/// command line of the request. `ranks` share the images; the first alone writes. Returns the figures.
///
/// # Errors
/// As [`CompareRequest::run`], or if the page cannot be written.
pub fn compare(
    request: &CompareRequest,
    loaded: &Loaded,
    own: Option<Contender>,
    command: &dyn Fn(&CompareRequest) -> String,
    ranks: &Ranks,
    listener: &mut Listener<'_>,
) -> Result<Comparison> {
    let (comparison, taken) = request.run(loaded, own, ranks, listener)?;
    if ranks.is_first() {
        let page = compared(&taken.report, &comparison, &command(&taken))?;
        listener.note(&format!("report: {}", page.display()));
    }
    Ok(comparison)
}
