//! Ctrl-C or SIGTERM: the first one asks long work to stop at a safe point, a later one ends the program.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use vitrim::VitrimError;
use vitrim_measure::MeasureError;
use vitrim_ranks::Ranks;
use vitrim_report::ReportError;

use super::INTERRUPTED;

static STOP: AtomicBool = AtomicBool::new(false);
/// When it was set.
static ASKED: OnceLock<Instant> = OnceLock::new();
/// Signals that follow the first one so soon are the same request: Slurm ends a job by a SIGTERM of its own and one by srun.
const TOGETHER: Duration = Duration::from_secs(1);

/// Whether an interruption was requested since [`listen`].
pub fn is_asked() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Installs a handler: an interruption (or a request to terminate) sets the returned flag. If it comes because another of
/// `ranks` has died, for which MPI ends all, the first that is left says so.
///
/// # Errors
/// If there is a handler already, or another rank has failed.
pub fn listen(ranks: &Ranks) -> anyhow::Result<&'static AtomicBool> {
    let (rank, own) = (ranks.rank(), machine());
    let (ranks, _) = ranks.gather((own.clone(), u64::from(std::process::id())))?;
    let on_this_machine: Vec<(usize, u64)> = ranks
        .into_iter()
        .enumerate()
        .filter(|(_, (machine, _))| *machine == own)
        .map(|(rank, (_, process))| (rank, process))
        .collect();
    ctrlc::set_handler(move || {
        let is_dead = |(other, process): &&(usize, u64)| *other != rank && is_dead(*process);
        let dead: Vec<&(usize, u64)> = on_this_machine.iter().filter(is_dead).collect();
        if let Some((dead_rank, process)) = dead.first() {
            let left = on_this_machine.iter().find(|of| !dead.contains(of));
            if left.is_some_and(|(first, _)| *first == rank) {
                eprintln!(
                    "error: rank {dead_rank} (process {process}) has died, and the others end with it; run the same command \
                     again, with any number of ranks, to go on from what is saved"
                );
            }
            std::process::exit(1);
        }
        STOP.store(true, Ordering::Relaxed);
        if ASKED.get_or_init(Instant::now).elapsed() > TOGETHER {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(&STOP)
}

/// This machine, and the name space of its processes.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), space.display())
}

/// Whether `process` has ended, as far as this system tells.
fn is_dead(process: u64) -> bool {
    // The state follows the name, which ends with the last parenthesis.
    match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])),
        Err(_) => Path::new("/proc/self/stat").exists(),
    }
}

/// Whether `error` means that the work was asked to stop.
pub fn is_interruption(error: &anyhow::Error) -> bool {
    let measured = error.downcast_ref().is_some_and(MeasureError::is_interruption);
    measured
        || error.downcast_ref().is_some_and(ReportError::is_interruption)
        || error.downcast_ref().is_some_and(VitrimError::is_interruption)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_has_ended_is_dead_before_anyone_waits_for_it() {
        assert!(!is_dead(u64::from(std::process::id())));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = u64::from(child.id());
        assert!(!is_dead(process));
        child.kill().unwrap();
        while !is_dead(process) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(is_dead(process));
    }
}
