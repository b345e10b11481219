//! `vitrim compare`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use vitrim_measure::MeasureError;
use vitrim_measure::compare::{
    CompareOptions, Compared, Comparison, Contender, Interval, POLICY, Study, compare, with_spread,
};
use vitrim_measure::images::name;
use vitrim_measure::{Loaded, Progress};
use vitrim_report::compared;

use super::args::CompareArgs;
use super::images::tell;
use super::{App, INTERRUPTED, interrupt, print};

/// Time to measure the images/s of each setting for.
const SPEED: Duration = Duration::from_millis(1_500);

pub fn run(app: &App, args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let stop = interrupt::listen()?;
    let loaded = Loaded::open_in(&args.model, args.size.opening(args.dtype))?;
    let policies = args.policy.iter().map(|folder| (POLICY, folder.as_path()));
    let rivals = args.rival.iter().map(|(name, folder)| (name.as_str(), folder.as_path()));
    let contender = |(name, folder): (&str, &Path)| Contender::open(name, folder, &loaded);
    let contenders = policies.chain(rivals).map(contender).collect::<Result<Vec<Contender>, _>>()?;
    let parts = args.reading.open(&args.data, &loaded)?;
    let split = args.split.as_deref().unwrap_or(name(parts.final_part()));
    let bar = app.reporter.bar("hashing images");
    let mut hashing = |done, all| bar.set(done, all);
    let images = parts.named(split, &mut hashing)?;
    let sweep = parts.named(&args.sweep_split, &mut hashing)?;
    drop(bar);
    if images.is_stream() {
        let reason =
            "is read front to back, but compare makes many passes; save it to files, decompressed (.tar)";
        return Err(MeasureError::Part { data: parts.path(), reason: reason.into() }.into());
    }
    if split == args.sweep_split {
        app.reporter.note("note: settings are chosen on these images; only others give a fair comparison");
    }
    loaded.check_classes(&parts.path(), &images)?;
    let options = CompareOptions {
        batch: args.batch.max(1),
        workers: app.global.threads,
        on_bad_image: args.reading.images.on_bad_image(),
        methods: args.methods.clone(),
        studies: if args.no_studies { Vec::new() } else { args.studies.clone() },
        sweep_images: args.sweep_images,
        images: args.images,
        costs: args.costs.clone(),
        drops: args.drops.clone(),
        near: args.near,
        speed: (!args.no_speed).then_some(SPEED),
    };
    let data = parts.path();
    let compared_on =
        Compared { loaded: &loaded, contenders: &contenders, data: &data, sweep: &sweep, images: &images };
    let bar = app.reporter.bar("comparing");
    let mut progress = |done, all| bar.set(done, all);
    let mut watch = Progress { stop, progress: &mut progress };
    let comparison =
        match compare(compared_on, &options, &args.report, &mut watch, &mut |line| app.reporter.note(line)) {
            Err(MeasureError::Interrupted) => {
                let folder = args.report.display();
                eprintln!("interrupted: {folder} has what is done; run the same command again to go on");
                return Ok(ExitCode::from(INTERRUPTED));
            }
            comparison => comparison?,
        };
    drop(bar);
    vitrim_durable::replace(&args.report.join("comparison.json"), &serde_json::to_vec_pretty(&comparison)?)?;
    let page = compared(&args.report, &comparison, &command(args, split))?;
    if app.global.json {
        print::json(&comparison)?;
    } else {
        print(&comparison)?;
    }
    for dataset in [&sweep, &images] {
        tell(app, dataset);
    }
    app.reporter.note(&format!("report: {}", page.display()));
    Ok(ExitCode::SUCCESS)
}

/// The command line that prints these figures again.
fn command(args: &CompareArgs, split: &str) -> String {
    let mut command = format!(
        "vitrim compare --model {} --dtype {} --data {} --split {split}",
        args.model.display(),
        args.dtype,
        args.data.display()
    );
    for policy in &args.policy {
        command += &format!(" --policy {}", policy.display());
    }
    for (name, policy) in &args.rival {
        command += &format!(" --rival {name}={}", policy.display());
    }
    let list = |values: &[f64]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let methods: Vec<String> = args.methods.iter().map(ToString::to_string).collect();
    command += &format!(
        " --methods {} --sweep-split {} --sweep-images {} --costs {} --drops {}",
        methods.join(","),
        args.sweep_split,
        args.sweep_images,
        list(&args.costs),
        list(&args.drops)
    );
    if let Some(images) = args.images {
        command += &format!(" --images {images}");
    }
    if !args.no_studies && args.studies != Study::ALL {
        let studies: Vec<String> = args.studies.iter().map(ToString::to_string).collect();
        command += &format!(" --studies {}", studies.join(","));
    }
    if let Some(near) = args.near {
        command += &format!(" --near {near}");
    }
    for (flag, given) in [("--no-studies", args.no_studies), ("--no-speed", args.no_speed)] {
        if given {
            command += &format!(" {flag}");
        }
    }
    command += &args.reading.given();
    command + &format!(" --report {}", args.report.display())
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

/// `scale` times a figure with its interval; empty where there is none.
fn interval(interval: Option<Interval>, scale: f64) -> String {
    interval.map_or_else(String::new, |i| {
        format!("{:.2} [{:.2}, {:.2}]", scale * i.value, scale * i.low, scale * i.high)
    })
}
