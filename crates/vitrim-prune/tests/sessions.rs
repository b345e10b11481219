//! Several sessions of one checkpoint at once, on one thread pool. The only test of its process, because it measures
//! times.

mod toy;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use vitrim_prune::policy::Nonlinearity;
use vitrim_prune::{ImageKey, LearnedPruner, Pruner, run};
use vitrim_vit::{
    CpuBackbone, Output, PixelBatch, Reduction, SessionOptions, Site, Taps, Threads, View, VitSpec,
};

use toy::{MERGING_BY_TOKENS, backbone, pixels, policy, spec};

/// Callers, each with its own session.
const SESSIONS: usize = 8;

/// Threads that all sessions share.
const THREADS: usize = 2;

/// Passes of each session in a round.
const PASSES: usize = 6;

/// Rounds, of which the smallest ratio counts: noise of the machine slows a round down, on either side.
const ROUNDS: usize = 5;

/// Largest accepted ratio of the time of all sessions' passes side by side to the time of the same passes one after
/// the other. The work and the threads are the same. On two cores with three times as many busy processes, rounds
/// came to 0.6 to 1.9, and the smallest of five to 0.6 to 0.97: the bound leaves half as much again.
const MOST: f64 = 1.5;

/// The same ratio for decisions that wait for 10 ms each and do little else: 0.5 if both threads are useful, 1 if one
/// spins for as long as the other decides, whatever else the machine does. Rounds in between are normal: a thread that
/// waits for its part of a pass takes up a pass of another session, and at the end has several to finish alone.
const MOST_WAITING: f64 = 0.75;

/// Rounds, of which one has to come below [`MOST_WAITING`].
const WAITING_ROUNDS: usize = 20;

/// Far longer than the test takes: reaching it means a deadlock.
const TIMEOUT: Duration = Duration::from_secs(120);

#[test]
fn sessions_on_one_pool_answer_as_a_lone_one_and_in_no_more_time() {
    let (done, is_done) = mpsc::channel();
    let test = thread::spawn(move || {
        share_a_pool();
        done.send(()).expect("the test waits");
    });
    match is_done.recv_timeout(TIMEOUT) {
        Ok(()) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the sessions wait for each other"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(test.join().expect_err("it ended without a word"));
        }
    }
}

fn share_a_pool() {
    let spec = {
        let mut spec = VitSpec { dim: 96, depth: 8, ..spec(true) }.with_img_size([192, 192]);
        spec.mlp.hidden = 384;
        spec
    };
    let model = backbone(&spec);
    let pruner = LearnedPruner::new(&spec, &policy(&spec, MERGING_BY_TOKENS, Nonlinearity::Tanh));
    let pixels = pixels(&spec, SESSIONS);
    let image = |i: usize| &pixels[i * pixels.len() / SESSIONS..(i + 1) * pixels.len() / SESSIONS];
    let pass = |session: &CpuBackbone, pruner: &dyn Pruner, i: usize| -> Output {
        run(session, pruner, PixelBatch::new(image(i), 1), &[i as u64]).unwrap().answer
    };
    let expected: Vec<Output> = (0..SESSIONS).map(|i| pass(&model, &pruner, i)).collect();

    let pool = Threads::pool(THREADS).unwrap();
    let sessions = |options: SessionOptions| (0..SESSIONS).map(|_| model.session(options.clone())).collect();
    let ratio = |sessions: &[CpuBackbone], pruner: &dyn Pruner, count: usize| {
        let passes =
            |i: usize| (0..count).for_each(|_| assert_eq!(pass(&sessions[i], pruner, i), expected[i]));
        let started = Instant::now();
        (0..SESSIONS).for_each(passes);
        let in_turn = started.elapsed();
        let started = Instant::now();
        thread::scope(|scope| {
            (0..SESSIONS).for_each(|i| {
                scope.spawn(move || passes(i));
            });
        });
        started.elapsed().as_secs_f64() / in_turn.as_secs_f64()
    };

    let sharing: Vec<CpuBackbone> = sessions(SessionOptions::sharing(&pool));
    let ratios: Vec<f64> = (0..ROUNDS).map(|_| ratio(&sharing, &pruner, PASSES)).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(least < MOST, "side by side over one after the other: {ratios:?}");

    // Even sessions that spin do work of the others meanwhile.
    let spinning: Vec<CpuBackbone> =
        sessions(SessionOptions { spin: TIMEOUT, ..SessionOptions::sharing(&pool) });
    let mut waiting = (0..WAITING_ROUNDS).map(|_| ratio(&spinning, &Waiting(&pruner), 1));
    assert!(waiting.any(|ratio| ratio < MOST_WAITING), "no round took less than {MOST_WAITING} of the time");
}

/// A pruner whose decisions wait, as for a lock or another process.
struct Waiting<'a>(&'a LearnedPruner);

impl Pruner for Waiting<'_> {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        self.0.sites(spec)
    }

    fn decide(&self, stage: usize, view: &View<'_>, keys: &[ImageKey]) -> vitrim_prune::Result<Reduction> {
        thread::sleep(Duration::from_millis(10));
        self.0.decide(stage, view, keys)
    }

    fn macs(&self, stage: usize, tokens: usize) -> u64 {
        self.0.macs(stage, tokens)
    }
}
