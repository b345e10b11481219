//! `embed.json`: what determines the answers in a folder, so that only one command writes there.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vitrim_data::Dataset;
use vitrim_prune::policy::BackboneId;
use vitrim_vit::Precision;

use crate::error::{MeasureError, Result};
use crate::front::Measure;
use crate::model::features::FeatureKind;

/// The file's name.
const FILE: &str = "embed.json";
/// The fields that do not determine the answers.
const INFORMATION: [&str; 1] = ["command"];

/// What determines the answers. Paths do not: another machine may have model and images elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this program.
    pub vitrim: String,
    /// The command line of the process that began the folder, without its shard and threads.
    pub command: String,
    /// The backbone.
    pub backbone: BackboneId,
    /// Data type of its arithmetic.
    #[serde(with = "crate::model::dtype")]
    pub dtype: Precision,
    /// A hand-made method with its keep ratios, or the policy's identity with its read-out; null for the dense model.
    pub policy: Option<String>,
    /// The loss that the policy's calibration certifies at its read-out; null if it certifies none.
    pub certified: Option<Certified>,
    /// The features; null if there are none.
    pub features: Option<FeatureColumn>,
    /// Number of classes; null if there are no answers of this kind.
    pub classes: Option<usize>,
    /// Whether images are turned as EXIF says.
    pub exif: bool,
    /// Images per batch.
    pub batch: usize,
    /// Images per part.
    pub part: usize,
    /// The splits.
    pub splits: Vec<SplitImages>,
}

/// A certified bound of the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certified {
    /// What is bounded, as a calibration names it.
    pub measure: String,
    /// Its unit: pp or %.
    pub unit: String,
    /// The loss is at most this.
    pub at_most: f64,
    /// Confidence of the bound; 1 for the dense model, which loses nothing.
    pub confidence: f64,
}

impl Certified {
    /// The dense model's, with `classes`: it loses nothing.
    pub fn dense(classes: usize) -> Self {
        let measure = if classes == 0 { Measure::Drift } else { Measure::AccuracyLoss };
        let (name, unit) = (measure.name().to_owned(), measure.unit().to_owned());
        Certified { measure: name, unit, at_most: 0.0, confidence: 1.0 }
    }
}

/// The features of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureColumn {
    /// Which.
    pub kind: FeatureKind,
    /// Number of values.
    pub width: usize,
}

/// The images of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitImages {
    /// The split's name.
    pub name: String,
    /// Number of images.
    pub images: usize,
    /// A hash of their names, in order.
    pub keys: String,
}

impl SplitImages {
    /// Of `dataset`, called `name`.
    pub fn of(name: &str, dataset: &Dataset) -> Self {
        let mut hasher = blake3::Hasher::new();
        for index in 0..dataset.len() {
            hasher.update(dataset.name(index).as_bytes()).update(&[0]);
        }
        let keys = hasher.finalize().to_hex()[..32].to_owned();
        SplitImages { name: name.to_owned(), images: dataset.len(), keys }
    }
}

impl Manifest {
    /// Makes `folder` this command's, or checks that it is. Several processes may do so at once: one of them writes the
    /// file, the others read it. Returns the file's manifest: all processes state the command of the first.
    ///
    /// # Errors
    /// If the folder belongs to another command, holds other files, or cannot be written.
    pub(super) fn claim(&self, folder: &Path) -> Result<Manifest> {
        let create = |source| MeasureError::Write { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(create)?;
        let path = folder.join(FILE);
        if !path.is_file() && !is_bare(folder).map_err(create)? && !path.is_file() {
            return Err(MeasureError::Run {
                path: folder.to_owned(),
                reason: "holds other files; give an empty folder, or one that `vitrim embed` has begun"
                    .into(),
            });
        }
        let text = serde_json::to_vec_pretty(self).expect("a manifest is plain data");
        if vitrim_durable::create(&path, &text)? {
            return Ok(self.clone());
        }
        let bad = |reason: String| MeasureError::Run { path: path.clone(), reason };
        let bytes = fs::read(&path).map_err(|error| bad(format!("cannot be read ({error})")))?;
        let found: Value = serde_json::from_slice(&bytes)
            .map_err(|error| bad(format!("damaged ({error}); give another --out")))?;
        match difference(&found, &serde_json::to_value(self).expect("as above")) {
            None => {
                let command = found["command"].as_str().unwrap_or_default().to_owned();
                Ok(Manifest { command, ..self.clone() })
            }
            Some(difference) => {
                let command = found["command"].as_str().unwrap_or("unknown");
                Err(bad(format!(
                    "belongs to another command, {difference}; give another --out, or the same command: {command}"
                )))
            }
        }
    }
}

/// Whether `folder` has no files but hidden ones, which a killed process may have left.
fn is_bare(folder: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        match entry {
            Ok(entry) if entry.file_name().as_encoded_bytes().starts_with(b".") => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(_) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// How the first field that differs does, in words.
fn difference(found: &Value, wanted: &Value) -> Option<String> {
    let wanted = wanted.as_object().expect("a manifest is an object");
    let mut fields = wanted.iter().filter(|(name, _)| !INFORMATION.contains(&&***name));
    let (name, wanted) = fields.find(|(name, wanted)| found[name.as_str()] != **wanted)?;
    let plain = |value: &Value| !value.is_object() && !value.is_array();
    let found = &found[name.as_str()];
    Some(match name.as_str() {
        "splits" => "whose images have other names or another number".to_owned(),
        "policy" => "whose policy or read-out is another".to_owned(),
        name if plain(found) && plain(wanted) => format!("whose {name} is {found} and not {wanted}"),
        name => format!("whose {name} is another"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            vitrim: "1".into(),
            command: "vitrim embed".into(),
            backbone: BackboneId {
                architecture: "vit".into(),
                img_size: [32, 32],
                patch_size: 8,
                dim: 4,
                depth: 2,
                fingerprint: "ab".into(),
            },
            dtype: Precision::F32,
            policy: None,
            certified: None,
            features: Some(FeatureColumn { kind: FeatureKind::Pooled, width: 4 }),
            classes: Some(3),
            exif: false,
            batch: 64,
            part: 100,
            splits: vec![SplitImages { name: "test".into(), images: 5, keys: "cd".into() }],
        }
    }

    #[test]
    fn a_folder_belongs_to_one_command_wherever_its_files_lie() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/out");
        manifest().claim(&folder).unwrap();
        manifest().claim(&folder).unwrap();
        let moved = Manifest { command: "vitrim embed --model elsewhere".into(), ..manifest() };
        assert_eq!(moved.claim(&folder).unwrap(), manifest(), "the first command is stated");
        let mut other = [(); 4].map(|()| manifest());
        (other[0].batch, other[1].policy) = (32, Some("tome:0.7".into()));
        other[2].splits[0].keys = "ef".into();
        other[3].backbone.fingerprint = "ba".into();
        for (other, word) in
            other.iter().zip(["batch is 64 and not 32", "read-out", "other names", "backbone is another"])
        {
            let error = other.claim(&folder).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("the same command: vitrim embed"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_with_other_files_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(".embed.json.x.part"), b"").unwrap();
        manifest().claim(root.path()).unwrap();
        fs::remove_file(root.path().join(FILE)).unwrap();
        fs::write(root.path().join("thesis.tex"), b"").unwrap();
        let error = manifest().claim(root.path()).unwrap_err().to_string();
        assert!(error.contains("holds other files"), "{error}");
    }
}
