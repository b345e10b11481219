//! How a data set is read: how its images are decoded, and to which classes its labels refer.
//!
//! A backbone knows classes by index. A data set may name them instead, in its own order: a part of ImageNet, whose
//! folders are synsets, or photographs in folders named like the backbone's classes. Its classes are found by name, by
//! the numbers in their names, in a given order, or by a label map.

use std::path::Path;
use std::sync::Arc;

use vitrim_data::{BackboneClasses, Dataset, Decoding, LabelMap, LabelOrder, imagenet_synsets};

use crate::error::{MeasureError, Result};
use crate::model::{IMAGENET_CLASSES, Loaded};

/// How a data set is read. The default decodes like torchvision and keeps the data set's own labels.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    decoding: Decoding,
    labels: Labels,
}

/// The classes to which labels refer.
#[derive(Clone, Debug, Default)]
enum Labels {
    /// The data set's own.
    #[default]
    Own,
    /// The backbone's, by name, by number or in this order.
    OfBackbone(Arc<BackboneClasses>, Option<LabelOrder>),
    /// The classes in this map.
    Mapped(LabelMap),
    /// Labels are ignored: the backbone has no classes.
    Ignored,
}

impl Reading {
    /// Decodes by `decoding`, and keeps the data set's own labels.
    pub fn plain(decoding: Decoding) -> Self {
        Reading { decoding, labels: Labels::Own }
    }

    /// Decodes by `decoding`, and converts labels to the classes of `loaded`: by the file `map` ([`LabelMap::open`]), in
    /// the order `order`, or by the backbone's class names, ImageNet's synsets, and numbers in names.
    ///
    /// # Errors
    /// If `map` cannot be read, or has classes that the backbone lacks, or if `order` is given, too.
    pub fn for_backbone(
        decoding: Decoding,
        map: Option<&Path>,
        order: Option<LabelOrder>,
        loaded: &Loaded,
    ) -> Result<Self> {
        if map.is_some() && order.is_some() {
            let reason = "--label-map and --label-order exclude each other; give one of them";
            return Err(MeasureError::Setting(reason.to_owned()));
        }
        let classes = loaded.spec.num_classes;
        let labels = match map {
            Some(path) if classes == 0 => {
                return Err(MeasureError::Setting(format!(
                    "label map {}: the backbone ({}) has no classes to map labels to; leave it out",
                    path.display(),
                    loaded.origin
                )));
            }
            None if classes == 0 => Labels::Ignored,
            Some(path) => {
                let map = LabelMap::open(path)?;
                if let Some(max_class) = map.max_class().filter(|max_class| *max_class as usize >= classes) {
                    return Err(MeasureError::Setting(format!(
                        "label map {}: has class {max_class}, but the backbone ({}) has classes 0 to {}; map what it \
                         does not know to -1",
                        path.display(),
                        loaded.origin,
                        classes.saturating_sub(1)
                    )));
                }
                Labels::Mapped(map)
            }
            None => {
                // A class without a name is an empty one: no folder is called so.
                fn words(names: &[Option<String>]) -> impl Iterator<Item = &str> {
                    names.iter().map(|name| name.as_deref().unwrap_or_default())
                }
                let synsets = if classes == IMAGENET_CLASSES { imagenet_synsets() } else { Vec::new() };
                let backbone = BackboneClasses::new(classes, words(&loaded.class_names))
                    .also_called(words(&loaded.class_descriptions))
                    .also_called(synsets);
                Labels::OfBackbone(Arc::new(backbone), order)
            }
        };
        Ok(Reading { decoding, labels })
    }

    /// `dataset`, read in this way.
    ///
    /// # Errors
    /// If a label map lacks the class of an image, or it is not known which classes the data set's are.
    pub fn of(&self, dataset: &Dataset) -> Result<Dataset> {
        let dataset = dataset.decoded_by(self.decoding);
        match &self.labels {
            Labels::Own => Ok(dataset),
            Labels::Ignored => Ok(dataset.unlabelled()),
            Labels::Mapped(map) => Ok(dataset.relabelled(map)?),
            Labels::OfBackbone(backbone, order) => Ok(dataset.labelled_for(backbone, *order)?),
        }
    }
}
