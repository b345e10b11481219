//! `vitrim bench`.

use std::process::ExitCode;
use std::time::Duration;

use vitrim::VitrimError;
use vitrim_measure::Loaded;
use vitrim_measure::speed::bench::{BenchOptions, BenchReport, Cell, Memory, Share, Speed, Subject, bench};
use vitrim_measure::speed::bench_images::BenchImages;
use vitrim_prune::Method;
use vitrim_prune::{KeepProfile, keep_shares};
use vitrim_prune::{LearnedPruner, Policy, Pruner, ReadOut};

use super::args::BenchArgs;
use super::{App, images, policy, print};

/// The seed paper's keep ratio.
const KEEP: f64 = 0.7;

pub fn run(app: &App, args: &BenchArgs) -> anyhow::Result<ExitCode> {
    if !(0.0..=3600.0).contains(&args.seconds) {
        return Err(
            VitrimError::Setting(format!("--seconds {} must lie between 0 and 3600", args.seconds)).into()
        );
    }
    let (mut subjects, mut method, mut trained) = (Vec::new(), String::new(), None);
    for dtype in &args.dtype {
        let loaded = Loaded::open_or_random(&args.model, args.size.opening(*dtype))?;
        if subjects.is_empty() {
            trained = policy::open(app, &args.policy, None, &loaded)?;
        }
        let (pruner, named) = pruner(&loaded, trained.clone(), args)?;
        method = named;
        subjects.push(Subject { loaded, pruner });
    }
    let ragged = if args.ragged { Some(profile(&subjects[0].loaded, trained.as_ref(), args)?) } else { None };
    let options = BenchOptions {
        batches: args.batch.iter().map(|batch| usize::from(*batch)).collect(),
        time: Duration::from_secs_f64(args.seconds),
        rounds: usize::from(args.rounds),
        streams: usize::from(args.streams),
        profile: args.profile,
        ragged,
    };
    let largest = options.batches.iter().copied().max().unwrap_or(1);
    let images = match &args.data {
        None => {
            if args.policy.policy.is_some() && args.keep.is_empty() {
                app.reporter.note("note: this policy decides by the image; --data times it on real ones");
            }
            BenchImages::random(&subjects[0].loaded, largest)
        }
        Some(data) => {
            let parts = args.reading.open(data)?;
            let dataset = parts.part(parts.final_part(), &mut |_, _| ())?;
            let on_bad_image = args.reading.on_bad_image();
            let images = BenchImages::of(&subjects[0].loaded, &dataset, largest, on_bad_image)?;
            images::tell(app, &dataset);
            images
        }
    };
    let bar = app.reporter.bar("timing");
    let (mut at, sizes) = (0, options.batches.len());
    let report = bench(&subjects, method, &images, &options, &mut |_| {
        bar.set(at, sizes);
        at += 1;
    })?;
    drop(bar);
    if app.global.json {
        print::json(&report)?
    } else {
        print(&report)?
    }
    Ok(ExitCode::SUCCESS)
}

/// Stages, and the shares of N0 to keep after them.
fn profile(
    loaded: &Loaded,
    policy: Option<&Policy>,
    args: &BenchArgs,
) -> Result<(Vec<usize>, Vec<f64>), VitrimError> {
    let stages = match policy {
        Some(policy) => policy.drop_stages(),
        None if args.stages.is_empty() => loaded.spec.default_stages(),
        None => args.stages.clone(),
    };
    let default = [KEEP];
    let keep = keep_shares(if args.keep.is_empty() { &default } else { &args.keep }, stages.len())?;
    Ok((stages, keep))
}

/// The pruner to time, and its name.
fn pruner(
    loaded: &Loaded,
    policy: Option<Policy>,
    args: &BenchArgs,
) -> Result<(Box<dyn Pruner>, String), VitrimError> {
    let (stages, keep) = profile(loaded, policy.as_ref(), args)?;
    let top_r = ReadOut::TopR { keep: keep.clone() };
    if args.method != Method::Policy {
        let named = format!("{} {top_r}", args.method);
        return Ok((args.method.at_shares(&loaded.spec, &stages, &keep)?, named));
    }
    KeepProfile::new(&loaded.spec, &stages, &keep)?;
    let (mut policy, what) = match policy {
        Some(policy) => (policy, "policy"),
        None => {
            let policy = Policy::untrained(&loaded.spec, loaded.id.clone(), &stages, &keep);
            let what = if policy.observation.cls_attention {
                "random policy"
            } else {
                "random policy without attention"
            };
            (policy, what)
        }
    };
    if !args.keep.is_empty() {
        policy.read_out = top_r;
    }
    let named = format!("{what} {}", policy.read_out);
    Ok((Box::new(LearnedPruner::new(&loaded.spec, &policy)), named))
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
