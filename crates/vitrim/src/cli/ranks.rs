//! The ranks that MPI started: which commands share their work among them, and how all of them end.

use std::process::ExitCode;

use anyhow::anyhow;
use vitrim::training::{ALIKE, facts_of_backbone};
use vitrim_data::OnBadImage;
use vitrim_measure::Loaded;
use vitrim_measure::requests::DatasetArgs;
use vitrim_mpi::{Process, number, started_together};
use vitrim_prune::AnyPolicy;
use vitrim_ranks::{RankError, Ranks};

use super::args::Command;
use super::{INTERRUPTED, in_one_line};

/// This process as `command` needs it; `None` if it has nothing to do, since rank 0 refuses the command.
///
/// # Errors
/// If several processes were started together, and the command or the build has no use for them.
pub fn start(command: &Command) -> anyhow::Result<Option<Process>> {
    let refused = match command {
        Command::Train(_)
        | Command::TrainMetric(_)
        | Command::Pretrain(_)
        | Command::Finetune(_)
        | Command::Calibrate(_)
        | Command::Compare(_)
        | Command::Eval(_) => match vitrim_mpi::start() {
            Ok(process) => return Ok(Some(process)),
            Err(error) => error.into(),
        },
        // Each has a shard of its own.
        Command::Embed(_) => return Ok(Some(vitrim_mpi::alone())),
        _ if started_together() == 1 => return Ok(Some(vitrim_mpi::alone())),
        _ => anyhow!(
            "started as one of {} processes, but only train, train-metric, pretrain, finetune, calibrate, eval and compare share their work by MPI; start one",
            started_together()
        ),
    };
    if number() == 0 { Err(refused) } else { Ok(None) }
}

/// Checks that all of `ranks` measure with the same backbone and `policy`.
///
/// # Errors
/// If one of them does not, on all; or if another rank has failed.
pub fn agree(ranks: &Ranks, loaded: &Loaded, policy: Option<&AnyPolicy>) -> anyhow::Result<()> {
    let mut facts = facts_of_backbone(loaded);
    facts.extend(policy.map(|policy| ("policy", policy.identity())));
    Ok(ranks.agree(&facts, ALIKE)?)
}

/// Refuses to measure by several ranks if images may be left out: others take their place, which moves all that follow.
///
/// # Errors
/// If there are several.
pub fn refuse_gaps(ranks: &Ranks, reading: &DatasetArgs) -> anyhow::Result<()> {
    match reading.images.on_bad_image {
        OnBadImage::Skip if !ranks.is_alone() => Err(anyhow!(
            "--on-bad-image skip: an image that cannot be decoded ends the work of several ranks; start one process"
        )),
        _ => Ok(()),
    }
}

/// Ends the work of all `ranks` together. Of the errors of ranks, rank 0 returns the first one; the other ranks say nothing.
///
/// # Errors
/// That of this process, if it is alone; on rank 0, that of any rank.
pub fn settle(ranks: &Ranks, done: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    if ranks.is_alone() {
        return done;
    }
    let error = match done {
        Ok(code) => match ranks.end() {
            Ok(()) => return Ok(code),
            Err(error) => error.into(),
        },
        Err(error) if ranks.is_over() => error,
        Err(error) => ranks.fail(&in_one_line(&error)).into(),
    };
    match error.downcast_ref() {
        Some(RankError::Interrupted(_)) => {
            ranks.is_first().then(|| eprintln!("interrupted: {error}"));
            Ok(ExitCode::from(INTERRUPTED))
        }
        _ if ranks.is_first() => Err(error),
        _ => Ok(ExitCode::FAILURE),
    }
}
