//! `vitrim info`.

use std::path::Path;
use std::process::ExitCode;

use vitrim::VitrimError;
use vitrim_hub::is_reference;
use vitrim_measure::MeasureError;
use vitrim_measure::model::info::{Info, KEEP_RATIOS, info};
use vitrim_vit::{Precision, VitError};

use super::args::InfoArgs;
use super::{App, print};

pub fn run(app: &App, args: &InfoArgs) -> anyhow::Result<ExitCode> {
    let path = Path::new(&args.model);
    let opening = args.backbone.opening(Precision::F32);
    let (spec, notes) = if path.exists() || is_reference(path) {
        let (checkpoint, _) = opening.checkpoint(path)?;
        (checkpoint.spec, checkpoint.notes)
    } else {
        let (mut spec, classes) = opening.geometry(&args.model).map_err(|error| match error {
            MeasureError::Vit(VitError::UnsupportedArchitecture { .. }) => {
                MeasureError::NoSuchModel { given: args.model.clone(), reason: error.to_string() }
            }
            other => other,
        })?;
        if let Some(classes) = &classes {
            classes.fit(&mut spec)?;
        }
        (spec, classes.map(|classes| classes.notes).unwrap_or_default())
    };
    app.say(&notes);
    if let Some(bad) = args.keep.iter().find(|keep| !(0.0..=1.0).contains(*keep)) {
        return Err(VitrimError::Setting(format!("--keep {bad} must lie between 0 and 1")).into());
    }
    let info = info(&spec, if args.keep.is_empty() { &KEEP_RATIOS } else { &args.keep }).with_notes(notes);
    if app.global.json {
        print::json(&info)?
    } else {
        print(&info)?
    }
    Ok(ExitCode::SUCCESS)
}

/// The cost of the dense model, and how papers count it if that is more.
fn dense_cost(info: &Info) -> String {
    let of = |gmacs: f64| format!("{gmacs:.3} GMACs ({:.3} GFLOPs)", 2.0 * gmacs);
    if info.published_gmacs == info.dense_gmacs {
        return of(info.dense_gmacs);
    }
    let published = of(info.published_gmacs);
    format!("{}; {published} with what nobody reads in the last block, as papers count", of(info.dense_gmacs))
}

fn print(info: &Info) -> anyhow::Result<()> {
    let spec = &info.spec;
    let ([height, width], [rows, columns]) = (spec.img_size, spec.grid());
    let lines = [
        ("architecture", spec.architecture.clone()),
        ("input", format!("{height} x {width} pixels, {rows} x {columns} patches of {}", spec.patch_size)),
        ("tokens", format!("{} patch, {} prefix", info.patch_tokens, info.prefix_tokens)),
        (
            "blocks",
            format!(
                "{} of width {}, {} heads, MLP {}",
                spec.depth, spec.dim, spec.attention.heads, spec.mlp.hidden
            ),
        ),
        ("classes", spec.num_classes.to_string()),
        ("parameters", format!("{:.2} M", info.parameters as f64 / 1e6)),
        ("dense cost", dense_cost(info)),
        ("stages", format!("before blocks {:?}", info.default_stages)),
    ];
    for (name, value) in lines {
        print::line(&format!("{name:<13} {value}"))?;
    }
    for note in &info.notes {
        print::line(&format!("{:<13} {note}", "note"))?;
    }
    print::line("")?;
    let row = |profile: &vitrim_measure::model::info::ProfileCost| {
        vec![
            profile.keep.to_string(),
            profile.tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            format!("{:.3}", profile.gmacs),
            format!("{:.1}", 100.0 * profile.cost),
            format!("{:.2}x", 1.0 / profile.cost),
        ]
    };
    let header = ["keep a stage", "tokens after each stage", "GMACs", "of dense %", "MACs saved"];
    print::table(&header, info.profiles.iter().map(row).collect())
}
