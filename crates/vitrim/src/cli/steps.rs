//! What runs in steps have in common: their folder, and how they end when asked to.

use std::path::Path;
use std::process::ExitCode;

use vitrim::VitrimError;
use vitrim::training::open_run_of_steps;
use vitrim_train::RunFolder;

use super::{App, INTERRUPTED};

/// Writes `config` (TOML) into the `folder` of a new run, or says from which of its `steps` an old one goes on.
pub fn open_run(
    app: &App,
    folder: &RunFolder,
    config: &str,
    done: Option<usize>,
    steps: usize,
) -> Result<(), VitrimError> {
    if let Some(line) = open_run_of_steps(folder, config, done, steps)? {
        app.reporter.note(&line);
    }
    Ok(())
}

/// Says what a run that was asked to stop has saved.
pub fn interrupted(out: &Path, done: Option<usize>, steps: usize) -> ExitCode {
    let (done, shown) = (done.unwrap_or(0), out.display());
    eprintln!("interrupted: step {done} of {steps} is saved in {shown}; run the same command again to go on");
    ExitCode::from(INTERRUPTED)
}
