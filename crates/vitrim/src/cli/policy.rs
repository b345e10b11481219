//! The policy of a command, set as asked.

use vitrim::calibrate::{choose_from_record, record};
use vitrim::methods::{open_policy, parse_read_out};
use vitrim::{Loaded, VitrimError};
use vitrim_prune::{LearnedPruner, NoPruner, Policy, Pruner};

use super::App;
use super::args::PolicyArgs;

/// Opens the policy, if one is given, and sets its read-out.
pub fn open(app: &App, args: &PolicyArgs, loaded: &Loaded) -> anyhow::Result<Option<Policy>> {
    let Some(folder) = &args.policy else { return Ok(None) };
    let mut policy = open_policy(folder, loaded)?;
    if let Some(text) = &args.read_out {
        policy.read_out = parse_read_out(text, policy.stages.len())?;
    } else if args.max_drop.is_some() || args.confidence.is_some() {
        let max_drop = args.max_drop.map(check_max_drop).transpose()?;
        let choice = choose_from_record(&mut policy, folder, max_drop, args.confidence)?;
        app.reporter.note(&choice.to_string());
    }
    if args.read_out.is_none()
        && let Some(calibrated) = policy.calibration.as_ref().and_then(|_| record(&policy, folder).ok())
        && calibrated.dtype != loaded.model.precision()
    {
        let (calibrated, dtype) = (calibrated.dtype, loaded.model.precision());
        let cure = format!("`vitrim calibrate --dtype {dtype}` would certify one");
        app.reporter.note(&format!(
            "note: calibrated in {calibrated}, so that no drop is certified in {dtype}; {cure}"
        ));
    }
    Ok(Some(policy))
}

/// `policy` as a pruner; without one, the dense model.
pub fn pruner(loaded: &Loaded, policy: Option<&Policy>) -> Box<dyn Pruner> {
    match policy {
        Some(policy) => Box::new(LearnedPruner::new(&loaded.spec, policy)),
        None => Box::new(NoPruner),
    }
}

/// A drop that can be asked for.
pub fn check_max_drop(max_drop: f64) -> Result<f64, VitrimError> {
    if (0.0..=100.0).contains(&max_drop) {
        return Ok(max_drop);
    }
    Err(VitrimError::Setting(format!("--max-drop {max_drop} must lie between 0 and 100 percentage points")))
}
