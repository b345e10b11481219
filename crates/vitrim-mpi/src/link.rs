//! Bytes carried by MPI.

use std::thread;
use std::time::Duration;

use mpi::Threading;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::request::scope;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use vitrim_ranks::Link;

/// Time between two looks whether all have come to a gathering. MPI would keep a core busy with looking.
const PAUSE: Duration = Duration::from_micros(100);
/// Most bytes that all ranks get at once: MPI counts them by 32 bits.
const AT_ONCE: usize = 1 << 30;

/// The processes of MPI's world.
pub struct MpiLink {
    rank: usize,
    size: usize,
}

/// Initialises MPI; `None` if it refuses.
pub fn start() -> Option<(Universe, MpiLink)> {
    let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized)?;
    if threading < Threading::Funneled {
        return None;
    }
    let world = universe.world();
    let link =
        MpiLink { rank: usize::try_from(world.rank()).ok()?, size: usize::try_from(world.size()).ok()? };
    Some((universe, link))
}

impl Link for MpiLink {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, note: u8, bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, String> {
        let world = SimpleCommunicator::world();
        // What each has, and how much of it.
        let own = [u64::from(note), bytes.len() as u64];
        let mut heads = vec![0u64; 2 * self.size];
        scope(|scope| {
            let mut request = world.immediate_all_gather_into(scope, &own[..], &mut heads[..]);
            while let Err(not_yet) = request.test() {
                request = not_yet;
                thread::sleep(PAUSE);
            }
        });
        let (heads, _) = heads.as_chunks::<2>();
        let wrong = "one of them sent nonsense";
        let (mut all, mut lengths) = (Vec::with_capacity(self.size), Vec::with_capacity(self.size));
        for [note, length] in heads {
            let length = usize::try_from(*length).map_err(|_| wrong)?;
            all.push((u8::try_from(*note).map_err(|_| wrong)?, Vec::with_capacity(length)));
            lengths.push(length);
        }
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let at_once = AT_ONCE / self.size;
        let mut buffer = Vec::new();
        for start in (0..longest).step_by(at_once) {
            let part = |length: usize| start.min(length)..(start + at_once).min(length);
            let counts: Vec<i32> = lengths.iter().map(|&length| part(length).len() as i32).collect();
            let starts: Vec<i32> = counts
                .iter()
                .scan(0, |next, count| {
                    let start = *next;
                    *next += count;
                    Some(start)
                })
                .collect();
            buffer.resize(counts.iter().map(|&count| count as usize).sum(), 0u8);
            let mut parts = PartitionMut::new(&mut buffer[..], &counts[..], &starts[..]);
            world.all_gather_varcount_into(&bytes[part(bytes.len())], &mut parts);
            for ((_, bytes), (&first, &count)) in all.iter_mut().zip(starts.iter().zip(&counts)) {
                bytes.extend_from_slice(&buffer[first as usize..(first + count) as usize]);
            }
        }
        Ok(all)
    }
}
