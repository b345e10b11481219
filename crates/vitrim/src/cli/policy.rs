//! The policy of a command, set as asked.

use vitrim_measure::Loaded;
use vitrim_measure::calibrate::{
    allowed, choose_cost_from_record, choose_from_record, describe_point, gmacs_at_keep, uncertified_dtype,
};
use vitrim_measure::model::open_policy;
use vitrim_prune::{LearnedPruner, NoPruner, Policy, Pruner, ReadOut};

use super::App;
use super::args::PolicyArgs;

/// Opens the policy, if one is given, and sets its read-out; `keep` is the keep ratio whose cost is asked for, if any.
pub fn open(
    app: &App,
    args: &PolicyArgs,
    keep: Option<f64>,
    loaded: &Loaded,
) -> anyhow::Result<Option<Policy>> {
    let Some(folder) = &args.policy else { return Ok(None) };
    let mut policy = open_policy(folder, loaded)?;
    let gmacs = match keep {
        Some(keep) => Some(gmacs_at_keep(&loaded.spec, &policy, keep)?),
        None => args.gmacs,
    };
    if let Some(text) = &args.read_out {
        policy.read_out = ReadOut::parse(text, policy.stages.len())?;
    } else if let Some(gmacs) = gmacs {
        let point = choose_cost_from_record(&mut policy, folder, gmacs)?;
        app.reporter.note(&describe_point(&loaded.spec, &point)?);
    } else if args.max_drop.is_some() || args.max_drift.is_some() || args.confidence.is_some() {
        let max_drop = allowed(&loaded.spec, args.max_drop, args.max_drift)?;
        let choice = choose_from_record(&mut policy, folder, max_drop, args.confidence)?;
        app.reporter.note(&choice.to_string());
    }
    if args.read_out.is_none()
        && let Some(note) = uncertified_dtype(&policy, folder, loaded.model.weights().precision())
    {
        app.reporter.note(&format!("note: {note}"));
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
