//! Configurations as data: a preset, a TOML file that overrides it, and `--set a.b=c`, which overrides both.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     updates: usize,
//!     learning_rate: f64,
//! }
//!
//! let preset = Config { updates: 400, learning_rate: 1e-3 };
//! let config = vitrim::overlay::merge(&preset, None, &["updates=100".to_string()])?;
//! assert_eq!((config.updates, config.learning_rate), (100, 1e-3));
//! # Ok::<(), vitrim::overlay::OverlayError>(())
//! ```

use std::path::{Path, PathBuf};
use std::{fmt, io};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Smallest similarity of two keys (0 to 1) at which one is suggested for the other.
const ALIKE: f64 = 0.6;

/// A configuration that cannot be assembled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// The file cannot be read.
    #[error("{}: cannot be read ({cause}); check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        cause: io::Error,
    },
    /// The file is in another encoding than UTF-8, or too large.
    #[error("{}: {cause}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        cause: io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not TOML ({reason}); --print-config shows a valid file", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The parser's message.
        reason: String,
    },
    /// A `--set` without a key or without `=`.
    #[error("`--set {given}` is not key=value; write for example --set a.b=3")]
    NotKeyValue {
        /// The text that was given.
        given: String,
    },
    /// A key that the configuration does not have.
    #[error("{place}: unknown key `{key}`; {cure}")]
    UnknownKey {
        /// Where the key was given.
        place: GivenIn,
        /// The whole key, dotted.
        key: String,
        /// The most similar key, or the existing keys.
        cure: String,
    },
    /// A value of the wrong type, or one that the configuration does not accept.
    #[error("{place}: `{key}`: {reason}; --print-config shows the values in force")]
    BadValue {
        /// Where the value was given.
        place: GivenIn,
        /// The whole key, dotted.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration has values that TOML cannot hold.
    #[error("this configuration cannot be written as TOML ({reason}); please report it as a bug")]
    NotRepresentable {
        /// The serialiser's message.
        reason: String,
    },
}

/// Where a key or a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenIn {
    /// In the preset.
    Preset,
    /// In a TOML file.
    File(PathBuf),
    /// In a `--set`, with its full text.
    Set(String),
}

impl fmt::Display for GivenIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GivenIn::Preset => write!(f, "preset"),
            GivenIn::File(path) => write!(f, "{}", path.display()),
            GivenIn::Set(given) => write!(f, "--set {given}"),
        }
    }
}

/// `base` overridden by `file`, and both overridden by each of `sets` (`a.b=c`); the last value wins.
///
/// Nested tables are merged key by key; all other values, arrays included, are replaced. The value of a set is TOML
/// (`3`, `true`, `[3, 6, 9]`, `"text"`); a value that is not TOML is taken as text, and so is a plain value if `base`
/// has text. Unknown keys are an error if T and the structs within it are `#[serde(deny_unknown_fields)]`. A file
/// cannot unset an `Option` (TOML has no null), nor change the variant of an enum that is written as a table of its
/// fields.
///
/// # Errors
/// [`OverlayError`], one line that names the key and where it was given.
pub fn merge<T: Serialize + DeserializeOwned>(
    base: &T,
    file: Option<&Path>,
    sets: &[String],
) -> Result<T, OverlayError> {
    let preset = Table::try_from(base).map_err(not_representable)?;
    let mut layers = Vec::new();
    if let Some(path) = file {
        layers.push((GivenIn::File(path.to_path_buf()), read(path)?));
    }
    for given in sets {
        layers.push((GivenIn::Set(given.clone()), parse_set(given, &preset)?));
    }

    let mut merged = preset.clone();
    for (_, layer) in &layers {
        lay_over(&mut merged, layer);
    }
    serde_path_to_error::deserialize(Value::Table(merged)).map_err(|error| {
        let path: Vec<String> = error.path().iter().map(|step| step.to_string()).collect();
        explain(&preset, &layers, path, error.inner().message())
    })
}

/// The configuration as a TOML file that [`merge`] reads back unchanged.
///
/// # Errors
/// [`OverlayError::NotRepresentable`] for values that TOML cannot hold.
pub fn to_toml<T: Serialize>(config: &T) -> Result<String, OverlayError> {
    toml::to_string_pretty(config).map_err(not_representable)
}

fn not_representable(error: toml::ser::Error) -> OverlayError {
    OverlayError::NotRepresentable { reason: error.to_string() }
}

fn read(path: &Path) -> Result<Table, OverlayError> {
    let text = vitrim_text::read(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::InvalidData => OverlayError::NotText { path: path.to_path_buf(), cause },
        _ => OverlayError::Unreadable { path: path.to_path_buf(), cause },
    })?;
    text.parse::<Table>().map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        OverlayError::NotToml {
            path: path.to_path_buf(),
            line: 1 + text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count(),
            reason: one_line(error.message()),
        }
    })
}

/// `a.b=c` as the table `{ a = { b = c } }`.
fn parse_set(given: &str, preset: &Table) -> Result<Table, OverlayError> {
    let not_key_value = || OverlayError::NotKeyValue { given: given.to_string() };
    let (key, text) = given.split_once('=').ok_or_else(not_key_value)?;
    let steps: Vec<&str> = key.split('.').map(str::trim).collect();
    if steps.iter().any(|step| step.is_empty()) {
        return Err(not_key_value());
    }
    let mut value = parse_value(text.trim(), find(preset, &steps));
    for step in steps.into_iter().rev() {
        value = Value::Table(Table::from_iter([(step.to_string(), value)]));
    }
    match value {
        Value::Table(table) => Ok(table),
        _ => Err(not_key_value()),
    }
}

fn parse_value(text: &str, current: Option<&Value>) -> Value {
    let as_text = || Value::String(text.to_string());
    match text.parse::<Value>() {
        Ok(value @ (Value::String(_) | Value::Array(_) | Value::Table(_))) => value,
        Ok(_) if matches!(current, Some(Value::String(_))) => as_text(),
        Ok(value) => value,
        Err(_) => as_text(),
    }
}

fn lay_over(under: &mut Table, over: &Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => lay_over(under, over),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The value at `steps`, if there is one.
fn find<'t>(table: &'t Table, steps: &[impl AsRef<str>]) -> Option<&'t Value> {
    let (last, before) = steps.split_last()?;
    let mut table = table;
    for step in before {
        table = table.get(step.as_ref())?.as_table()?;
    }
    table.get(last.as_ref())
}

/// Converts serde's error on the merged tables to one that names the key and its origin.
fn explain(
    preset: &Table,
    layers: &[(GivenIn, Table)],
    mut path: Vec<String>,
    message: &str,
) -> OverlayError {
    let unknown = message.starts_with("unknown field");
    let mut quoted = message.split('`').skip(1).step_by(2);
    if unknown
        && let Some(field) = quoted.next()
        && path.last().is_none_or(|last| last != field)
    {
        path.push(field.to_string());
    }
    let key = path.join(".");
    let place = giver(layers, &path);
    if !unknown {
        return OverlayError::BadValue { place, key, reason: one_line(message) };
    }
    let parent = &path[..path.len() - 1];
    let siblings: Vec<String> = quoted.map(|name| [parent, &[name.to_string()]].concat().join(".")).collect();
    OverlayError::UnknownKey { place, cure: cure(&key, preset, siblings), key }
}

/// The last layer that has a value at `path`, or within or around it.
fn giver(layers: &[(GivenIn, Table)], path: &[String]) -> GivenIn {
    for length in (1..=path.len()).rev() {
        let gives = |layer: &&(GivenIn, Table)| find(&layer.1, &path[..length]).is_some();
        if let Some((place, _)) = layers.iter().rev().find(gives) {
            return place.clone();
        }
    }
    match layers.last() {
        Some((place, _)) if path.is_empty() => place.clone(),
        _ => GivenIn::Preset,
    }
}

/// A suggestion for the unknown `key`.
fn cure(key: &str, preset: &Table, siblings: Vec<String>) -> String {
    let mut known = siblings.clone();
    all_keys(preset, "", &mut known);
    let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
    let likeness = |candidate: &str| {
        (
            strsim::normalized_damerau_levenshtein(&name(key), &name(candidate)),
            strsim::normalized_damerau_levenshtein(key, candidate),
        )
    };
    let nearest = known
        .iter()
        .map(|candidate| (likeness(candidate), candidate))
        .max_by(|(a, _), (b, _)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    match nearest {
        Some(((likeness, _), candidate)) if likeness >= ALIKE => {
            format!("did you mean `{candidate}`?")
        }
        _ if siblings.is_empty() => "nothing is configured there".to_string(),
        _ => format!("here are: {}", siblings.join(", ")),
    }
}

fn all_keys(table: &Table, prefix: &str, keys: &mut Vec<String>) {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        if let Value::Table(inner) = value {
            all_keys(inner, &format!("{key}."), keys);
        }
        keys.push(key);
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        name: String,
        stages: Vec<usize>,
        read_out: ReadOut,
        training: Training,
        notes: Option<String>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Training {
        updates: u32,
        learning_rate: f64,
        seed: Option<u64>,
        resume: bool,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum ReadOut {
        Sample,
        TopR,
        Threshold(f64),
    }

    fn preset() -> Config {
        Config {
            name: "default".into(),
            stages: vec![3, 6, 9],
            read_out: ReadOut::Sample,
            training: Training { updates: 400, learning_rate: 1e-3, seed: None, resume: false },
            notes: None,
        }
    }

    fn set(sets: &[&str]) -> Result<Config, OverlayError> {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        merge(&preset(), None, &sets)
    }

    fn refusal(sets: &[&str]) -> String {
        let line = set(sets).unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn without_layers_the_preset_comes_back() {
        assert_eq!(set(&[]).unwrap(), preset());
    }

    #[test]
    fn sets_win_over_the_file_and_the_file_over_the_preset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        fs::write(&path, "stages = [1, 2]\n[training]\nupdates = 7\nseed = 3\n").unwrap();
        let sets = ["training.updates=9".to_string()];
        let config = merge(&preset(), Some(&path), &sets).unwrap();
        assert_eq!(config.stages, [1, 2]);
        assert_eq!(config.training.updates, 9);
        assert_eq!(config.training.seed, Some(3));
        assert_eq!(config.training.learning_rate, 1e-3);

        fs::write(&path, to_toml(&config).unwrap()).unwrap();
        assert_eq!(merge(&preset(), Some(&path), &[]).unwrap(), config);
    }

    #[test]
    fn values_are_toml_or_else_text() {
        let config = set(&[
            "name = paper",
            "stages=[2]",
            "training.learning_rate=1",
            "training.resume=true",
            "read_out=top-r",
            "notes=a = b",
        ])
        .unwrap();
        assert_eq!((config.name.as_str(), config.stages), ("paper", vec![2]));
        assert_eq!(config.training.learning_rate, 1.0);
        assert!(config.training.resume);
        assert_eq!(config.read_out, ReadOut::TopR);
        assert_eq!(config.notes.as_deref(), Some("a = b"));
        assert_eq!(set(&["name=123"]).unwrap().name, "123");
        assert_eq!(set(&["name=\"1 2\""]).unwrap().name, "1 2");
        let threshold = set(&["read_out={threshold = 0.7}"]).unwrap();
        assert_eq!(threshold.read_out, ReadOut::Threshold(0.7));
        assert_eq!(set(&["name=a", "name=b"]).unwrap().name, "b");
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest() {
        assert_eq!(
            refusal(&["training.updtaes=3"]),
            "--set training.updtaes=3: unknown key `training.updtaes`; did you mean `training.updates`?"
        );
        let moved = refusal(&["learning_rate=3"]);
        assert!(moved.ends_with("`training.learning_rate`?"), "{moved}");
        let absent = refusal(&["training.sead=3"]);
        assert!(absent.ends_with("did you mean `training.seed`?"), "{absent}");
        assert_eq!(
            refusal(&["training.zzz.y=3"]),
            "--set training.zzz.y=3: unknown key `training.zzz`; here are: training.updates, \
             training.learning_rate, training.seed, training.resume"
        );
    }

    #[test]
    fn mismatched_types_name_the_key_and_where() {
        let many = refusal(&["training.updates=many"]);
        assert!(many.starts_with("--set training.updates=many: `training.updates`: invalid type"));
        assert!(many.contains("\"many\"") && many.contains("u32"), "{many}");
        let negative = refusal(&["training.updates=-1", "name=x"]);
        assert!(negative.starts_with("--set training.updates=-1: "), "{negative}");
        let stages = refusal(&["stages=[1, \"x\"]"]);
        assert!(stages.contains("--set stages=[1, \"x\"]: `stages"), "{stages}");
        let through = refusal(&["training.updates.more=1"]);
        assert!(through.contains("`training.updates`"), "{through}");
        let whole = refusal(&["training=1"]);
        assert!(whole.starts_with("--set training=1: `training`"), "{whole}");
        let variant = refusal(&["read_out=smaple"]);
        assert!(variant.contains("`read_out`: unknown variant"), "{variant}");
    }

    #[test]
    fn sets_need_a_key_and_a_value() {
        for given in ["training", "=3", "training..updates=3", ".a=1"] {
            let error = set(&[given]).unwrap_err();
            assert!(matches!(error, OverlayError::NotKeyValue { .. }), "{given}");
        }
    }

    #[test]
    fn faults_of_a_file_name_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        let refuse = |text: &str| {
            fs::write(&path, text).unwrap();
            let line = merge(&preset(), Some(&path), &[]).unwrap_err().to_string();
            assert!(!line.contains('\n'), "{line}");
            line.replace(path.to_str().unwrap(), "run.toml")
        };
        let syntax = refuse("name = \"a\"\nstages = [1,\n");
        assert!(syntax.starts_with("run.toml:"), "{syntax}");
        assert!(syntax.contains("not TOML"), "{syntax}");
        let key = refuse("[training]\nupdate = 3\n");
        assert_eq!(key, "run.toml: unknown key `training.update`; did you mean `training.updates`?");
        let value = refuse("[training]\nresume = 3\n");
        assert!(value.starts_with("run.toml: `training.resume`: invalid type"));

        let missing = merge(&preset(), Some(&folder.path().join("no.toml")), &[]);
        assert!(matches!(missing, Err(OverlayError::Unreadable { .. })));
    }
}
