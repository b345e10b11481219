//! The field of a record that holds its label.

use serde_json::Value;

/// Fields and columns that may hold a label, the most reliable first.
pub(crate) const LABEL_FIELDS: [&str; 8] =
    ["label", "labels", "fine_label", "cls", "class", "class_name", "category", "target"];

/// The label in a JSON object, as a word; `None` if there is none.
pub(crate) fn label_in(object: &Value) -> Option<String> {
    LABEL_FIELDS.iter().find_map(|field| word(object.get(field)?))
}

/// A number, a string or a truth value as a word.
pub(crate) fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_states_a_label_under_several_fields() {
        let label = |json: &str| label_in(&serde_json::from_str(json).unwrap());
        assert_eq!(label(r#"{"class": "b", "label": 3}"#).as_deref(), Some("3"));
        assert_eq!(label(r#"{"label": null, "class_name": "b"}"#).as_deref(), Some("b"));
        assert_eq!(label(r#"{"label": true}"#).as_deref(), Some("true"));
        assert_eq!(label(r#"{"caption": "b"}"#), None);
        assert_eq!(label("[3]"), None);
    }
}
