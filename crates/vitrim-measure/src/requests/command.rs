//! The command line of a request.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// The request of a verb. Its fields are flags, with the names under which they are serialised.
pub trait Request: Serialize + Default {
    /// The verb on the command line.
    const VERB: &'static str;
    /// Lists with one flag per element; elements of other lists are separated by commas.
    const REPEATED: &'static [&'static str] = &[];
    /// Lists that are positional arguments.
    const POSITIONAL: &'static [&'static str] = &[];

    /// The fields that differ from their defaults, in the order of the struct.
    fn given(&self) -> Vec<(String, Value)> {
        let defaults = fields(&Self::default());
        let mut given = fields(self);
        given.retain(|field| !defaults.contains(field));
        given
    }

    /// The command line of this request, quoted for a shell.
    fn command_line(&self) -> String {
        let mut command = CommandLine::new(Self::VERB);
        let mut positional = Vec::new();
        for (name, value) in self.given() {
            match value {
                Value::Array(values) if Self::POSITIONAL.contains(&&*name) => positional.extend(values),
                Value::Array(values) if Self::REPEATED.contains(&&*name) => {
                    values.iter().for_each(|value| command.flag(&name, &word(value)));
                }
                Value::Array(values) => {
                    command.flag(&name, &values.iter().map(word).collect::<Vec<_>>().join(","));
                }
                Value::Bool(true) => command.switch(&name),
                Value::Null | Value::Bool(false) => {}
                value => command.flag(&name, &word(&value)),
            }
        }
        positional.iter().for_each(|value| command.words.push(word(value)));
        command.to_string()
    }
}

/// A command line as a list of words; prints quoted for a shell.
pub struct CommandLine {
    words: Vec<String>,
}

impl CommandLine {
    /// `vitrim` and `verb`.
    pub fn new(verb: &str) -> Self {
        CommandLine { words: vec!["vitrim".to_owned(), verb.to_owned()] }
    }

    /// Adds `--name value`, where `name` may be a field's.
    pub fn flag(&mut self, name: &str, value: &str) {
        self.switch(name);
        match value.starts_with('-') {
            // A value that would be read as a flag.
            true => self.words.last_mut().expect("a flag was added").push_str(&format!("={value}")),
            false => self.words.push(value.to_owned()),
        }
    }

    /// Adds `--name`, where `name` may be a field's.
    pub fn switch(&mut self, name: &str) {
        self.words.push(format!("--{}", name.replace('_', "-")));
    }

    /// Adds a word unchanged.
    pub fn word(&mut self, word: &str) {
        self.words.push(word.to_owned());
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Words that every shell reads literally are not quoted; shlex also quotes `,` and `=`.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%".contains(c);
        let quote = |word: &String| match shlex::try_quote(word) {
            _ if word.chars().all(plain) && !word.is_empty() && !word.starts_with('=') => word.clone(),
            Ok(quoted) => quoted.into_owned(),
            // No argument can contain a zero byte.
            Err(_) => word.replace('\0', ""),
        };
        f.write_str(&self.words.iter().map(quote).collect::<Vec<_>>().join(" "))
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// The fields of `request`, in the order of the struct.
fn fields(request: &impl Serialize) -> Vec<(String, Value)> {
    let text = serde_json::to_string(request).expect("a request is plain data");
    let Fields(fields) = serde_json::from_str(&text).expect("a request is an object");
    fields
}

/// A JSON object with its fields in order.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Serialises fields as the text that the command line reads, for `#[serde(serialize_with = ...)]`. All errors are
/// those of the serializer.
pub mod as_text {
    use std::fmt::Display;
    use std::path::{Path, PathBuf};

    use vitrim_text::shown;

    use super::{Serialize, Serializer};

    /// A value by its `Display`.
    ///
    /// # Errors
    /// Errors of the serializer.
    pub fn display<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// An optional value by its `Display`.
    ///
    /// # Errors
    /// Errors of the serializer.
    pub fn display_option<S: Serializer, T: Display>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    /// Values by their `Display`.
    ///
    /// # Errors
    /// Errors of the serializer.
    pub fn displays<S: Serializer, T: Display>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    /// A path; bytes that are not UTF-8 are escaped, see [`shown`].
    ///
    /// # Errors
    /// Errors of the serializer.
    pub fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&shown(path))
    }

    /// An optional [`path`].
    ///
    /// # Errors
    /// Errors of the serializer.
    pub fn path_option<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(shown).serialize(serializer)
    }

    /// Several [`path`]s.
    ///
    /// # Errors
    /// Errors of the serializer.
    pub fn paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| shown(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Serialize)]
    struct Plain {
        zebra: String,
        apple: Option<f64>,
        loud: bool,
        list: Vec<u32>,
        set: Vec<String>,
        images: Vec<String>,
    }

    impl Request for Plain {
        const VERB: &'static str = "do";
        const REPEATED: &'static [&'static str] = &["set"];
        const POSITIONAL: &'static [&'static str] = &["images"];
    }

    #[test]
    fn what_differs_from_the_defaults_becomes_flags_in_order() {
        assert_eq!(Plain::default().command_line(), "vitrim do");
        let request = Plain {
            zebra: "it's a path".to_owned(),
            apple: Some(-0.5),
            loud: true,
            list: vec![1, 2],
            set: vec!["a=1".to_owned(), "b=[1, 2]".to_owned()],
            images: vec!["x.jpg".to_owned(), "$HOME".to_owned()],
        };
        let line = request.command_line();
        let words = shlex::split(&line).unwrap();
        assert_eq!(
            words,
            [
                "vitrim",
                "do",
                "--zebra",
                "it's a path",
                "--apple=-0.5",
                "--loud",
                "--list",
                "1,2",
                "--set",
                "a=1",
                "--set",
                "b=[1, 2]",
                "x.jpg",
                "$HOME"
            ],
            "{line}"
        );
    }
}
