//! The labels of a stream, whose class names are known only as they come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::backbone::{BackboneClasses, Known};
use super::class::class_of;
use super::correspondence::{first_of, index_in, unknown};
use super::number::{Written, written};
use super::order::LabelOrder;

/// A backbone's classes for the labels of a stream.
#[derive(Debug)]
pub(crate) struct StreamClasses {
    backbone: Arc<BackboneClasses>,
    order: Option<LabelOrder>,
    /// The names met so far, by class, and whether each is spelled as the backbone's.
    met: Mutex<BTreeMap<u32, (String, bool)>>,
}

impl StreamClasses {
    pub(crate) fn new(backbone: Arc<BackboneClasses>, order: Option<LabelOrder>) -> Self {
        Self { backbone, order, met: Mutex::default() }
    }

    /// The class of the label `stated`. Numbers are classes as they are.
    ///
    /// # Errors
    ///
    /// One sentence that says why it is none.
    pub(crate) fn class(&self, stated: &str) -> Result<Option<u32>, String> {
        match written(stated) {
            Written::Whole(index) => class_of(Some(index), self.backbone.count())
                .map_err(|(label, expected)| format!("label {label} is out of range; expected {expected}")),
            Written::Fraction => Err(format!("label {stated} is not a whole number")),
            Written::Gap | Written::Word => self.named(stated).map(Some),
        }
    }

    /// What was guessed of the names so far.
    pub(crate) fn note(&self) -> Option<String> {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let respelled: Vec<String> =
            met.values().filter(|(_, exact)| !exact).map(|(name, _)| format!("`{name}`")).collect();
        (!respelled.is_empty()).then(|| {
            format!(
                "class names are spelled otherwise than the backbone's: {}",
                first_of(respelled.into_iter())
            )
        })
    }

    fn named(&self, name: &str) -> Result<u32, String> {
        match self.order {
            None => {}
            Some(LabelOrder::Index) => return index_in(name, &self.backbone),
            Some(order) => {
                return Err(format!(
                    "label `{name}` is a word, and --label-order {order} needs all of them, which a stream has only at its \
                     end; save it to files, decompressed (.tar)"
                ));
            }
        }
        let (class, exact) = match self.backbone.find(name) {
            Known::Exactly(class) => (class, true),
            Known::Spelled(class, _) => (class, false),
            Known::Twice(..) | Known::Not => return Err(unknown(&[name], 0, &self.backbone)),
        };
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let (other, was_exact) = met.entry(class).or_insert_with(|| (name.to_string(), exact));
        if other != name && !(exact && *was_exact) {
            return Err(format!(
                "labels `{other}` and `{name}` would both be the backbone's class {class}; rename one, or give --label-map FILE"
            ));
        }
        Ok(class)
    }
}
