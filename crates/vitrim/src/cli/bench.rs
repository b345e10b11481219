//! `vitrim bench`.

use std::process::ExitCode;
use std::time::Duration;

use vitrim::bench::{BenchImages, BenchReport, bench};
use vitrim::methods::{can_act, hand_made, keep_shares, random_policy, read_out_name};
use vitrim::parts::DataParts;
use vitrim::{Loaded, Method, VitrimError};
use vitrim_prune::{LearnedPruner, Policy, Pruner, ReadOut};
use vitrim_vit::Precision;

use super::args::BenchArgs;
use super::{App, policy, print};

/// The seed paper's keep ratio.
const KEEP: f64 = 0.7;

pub fn run(app: &App, args: &BenchArgs) -> anyhow::Result<ExitCode> {
    if !(0.0..=3600.0).contains(&args.seconds) {
        return Err(
            VitrimError::Setting(format!("--seconds {} must lie between 0 and 3600", args.seconds)).into()
        );
    }
    let loaded = Loaded::open_or_random(&args.model, Precision::F32)?;
    let policy = policy::open(app, &args.policy, &loaded)?;
    let (mut pruner, method) = pruner(&loaded, policy, args)?;
    let batches: Vec<usize> = args.batch.iter().map(|batch| usize::from(*batch)).collect();
    let largest = batches.iter().copied().max().unwrap_or(1);
    let images = match &args.data {
        None => {
            if args.policy.policy.is_some() && args.keep.is_empty() {
                app.reporter.note("note: this policy decides by the image; --data times it on real ones");
            }
            BenchImages::random(&loaded, largest)
        }
        Some(data) => {
            let parts = DataParts::of(data)?;
            let dataset = parts.part(parts.final_part(), &mut |_, _| ())?;
            BenchImages::of(&loaded, &dataset, largest)?
        }
    };
    let bar = app.reporter.bar("timing");
    let time = Duration::from_secs_f64(args.seconds);
    let (mut cell, cells) = (0, batches.len());
    let report = bench(&loaded, pruner.as_mut(), method, &images, &batches, time, &mut |_| {
        bar.set(cell, cells);
        cell += 1;
    })?;
    drop(bar);
    if app.global.json {
        print::json(&report)?
    } else {
        print(&report)?
    }
    Ok(ExitCode::SUCCESS)
}

/// The pruner to time, and its name.
fn pruner(
    loaded: &Loaded,
    policy: Option<Policy>,
    args: &BenchArgs,
) -> Result<(Box<dyn Pruner>, String), VitrimError> {
    let stages = match &policy {
        Some(policy) => policy.stages.clone(),
        None if args.stages.is_empty() => loaded.spec.default_stages(),
        None => args.stages.clone(),
    };
    let default = [KEEP];
    let keep = keep_shares(if args.keep.is_empty() { &default } else { &args.keep }, stages.len())?;
    let top_r = ReadOut::TopR { keep: keep.clone() };
    if args.method != Method::Policy {
        let named = format!("{} {}", args.method, read_out_name(&top_r));
        return Ok((hand_made(args.method, &loaded.spec, &stages, &keep)?, named));
    }
    // A hand-made method checks the stages.
    hand_made(Method::Random, &loaded.spec, &stages, &keep)?;
    let (mut policy, what) = match policy {
        Some(policy) => (policy, "policy"),
        None if can_act(Method::ClsAttention, &stages) => {
            (random_policy(loaded, &stages, &keep), "random policy")
        }
        None => (random_policy(loaded, &stages, &keep), "random policy without attention"),
    };
    if !args.keep.is_empty() {
        policy.read_out = top_r;
    }
    let named = format!("{what} {}", read_out_name(&policy.read_out));
    Ok((Box::new(LearnedPruner::new(&loaded.spec, &policy)), named))
}

fn print(report: &BenchReport) -> anyhow::Result<()> {
    print::line(&format!("{}, {}", report.model, report.method))?;
    print::line(&format!(
        "dense {:.3} GMACs, pruned {:.3} GMACs: ratio {:.2}; kept after each stage: {}",
        report.dense_gmacs,
        report.pruned_gmacs,
        report.mac_ratio,
        print::ratios(&report.keep_ratio)
    ))?;
    print::line("")?;
    let header = [
        "batch",
        "dense images/s",
        "pruned images/s",
        "speed-up",
        "dense ms p50 p90 p99",
        "pruned ms p50 p90 p99",
        "rounds",
    ];
    let latency =
        |rate: &vitrim::speed::Rate| format!("{:.1} {:.1} {:.1}", rate.p50_ms, rate.p90_ms, rate.p99_ms);
    let row = |cell: &vitrim::speed::SpeedUp| {
        vec![
            cell.batch.to_string(),
            format!("{:.1}", cell.dense.images_per_s),
            format!("{:.1}", cell.pruned.images_per_s),
            format!("{:.2}x", cell.speed_up),
            latency(&cell.dense),
            latency(&cell.pruned),
            cell.rounds.to_string(),
        ]
    };
    print::table(&header, report.cells.iter().map(row).collect())
}
