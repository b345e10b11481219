//! Ranks that MPI started.
//!
//! [`start`] tells whether this process is one of several that `mpirun` or `srun` started. With the feature `mpi` they
//! become [`Ranks`]; without it they are refused, since each would do all the work and write the same files.

#[cfg(feature = "mpi")]
mod link;

use vitrim_ranks::Ranks;

/// Variables that `mpirun` of Open MPI and of MPICH, and `srun --mpi=pmi2`, set to the number of processes.
const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];
/// `srun --mpi=pmix` sets this to the number of the process; Slurm itself has that of the processes.
const RANK: &str = "PMIX_RANK";
const SLURM_SIZE: &str = "SLURM_STEP_NUM_TASKS";

/// Why this process cannot be a rank.
#[derive(Debug, thiserror::Error)]
pub enum MpiError {
    /// The program was built without MPI.
    #[error(
        "started as one of {0} processes, but this build has no MPI, and each would do all the work; build with \
         `--features mpi`, or start one process"
    )]
    Absent(usize),
    /// MPI has refused.
    #[error("MPI cannot be initialised in this process; start it by mpirun or srun")]
    Refused,
}

/// This process as MPI has it. Dropping it ends MPI, for which it waits for the other processes.
pub struct Process {
    ranks: Ranks,
    #[cfg(feature = "mpi")]
    _universe: Option<mpi::environment::Universe>,
}

impl Process {
    /// The ranks; a process that MPI did not start is alone.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }
}

/// The number of processes that were started together, according to the environment.
pub fn started_together() -> usize {
    size(|name| std::env::var(name).ok())
}

/// The number of this process among them, from 0, according to the environment.
pub fn number() -> usize {
    let read = |name: &&str| std::env::var(name).ok()?.parse().ok();
    ["OMPI_COMM_WORLD_RANK", "PMI_RANK", RANK].iter().find_map(read).unwrap_or(0)
}

fn size(variable: impl Fn(&str) -> Option<String>) -> usize {
    let number = |name: &&str| variable(name)?.parse().ok();
    let by_slurm = || variable(RANK).and_then(|_| number(&SLURM_SIZE));
    SIZES.iter().find_map(number).or_else(by_slurm).unwrap_or(1)
}

/// Makes this process one of the ranks that were started together.
///
/// # Errors
/// If there are several, and the build has no MPI; or if MPI refuses.
pub fn start() -> Result<Process, MpiError> {
    match started_together() {
        // MPI would start a helper for a process that nobody started.
        0 | 1 => Ok(alone()),
        #[cfg(feature = "mpi")]
        _ => {
            let (universe, link) = link::start().ok_or(MpiError::Refused)?;
            Ok(Process { ranks: Ranks::over(std::sync::Arc::new(link)), _universe: Some(universe) })
        }
        #[cfg(not(feature = "mpi"))]
        size => Err(MpiError::Absent(size)),
    }
}

/// This process on its own, whoever started it.
pub fn alone() -> Process {
    Process {
        ranks: Ranks::alone(),
        #[cfg(feature = "mpi")]
        _universe: None,
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn the_environment_says_how_many_were_started() {
        let of = |pairs: &[(&str, &str)]| {
            size(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(of(&[]), 1);
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "4")]), 4);
        assert_eq!(of(&[("PMI_SIZE", "3"), ("PMI_RANK", "0")]), 3);
        assert_eq!(of(&[("PMIX_RANK", "1"), ("SLURM_STEP_NUM_TASKS", "8")]), 8);
        // Tasks of a job array, or of srun without MPI, each on its own.
        assert_eq!(of(&[("SLURM_STEP_NUM_TASKS", "8")]), 1);
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "many")]), 1);
    }
}
