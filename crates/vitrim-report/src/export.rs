//! A policy as a repository of the Hugging Face Hub: its two files, and a model card.

use std::path::Path;

use vitrim_hub::{Kind, Reference, is_reference};
use vitrim_measure::calibrate::{Calibration, record};
use vitrim_measure::model::open_policy;
use vitrim_measure::model::{Loaded, Opening};
use vitrim_prune::AnyPolicy;

use crate::error::{ReportError, Result};
use crate::model_card::{Card, card};

/// File name of the card.
const CARD: &str = "README.md";

/// Writes the policy in `policy`, which belongs to the backbone `model`, and its card to the folder `out`, in the
/// layout that `hf://` fetches. `policy` and `model` may be `hf://` references; `opening` says how the backbone is opened.
/// `base_model` is the backbone's owner and name on the Hub; the default is that of `model` if it is a reference. Returns
/// the names of the files.
///
/// If the policy was calibrated on a local data set, only the last part of its path is published.
///
/// # Errors
/// If the policy or the backbone cannot be opened or do not belong together, `base_model` is not a valid name of a
/// repository, `out` holds anything but this export, whole or interrupted, or a file cannot be written.
pub fn export(
    policy: &Path,
    model: &Path,
    opening: &Opening,
    base_model: Option<&str>,
    out: &Path,
) -> Result<Vec<&'static str>> {
    let occupied = |reason: &str| ReportError::Setting(format!("--out {}: {reason}", out.display()));
    if is_reference(out) {
        return Err(occupied("is no folder; write one, and `hf upload` it"));
    }
    let base_model = match base_model {
        Some(given) => Some(repository(given)?),
        None if is_reference(model) => Some(Reference::parse(&model.to_string_lossy(), Kind::Model)?.id),
        None => None,
    };
    let loaded = Loaded::open_in(model, opening.clone())?;
    let mut exported = open_policy(policy, &loaded)?;
    let calibration = exported.calibration().is_some().then(|| record(&exported, policy)).transpose()?;
    let calibration = calibration.map(published);
    if let Some(record) = &calibration {
        let value = serde_json::to_value(record);
        exported.set_calibration(Some(value.map_err(|error| ReportError::Setting(error.to_string()))?));
    }
    let text = card(&Card {
        policy: &exported,
        read_out: &exported.dial().to_string(),
        // The record does not apply to another read-out than the calibrated one.
        calibration: calibration.as_ref().filter(|record| is_read_out_by(&exported, record)),
        base_model: base_model.as_deref(),
        model: is_reference(model).then(|| model.to_string_lossy().into_owned()).as_deref(),
        img_size: opening.img_size,
        of_texts: opening.classes.is_some(),
        spec: &loaded.spec,
    })?;
    let [header, weights] = exported.encoded();
    let files = [(CARD, text.into_bytes()), weights, header];
    if !holds_only(out, &files) {
        return Err(occupied("is not empty; give another folder, or empty it"));
    }
    std::fs::create_dir_all(out).map_err(|source| ReportError::Write { path: out.to_owned(), source })?;
    for (name, _) in &files {
        vitrim_durable::remove_leftovers(&out.join(name))?;
    }
    vitrim_durable::replace(&out.join(CARD), &files[0].1)?;
    exported.save(out)?;
    Ok(files.map(|(name, _)| name).to_vec())
}

/// Whether `folder` is missing, or holds nothing but `files` and what an interrupted writing of them left.
fn holds_only(folder: &Path, files: &[(&'static str, Vec<u8>)]) -> bool {
    let Ok(mut entries) = folder.read_dir() else { return true };
    entries.all(|entry| {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name();
        files.iter().any(|(file, bytes)| {
            let replaced = format!("{file}.new");
            let same = || std::fs::read(entry.path()).is_ok_and(|found| found == *bytes);
            let part = |of: &str| vitrim_durable::is_leftover(&name, &folder.join(of));
            ((name == *file || *name == *replaced) && same()) || part(file) || part(&replaced)
        })
    })
}

/// `given` if it is a valid owner and name of a repository.
fn repository(given: &str) -> Result<String> {
    match Reference::parse(&format!("hf://{given}"), Kind::Model) {
        Ok(reference) if reference.id == given => Ok(reference.id),
        _ => Err(ReportError::Setting(format!("--base-model {given}: give owner/name, as the Hub has it"))),
    }
}

/// `record` without data that only its machine has.
fn published(record: Calibration) -> Calibration {
    let path = Path::new(&record.data);
    let data = match path.file_name() {
        Some(name) if !is_reference(path) => name.to_string_lossy().into_owned(),
        _ => record.data.clone(),
    };
    Calibration { data, ..record }
}

fn is_read_out_by(policy: &AnyPolicy, record: &Calibration) -> bool {
    policy.dial() == policy.at_setting(record.threshold)
}
