//! Results as Python objects, which can be pickled.

use numpy::PyArray1;
use pyo3::prelude::*;
use vitrim_measure::predict::Answer;
use vitrim_vit::Origin;

/// A class and its probability.
#[pyclass(frozen, get_all, module = "vitrim")]
pub struct ClassProbability {
    /// Its index.
    class_index: usize,
    /// Its name; None if the checkpoint does not have one.
    name: Option<String>,
    /// Softmax probability, 0 to 1.
    probability: f64,
}

#[pymethods]
impl ClassProbability {
    #[new]
    fn new(class_index: usize, name: Option<String>, probability: f64) -> Self {
        ClassProbability { class_index, name, probability }
    }

    /// For pickle, as for the classes below.
    fn __getnewargs__(&self) -> (usize, Option<String>, f64) {
        (self.class_index, self.name.clone(), self.probability)
    }

    fn __repr__(&self) -> String {
        let name = self.name.as_ref().map_or_else(|| "None".to_owned(), |name| format!("{name:?}"));
        let (class, probability) = (self.class_index, self.probability);
        format!("ClassProbability(class_index={class}, name={name}, probability={probability:.4})")
    }
}

/// The survivors of an image after a stage.
#[pyclass(frozen, get_all, module = "vitrim")]
pub struct Survivors {
    /// The 0-based block of the stage: tokens leave before it or, if they merge, after its attention.
    block: usize,
    /// Row-major grid positions of the surviving patch tokens, int64 [n].
    positions: Py<PyArray1<i64>>,
}

#[pymethods]
impl Survivors {
    #[new]
    fn new(block: usize, positions: Py<PyArray1<i64>>) -> Self {
        Survivors { block, positions }
    }

    fn __getnewargs__(&self, py: Python<'_>) -> (usize, Py<PyArray1<i64>>) {
        (self.block, self.positions.clone_ref(py))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let left = self.positions.bind(py).len()?;
        Ok(format!("Survivors(block={}, {left} patch tokens)", self.block))
    }
}

/// The answer for one image.
#[pyclass(frozen, get_all, module = "vitrim")]
pub struct Prediction {
    /// The image file; None for images that were given as objects.
    image: Option<String>,
    /// The most probable classes, best first.
    classes: Vec<Py<ClassProbability>>,
    /// Survivors of each stage, in order.
    stages: Vec<Py<Survivors>>,
    /// Multiply-accumulate operations for this image, the pruner's own scoring included.
    macs: u64,
    /// `macs` in units of 1e9.
    gmacs: f64,
}

impl Prediction {
    /// The answer `answer` for `image`.
    ///
    /// # Errors
    /// If Python is out of memory.
    pub fn of(py: Python<'_>, image: Option<String>, answer: Answer) -> PyResult<Self> {
        let classes = answer.classes.into_iter().map(|best| {
            let (class_index, name, probability) = (best.class, best.name, best.probability);
            Py::new(py, ClassProbability { class_index, name, probability })
        });
        let stages = answer.stages.into_iter().map(|stage| {
            let positions = stage.positions.into_iter().map(|p| p as i64);
            let positions = PyArray1::from_iter(py, positions).unbind();
            Py::new(py, Survivors { block: stage.block, positions })
        });
        Ok(Prediction {
            image,
            classes: classes.collect::<PyResult<_>>()?,
            stages: stages.collect::<PyResult<_>>()?,
            macs: answer.macs,
            gmacs: answer.macs as f64 / 1e9,
        })
    }
}

/// Image, classes, stages and MACs of a [`Prediction`].
type PredictionParts = (Option<String>, Vec<Py<ClassProbability>>, Vec<Py<Survivors>>, u64);

#[pymethods]
impl Prediction {
    #[new]
    fn new(
        image: Option<String>,
        classes: Vec<Py<ClassProbability>>,
        stages: Vec<Py<Survivors>>,
        macs: u64,
    ) -> Self {
        Prediction { image, classes, stages, macs, gmacs: macs as f64 / 1e9 }
    }

    fn __getnewargs__(&self, py: Python<'_>) -> PredictionParts {
        let classes = self.classes.iter().map(|class| class.clone_ref(py)).collect();
        let stages = self.stages.iter().map(|stage| stage.clone_ref(py)).collect();
        (self.image.clone(), classes, stages, self.macs)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let best = self.classes.first().map_or_else(String::new, |best| best.get().__repr__());
        let image = self.image.as_ref().map_or_else(|| "None".to_owned(), |image| format!("{image:?}"));
        let left =
            self.stages.iter().map(|stage| stage.get().positions.bind(py).len().unwrap_or(0).to_string());
        let left = left.collect::<Vec<_>>().join(", ");
        format!("Prediction(image={image}, best={best}, left=[{left}], gmacs={:.4})", self.gmacs)
    }
}

/// Tokens of the survivors of a batch, image after image: the final ones after the last norm, or those after a block.
#[pyclass(frozen, get_all, module = "vitrim")]
pub struct Tokens {
    /// Features of the tokens, float32 [T, D].
    tokens: Py<PyAny>,
    /// Index of each image's first token, int64 [B + 1]: image b has the rows offsets[b] to offsets[b + 1].
    offsets: Py<PyArray1<i64>>,
    /// Row-major grid position of each token, -1 for a prefix token (class, distillation, register), int64 [T].
    positions: Py<PyArray1<i64>>,
    /// Size of each token: more than 1 if others were merged into it, float32 [T].
    sizes: Py<PyArray1<f32>>,
    /// Input of a classifier, float32 [B, D]; [B, 0] for tokens after a block, which are not pooled.
    pooled: Py<PyAny>,
}

impl Tokens {
    /// From the layout of the packed batch.
    pub fn of(
        py: Python<'_>,
        tokens: Py<PyAny>,
        offsets: &[usize],
        origins: &[Origin],
        sizes: Vec<f32>,
        pooled: Py<PyAny>,
    ) -> Self {
        Tokens {
            tokens,
            offsets: to_int64(py, offsets).unbind(),
            positions: grid_positions(py, origins).unbind(),
            sizes: PyArray1::from_vec(py, sizes).unbind(),
            pooled,
        }
    }
}

/// Tokens, offsets, positions, sizes and pooled features of [`Tokens`].
type TokensParts = (Py<PyAny>, Py<PyArray1<i64>>, Py<PyArray1<i64>>, Py<PyArray1<f32>>, Py<PyAny>);

#[pymethods]
impl Tokens {
    #[new]
    fn new(
        tokens: Py<PyAny>,
        offsets: Py<PyArray1<i64>>,
        positions: Py<PyArray1<i64>>,
        sizes: Py<PyArray1<f32>>,
        pooled: Py<PyAny>,
    ) -> Self {
        Tokens { tokens, offsets, positions, sizes, pooled }
    }

    fn __getnewargs__(&self, py: Python<'_>) -> TokensParts {
        (
            self.tokens.clone_ref(py),
            self.offsets.clone_ref(py),
            self.positions.clone_ref(py),
            self.sizes.clone_ref(py),
            self.pooled.clone_ref(py),
        )
    }
}

/// Counts as an array.
pub fn to_int64<'py>(py: Python<'py>, counts: &[usize]) -> Bound<'py, PyArray1<i64>> {
    PyArray1::from_iter(py, counts.iter().map(|count| *count as i64))
}

/// Grid position of each token, -1 for a prefix token.
pub fn grid_positions<'py>(py: Python<'py>, origins: &[Origin]) -> Bound<'py, PyArray1<i64>> {
    PyArray1::from_iter(py, origins.iter().map(|origin| origin.grid().map_or(-1, |p| p as i64)))
}
