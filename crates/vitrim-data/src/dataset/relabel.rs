//! Converts a data set's labels to the classes of a backbone.

use std::sync::Arc;

use super::{Dataset, Relabelling};
use crate::error::DataError;
use crate::labels::{LabelMap, class_of};
use crate::sources::{Store, member_origin};

impl Dataset {
    /// The same images with the backbone's labels according to `map`: by a class's name if both the data set and the
    /// map have it, otherwise by its index. The new data set has no class names.
    ///
    /// # Errors
    ///
    /// [`DataError::NotInLabelMap`] if an image's class is not in the map; for a stream, the error occurs when it is
    /// read.
    pub fn relabelled(&self, map: &LabelMap) -> Result<Self, DataError> {
        if self.is_stream() {
            let relabelling = Relabelling::Stream(Arc::new(map.clone()));
            return Ok(Self { relabelling, ..self.clone() });
        }
        let names = &self.index.class_names;
        let classes =
            names.len().max(self.index.labels.iter().flatten().max().map_or(0, |&max| max as usize + 1));
        let class = |label: usize| {
            let named = names.get(label).and_then(|name| map.of_name(name));
            named.or_else(|| map.of_index(label as u32))
        };
        let mapped: Vec<_> = (0..classes).map(class).collect();
        let mut labels = vec![None; self.index.labels.len()];
        for row in (0..self.len()).filter_map(|index| self.row(index)) {
            let Some(label) = self.index.labels[row] else { continue };
            labels[row] = mapped[label as usize].ok_or_else(|| DataError::NotInLabelMap {
                origin: self.index.store.origin_of_row(row),
                class: names.get(label as usize).cloned().unwrap_or_else(|| label.to_string()),
            })?;
        }
        Ok(Self { relabelling: Relabelling::Rows(labels.into()), ..self.clone() })
    }

    /// The same images without their labels.
    pub fn unlabelled(&self) -> Self {
        Self { relabelling: Relabelling::Unlabelled, ..self.clone() }
    }

    /// The class of an image of a stream, whose member is called `name` and whose label in the shard is `stated`.
    pub(super) fn class_in_stream(&self, name: &str, stated: Option<&str>) -> Result<Option<u32>, DataError> {
        let Some(stated) = stated.map(str::trim).filter(|stated| !stated.is_empty()) else { return Ok(None) };
        let Store::Stream(stream) = &self.index.store else { return Ok(None) };
        if matches!(self.relabelling, Relabelling::Unlabelled) {
            return Ok(None);
        }
        let origin = || member_origin(&stream.origin(), name);
        let index = match stated.parse::<i64>() {
            Ok(index) => class_of(Some(index), 0).map_err(|(label, expected)| DataError::BadLabel {
                origin: origin(),
                label,
                expected,
            })?,
            Err(_) if matches!(self.relabelling, Relabelling::Own) => {
                let wanted = "labelled by words without knowing the backbone's classes";
                return Err(DataError::OnePass { origin: origin(), wanted });
            }
            Err(_) => None,
        };
        match &self.relabelling {
            Relabelling::Stream(map) => map
                .of_name(stated)
                .or_else(|| if let Some(index) = index { map.of_index(index) } else { None })
                // A word that is neither a number nor in a map is an error; -1 means no label.
                .or_else(|| (index.is_none() && stated.parse::<i64>().is_ok()).then_some(None))
                .ok_or_else(|| DataError::NotInLabelMap { origin: origin(), class: stated.to_string() }),
            _ => Ok(index),
        }
    }
}
