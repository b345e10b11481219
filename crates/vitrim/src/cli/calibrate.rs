//! `vitrim calibrate`, and the end of `vitrim train`.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use vitrim::shared_passes::SharedPasses;
use vitrim_measure::calibrate::record;
use vitrim_measure::front::{Choice, Verdict};
use vitrim_measure::requests::{CalibrateRequest, DataNotes};
use vitrim_prune::AnyPolicy;
use vitrim_text::shown;

use super::{App, interrupt, print, ranks};

pub fn run(app: &App, request: &CalibrateRequest) -> anyhow::Result<ExitCode> {
    request.check_folder()?;
    let stop = interrupt::listen(app.ranks)?;
    let loaded = app.open(&request.model, request.backbone.opening(request.dtype))?;
    let folder = &request.target();
    ranks::refuse_gaps(app.ranks, &request.reading)?;
    let prepared = app.follow(stop, |listener| request.prepare(&loaded, listener));
    let mut prepared = match prepared {
        Err(error) if error.is_interruption() => return Ok(as_it_was(app, folder)),
        prepared => prepared?,
    };
    ranks::agree(app.ranks, &loaded, Some(&prepared.policy))?;
    let shared = prepared.policy.clone();
    let passes = SharedPasses {
        ranks: app.ranks,
        loaded: &loaded,
        policy: Some(&shared),
        workers: request.threads,
        stop,
    };
    let done = app.follow(stop, |listener| {
        if app.ranks.is_first() {
            let done = request.run(&loaded, &mut prepared, passes.elsewhere(), listener)?;
            return passes.end().map(|()| Some(done));
        }
        passes.serve(&prepared.dataset).map(|()| None)
    });
    match done {
        Err(error) if error.is_interruption() => Ok(as_it_was(app, folder)),
        Err(error) => Err(error.into()),
        Ok(done) => {
            if let Some((choice, notes)) = done {
                print(app, folder, &prepared.policy, &choice, &notes)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Reports that the calibration of the policy in `folder` was stopped and left it unchanged.
pub fn as_it_was(app: &App, folder: &Path) -> ExitCode {
    let folder = folder.display();
    app.interrupted(&format!(
        "interrupted: {folder} is as it was; run the same command again to calibrate it"
    ))
}

/// Prints the measured front and the choice; JSON has the notes, too.
pub fn print(
    app: &App,
    folder: &Path,
    policy: &AnyPolicy,
    choice: &Choice,
    notes: &DataNotes,
) -> anyhow::Result<()> {
    let read_out = policy.dial().to_string();
    if app.global.json {
        return print::json(&json!({
            "policy": shown(folder),
            "read_out": read_out,
            "label_notes": notes.label_notes,
            "layout_notes": notes.layout_notes,
            "calibration": policy.calibration()
        }));
    }
    let record = record(policy, folder)?;
    let row = |point: &vitrim_measure::front::FrontPoint| -> anyhow::Result<Vec<String>> {
        let loss = point.loss()?;
        Ok(vec![
            point.setting.to_string(),
            format!("{:.1}", 100.0 * point.cost),
            format!("{:.2}", loss.measured()),
            format!("{:.2}", loss.upper_bound(choice.confidence)),
            format!("{:.4}", point.fidelity),
            print::ratios(&point.keep_ratio),
        ])
    };
    // Of settings with equal decisions, only the last is shown.
    let points = record.front.points();
    let alike = |i: usize| points.get(i + 1).is_some_and(|next| next.keep_ratio == points[i].keep_ratio);
    let shown = (0..points.len()).filter(|i| !alike(*i)).map(|i| row(&points[i]));
    let rows = shown.collect::<anyhow::Result<_>>()?;
    print::table(
        &[
            policy.setting_name(),
            "of dense %",
            choice.measure.header(),
            "upper bound",
            "D",
            "kept after stage",
        ],
        rows,
    )?;
    print::line("")?;
    print::line(&choice.to_string())?;
    if !record.certified {
        print::line("the policy is set to keep everything, as the dense model does")?;
    } else if let Verdict::Certified(chosen) = choice.verdict
        && chosen.cost >= 1.0
    {
        let longer = if matches!(policy, AnyPolicy::Learned(_)) { "train for longer, or " } else { "" };
        print::line(&format!("this setting saves nothing: {longer}allow a larger drop"))?;
    }
    let set = match policy {
        AnyPolicy::Learned(_) => format!("read out by {read_out}"),
        AnyPolicy::Method(policy) => format!("{} at {read_out}", policy.recipe.name()),
    };
    print::line(&format!("policy: {}, {set}", folder.display()))
}
