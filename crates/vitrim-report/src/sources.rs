//! The contents of a run folder.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use vitrim_measure::calibrate::{Calibration, record};
use vitrim_prune::AnyPolicy;
use vitrim_prune::policy::Universal;

use super::findings::Findings;
use crate::error::{ReportError, Result};

/// An update in `log.jsonl` ([`vitrim_train::UpdateLog`]); fields that are `null` there are `None`.
#[derive(Clone, Debug, Deserialize)]
pub struct Update {
    pub update: usize,
    pub images_per_s: Option<f64>,
    pub reward: Option<f64>,
    pub keep_ratio: Vec<f64>,
    pub cost: f64,
    pub divergence: Option<f64>,
    pub sampled_drop: Option<f64>,
    pub estimated_drop: Option<f64>,
    pub beta: Option<f64>,
    pub entropy: Option<f64>,
    pub approx_kl: Option<f64>,
}

/// The file of a run folder with the command line that trained the policy.
pub const COMMAND: &str = "command.txt";

/// The contents of a run folder.
pub struct Sources {
    pub run: PathBuf,
    /// The command line of the training; None in the folder of an earlier version.
    pub command: Option<String>,
    /// The updates; empty without a log.
    pub updates: Vec<Update>,
    /// The configuration, as TOML.
    pub config: Option<String>,
    pub has_policy: bool,
    /// The policy's calibration record, if it has one.
    pub calibration: Option<Calibration>,
    pub findings: Option<Findings>,
}

impl Sources {
    /// Reads `run`.
    ///
    /// # Errors
    /// If it is not a run folder, or a file in it is damaged.
    pub fn read(run: &Path) -> Result<Sources> {
        let bad = |reason: &str| ReportError::Run { path: run.to_owned(), reason: reason.into() };
        if !run.is_dir() {
            return Err(bad("no such folder; give the folder that `vitrim train --out` wrote"));
        }
        let log = text(&run.join("log.jsonl"))?;
        let policy = run.join("policy");
        let has_policy = policy.join("policy.json").is_file();
        if log.is_none() && !has_policy {
            return Err(bad(
                "holds neither log.jsonl nor policy/; give the folder that `vitrim train --out` wrote",
            ));
        }
        Ok(Sources {
            run: run.to_owned(),
            command: text(&run.join(COMMAND))?.map(|line| line.trim_end().to_owned()),
            updates: updates(&run.join("log.jsonl"), log.as_deref().unwrap_or_default())?,
            config: text(&run.join("config.toml"))?,
            has_policy,
            calibration: if has_policy { calibration(&policy)? } else { None },
            findings: Findings::read(run)?,
        })
    }
}

fn calibration(folder: &Path) -> Result<Option<Calibration>> {
    if Universal::open(folder)?.is_some() {
        // A policy for every backbone is calibrated elsewhere.
        return Ok(None);
    }
    let policy = AnyPolicy::load(folder)?;
    Ok(policy.calibration().is_some().then(|| record(&policy, folder)).transpose()?)
}

/// The text of a file; None if the file does not exist.
fn text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let reason = format!("cannot be read ({error}); check the file and its permissions");
            Err(ReportError::Run { path: path.to_owned(), reason })
        }
    }
}

/// The updates in a log; none in that of another training, which counts steps. An incomplete last line is still being written,
/// and is left out.
fn updates(path: &Path, log: &str) -> Result<Vec<Update>> {
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let counts_steps = |line: &str| {
        let entry = serde_json::from_str::<serde_json::Value>(line).unwrap_or_default();
        entry.get("step").is_some() && entry.get("update").is_none()
    };
    if whole.lines().next().is_some_and(counts_steps) {
        return Ok(Vec::new());
    }
    let update = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| ReportError::Run {
            path: path.to_owned(),
            reason: format!("line {} is no update of a training run ({error}); remove it", i + 1),
        })
    };
    whole.lines().enumerate().map(update).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"update":1,"images_per_s":30.0,"reward":-1.0,"keep_ratio":[0.9,0.8],"cost":0.86,
        "divergence":null,"sampled_drop":3.5,"estimated_drop":null,"beta":null,"entropy":0.3,"approx_kl":1e-4,
        "explained_variance":null}"#;

    #[test]
    fn nulls_are_absent_and_an_unfinished_line_is_left_out() {
        let line = LINE.replace('\n', "");
        let path = Path::new("run/log.jsonl");
        let read = updates(path, &format!("{line}\n{line}\n{}", &line[..40])).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].beta, read[0].entropy), (None, Some(0.3)));
        assert!(updates(path, "").unwrap().is_empty());
        let of_steps = "{\"step\": 8, \"divergence\": 0.1}\n";
        assert!(updates(path, of_steps).unwrap().is_empty(), "a metric's or a backbone's training");
        assert!(updates(path, "{\"steps\": 8}\n").is_err());
        let error = updates(path, &format!("{line}\nnonsense\n")).unwrap_err().to_string();
        assert!(error.starts_with("run/log.jsonl: line 2 is no update"), "{error}");
    }
}
