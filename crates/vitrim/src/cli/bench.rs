//! `vitrim bench`.

use std::process::ExitCode;

use vitrim_measure::requests::BenchRequest;
use vitrim_measure::speed::bench::{BenchReport, Cell, Memory, Share, Speed};

use super::{App, print};

pub fn run(app: &App, request: &BenchRequest) -> anyhow::Result<ExitCode> {
    let report = app.show(|listener| request.run(listener))?;
    if app.global.json {
        print::json(&report)?
    } else {
        print(&report)?
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &BenchReport) -> anyhow::Result<()> {
    let streams = if report.streams > 1 { format!(" in {} streams", report.streams) } else { String::new() };
    print::line(&format!(
        "{}, {}; {} threads{streams}, {}; dense {:.3} GMACs",
        report.model, report.method, report.threads, report.simd, report.dense_gmacs
    ))?;
    for dtype in &report.dtypes {
        print::line(&format!(
            "{}: pruned {:.3} GMACs, ratio {:.2}; kept after each stage: {}; FMA peak {:.0} GFLOP/s",
            dtype.dtype,
            dtype.pruned_gmacs,
            dtype.mac_ratio,
            print::ratios(&dtype.keep_ratio),
            dtype.peak_gflops
        ))?;
    }
    print::line("")?;
    let header = [
        "dtype",
        "batch",
        "dense images/s",
        "pruned images/s",
        "speed-up",
        "dense ms p50 p90 p99",
        "pruned ms p50 p90 p99",
        "dense GFLOP/s (of peak)",
        "pruned GFLOP/s (of peak)",
        "policy + compaction",
        "rounds",
    ];
    print::table(&header, report.cells.iter().map(row).collect())?;
    memory(&report.memory)?;
    let ragged: Vec<Vec<String>> = report.cells.iter().filter_map(ragged_row).collect();
    if !ragged.is_empty() {
        print::line(
            "\nbudgets that differ by up to 30 % between the images of a batch, as many tokens in all:\n",
        )?;
        print::table(&["dtype", "batch", "equal images/s", "varied images/s", "varied : equal"], ragged)?;
    }
    for cell in report.cells.iter().filter(|cell| !cell.profile.is_empty()) {
        print::line(&format!("\n{}, batch {}, ms a batch:\n", cell.dtype, cell.batch))?;
        let share = |share: Share| [format!("{:.3}", share.ms), format!("{:.1}", 100.0 * share.share)];
        let rows = cell.profile.iter().map(|spent| {
            let ([dense, of_dense], [pruned, of_pruned]) = (share(spent.dense), share(spent.pruned));
            vec![spent.operation.clone(), dense, of_dense, pruned, of_pruned]
        });
        print::table(&["operation", "dense ms", "%", "pruned ms", "%"], rows.collect())?;
    }
    Ok(())
}

fn row(cell: &Cell) -> Vec<String> {
    let latency =
        |Speed { rate, .. }: &Speed| format!("{:.1} {:.1} {:.1}", rate.p50_ms, rate.p90_ms, rate.p99_ms);
    let achieved = |speed: &Speed| format!("{:.0} ({:.0} %)", speed.gflops, 100.0 * speed.of_peak);
    vec![
        cell.dtype.to_string(),
        cell.batch.to_string(),
        format!("{:.1}", cell.dense.rate.images_per_s),
        format!("{:.1}", cell.pruned.rate.images_per_s),
        format!("{:.2}x", cell.speed_up),
        latency(&cell.dense),
        latency(&cell.pruned),
        achieved(&cell.dense),
        achieved(&cell.pruned),
        format!("{:.1} %", 100.0 * cell.overhead),
        cell.rounds.to_string(),
    ]
}

fn ragged_row(cell: &Cell) -> Option<Vec<String>> {
    let ragged = cell.ragged.as_ref()?;
    Some(vec![
        cell.dtype.to_string(),
        cell.batch.to_string(),
        format!("{:.1}", ragged.equal.images_per_s),
        format!("{:.1}", ragged.varied.images_per_s),
        format!("{:.3}", ragged.ratio),
    ])
}

fn memory(memory: &Memory) -> anyhow::Result<()> {
    let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let peak = match memory.peak {
        None => "unknown on this system".to_owned(),
        Some(peak) if peak <= memory.bound => format!("{}, within the bound", mib(peak)),
        Some(peak) => format!("{}, BEYOND the bound", mib(peak)),
    };
    print::line(&format!(
        "\npeak memory {peak} of {}: packed weights {}, 8 T D f32 {}, pixels {}, 64 MiB",
        mib(memory.bound),
        mib(memory.weights),
        mib(memory.activations),
        mib(memory.pixels)
    ))
}
