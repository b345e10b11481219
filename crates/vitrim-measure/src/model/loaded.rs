//! A backbone ready to run, with what it takes to feed it.

use std::path::Path;

use vitrim_data::{Dataset, Preprocess, Transform};
use vitrim_hub::{Kind, is_reference, local};
use vitrim_kernels::memory::return_freed_memory;
use vitrim_prune::policy::BackboneId;
use vitrim_vit::{Checkpoint, CpuBackbone, Precision, Tensors, VitError, VitSpec};

use crate::error::{MeasureError, Result};

/// Seed of the weights of a backbone that is given by name.
const RANDOM_WEIGHTS: u64 = 0;

/// How a backbone is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening {
    /// What it multiplies in.
    pub precision: Precision,
    /// Height and width of its input, pixels; `None` for its own.
    pub img_size: Option<[usize; 2]>,
}

impl From<Precision> for Opening {
    fn from(precision: Precision) -> Self {
        Opening { precision, img_size: None }
    }
}

/// A backbone with its identity and its images' way in.
pub struct Loaded {
    /// The folder or the name that it was opened by.
    pub origin: String,
    /// The geometry.
    pub spec: VitSpec,
    /// The executor.
    pub model: CpuBackbone,
    /// What policies are checked against.
    pub id: BackboneId,
    /// Image to pixels.
    pub transform: Transform,
    /// The name of each class; empty where the checkpoint does not say.
    pub class_names: Vec<String>,
}

impl Loaded {
    /// Opens a checkpoint, or an `hf://` reference to one, to run in f32.
    ///
    /// # Errors
    /// As [`open_checkpoint`], or if its preprocessing is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_in(path, Precision::F32)
    }

    /// Opens a checkpoint, or an `hf://` reference to one, as `opening` says.
    ///
    /// # Errors
    /// As [`Loaded::open`].
    pub fn open_in(path: &Path, opening: impl Into<Opening>) -> Result<Self> {
        let Opening { precision, img_size } = opening.into();
        let checkpoint = open_checkpoint(path, img_size)?;
        let spec = checkpoint.spec.clone();
        let id = BackboneId::of(&spec, &checkpoint.tensors)?;
        let loaded = Loaded {
            origin: path.display().to_string(),
            id,
            transform: transform(&spec, preprocess(&checkpoint)?)?,
            class_names: checkpoint.class_names(),
            model: checkpoint.into_backbone(precision)?,
            spec,
        };
        return_freed_memory();
        Ok(loaded)
    }

    /// A backbone of timm's geometry `name` with random weights, for timing, as `opening` says.
    ///
    /// # Errors
    /// If the name is not one of those that vitrim runs, or patches do not tile the size.
    pub fn random(name: &str, opening: impl Into<Opening>) -> Result<Self> {
        let Opening { precision, img_size } = opening.into();
        let spec = VitSpec::from_timm_name(name)?;
        let spec = match img_size {
            Some(size) => spec.at_size(size)?,
            None => spec,
        };
        let tensors = Tensors::random(&spec, RANDOM_WEIGHTS);
        Ok(Loaded {
            origin: format!("{name} with random weights"),
            id: BackboneId::of(&spec, &tensors)?,
            transform: transform(&spec, Preprocess::default())?,
            class_names: Vec::new(),
            model: CpuBackbone::in_precision(&spec, &tensors, precision)?,
            spec,
        })
    }

    /// A checkpoint where there is one, what an `hf://` reference means, else a backbone by name with random weights,
    /// as `opening` says.
    ///
    /// # Errors
    /// As [`Loaded::open_in`] and [`Loaded::random`].
    pub fn open_or_random(model: &str, opening: impl Into<Opening>) -> Result<Self> {
        if Path::new(model).exists() || is_reference(Path::new(model)) {
            return Self::open_in(Path::new(model), opening);
        }
        Self::random(model, opening).map_err(|error| match error {
            MeasureError::Vit(VitError::UnsupportedArchitecture { .. }) => {
                MeasureError::NoSuchModel { given: model.to_owned(), reason: error.to_string() }
            }
            other => other,
        })
    }

    /// Checks that `dataset`, opened at `data`, has the backbone's classes, or no labels at all.
    ///
    /// # Errors
    /// [`MeasureError::Classes`] if not.
    pub fn check_classes(&self, data: &str, dataset: &Dataset) -> Result<()> {
        let greatest = (0..dataset.len()).filter_map(|index| dataset.label(index)).max();
        let Some(greatest) = greatest else { return Ok(()) };
        let named = dataset.class_names().len();
        let classes = self.spec.num_classes;
        let found = if named > 0 { named } else { greatest as usize + 1 };
        if found == classes || (named == 0 && found < classes) {
            return Ok(());
        }
        Err(MeasureError::Classes { data: data.to_owned(), found, model: self.origin.clone(), classes })
    }
}

/// Opens a checkpoint, or an `hf://` reference to one, for inputs of `img_size`, or else of its own size.
///
/// # Errors
/// As [`local`] and [`Checkpoint::open_at`].
pub fn open_checkpoint(path: &Path, img_size: Option<[usize; 2]>) -> Result<Checkpoint> {
    Ok(Checkpoint::open_at(&local(path, Kind::Model)?, img_size)?)
}

/// How images become the checkpoint's pixels, at the size that is stored: as transformers' image processor says, where
/// there is one, else as timm's `pretrained_cfg` does, which has a default for all that is missing.
///
/// # Errors
/// If it asks for what is not supported.
pub fn preprocess(checkpoint: &Checkpoint) -> Result<Preprocess> {
    let (file, read) = match &checkpoint.preprocessor_config {
        Some(processor) => ("preprocessor_config.json", Preprocess::from_processor(processor)),
        None => ("config.json", Preprocess::from_pretrained_cfg(&checkpoint.pretrained_cfg)),
    };
    read.map_err(|error| MeasureError::Part {
        data: checkpoint.path.join(file).display().to_string(),
        reason: error.to_string(),
    })
}

/// The checkpoint's transform, at the size that the geometry takes.
fn transform(spec: &VitSpec, preprocess: Preprocess) -> Result<Transform> {
    let [height, width] = spec.img_size;
    Ok(Transform::new(Preprocess { input_size: [3, height, width], ..preprocess })?)
}
