//! How a data set is read: how its images are decoded, and to which classes its labels refer.
//!
//! A backbone knows classes by index. A data set may name them instead, in its own order: a part of ImageNet, whose
//! folders are synsets, or photographs in folders named like the backbone's classes. If all names of a data set are
//! known, its labels are converted to the backbone's; otherwise a label map gives the correspondence.

use std::path::Path;

use vitrim_data::{Dataset, Decoding, LabelMap, imagenet_synsets};

use crate::error::{MeasureError, Result};
use crate::model::Loaded;

/// Number of classes of ImageNet-1k, and of the backbones that were trained on it.
const IMAGENET_CLASSES: usize = 1_000;

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
    /// The given number of classes of the backbone, if this map has all names of the data set.
    Known(LabelMap, usize),
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

    /// Decodes by `decoding`, and converts labels to the classes of `loaded`: by the file `map` ([`LabelMap::open`]),
    /// or by the backbone's class names and ImageNet's synsets if the data set has only such names.
    ///
    /// # Errors
    /// If `map` cannot be read, or has classes that the backbone lacks.
    pub fn for_backbone(decoding: Decoding, map: Option<&Path>, loaded: &Loaded) -> Result<Self> {
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
                let named = |names: &[Option<String>]| {
                    LabelMap::of_backbone(
                        names.iter().map(|name| name.as_deref().unwrap_or_default()),
                        classes,
                    )
                };
                let own = named(&loaded.class_names).or(named(&loaded.class_descriptions));
                let synsets = if classes == IMAGENET_CLASSES { imagenet_synsets() } else { Vec::new() };
                Labels::Known(own.or(LabelMap::of_backbone(synsets, classes)), classes)
            }
        };
        Ok(Reading { decoding, labels })
    }

    /// `dataset`, read in this way.
    ///
    /// # Errors
    /// If a label map lacks the class of an image.
    pub fn of(&self, dataset: &Dataset) -> Result<Dataset> {
        let dataset = dataset.decoded_by(self.decoding);
        match &self.labels {
            Labels::Ignored => Ok(dataset.unlabelled()),
            Labels::Mapped(map) => Ok(dataset.relabelled(map)?),
            Labels::Known(map, classes)
                if dataset.is_stream() || names_are_known(map, *classes, dataset.class_names()) =>
            {
                Ok(dataset.relabelled(map)?)
            }
            Labels::Known(..) | Labels::Own => Ok(dataset),
        }
    }
}

/// Whether `map` has all of `names`, and they are not just the backbone's `classes` in order, which need no map.
fn names_are_known(map: &LabelMap, classes: usize, names: &[String]) -> bool {
    let is_class = |(class, name): (u32, &String)| map.of_name(name) == Some(Some(class));
    let in_order = names.len() == classes && (0..).zip(names).all(is_class);
    !names.is_empty() && names.iter().all(|name| map.of_name(name).is_some()) && !in_order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn labels_change_only_where_every_name_is_known_in_another_order() {
        let map =
            LabelMap::of_backbone(["tench", "goldfish"], 2).or(LabelMap::of_backbone(imagenet_synsets(), 2));
        let known = |given: &[&str]| names_are_known(&map, 2, &names(given));
        assert!(known(&["goldfish", "tench"]) && known(&["n15075141"]));
        assert!(known(&["tench"]), "the first of two classes is no whole order");
        assert!(!known(&["tench", "goldfish"]), "they are themselves");
        assert!(!known(&["goldfish", "unicorn"]) && !known(&[]));
    }
}
