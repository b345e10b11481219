//! Ctrl-C: the first one asks long work to stop at a safe point, the second one ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use vitrim::VitrimError;
use vitrim_measure::MeasureError;
use vitrim_report::ReportError;

use super::INTERRUPTED;

static STOP: AtomicBool = AtomicBool::new(false);

/// Whether an interruption was requested since [`listen`].
pub fn is_asked() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Installs a handler: an interruption (or a request to terminate) sets the returned flag.
pub fn listen() -> anyhow::Result<&'static AtomicBool> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(&STOP)
}

/// Whether `error` means that the work was asked to stop.
pub fn is_interruption(error: &anyhow::Error) -> bool {
    let measured = error.downcast_ref().is_some_and(MeasureError::is_interruption);
    measured
        || error.downcast_ref().is_some_and(ReportError::is_interruption)
        || error.downcast_ref().is_some_and(VitrimError::is_interruption)
}
