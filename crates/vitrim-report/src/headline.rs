//! The result in one sentence, and as a few numbers.

use vitrim_measure::evaluate::MethodReport;
use vitrim_measure::front::Measure;
use vitrim_measure::seen::Overlap;
use vitrim_prune::Method;

use super::findings::Findings;
use super::numbers::{grouped, short};
use super::sources::Sources;

/// A number that is shown large.
pub struct Tile {
    pub what: String,
    pub number: String,
    pub more: String,
}

/// The result of this run, as far as it is known.
pub fn sentence(sources: &Sources) -> String {
    if let Some(findings) = &sources.findings {
        return match policy(findings) {
            Some(policy) => measured(findings, policy),
            None => format!("The dense model alone, on {}.", images(findings)),
        };
    }
    if let Some(calibration) = &sources.calibration {
        return format!("On the images that it was calibrated on, {}.", calibration.choice);
    }
    let updates = grouped(sources.updates.last().map_or(0, |update| update.update));
    format!("Trained for {updates} updates; neither calibrated nor evaluated yet.")
}

fn measured(findings: &Findings, policy: &MethodReport) -> String {
    let gain = match policy.speed.last() {
        Some(speed) => {
            format!("{:.2}x the dense model's images/s at batch {}", speed.speed_up, speed.batch)
        }
        None => format!("{} % of the dense model's MACs", short(100.0 * policy.cost)),
    };
    format!("{gain} for {}, on {}.", lost(policy), images(findings))
}

fn lost(policy: &MethodReport) -> String {
    let (low, high) = policy.interval_pp;
    let loss = policy.loss();
    match (policy.drop_pp, policy.drift) {
        (Some(_), _) => format!("a drop of {loss:.2} pp [{low:.2}, {high:.2}] in top-1"),
        (None, Some(_)) => format!("a drift of {loss:.2} % [{low:.2}, {high:.2}] in its features"),
        (None, None) => {
            format!("another class than the dense model's on {loss:.2} % [{low:.2}, {high:.2}] of the images")
        }
    }
}

/// `20,000 test images that the policy never saw`, if its record says so.
fn images(findings: &Findings) -> String {
    let (count, split) = (grouped(findings.evaluation.images), &findings.split);
    match findings.seen {
        Some(Overlap { training: Some(0), calibration: Some(0) }) => {
            format!("{count} {split} images that the policy never saw")
        }
        Some(seen) if !seen_before(seen).is_empty() => {
            format!("{count} images of the {split} split, of which the policy saw {}", seen_before(seen))
        }
        _ => format!("{count} images of the {split} split"),
    }
}

/// `3 in training and 5 in calibration`; empty if no image is known to have been seen.
fn seen_before(seen: Overlap) -> String {
    let counts = [(seen.training, "training"), (seen.calibration, "calibration")];
    let counts = counts.into_iter().filter_map(|(count, when)| Some((count.filter(|n| *n > 0)?, when)));
    counts.map(|(count, when)| format!("{} in {when}", grouped(count))).collect::<Vec<_>>().join(" and ")
}

/// What the policy's record says about the evaluated images.
pub fn provenance(findings: &Findings) -> String {
    let Some(seen) = findings.seen else {
        return "not known: the policy has no record of what it saw".to_owned();
    };
    let before = seen_before(seen);
    let known = if before.is_empty() { "none".to_owned() } else { before };
    match seen {
        Overlap { training: None, .. } => format!("{known}; what it was trained on is not on record"),
        Overlap { calibration: None, .. } => format!("{known}; what it was calibrated on is not on record"),
        _ => format!("{known}, by the hashes of their bytes"),
    }
}

/// The numbers behind the sentence. Empty without an evaluation.
pub fn tiles(sources: &Sources) -> Vec<Tile> {
    let Some(findings) = &sources.findings else { return Vec::new() };
    let Some(policy) = policy(findings) else { return Vec::new() };
    let mut tiles = Vec::new();
    if let Some(speed) = policy.speed.last() {
        tiles.push(Tile {
            what: format!("Speed at batch {}", speed.batch),
            number: format!("{:.2}x", speed.speed_up),
            more: format!(
                "{} images/s, dense {}",
                short(speed.pruned.images_per_s),
                short(speed.dense.images_per_s)
            ),
        });
    }
    let (low, high) = policy.interval_pp;
    tiles.push(Tile {
        what: match findings.evaluation.measure() {
            Measure::AccuracyLoss => "Drop in top-1",
            Measure::Disagreement => "Differs from dense",
            Measure::Drift => "Drift of the features",
        }
        .to_owned(),
        number: format!("{:.2} {}", policy.loss(), if policy.drop_pp.is_some() { "pp" } else { "%" }),
        more: format!("95 % interval [{low:.2}, {high:.2}]"),
    });
    tiles.push(Tile {
        what: "Compute".to_owned(),
        number: format!("{:.1} %", 100.0 * policy.cost),
        more: format!("{} of {} GMACs an image", short(policy.gmacs), short(findings.evaluation.dense_gmacs)),
    });
    tiles.push(Tile {
        what: "Measured on".to_owned(),
        number: grouped(findings.evaluation.images),
        more: format!("images of the {} split", findings.split),
    });
    tiles
}

/// The policy's own figures, if it was evaluated.
fn policy(findings: &Findings) -> Option<&MethodReport> {
    let name = Method::Policy.to_string();
    findings.evaluation.methods.iter().find(|method| method.method == name)
}
