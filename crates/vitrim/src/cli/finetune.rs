//! `vitrim finetune`.

use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::json;
use vitrim::requests::{FinetuneRequest, Finetuned};
use vitrim::{VitrimError, overlay};
use vitrim_text::shown;
use vitrim_vit::Precision;

use super::{App, interrupt, print};

pub fn run(app: &App, request: &FinetuneRequest) -> anyhow::Result<ExitCode> {
    let config = request.configuration()?;
    if request.run.overlay.print_config {
        print::line(overlay::to_toml(&config)?.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    config.check().map_err(|reason| anyhow!("configuration: {reason}"))?;
    let Some(model) = &request.model else {
        return Err(anyhow!("--model and --data are needed to train"));
    };
    if request.policy.policy.is_none() && !request.dense {
        return Err(anyhow!(
            "--policy names the policy to train under; --dense trains the control without one"
        ));
    }
    let stop = interrupt::listen(app.ranks)?;
    let loaded = app.open(model, Precision::F32)?;
    let tuned = app.follow(stop, |listener| -> Result<Finetuned, VitrimError> {
        let policy = request.policy.open(request.keep.keep, &loaded, listener)?;
        request.run(&loaded, policy.as_ref(), &config, app.ranks, listener)
    });
    match tuned {
        Err(error @ VitrimError::Interrupted(_)) => {
            Ok(app.interrupted(&format!("{error}; run the same command again to go on")))
        }
        Err(error) => Err(error.into()),
        Ok(tuned) => {
            if app.ranks.is_first() {
                tell(app, &tuned)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn tell(app: &App, tuned: &Finetuned) -> anyhow::Result<()> {
    let Finetuned { model, policy, held_out: best, notes, .. } = tuned;
    if app.global.json {
        return print::json(
            &json!({ "model": shown(model), "policy": policy.as_deref().map(shown), "held_out": best, "label_notes": notes.label_notes, "layout_notes": notes.layout_notes }),
        );
    }
    if let Some(best) = best {
        let cost = format!("{:.1} % of the dense MACs", 100.0 * best.cost);
        print::line(&match best.top1.zip(best.teacher_top1) {
            Some((now, before)) => format!(
                "held-out images: {now:.2} % top-1 at {cost}, D {:.4}; the dense model before: {before:.2} %",
                best.divergence
            ),
            None => format!(
                "held-out images: a drift of {:.2} % from the dense model's features before, at {cost}",
                100.0 * best.divergence
            ),
        })?;
    }
    print::line(&format!("backbone: {}", model.display()))?;
    match policy {
        Some(policy) => {
            print::line(&format!("policy: {}, not calibrated on these weights", policy.display()))
        }
        None => Ok(()),
    }
}
