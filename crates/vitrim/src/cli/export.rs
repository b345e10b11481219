//! `vitrim export`.

use std::process::ExitCode;

use serde_json::json;
use vitrim_report::export::export;
use vitrim_text::shown;
use vitrim_vit::Precision;

use super::args::ExportArgs;
use super::{App, print};

pub fn run(app: &App, args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let opening = args.backbone.opening(Precision::F32);
    let files = export(&args.policy, &args.model, &opening, args.base_model.as_deref(), &args.out)?;
    if app.global.json {
        print::json(&json!({ "folder": shown(&args.out), "files": files }))?;
    } else {
        let out = args.out.display();
        print::line(&format!("{out}: {}", files.join(", ")))?;
        print::line(&format!("to publish it: hf upload OWNER/NAME {out}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
