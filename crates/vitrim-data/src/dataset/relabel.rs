//! Converts a data set's labels to the classes of a backbone.

use std::sync::Arc;

use super::{Dataset, Relabelling};
use crate::error::DataError;
use crate::labels::{
    BackboneClasses, LabelMap, LabelOrder, OwnClasses, StreamClasses, Written, bare_numbers, correspond,
    numbered, written,
};
use crate::sources::{Store, member_origin};

impl Dataset {
    /// The same images with the backbone's labels according to `map`: by a class's name if both the data set and the
    /// map have it, otherwise by its index, which in folders called by number is that number. The new data set has no
    /// class names.
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
        let called = if self.index.store.numbers_its_classes() { None } else { bare_numbers(names) };
        let class = |label: usize| match names.get(label) {
            None => map.of_index(label as u32),
            Some(name) => {
                let index = called.as_ref().map_or(label as u32, |numbers| numbers[label]);
                map.of_name(name).or_else(|| map.at(index))
            }
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

    /// The same images with the labels of a backbone that has the classes `backbone`: in the order `order`, or else by
    /// the names of the classes and the numbers in them. Labels that are numbers stay as they are. What was guessed is
    /// among the [notes](Self::label_notes).
    ///
    /// # Errors
    ///
    /// [`DataError::Correspondence`] if only some names are known, if a name can be read in two ways, or if `order` does
    /// not fit the names; for a stream, the error occurs when it is read.
    pub fn labelled_for(
        &self,
        backbone: &Arc<BackboneClasses>,
        order: Option<LabelOrder>,
    ) -> Result<Self, DataError> {
        if self.is_stream() {
            let classes = StreamClasses::new(Arc::clone(backbone), order);
            return Ok(Self {
                relabelling: Relabelling::StreamOfBackbone(Arc::new(classes)),
                ..self.clone()
            });
        }
        let (names, labels) = (&self.index.class_names, &self.index.labels);
        if names.is_empty() {
            return Ok(self.clone());
        }
        let mut used = vec![false; names.len()];
        for label in (0..self.len()).filter_map(|index| labels[self.row(index)?]) {
            used[label as usize] = true;
        }
        let own = OwnClasses { names, used: &used, numbered: self.index.store.numbers_its_classes() };
        let found = correspond(&own, backbone, order)
            .map_err(|what| DataError::Correspondence { origin: self.index.path.clone(), what })?;
        let label_notes = self.label_notes.iter().cloned().chain(found.note).collect();
        let Some(classes) = found.classes else { return Ok(Self { label_notes, ..self.clone() }) };
        let labels = labels.iter().map(|label| classes[(*label)? as usize]).collect();
        Ok(Self { relabelling: Relabelling::Rows(labels), label_notes, ..self.clone() })
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
        if let Relabelling::StreamOfBackbone(classes) = &self.relabelling {
            let class = classes.class(stated);
            return class.map_err(|what| DataError::Correspondence { origin: origin(), what });
        }
        let meaning = written(stated);
        let index = numbered(stated, meaning, origin)?;
        match &self.relabelling {
            Relabelling::Stream(map) => map
                .of_name(stated)
                .or_else(|| map.of_index(index?))
                // A word that is neither a number nor in a map is an error; -1 means no label.
                .or_else(|| (index.is_none() && matches!(meaning, Written::Whole(_))).then_some(None))
                .ok_or_else(|| DataError::NotInLabelMap { origin: origin(), class: stated.to_string() }),
            _ if matches!(meaning, Written::Word | Written::Gap) => {
                let wanted = "labelled by words without knowing the backbone's classes";
                Err(DataError::OnePass { origin: origin(), wanted })
            }
            _ => Ok(index),
        }
    }
}
