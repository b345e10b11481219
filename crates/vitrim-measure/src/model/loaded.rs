//! A backbone ready to run, with its preprocessing.

use std::path::{Path, PathBuf};

use serde_json::json;
use vitrim_data::{Dataset, Naflex, Preprocess, Transform, imagenet_names};
use vitrim_hub::{Kind, is_reference, local};
use vitrim_kernels::memory::return_freed_memory;
use vitrim_prune::policy::BackboneId;
use vitrim_vit::{Checkpoint, CpuBackbone, Precision, Tensors, TextClasses, VitError, VitSpec};

use crate::error::{MeasureError, Result};

/// Seed of the random weights of a backbone that is given by name.
const RANDOM_WEIGHTS: u64 = 0;

/// How a backbone is opened.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// Data type of the arithmetic.
    pub precision: Precision,
    /// Height and width of the input, pixels; `None` for the checkpoint's own.
    pub img_size: Option<[usize; 2]>,
    /// A file of text embeddings, which make a classifier of an image tower ([`TextClasses::open`]).
    pub classes: Option<PathBuf>,
}

impl Opening {
    /// The classes, if there is a file of them.
    ///
    /// # Errors
    /// As [`TextClasses::open`].
    fn text_classes(&self) -> Result<Option<TextClasses>> {
        Ok(self.classes.as_deref().map(TextClasses::open).transpose()?)
    }

    /// The checkpoint `path`, or an `hf://` reference to one, at this size and with these classes; and the classes.
    ///
    /// # Errors
    /// As [`open_checkpoint`], [`TextClasses::open`] and [`Checkpoint::with_classes`].
    pub fn checkpoint(&self, path: &Path) -> Result<(Checkpoint, Option<TextClasses>)> {
        let classes = self.text_classes()?;
        let checkpoint = open_checkpoint(path, self.img_size)?;
        let checkpoint = match &classes {
            Some(classes) => checkpoint.with_classes(classes)?,
            None => checkpoint,
        };
        Ok((checkpoint, classes))
    }

    /// The geometry of timm's `name` at this size, before the classes; and the classes.
    ///
    /// # Errors
    /// If the name is not supported, or the patches do not tile the size; and as [`TextClasses::open`].
    pub fn geometry(&self, name: &str) -> Result<(VitSpec, Option<TextClasses>)> {
        let spec = VitSpec::from_timm_name(name)?;
        let spec = match self.img_size {
            Some(size) => spec.at_size(size)?,
            None => spec,
        };
        Ok((spec, self.text_classes()?))
    }
}

impl From<Precision> for Opening {
    fn from(precision: Precision) -> Self {
        Opening { precision, ..Opening::default() }
    }
}

/// A backbone with its identity and its preprocessing.
pub struct Loaded {
    /// The folder or the name by which it was opened.
    pub origin: String,
    /// The geometry.
    pub spec: VitSpec,
    /// The executor.
    pub model: CpuBackbone,
    /// The identity with which policies are compared.
    pub id: BackboneId,
    /// Preprocessing: from an image to pixels.
    pub transform: Transform,
    /// The name of each class, `None` for a class without one; empty if the checkpoint has none.
    pub class_names: Vec<Option<String>>,
    /// Other words for the classes, like `class_names`.
    pub class_descriptions: Vec<Option<String>>,
    /// The texts of which the classifier is made; `None` if it is the checkpoint's own.
    pub text_classes: Option<TextClasses>,
    /// What was chosen among several readings of the checkpoint, one sentence each.
    pub notes: Vec<String>,
}

/// Number of ImageNet-1k's classes.
pub const IMAGENET_CLASSES: usize = 1000;

impl Loaded {
    /// Whether class names must be assumed: the checkpoint lists none, and has as many classes as ImageNet-1k.
    pub fn assumes_names(&self) -> bool {
        self.class_names.is_empty() && self.spec.num_classes == IMAGENET_CLASSES
    }

    /// What to say of assumed class names; `None` if none are assumed.
    pub fn assumption(&self) -> Option<String> {
        self.assumes_names().then(|| {
            format!(
                "{} lists no class names and has {IMAGENET_CLASSES} classes: ImageNet-1k's names are assumed",
                self.origin
            )
        })
    }

    /// The name of class `class` for people: the checkpoint's, or ImageNet-1k's if names must be assumed.
    pub fn class_name(&self, class: usize) -> Option<String> {
        if self.assumes_names() {
            return imagenet_names().get(class).map(|name| (*name).to_owned());
        }
        self.class_names.get(class).cloned().flatten()
    }

    /// Opens a checkpoint, or an `hf://` reference to one, to run in f32.
    ///
    /// # Errors
    /// As [`open_checkpoint`], or if its preprocessing is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_in(path, Precision::F32)
    }

    /// Opens a checkpoint, or an `hf://` reference to one, according to `opening`.
    ///
    /// # Errors
    /// As [`Loaded::open`].
    pub fn open_in(path: &Path, opening: impl Into<Opening>) -> Result<Self> {
        let opening = opening.into();
        let (checkpoint, text_classes) = opening.checkpoint(path)?;
        let spec = checkpoint.spec.clone();
        let id = BackboneId::of(&spec, &checkpoint.tensors)?;
        let loaded = Loaded {
            origin: path.display().to_string(),
            id,
            transform: transform(&spec, preprocess(&checkpoint)?, opening.img_size)?,
            class_names: checkpoint.classes.names.clone(),
            class_descriptions: checkpoint.classes.descriptions.clone(),
            notes: checkpoint.notes.clone(),
            text_classes,
            model: checkpoint.into_backbone(opening.precision)?,
            spec,
        };
        return_freed_memory();
        Ok(loaded)
    }

    /// A backbone of timm's geometry `name` with random weights, for timing, according to `opening`.
    ///
    /// # Errors
    /// If the name is not supported, or the patches do not tile the size.
    pub fn random(name: &str, opening: impl Into<Opening>) -> Result<Self> {
        let opening = opening.into();
        let (mut spec, text_classes) = opening.geometry(name)?;
        let mut tensors = Tensors::random(&spec, RANDOM_WEIGHTS);
        if let Some(classes) = &text_classes {
            classes.classify(&mut spec, &mut tensors)?;
        }
        Ok(Loaded {
            origin: format!("{name} with random weights"),
            id: BackboneId::of(&spec, &tensors)?,
            transform: transform(&spec, Preprocess::default(), opening.img_size)?,
            class_names: (text_classes.iter().flat_map(|classes| &classes.names).cloned().map(Some))
                .collect(),
            class_descriptions: Vec::new(),
            notes: text_classes.iter().flat_map(|classes| &classes.notes).cloned().collect(),
            text_classes,
            model: CpuBackbone::in_precision(&spec, &tensors, opening.precision)?,
            spec,
        })
    }

    /// Opens `model` according to `opening`: a checkpoint if it exists, an `hf://` reference, otherwise a backbone by
    /// name with random weights.
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

    /// Checks that `dataset`, opened at `data`, has the backbone's classes, or no labels.
    ///
    /// # Errors
    /// [`MeasureError::Classes`] if not.
    pub fn check_classes(&self, data: &str, dataset: &Dataset) -> Result<()> {
        let max_label = (0..dataset.len()).filter_map(|index| dataset.label(index)).max();
        let Some(max_label) = max_label else { return Ok(()) };
        let named = dataset.class_names().len();
        let classes = self.spec.num_classes;
        let found = if named > 0 { named } else { max_label as usize + 1 };
        if found == classes || (named == 0 && found < classes) {
            return Ok(());
        }
        let (data, empty, model) = (data.to_owned(), without_images(dataset), self.origin.clone());
        Err(MeasureError::Classes { data, found, empty, model, classes })
    }
}

/// The first classes of `dataset` without images, in brackets; empty if all have some.
fn without_images(dataset: &Dataset) -> String {
    const NAMED: usize = 3;
    let empty = dataset.classes_without_images();
    let more = empty.len().saturating_sub(NAMED);
    let named = empty.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    match (named.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!(" (without images: {named})"),
        (false, more) => format!(" (without images: {named} and {more} more)"),
    }
}

/// Opens a checkpoint, or an `hf://` reference to one, for inputs of `img_size`, or of its own size.
///
/// # Errors
/// As [`local`] and [`Checkpoint::open_at`].
pub fn open_checkpoint(path: &Path, img_size: Option<[usize; 2]>) -> Result<Checkpoint> {
    Ok(Checkpoint::open_at(&local(path, Kind::Model)?, img_size)?)
}

/// The checkpoint's preprocessing, at the stored size: that of transformers' image processor if there is one,
/// otherwise that of timm's `pretrained_cfg` or older flat configuration, in which every missing field has a default.
///
/// # Errors
/// If it asks for an unsupported operation.
pub fn preprocess(checkpoint: &Checkpoint) -> Result<Preprocess> {
    let naflex = checkpoint.spec.is_naflex();
    let usual = json!({
        "image_processor_type": "Siglip2ImageProcessor", "patch_size": checkpoint.spec.patch_size,
    });
    let (file, read) = match &checkpoint.preprocessor_config {
        Some(processor) => ("preprocessor_config.json", Preprocess::from_processor(processor)),
        None if naflex => ("preprocessor_config.json", Preprocess::from_processor(&usual)),
        None => ("config.json", Preprocess::from_pretrained_cfg(&checkpoint.pretrained_cfg)),
    };
    let beside = |path: &Path| if path.is_file() { path.with_file_name(file) } else { path.join(file) };
    read.map_err(|error| MeasureError::Part {
        data: beside(&checkpoint.path).display().to_string(),
        reason: error.to_string(),
    })
}

/// The checkpoint's transform, for the input size of the geometry. Images of a NaFlex backbone keep their aspect ratio;
/// `asked`, a size that was asked for, says how many patches they have at most.
fn transform(spec: &VitSpec, preprocess: Preprocess, asked: Option<[usize; 2]>) -> Result<Transform> {
    let naflex = match preprocess.naflex {
        _ if !spec.is_naflex() => None,
        Some(naflex) if naflex.patch_size != spec.patch_size => {
            return Err(MeasureError::Setting(format!(
                "preprocessor_config.json: patch_size is {}, and the backbone's patches have {} pixels; correct it",
                naflex.patch_size, spec.patch_size
            )));
        }
        Some(naflex) if asked.is_none() => Some(naflex),
        _ => Some(Naflex { patch_size: spec.patch_size, max_num_patches: spec.num_patches() }),
    };
    let [height, width] = spec.img_size;
    Ok(Transform::new(Preprocess { input_size: [3, height, width], naflex, ..preprocess })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagenets_names_are_assumed_of_a_thousand_unnamed_classes() {
        let mut loaded = Loaded::random("deit_tiny_patch16_224", Precision::F32).unwrap();
        assert_eq!(loaded.class_name(8).as_deref(), Some("hen"));
        assert_eq!(loaded.class_name(1000), None);
        assert!(loaded.assumption().unwrap().contains("ImageNet-1k's names are assumed"));
        loaded.class_names = vec![None; 1000];
        loaded.class_names[8] = Some("my hen".to_owned());
        assert_eq!((loaded.class_name(8), loaded.class_name(9)), (Some("my hen".to_owned()), None));
        assert_eq!(loaded.assumption(), None, "the checkpoint names its classes");
        (loaded.class_names, loaded.spec.num_classes) = (Vec::new(), 10);
        assert_eq!((loaded.class_name(8), loaded.assumption()), (None, None), "not ImageNet-1k's classes");
    }
}
