//! `vitrim.evaluate`, `calibrate`, `compare` and `report`, the counterparts of the commands of these names.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Value, json};
use vitrim_data::{Dataset, OnBadImage};
use vitrim_hub::Kind;
use vitrim_measure::calibrate::record;
use vitrim_measure::compare::{Contender, POLICY};
use vitrim_measure::elsewhere::{Elsewhere, PassTask, measure_share};
use vitrim_measure::requests::{
    CalibrateRequest, CompareRequest, DataNotes, DatasetArgs, EvalRequest, ImageArgs, LossArgs, Request,
    named_images,
};
use vitrim_measure::statistics::Confidence;
use vitrim_measure::{Listener, MeasureError, Progress};
use vitrim_prune::policy::UNIVERSAL;
use vitrim_prune::{AnyPolicy, Method};
use vitrim_ranks::Ranks;
use vitrim_report::report as lay_out;
use vitrim_report::verbs::{Evaluee, compare as compare_methods, evaluate as evaluate_methods};

use crate::downloads::fetch;
use crate::interruptible::interruptible;
use crate::model::Model;
use crate::plain::plain;
use crate::pruning::Pruning;
use crate::python_call::{call, literal};
use crate::refusal::{from_library, refused};

/// Fields of requests that the model determines, or that have other keywords in Python.
const NO_KEYWORDS: [&str; 6] = ["model", "data", "threads", "no_speed", "speed_seconds", "rival"];

/// How images and labels are read: what to do with an image that cannot be decoded (to fail by default), and which of the
/// backbone's classes the data set's are.
///
/// # Errors
/// For any word but "fail" and "skip", or an order of labels that there is not.
pub fn reading(
    on_bad_image: Option<&str>,
    label_map: Option<PathBuf>,
    label_order: Option<&str>,
) -> PyResult<DatasetArgs> {
    let on_bad_image = match on_bad_image {
        None => OnBadImage::default(),
        Some("fail") => OnBadImage::Fail,
        Some("skip") => OnBadImage::Skip,
        Some(other) => return Err(refused(format!("on_bad_image={other:?}: use \"fail\" or \"skip\""))),
    };
    let label_order = label_order.map(str::parse).transpose().map_err(refused)?;
    Ok(DatasetArgs { images: ImageArgs { on_bad_image, ..ImageArgs::default() }, label_map, label_order })
}

/// The confidence of a bound; by default that of the request.
///
/// # Errors
/// If it does not lie between 0.5 and 1.
pub fn confidence(level: Option<f64>, default: Confidence) -> PyResult<Confidence> {
    level.map_or(Ok(default), Confidence::new).map_err(refused)
}

/// What a callback raised.
type Raised = Arc<Mutex<Option<PyErr>>>;

/// Other processes, which `gather` asks for the figures of a pass: called with the task, the number of images and that of
/// images in a batch, it returns what [`Share::measure`] returned for consecutive shares; and what it will have raised.
fn elsewhere(gather: Option<Py<PyAny>>) -> (Option<Elsewhere<'static>>, Raised) {
    let raised = Raised::default();
    let slot = Arc::clone(&raised);
    let elsewhere = gather.map(|gather| {
        Elsewhere::new(Arc::new(move |_: &Dataset, task: &str, images: usize, batch: usize| {
            let answers: PyResult<Vec<Vec<u8>>> = Python::attach(|py| {
                let answers = gather.bind(py).call1((task, images, batch))?;
                answers.try_iter()?.map(|bytes| Ok(bytes?.cast::<PyBytes>()?.as_bytes().to_vec())).collect()
            });
            answers.map_err(|error| {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                MeasureError::Setting("the processes that measure have failed".into())
            })
        }))
    });
    (elsewhere, raised)
}

/// `done`, unless a callback raised.
fn raised_or<T>(done: PyResult<T>, raised: &Raised) -> PyResult<T> {
    match raised.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(error),
        None => done,
    }
}

/// A process that measures shares of a data set for another one: see `vitrim.ray`.
#[pyclass(frozen, module = "vitrim")]
pub struct Share {
    model: Py<Model>,
    dataset: Dataset,
}

#[pymethods]
impl Share {
    /// The images of `split` of `data`, as `evaluate` and `calibrate` find them.
    #[new]
    #[pyo3(signature = (model, data, split, label_map, label_order))]
    fn new(
        py: Python<'_>,
        model: Py<Model>,
        data: PathBuf,
        split: Option<String>,
        label_map: Option<PathBuf>,
        label_order: Option<&str>,
    ) -> PyResult<Self> {
        fetch(py, &data, Kind::Data)?;
        let reading = reading(None, label_map, label_order)?;
        let dataset: vitrim_measure::error::Result<Dataset> = py.detach(|| {
            let loaded = model.get().loaded();
            let stop = AtomicBool::new(false);
            let mut silent = Listener { stop: &stop, tell: &mut |_| {} };
            let parts = reading.open(&data, loaded)?;
            Ok(named_images(loaded, &parts, split.as_deref(), &mut silent)?.0)
        });
        Ok(Share { model, dataset: dataset.map_err(from_library)? })
    }

    /// The figures of `images` images from position `first` on in the order of `task`, as bytes.
    fn measure<'py>(
        &self,
        py: Python<'py>,
        task: &str,
        first: usize,
        images: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let model = self.model.get();
        let task: PassTask = serde_json::from_str(task).map_err(refused)?;
        let (threads, pruning) = (model.threads().for_job()?, model.pruning());
        let policy = learned(&pruning).map(|(policy, _)| policy);
        let workers = model.threads().workers();
        let measured = py.detach(|| {
            threads.install(|| {
                let stop = AtomicBool::new(false);
                let mut progress = Progress { stop: &stop, progress: &mut |_, _| {} };
                let share = (first, images);
                measure_share(model.loaded(), policy, &self.dataset, &task, share, workers, &mut progress)
            })
        });
        let figures = serde_json::to_vec(&measured.map_err(from_library)?).map_err(refused)?;
        Ok(PyBytes::new(py, &figures))
    }
}

fn methods(names: Option<Vec<String>>, default: Vec<Method>) -> PyResult<Vec<Method>> {
    let Some(names) = names else { return Ok(default) };
    names.iter().map(|name| name.parse().map_err(from_library)).collect()
}

/// The policy of `pruning`, with its folder.
fn learned(pruning: &Pruning) -> Option<(&AnyPolicy, &PathBuf)> {
    match pruning {
        Pruning::Learned { policy, folder, .. } => Some((policy.as_ref(), folder)),
        _ => None,
    }
}

/// The Python statement of `request` on `model`: `function` with the keywords that it was given, and `more`.
fn python(
    model: &Model,
    function: &str,
    request: &impl Request,
    data: &str,
    more: &[(&'static str, Option<Value>)],
) -> String {
    let given = request.given();
    let given = given.iter().filter(|(name, _)| !NO_KEYWORDS.contains(&name.as_str()));
    let given =
        given.map(|(name, value)| (if name == "policy" { "policies" } else { name.as_str() }, value.clone()));
    let more = more.iter().filter_map(|(name, value)| Some((*name, value.clone()?)));
    let mut statements = model.statements();
    let positional = ["model".to_owned(), literal(&Value::from(data))];
    statements.push(call(function, positional, given.chain(more)));
    statements.join("; ")
}

/// Measures the model's policy, the dense model and the hand-made methods on a data set.
#[pyfunction]
#[pyo3(signature = (
    model, data, *, split, images, methods, keep, speed, batch, on_bad_image, label_map, label_order, report, teller,
    gather=None
))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn evaluate<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    split: Option<String>,
    images: Option<usize>,
    methods: Option<Vec<String>>,
    keep: Option<Vec<f64>>,
    speed: Option<f64>,
    batch: Option<usize>,
    on_bad_image: Option<&str>,
    label_map: Option<PathBuf>,
    label_order: Option<&str>,
    report: Option<PathBuf>,
    teller: &Bound<'py, PyAny>,
    gather: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    fetch(py, &data, Kind::Data)?;
    let model = model.get();
    let threads = model.threads().for_job()?;
    let (loaded, pruning) = (model.loaded(), model.pruning());
    let defaults = EvalRequest::default();
    let mut request = EvalRequest {
        model: PathBuf::from(&loaded.origin),
        data,
        split,
        images,
        methods: self::methods(methods, defaults.methods.clone())?,
        keep: keep.unwrap_or_default(),
        no_speed: speed.is_none(),
        speed_seconds: speed.unwrap_or(defaults.speed_seconds),
        batch: batch.unwrap_or(defaults.batch),
        reading: reading(on_bad_image, label_map, label_order)?,
        threads: model.threads().workers(),
        report,
        ..defaults
    };
    let evaluee = match &*pruning {
        Pruning::Python { .. } => {
            return Err(refused(
                "evaluate measures policies and the methods that it knows by name; run a pruner of your own with \
                 model(pixel_values), and compare its logits with the dense model's",
            ));
        }
        Pruning::HandMade { method, stages, keep } => {
            if !request.methods.contains(method) {
                request.methods.push(*method);
            }
            Evaluee::Profile(stages.clone(), keep.clone())
        }
        Pruning::Learned { policy, folder, .. } => Evaluee::Policy(policy, folder),
        Pruning::Dense => Evaluee::Dense,
    };
    if request.report.is_some() && learned(&pruning).is_none() {
        return Err(refused(
            "report= needs a model with a calibrated policy; load it with policy=\"path/to/policy\"",
        ));
    }
    let command = |taken: &EvalRequest| {
        let data = taken.data.to_string_lossy();
        python(model, "vitrim.evaluate", taken, &data, &[("speed", taken.speed().map(Value::from))])
    };
    if gather.is_some()
        && let Some(fitted) = request.methods.iter().find(|method| method.is_fitted())
    {
        return Err(refused(format!(
            "{fitted} is fitted before it is measured, which several processes do not do; leave it out, or use \
             vitrim.evaluate"
        )));
    }
    let (elsewhere, failure) = elsewhere(gather);
    let evaluated = interruptible(teller, |listener| {
        threads.install(|| Ok(evaluate_methods(&request, loaded, evaluee, elsewhere, &command, listener)?))
    });
    let evaluated = raised_or(evaluated, &failure)?;
    let figures = plain(py, &evaluated.evaluation)?;
    let (dtype, read_out) = (loaded.model.weights().precision().to_string(), evaluated.read_out);
    let about =
        json!({ "model": loaded.origin, "dtype": dtype, "split": evaluated.split, "read_out": read_out });
    figures.call_method1("update", (plain(py, &about)?,))?;
    figures.call_method1("update", (plain(py, &DataNotes::of([&evaluated.dataset]))?,))?;
    Ok(figures)
}

/// Chooses the threshold of the model's policy so that the loss stays within a limit, and writes it into its folder, or
/// into that of a run.
#[pyfunction]
#[pyo3(signature = (
    model, data, *, policy=None, balance=true, out, max_drop, max_drift, confidence, split, images, on_bad_image, label_map,
    label_order, teller, gather=None
))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn calibrate<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    policy: Option<PathBuf>,
    balance: bool,
    out: Option<PathBuf>,
    max_drop: Option<f64>,
    max_drift: Option<f64>,
    confidence: Option<f64>,
    split: Option<String>,
    images: Option<usize>,
    on_bad_image: Option<&str>,
    label_map: Option<PathBuf>,
    label_order: Option<&str>,
    teller: &Bound<'py, PyAny>,
    gather: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    fetch(py, &data, Kind::Data)?;
    let model = model.get();
    let threads = model.threads().for_job()?;
    let (loaded, pruning) = (model.loaded(), model.pruning());
    if let Some(policy) = &policy {
        fetch(py, policy, Kind::Policy)?;
    }
    let loaded_with_it = policy.is_none();
    let Some(folder) = policy.or_else(|| learned(&pruning).map(|(_, folder)| folder.clone())) else {
        return Err(refused(
            "calibrate needs a policy; load the model with policy=\"path/to/policy\", or give calibrate one, as in \
             policy=\"universal\" or policy=\"dtome\"",
        ));
    };
    let defaults = CalibrateRequest::default();
    let request = CalibrateRequest {
        model: PathBuf::from(&loaded.origin),
        policy: folder.clone(),
        out,
        data,
        loss: LossArgs { max_drop, max_drift },
        confidence: self::confidence(confidence, defaults.confidence)?,
        no_balance: !balance,
        split: split.unwrap_or_else(|| defaults.split.clone()),
        calibration_images: images.unwrap_or(defaults.calibration_images),
        reading: reading(on_bad_image, label_map, label_order)?,
        threads: model.threads().workers(),
        ..defaults
    };
    // A folder may be gone since the model was loaded.
    if loaded_with_it && request.out.is_none() && folder != Path::new(UNIVERSAL) && !folder.is_dir() {
        return Err(refused(format!(
            "{}: the calibrated policy cannot be written there; load a copy in a folder of yours, or give out=",
            folder.display()
        )));
    }
    request.check_folder().map_err(from_library)?;
    let (elsewhere, failure) = elsewhere(gather);
    let calibrated = interruptible(teller, |listener| {
        threads.install(|| {
            let mut prepared = request.prepare(loaded, listener)?;
            let (choice, notes) = request.run(loaded, &mut prepared, elsewhere, listener)?;
            listener.note(&choice.to_string());
            Ok((prepared.policy, notes))
        })
    });
    let (policy, notes) = raised_or(calibrated, &failure)?;
    let folder = request.target();
    let calibration = plain(py, &record(&policy, &folder).map_err(from_library)?)?;
    calibration.call_method1("update", (plain(py, &notes)?,))?;
    model.set_pruning(py, Pruning::learned(policy, folder)?)?;
    Ok(calibration)
}

/// Compares whole fronts of methods, and methods at the same cost and the same drop; the folder gets the page.
#[pyfunction]
#[pyo3(signature = (
    model, data, *, report, policies, rivals, split, images, sweep_split, sweep_images, methods, costs, drops, near,
    studies, speed, batch, on_bad_image, label_map, label_order, teller
))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn compare<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    report: Option<PathBuf>,
    policies: Vec<PathBuf>,
    rivals: Vec<(String, PathBuf)>,
    split: Option<String>,
    images: Option<usize>,
    sweep_split: Option<String>,
    sweep_images: Option<usize>,
    methods: Option<Vec<String>>,
    costs: Option<Vec<f64>>,
    drops: Option<Vec<f64>>,
    near: Option<NonZeroUsize>,
    studies: Option<Vec<String>>,
    speed: Option<f64>,
    batch: Option<usize>,
    on_bad_image: Option<&str>,
    label_map: Option<PathBuf>,
    label_order: Option<&str>,
    teller: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    fetch(py, &data, Kind::Data)?;
    let model = model.get();
    let threads = model.threads().for_job()?;
    let (loaded, pruning): (_, Arc<Pruning>) = (model.loaded(), model.pruning());
    if let Pruning::HandMade { .. } | Pruning::Python { .. } = *pruning {
        return Err(refused(
            "compare sweeps the methods that it knows by name, and a trained policy; load the model with \
             policy=\"path/to/policy\", or without one",
        ));
    }
    let defaults = CompareRequest::default();
    let studies = match studies {
        None => defaults.studies.clone(),
        Some(names) => {
            names.iter().map(|name| name.parse().map_err(from_library)).collect::<PyResult<_>>()?
        }
    };
    let request = CompareRequest {
        model: PathBuf::from(&loaded.origin),
        data,
        policy: policies,
        rival: rivals,
        methods: self::methods(methods, defaults.methods.clone())?,
        split,
        images,
        sweep_split: sweep_split.unwrap_or_else(|| defaults.sweep_split.clone()),
        sweep_images: sweep_images.unwrap_or(defaults.sweep_images),
        costs: costs.unwrap_or_else(|| defaults.costs.clone()),
        drops: drops.unwrap_or_else(|| defaults.drops.clone()),
        near,
        studies,
        no_speed: speed.is_none(),
        speed_seconds: speed.unwrap_or(defaults.speed_seconds),
        batch: batch.unwrap_or(defaults.batch),
        reading: reading(on_bad_image, label_map, label_order)?,
        threads: model.threads().workers(),
        report: report.unwrap_or_else(|| defaults.report.clone()),
        ..defaults
    };
    let command = |taken: &CompareRequest| {
        let mut rivals = serde_json::Map::new();
        for (name, folder) in &taken.rival {
            let folders = rivals.entry(name.as_str()).or_insert_with(|| json!([]));
            folders.as_array_mut().expect("made so").push(Value::from(folder.to_string_lossy()));
        }
        let rivals = (!rivals.is_empty()).then_some(Value::Object(rivals));
        let speed = (!taken.no_speed).then(|| Value::from(taken.speed_seconds));
        let data = taken.data.to_string_lossy();
        python(model, "vitrim.compare", taken, &data, &[("rivals", rivals), ("speed", speed)])
    };
    let own = learned(&pruning).map(|(policy, folder)| Contender {
        name: POLICY.to_owned(),
        policy: policy.clone(),
        folder: folder.clone(),
    });
    let comparison = interruptible(teller, |listener| {
        threads.install(|| Ok(compare_methods(&request, loaded, own, &command, &Ranks::alone(), listener)?))
    })?;
    plain(py, &comparison)
}

/// Writes the page of a run folder; returns its path.
#[pyfunction]
pub fn report(py: Python<'_>, run: PathBuf) -> PyResult<PathBuf> {
    Ok(py.detach(|| lay_out(&run)).map_err(from_library)?.page)
}
