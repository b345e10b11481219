//! `vitrim compare`.

use std::process::ExitCode;

use vitrim_measure::compare::{Comparison, Interval, with_spread};
use vitrim_measure::requests::{CompareRequest, Request};
use vitrim_report::verbs::compare;

use super::{App, interrupt, print, ranks};

pub fn run(app: &App, request: &CompareRequest) -> anyhow::Result<ExitCode> {
    let stop = interrupt::listen(app.ranks)?;
    let loaded = app.open(&request.model, request.backbone.opening(request.dtype))?;
    ranks::agree(app.ranks, &loaded, None)?;
    ranks::refuse_gaps(app.ranks, &request.reading)?;
    let compared = app.follow(stop, |listener| {
        compare(request, &loaded, None, &Request::command_line, app.ranks, listener)
    });
    let comparison = match compared {
        Err(error) if error.is_interruption() => {
            let folder = request.report.display();
            return Ok(app.interrupted(&format!(
                "interrupted: {folder} has what is done; run the same command again to go on"
            )));
        }
        compared => compared?,
    };
    if !app.ranks.is_first() {
        return Ok(ExitCode::SUCCESS);
    }
    if app.global.json {
        print::json(&comparison)?;
    } else {
        print(&comparison)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(comparison: &Comparison) -> anyhow::Result<()> {
    print::line(&format!(
        "{} in {}: {} images, dense top-1 {:.2} %, dense {:.3} GMACs",
        comparison.model, comparison.dtype, comparison.images, comparison.dense_top1, comparison.dense_gmacs
    ))?;
    print::line("")?;
    let header = [
        "method",
        "of dense %",
        "D",
        "drop pp [95 %]",
        "policy's D : this [95 %]",
        "policy's top-1 over this pp [95 %]",
    ];
    let rows = comparison.at_cost.iter().flat_map(|at| {
        at.methods.iter().map(|method| {
            vec![
                method.method.clone(),
                format!("{:.0}", 100.0 * at.cost),
                with_spread(method.divergence, &method.of_seeds, 1.0, 4),
                interval(Some(method.drop_pp), 1.0),
                interval(method.policy_divergence_ratio, 1.0),
                interval(method.policy_top1_gain_pp, 1.0),
            ]
        })
    });
    print::table(&header, rows.collect())?;
    print::line("")?;
    let header = ["method", "at a drop of pp", "of dense %", "policy saves % [95 %]"];
    let rows = comparison.at_drop.iter().flat_map(|at| {
        at.methods.iter().map(|method| {
            vec![
                method.method.clone(),
                at.drop_pp.to_string(),
                with_spread(method.cost, &method.of_seeds, 100.0, 1),
                interval(method.policy_saves, 100.0),
            ]
        })
    });
    print::table(&header, rows.collect())
}

/// `scale` times a figure with its interval; empty if there is none.
fn interval(interval: Option<Interval>, scale: f64) -> String {
    interval.map_or_else(String::new, |i| {
        format!("{:.2} [{:.2}, {:.2}]", scale * i.value, scale * i.low, scale * i.high)
    })
}
