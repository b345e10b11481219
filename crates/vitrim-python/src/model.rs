//! A loaded backbone and its pruner.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray4, PyArrayMethods};
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rayon::prelude::*;
use serde_json::Value;
use vitrim_hub::Kind;
use vitrim_kernels::InstructionSet;
use vitrim_measure::model::Opening;
use vitrim_measure::model::features::blocks_up_to;
use vitrim_measure::predict::{Question, answer, size_of};
use vitrim_measure::requests::BackboneArgs;
use vitrim_measure::{Loaded, MeasureError};
use vitrim_prune::{ImageKey, Pruner, run_blocks, run_to_answer};
use vitrim_text::shown;
use vitrim_vit::{Backbone, Interruptible, Output, PackedBatch, PixelBatch, Precision, Want, cost};

use crate::answers::{Prediction, Tokens};
use crate::downloads::fetch;
use crate::images::{Given, images};
use crate::interruptible::computed;
use crate::lasting::{in_memory, lasting};
use crate::pixels::{pixels, sizes};
use crate::pruning::{Dial, Pruning};
use crate::python_call::{call, literal};
use crate::python_pruner::Failure;
use crate::refusal::{from_library, refused};
use crate::threads::{Threads, shared_pool};

/// Images per batch.
const BATCH: usize = 16;

/// A backbone with its preprocessing and its pruner. Made by :func:`vitrim.load`.
#[pyclass(frozen, module = "vitrim")]
pub struct Model {
    loaded: Arc<Loaded>,
    pruning: RwLock<Arc<Pruning>>,
    threads: Threads,
    /// The requested input size, if it is not the checkpoint's own.
    img_size: Option<[usize; 2]>,
    /// The file of text embeddings of the classes, if they are not the checkpoint's own.
    classes: Option<PathBuf>,
    /// Where it can be loaded again from; `None` if it was made from a live timm module.
    place: Option<PathBuf>,
}

/// Opens a checkpoint folder.
#[pyfunction]
#[pyo3(signature = (model, policy=None, *, dtype="f32", threads=None, img_size=None, origin=None, classes=None))]
#[expect(clippy::too_many_arguments, reason = "they are Python's keywords")]
pub fn load(
    py: Python<'_>,
    model: PathBuf,
    policy: Option<&Bound<'_, PyAny>>,
    dtype: &str,
    threads: Option<usize>,
    img_size: Option<[usize; 2]>,
    origin: Option<String>,
    classes: Option<PathBuf>,
) -> PyResult<Model> {
    InstructionSet::from_env().map_err(refused)?;
    let precision: Precision = dtype.parse().map_err(refused)?;
    fetch(py, &model, Kind::Model)?;
    let (pool, opening) = (shared_pool()?, Opening { precision, img_size, classes: classes.clone() });
    let mut loaded = py.detach(|| pool.install(|| Loaded::open_in(&model, opening))).map_err(from_library)?;
    let place = if origin.is_none() { Some(lasting(&model)?) } else { None };
    if let Some(origin) = origin {
        loaded.origin = origin;
    }
    let pruning = Pruning::of(policy, &loaded)?;
    let model = Model {
        loaded: Arc::new(loaded),
        pruning: RwLock::new(Arc::new(Pruning::Dense)),
        threads: Threads::new(threads)?,
        img_size,
        classes: classes.as_deref().map(lasting).transpose()?,
        place,
    };
    model.set_pruning(py, pruning)?;
    Ok(model)
}

impl Model {
    /// The backbone.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// How the backbone was opened.
    pub fn backbone(&self) -> BackboneArgs {
        BackboneArgs { img_size: self.img_size, classes: self.classes.clone() }
    }

    /// The Python statements that make this `model`, in its current state.
    pub fn statements(&self) -> Vec<String> {
        let (policy, dialled) = self.pruning().keywords();
        let dtype = self.loaded.model.weights().precision();
        let keywords = [
            ("policy", policy),
            ("dtype", (dtype != Precision::F32).then(|| Value::from(dtype.to_string()))),
            ("threads", self.threads.own().map(Value::from)),
            ("classes", self.loaded.text_classes.as_ref().map(|classes| Value::from(shown(&classes.path)))),
        ];
        let keywords = keywords.into_iter().filter_map(|(name, value)| Some((name, value?)));
        // A Python tuple, which JSON lacks.
        let size = self.img_size.map(|[height, width]| format!("img_size=({height}, {width})"));
        let origin = literal(&Value::from(self.loaded.origin.as_str()));
        let (function, first) = match self.place {
            None => ("from_timm", "module".to_owned()),
            Some(_) => ("load", origin),
        };
        let keywords = keywords.map(|(name, value)| format!("{name}={}", literal(&value)));
        let arguments: Vec<String> = [first].into_iter().chain(keywords).chain(size).collect();
        let mut statements = vec![format!("model = vitrim.{function}({})", arguments.join(", "))];
        if !dialled.is_empty() {
            statements.push(call("model.dial", [], dialled));
        }
        statements
    }

    /// The current pruner.
    pub fn pruning(&self) -> Arc<Pruning> {
        self.pruning.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the pruner for all later calls.
    ///
    /// # Errors
    /// If warnings are turned into errors.
    pub fn set_pruning(&self, py: Python<'_>, pruning: Pruning) -> PyResult<()> {
        let warning = pruning.warning(self.loaded.model.weights().precision());
        *self.pruning.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pruning);
        let Some(warning) = warning else { return Ok(()) };
        let text = std::ffi::CString::new(warning).map_err(refused)?;
        PyErr::warn(py, &py.get_type::<PyUserWarning>(), &text, 2)
    }

    /// A model over the same weights.
    fn over(&self, pruning: Arc<Pruning>) -> Self {
        Model {
            loaded: Arc::clone(&self.loaded),
            pruning: RwLock::new(pruning),
            threads: self.threads.alike(),
            img_size: self.img_size,
            classes: self.classes.clone(),
            place: self.place.clone(),
        }
    }

    /// The threads of the model.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Runs `work` with a session and a pruner for this call, on this model's threads, with the GIL released. Ctrl-C
    /// ends the session's passes.
    fn compute<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Interruptible<'_>, &dyn Pruner) -> vitrim::Result<T> + Send,
    ) -> PyResult<T> {
        let pool = self.threads.pool()?;
        let pruning = self.pruning();
        let failure = Failure::default();
        let done = computed(py, &pool, |stop| {
            let pruner = pruning.pruner(&self.loaded.spec, &failure)?;
            work(&self.loaded.model.until(stop), pruner.as_ref())
        });
        match failure.take() {
            Some(raised) => Err(raised),
            None => done,
        }
    }
}

impl Model {
    /// The patch tokens after `block`, without the last norm and without prefix tokens.
    fn block_tokens<'py>(
        &self,
        py: Python<'py>,
        pixel_values: &Bound<'py, PyAny>,
        block: i64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let pixels = pixels(pixel_values, &self.loaded.spec)?;
        let (sizes_given, given) = (sizes(&pixels), pixels.as_slice()?);
        let batch = sizes_given.len();
        let blocks = blocks_up_to(block, self.loaded.spec.depth).map_err(from_library)?;
        let (values, offsets, origins, sizes) = self.compute(py, |model, pruner| {
            let (d, prefix) = (model.spec().dim, model.spec().num_prefix_tokens());
            let (mut values, mut offsets) = (Vec::new(), vec![0]);
            let (mut origins, mut sizes) = (Vec::new(), Vec::new());
            if batch > 0 {
                let mut state = model.embed(PixelBatch::of_sizes(given, &sizes_given))?;
                run_blocks(model, pruner, &mut state, &places(batch), blocks)?;
                for image in state.packed.offsets.windows(2) {
                    let patches = image[0] + prefix..image[1];
                    values.extend_from_slice(&state.packed.tokens[patches.start * d..patches.end * d]);
                    origins.extend_from_slice(&state.packed.origins[patches.clone()]);
                    sizes.extend_from_slice(&state.packed.sizes[patches]);
                    offsets.push(sizes.len());
                }
            }
            Ok((values, offsets, origins, sizes))
        })?;
        let tokens = rows(py, Output { values, width: self.loaded.spec.dim })?.unbind();
        let pooled = PyArray2::<f32>::zeros(py, [batch, 0], false).into_any().unbind();
        let tokens = Tokens::of(py, tokens, &offsets, &origins, sizes, pooled);
        Ok(Bound::new(py, tokens)?.into_any())
    }
}

#[pymethods]
impl Model {
    /// Logits of normalised pixels.
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        pixel_values: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let pixels = pixels(pixel_values, &self.loaded.spec)?;
        let sizes = sizes(&pixels);
        let batch = sizes.len();
        let values = pixels.as_slice()?;
        let logits = self.compute(py, |model, pruner| {
            let spec = model.spec();
            if batch == 0 && spec.num_classes > 0 {
                return Ok(Output { values: Vec::new(), width: spec.num_classes });
            }
            let mut state = model.embed(PixelBatch::of_sizes(values, &sizes))?;
            run_to_answer(model, pruner, &mut state, &places(batch))?;
            Ok(model.finish(&state, Want::Logits)?)
        })?;
        rows(py, logits)
    }

    /// Classifies images, and reports the tokens left after each stage.
    #[pyo3(signature = (images, top_k=5))]
    fn predict(&self, py: Python<'_>, images: &Bound<'_, PyAny>, top_k: usize) -> PyResult<Vec<Prediction>> {
        let given = self::images(images)?;
        let mut predictions = Vec::with_capacity(given.len());
        for chunk in given.chunks(BATCH) {
            let answers = self.compute(py, |model, pruner| {
                let crops = chunk.par_iter().map(|image| {
                    model.go_on()?;
                    image.crop(&self.loaded.transform)
                });
                let crops = crops.collect::<vitrim::Result<Vec<_>>>()?;
                let crops: Vec<_> = crops.iter().collect();
                Ok(answer(&self.loaded, model, pruner, &crops, Question::Classes(top_k))?)
            })?;
            for (image, answer) in chunk.iter().zip(answers) {
                predictions.push(Prediction::of(py, image.path(), answer)?);
            }
            py.check_signals()?;
        }
        Ok(predictions)
    }

    /// Normalised pixels of images, resized and cropped according to the checkpoint.
    fn preprocess<'py>(&self, py: Python<'py>, images: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let given = self::images(images)?;
        let pool = self.threads.pool()?;
        let transform = &self.loaded.transform;
        let [height, width] = match self.loaded.spec.is_naflex() {
            false => self.loaded.spec.img_size,
            true => {
                let crop = |image: &Given| Ok(size_of(&image.crop(transform)?));
                let sizes =
                    computed(py, &pool, |_| given.par_iter().map(crop).collect::<vitrim::Result<Vec<_>>>())?;
                if let Some(other) = sizes.iter().position(|size| *size != sizes[0]) {
                    let ([height, width], [other_height, other_width]) = (sizes[0], sizes[other]);
                    return Err(refused(format!(
                        "images 0 and {other} come out at {height}x{width} and {other_height}x{other_width} pixels, \
                         which no array holds; preprocess them one by one, or use predict()"
                    )));
                }
                sizes.first().copied().unwrap_or(self.loaded.spec.img_size)
            }
        };
        // Written in place: each image's pixels exist once, and memory pages are first touched when they are written.
        let array = PyArray4::<f32>::zeros(py, [given.len(), 3, height, width], false);
        {
            let mut view = array.try_readwrite()?;
            let rows = view.as_slice_mut()?;
            computed(py, &pool, |stop| {
                let images = given.par_iter().zip(rows.par_chunks_exact_mut(3 * height * width));
                images.try_for_each(|(image, row)| {
                    if stop.load(Ordering::Relaxed) {
                        return Err(MeasureError::Interrupted.into());
                    }
                    transform.write_normalized(&image.crop(transform)?, row);
                    Ok(())
                })
            })?;
        }
        Ok(array.into_any())
    }

    /// Embeddings of normalised pixels in the space that images share with texts, `[B, P]`, not normalised.
    fn embed<'py>(&self, py: Python<'py>, pixel_values: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let pixels = pixels(pixel_values, &self.loaded.spec)?;
        let sizes = sizes(&pixels);
        let batch = sizes.len();
        let values = pixels.as_slice()?;
        let embeddings = self.compute(py, |model, pruner| {
            if batch == 0 {
                let width = model.spec().embedding_width().unwrap_or(0);
                return Ok(Output { values: Vec::new(), width });
            }
            let mut state = model.embed(PixelBatch::of_sizes(values, &sizes))?;
            run_to_answer(model, pruner, &mut state, &places(batch))?;
            Ok(model.finish(&state, Want::Embedding)?)
        })?;
        rows(py, embeddings)
    }

    /// Pooled features of normalised pixels; with `tokens`, features of every survivor, after `block` if it is given.
    #[pyo3(signature = (pixel_values, *, tokens=false, block=None))]
    fn features<'py>(
        &self,
        py: Python<'py>,
        pixel_values: &Bound<'py, PyAny>,
        tokens: bool,
        block: Option<i64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(block) = block {
            if !tokens {
                return Err(refused("block gives features of tokens; ask for tokens=True, too"));
            }
            return self.block_tokens(py, pixel_values, block);
        }
        let pixels = pixels(pixel_values, &self.loaded.spec)?;
        let sizes = sizes(&pixels);
        let batch = sizes.len();
        let values = pixels.as_slice()?;
        let (pooled, survivors) = self.compute(py, |model, pruner| {
            let spec = model.spec();
            let empty = |width| Output { values: Vec::new(), width };
            if batch == 0 {
                let none = (empty(spec.dim), vec![0], Vec::new(), Vec::new());
                return Ok((empty(spec.num_features()), none));
            }
            let mut state = model.embed(PixelBatch::of_sizes(values, &sizes))?;
            if tokens {
                run_blocks(model, pruner, &mut state, &places(batch), spec.depth)?;
            } else {
                run_to_answer(model, pruner, &mut state, &places(batch))?;
            }
            let pooled = model.finish(&state, Want::Pooled)?;
            let tokens = if tokens { model.finish(&state, Want::Tokens)? } else { empty(spec.dim) };
            let PackedBatch { offsets, origins, sizes, .. } = state.packed;
            Ok((pooled, (tokens, offsets, origins, sizes)))
        })?;
        let pooled = rows(py, pooled)?;
        if !tokens {
            return Ok(pooled);
        }
        let (tokens, offsets, origins, sizes) = survivors;
        let tokens = rows(py, tokens)?.unbind();
        let tokens = Tokens::of(py, tokens, &offsets, &origins, sizes, pooled.unbind());
        Ok(Bound::new(py, tokens)?.into_any())
    }

    /// Sets the policy to another point of its calibration record.
    #[pyo3(signature = (*, max_drop=None, max_drift=None, confidence=None, keep=None, gmacs=None))]
    fn dial(
        &self,
        py: Python<'_>,
        max_drop: Option<f64>,
        max_drift: Option<f64>,
        confidence: Option<f64>,
        keep: Option<f64>,
        gmacs: Option<f64>,
    ) -> PyResult<String> {
        let dial = Dial { max_drop, max_drift, confidence, keep, gmacs };
        let (pruning, answer) = self.pruning().dialled(&dial, &self.loaded.spec)?;
        self.set_pruning(py, pruning)?;
        Ok(answer)
    }

    /// The folder or object from which the model was loaded.
    #[getter]
    fn origin(&self) -> &str {
        &self.loaded.origin
    }

    /// Name of the architecture.
    #[getter]
    fn architecture(&self) -> &str {
        &self.loaded.spec.architecture
    }

    /// Input height and width, pixels.
    #[getter]
    fn img_size(&self) -> (usize, usize) {
        self.loaded.spec.img_size.into()
    }

    /// Rows and columns of the patch grid.
    #[getter]
    fn grid(&self) -> (usize, usize) {
        self.loaded.spec.grid().into()
    }

    /// Channels per token.
    #[getter]
    fn dim(&self) -> usize {
        self.loaded.spec.dim
    }

    /// Number of blocks.
    #[getter]
    fn depth(&self) -> usize {
        self.loaded.spec.depth
    }

    /// Number of prefix tokens, which are never pruned.
    #[getter]
    fn num_prefix_tokens(&self) -> usize {
        self.loaded.spec.num_prefix_tokens()
    }

    /// Number of classes; 0 without a head.
    #[getter]
    fn num_classes(&self) -> usize {
        self.loaded.spec.num_classes
    }

    /// The name of each class, None for a class without one; empty if the checkpoint has none.
    #[getter]
    fn class_names(&self) -> Vec<Option<String>> {
        self.loaded.class_names.clone()
    }

    /// Data type of the backbone's arithmetic.
    #[getter]
    fn dtype(&self) -> String {
        self.loaded.model.weights().precision().to_string()
    }

    /// The pruner, described in one line.
    #[getter]
    fn policy(&self) -> String {
        self.pruning().describe()
    }

    /// 0-based blocks of the stages: tokens leave before them or, if they merge, after their attention.
    #[getter]
    fn stages(&self) -> PyResult<Vec<usize>> {
        self.pruning().stages(&self.loaded().spec).map_err(from_library)
    }

    /// MACs of an unpruned image, in units of 1e9.
    #[getter]
    fn dense_gmacs(&self) -> f64 {
        cost::dense_macs(&self.loaded.spec) as f64 / 1e9
    }

    /// Hash of the backbone's weights.
    #[getter]
    fn fingerprint(&self) -> &str {
        &self.loaded.id.fingerprint
    }

    /// A model over the same weights, with a pruner setting of its own.
    fn __copy__(&self) -> Self {
        self.over(self.pruning())
    }

    /// As `copy.copy`: weights never change. A pruner in Python is copied.
    fn __deepcopy__(&self, memo: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(self.over(Arc::new(self.pruning().deep_copy(memo)?)))
    }

    /// For pickle: the model is loaded again from where it came, with the same settings.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let Some(place) = &self.place else { return Err(in_memory(py, &self.loaded.origin)) };
        let (policy, dialled) = self.pruning().lasting(py)?;
        let size = self.img_size.map(|[height, width]| (height, width));
        let (threads, fingerprint) = (self.threads.own(), self.fingerprint());
        let arguments = (place, policy, self.dtype(), threads, size, dialled, fingerprint, &self.classes)
            .into_pyobject(py)?;
        Ok((py.import("vitrim.checkpoints")?.getattr("restored")?, arguments))
    }

    fn __repr__(&self) -> String {
        let name = Path::new(&self.loaded.origin).file_name().unwrap_or_default().to_string_lossy();
        format!("<vitrim.Model '{name}', dtype {}, policy: {}>", self.dtype(), self.policy())
    }
}

/// Keys of images that have only a position in the batch.
fn places(batch: usize) -> Vec<ImageKey> {
    (0..batch as ImageKey).collect()
}

/// The output as an array `[rows, width]`.
fn rows(py: Python<'_>, output: Output) -> PyResult<Bound<'_, PyAny>> {
    let count = output.values.len() / output.width.max(1);
    let flat: Bound<'_, PyArray1<f32>> = output.values.into_pyarray(py);
    Ok(flat.reshape([count, output.width])?.into_any())
}
