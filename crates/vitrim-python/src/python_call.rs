//! The Python statement of a request, which a report prints.

use serde_json::Value;

/// `function(first, name=value, ...)`, valid Python; `positional` are expressions.
pub fn call<'a>(
    function: &str,
    positional: impl IntoIterator<Item = String>,
    keywords: impl IntoIterator<Item = (&'a str, Value)>,
) -> String {
    let keywords = keywords.into_iter().map(|(name, value)| format!("{name}={}", literal(&value)));
    let arguments: Vec<String> = positional.into_iter().chain(keywords).collect();
    format!("{function}({})", arguments.join(", "))
}

/// `value` as a Python literal.
pub fn literal(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        // JSON's escapes are valid in Python.
        Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(values) => format!("[{}]", values.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                format!("{}: {}", literal(&Value::from(name.as_str())), literal(value))
            };
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
    }
}
