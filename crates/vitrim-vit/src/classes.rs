//! The names of a checkpoint's classes, as timm and transformers state them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Result, VitError};
use crate::families::present;

/// Class names by class. All are empty if there are no names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassNames {
    /// The name of each class; `None` where the configuration has none.
    pub names: Vec<Option<String>>,
    /// timm's `label_descriptions` of the names: other words for the classes.
    pub descriptions: Vec<Option<String>>,
    /// What in the configuration was not used, and why; one sentence.
    pub(crate) note: Option<String>,
}

/// Names by class index.
type Stated = BTreeMap<usize, String>;

impl ClassNames {
    /// The names of `classes` classes from timm's `label_names`, a list or an object from index to name, and
    /// `label_descriptions`, an object from name to description.
    ///
    /// # Errors
    /// If `names` is neither, or has a key that is no index or a name that is no text.
    pub(crate) fn from_timm(
        names: Option<&Value>,
        descriptions: Option<&Value>,
        classes: usize,
    ) -> Result<Self> {
        let Some(names) = names else { return Ok(Self::default()) };
        let stated = stated("label_names", names)?;
        let listed = names.as_array().map(Vec::len);
        let (count, beyond) = (listed.unwrap_or(stated.len()), stated.range(classes..).next().is_some());
        if classes > 0 && (beyond || listed.is_some_and(|listed| listed != classes)) {
            // As after fine-tuning from a checkpoint of other classes.
            let note = format!(
                "label_names has {count} names and the classifier {classes} classes: they are not used"
            );
            return Ok(ClassNames { note: Some(note), ..Self::default() });
        }
        let mut found = Self::default().named(stated, classes);
        if let Some(Value::Object(descriptions)) = descriptions {
            let of = |name: &Option<String>| text(descriptions.get(name.as_ref()?)?);
            found.descriptions = found.names.iter().map(of).collect();
        }
        Ok(found)
    }

    /// The names of `classes` classes in a configuration of transformers: `id2label`, else `label2id`.
    ///
    /// # Errors
    /// As [`ClassNames::from_timm`].
    pub(crate) fn from_transformers(config: &Value, classes: usize) -> Result<Self> {
        let mut names = match (present(config, "id2label"), present(config, "label2id")) {
            (Some(names), _) => stated("id2label", names)?,
            (None, Some(Value::Object(ids))) => {
                let index = |id: &Value| id.as_u64().or_else(|| id.as_str()?.parse().ok());
                let entry =
                    |(name, id): (&String, &Value)| Some((usize::try_from(index(id)?).ok()?, name.clone()));
                ids.iter().filter_map(entry).collect()
            }
            (None, _) => Stated::new(),
        };
        let beyond = names.split_off(&classes);
        let mut found = Self::default().named(names, classes);
        if let (Some((index, name)), 1..) = (beyond.first_key_value(), classes) {
            let last = classes - 1;
            found.note = Some(format!(
                "id2label has a name for class {index} ('{name}'), but the classifier's classes are 0 to {last}: as \
                 in transformers, the name is of no class"
            ));
        }
        Ok(found)
    }

    /// With `names`, unless they are the placeholders that transformers writes.
    fn named(self, mut names: Stated, classes: usize) -> Self {
        if classes == 0 || names.iter().all(|(index, name)| *name == format!("LABEL_{index}")) {
            return self;
        }
        ClassNames { names: (0..classes).map(|index| names.remove(&index)).collect(), ..self }
    }
}

/// The number of classes of a transformers configuration: that of `id2label`'s entries, whatever their keys; without it
/// and `num_labels`, that of `label2id`'s. `None` if none of them says.
pub(crate) fn class_count(config: &Value) -> Option<usize> {
    let entries = |key: &str| match present(config, key)? {
        Value::Object(entries) => Some(entries.len()),
        Value::Array(entries) => Some(entries.len()),
        _ => None,
    };
    let counted = || present(config, "num_labels").is_none().then(|| entries("label2id"))?;
    entries("id2label").or_else(counted)
}

/// The names in `value`, the field `key`: a list, or an object from index to name. Null is no name.
fn stated(key: &str, value: &Value) -> Result<Stated> {
    let wrong = |what: String| VitError::Geometry(format!("{key}: {what}"));
    let entries: Vec<(usize, &Value)> = match value {
        Value::Array(names) => names.iter().enumerate().collect(),
        Value::Object(names) => {
            let index = |key: &String| {
                key.trim()
                    .parse()
                    .map_err(|_| wrong(format!("'{key}' is no index of a class; give 0, 1, ...")))
            };
            names.iter().map(|(key, name)| Ok((index(key)?, name))).collect::<Result<_>>()?
        }
        _ => return Err(wrong("give a list of names, or an object of index and name".into())),
    };
    let mut stated = Stated::new();
    for (index, name) in entries {
        match text(name) {
            Some(name) => drop(stated.insert(index, name)),
            None if name.is_null() => (),
            None => return Err(wrong(format!("the name of class {index} is neither a text nor a number"))),
        }
    }
    Ok(stated)
}

/// A string or a number as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(found: &ClassNames) -> Vec<&str> {
        found.names.iter().map(|name| name.as_deref().unwrap_or("-")).collect()
    }

    #[test]
    fn timms_names_are_a_list_or_an_object_with_gaps() {
        let of = |names: Value| ClassNames::from_timm(Some(&names), None, 3);
        assert_eq!(names(&of(json!(["a", "b", "c"])).unwrap()), ["a", "b", "c"]);
        assert_eq!(names(&of(json!({"0": "a", "2": "c"})).unwrap()), ["a", "-", "c"]);
        assert_eq!(names(&of(json!([7, null, "c"])).unwrap()), ["7", "-", "c"]);
        for (given, word) in
            [(json!("a"), "list of names"), (json!({"zebra": 0}), "'zebra'"), (json!([["a"]]), "class 0")]
        {
            let error = of(given).unwrap_err().to_string();
            assert!(error.contains("label_names") && error.contains(word), "{error}");
        }
    }

    /// A fine-tuned checkpoint may keep the names of the classes before.
    #[test]
    fn names_of_another_number_of_classes_are_not_used() {
        for given in [json!(["a", "b", "c", "d"]), json!(["a"]), json!({"0": "a", "999": "z"})] {
            let found = ClassNames::from_timm(Some(&given), None, 3).unwrap();
            assert!(found.names.is_empty() && found.note.unwrap().contains("3 classes"), "{given}");
        }
        assert_eq!(ClassNames::from_timm(Some(&json!(["a"])), None, 0).unwrap(), ClassNames::default());
    }

    #[test]
    fn descriptions_are_by_name() {
        let descriptions = json!({"n1": "zebra", "n3": "moth"});
        let found = ClassNames::from_timm(Some(&json!(["n1", "n2", "n3"])), Some(&descriptions), 3).unwrap();
        assert_eq!(found.descriptions, [Some("zebra".to_owned()), None, Some("moth".to_owned())]);
    }

    #[test]
    fn transformers_counts_entries_and_names_by_key() {
        for (config, count, named, noted) in [
            (json!({"id2label": {"0": "a", "1": "b"}}), Some(2), vec!["a", "b"], false),
            (json!({"id2label": {"1": "a", "2": "b"}}), Some(2), vec!["-", "a"], true),
            (json!({"id2label": {"0": "a", "5": "b"}}), Some(2), vec!["a", "-"], true),
            (json!({"id2label": {"0": 0, "1": 1}}), Some(2), vec!["0", "1"], false),
            (json!({"id2label": {"0": null, "1": null}}), Some(2), vec![], false),
            (json!({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}), Some(2), vec![], false),
            (json!({"id2label": null, "label2id": {"b": 1, "a": 0}}), Some(2), vec!["a", "b"], false),
            (json!({"num_labels": 2, "label2id": {"b": 1, "a": "0"}}), None, vec!["a", "b"], false),
            (json!({}), None, vec![], false),
        ] {
            assert_eq!(class_count(&config), count, "{config}");
            let found = ClassNames::from_transformers(&config, 2).unwrap();
            assert_eq!(names(&found), named, "{config}");
            assert_eq!(found.note.is_some(), noted, "{config}");
        }
        assert!(ClassNames::from_transformers(&json!({"id2label": {"cat": 0}}), 2).is_err());
    }
}
