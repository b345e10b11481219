//! A backbone ready to run, with what it takes to feed it.

use std::path::Path;

use vitrim_data::{Dataset, Preprocess, Transform};
use vitrim_hub::{Kind, is_reference, local};
use vitrim_kernels::memory::return_freed_memory;
use vitrim_prune::policy::BackboneId;
use vitrim_vit::{Checkpoint, CpuBackbone, Precision, Tensors, VitSpec};

use crate::error::{Result, VitrimError};

/// Seed of the weights of a backbone that is given by name.
const RANDOM_WEIGHTS: u64 = 0;

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
    /// Opens a checkpoint folder, or an `hf://` reference to one, to run in f32.
    ///
    /// # Errors
    /// As [`open_checkpoint`], or if its preprocessing is not supported.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_in(folder, Precision::F32)
    }

    /// Opens a checkpoint folder, or an `hf://` reference to one, to run in `precision`.
    ///
    /// # Errors
    /// As [`Loaded::open`].
    pub fn open_in(folder: &Path, precision: Precision) -> Result<Self> {
        let checkpoint = open_checkpoint(folder)?;
        let spec = checkpoint.spec.clone();
        let id = BackboneId::of(&spec, &checkpoint.tensors)?;
        let preprocess = Preprocess::from_pretrained_cfg(&checkpoint.pretrained_cfg).map_err(|error| {
            VitrimError::Part {
                data: folder.join("config.json").display().to_string(),
                reason: error.to_string(),
            }
        })?;
        let loaded = Loaded {
            origin: folder.display().to_string(),
            id,
            transform: transform(&spec, preprocess)?,
            class_names: checkpoint.class_names(),
            model: checkpoint.into_backbone(precision)?,
            spec,
        };
        return_freed_memory();
        Ok(loaded)
    }

    /// A backbone of timm's geometry `name` with random weights, for timing, to run in `precision`.
    ///
    /// # Errors
    /// If the name is not one of those that vitrim runs.
    pub fn random(name: &str, precision: Precision) -> Result<Self> {
        let spec = VitSpec::from_timm_name(name)?;
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

    /// A checkpoint folder where there is one, what an `hf://` reference means, else a backbone by name with random weights, to run in
    /// `precision`.
    ///
    /// # Errors
    /// As [`Loaded::open_in`] and [`Loaded::random`].
    pub fn open_or_random(model: &str, precision: Precision) -> Result<Self> {
        if Path::new(model).exists() || is_reference(Path::new(model)) {
            return Self::open_in(Path::new(model), precision);
        }
        Self::random(model, precision)
            .map_err(|error| VitrimError::NoSuchModel { given: model.to_owned(), reason: error.to_string() })
    }

    /// Checks that `dataset`, opened at `data`, has the backbone's classes, or no labels at all.
    ///
    /// # Errors
    /// [`VitrimError::Classes`] if not.
    pub fn check_classes(&self, data: &str, dataset: &Dataset) -> Result<()> {
        let greatest = (0..dataset.len()).filter_map(|index| dataset.label(index)).max();
        let Some(greatest) = greatest else { return Ok(()) };
        let named = dataset.class_names().len();
        let classes = self.spec.num_classes;
        let found = if named > 0 { named } else { greatest as usize + 1 };
        if found == classes || (named == 0 && found < classes) {
            return Ok(());
        }
        Err(VitrimError::Classes { data: data.to_owned(), found, model: self.origin.clone(), classes })
    }
}

/// Opens a checkpoint folder, or an `hf://` reference to one.
///
/// # Errors
/// As [`local`] and [`Checkpoint::open`].
pub fn open_checkpoint(folder: &Path) -> Result<Checkpoint> {
    Ok(Checkpoint::open(&local(folder, Kind::Model)?)?)
}

/// The checkpoint's transform, at the size that the geometry takes.
fn transform(spec: &VitSpec, preprocess: Preprocess) -> Result<Transform> {
    let [height, width] = spec.img_size;
    Ok(Transform::new(Preprocess { input_size: [3, height, width], ..preprocess })?)
}
