//! The controller against recorded service times: a surge is served within the target, and the operating point does not
//! flutter. Time is simulated, so that the tests give the same on any machine.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use vitrim_random::uniform;
use vitrim_serve::elastic::Elastic;

/// Service times of one image on one core, measured by `record` below.
#[derive(Serialize, Deserialize)]
struct Recorded {
    /// What was run.
    what: String,
    /// MACs of an image at each point, 1e9, descending.
    gmacs: Vec<f64>,
    /// Seconds of images at each point.
    seconds: Vec<Vec<f64>>,
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service_times.json");
const STREAMS: usize = 2;
/// Images that the queue holds.
const CAPACITY: usize = 256;

impl Recorded {
    fn read() -> Self {
        serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap()
    }

    fn mean(&self, point: usize) -> f64 {
        self.seconds[point].iter().sum::<f64>() / self.seconds[point].len() as f64
    }

    /// Images per second of all streams at `point`.
    fn capacity(&self, point: usize) -> f64 {
        STREAMS as f64 / self.mean(point)
    }

    /// A controller for these points, as the server makes one after its warm-up.
    fn controller(&self, target: f64) -> Elastic {
        Elastic::new(self.gmacs.clone(), STREAMS, self.mean(0) / self.gmacs[0], target)
    }
}

/// An image that was answered.
struct Answered {
    arrived: f64,
    latency: f64,
}

/// What a simulation saw.
struct Seen {
    answered: Vec<Answered>,
    refused: usize,
    /// Time and new point of each change.
    changes: Vec<(f64, usize)>,
}

impl Seen {
    /// The 99th percentile of the latencies of images that arrived in `from..to`.
    fn p99(&self, from: f64, to: f64) -> f64 {
        let within = self.answered.iter().filter(|image| (from..to).contains(&image.arrived));
        let mut latencies: Vec<f64> = within.map(|image| image.latency).collect();
        latencies.sort_by(f64::total_cmp);
        latencies[latencies.len() * 99 / 100]
    }

    fn changes_within(&self, from: f64, to: f64) -> usize {
        self.changes.iter().filter(|(at, _)| (from..to).contains(at)).count()
    }
}

/// Serves Poisson arrivals at the rates of `phases` (seconds, images per second), as the scheduler does: a stream that is
/// free takes its share of what waits, within the budget of a batch.
fn simulate(recorded: &Recorded, mut controller: Elastic, phases: &[(f64, f64)], seed: u64) -> Seen {
    let mut arrivals = VecDeque::new();
    let (mut now, mut end) = (0.0, 0.0);
    for &(seconds, rate) in phases {
        end += seconds;
        loop {
            now += -uniform(&[seed, 1, arrivals.len() as u64]).max(1e-12).ln() / rate;
            if now >= end {
                now = end;
                break;
            }
            arrivals.push_back(now);
        }
    }
    let mut seen = Seen { answered: Vec::new(), refused: 0, changes: Vec::new() };
    let mut waiting: VecDeque<f64> = VecDeque::new();
    // When each stream is free, and what it reports then.
    let mut busy: [Option<(f64, f64, f64)>; STREAMS] = [None; STREAMS];
    let mut drawn = 0;
    loop {
        let next_end = busy.iter().flatten().map(|(until, ..)| *until).fold(f64::INFINITY, f64::min);
        let next_arrival = arrivals.front().copied().unwrap_or(f64::INFINITY);
        let now = next_end.min(next_arrival);
        if now == f64::INFINITY {
            return seen;
        }
        if next_arrival <= next_end {
            arrivals.pop_front();
            controller.arrived(now, 1);
            if waiting.len() < CAPACITY { waiting.push_back(now) } else { seen.refused += 1 }
        }
        for stream in &mut busy {
            if let Some((until, gmacs, seconds)) = *stream
                && until <= now
            {
                controller.computed(gmacs, seconds);
                *stream = None;
            }
        }
        for at in 0..STREAMS {
            if busy[at].is_some() || waiting.is_empty() {
                continue;
            }
            let free = busy.iter().filter(|stream| stream.is_none()).count();
            let before = controller.level();
            let point = controller.choose(now, waiting.len(), 0.0);
            if point != before {
                seen.changes.push((now, point));
            }
            let budget = (controller.batch_gmacs() / recorded.gmacs[point]) as usize;
            let images = waiting.len().div_ceil(free).min(budget.max(1));
            let mut took = 0.0;
            for _ in 0..images {
                let times = &recorded.seconds[point];
                took += times[(uniform(&[seed, 2, drawn]) * times.len() as f64) as usize];
                drawn += 1;
            }
            for arrived in waiting.drain(..images) {
                seen.answered.push(Answered { arrived, latency: now + took - arrived });
            }
            busy[at] = Some((now + took, images as f64 * recorded.gmacs[point], took));
        }
    }
}

/// Ten images' time on one core.
fn target(recorded: &Recorded) -> f64 {
    10.0 * recorded.mean(0)
}

#[test]
fn a_surge_beyond_the_dense_capacity_is_served_within_the_target_and_ends_dense() {
    let recorded = Recorded::read();
    let dense = recorded.capacity(0);
    let target = target(&recorded);
    for seed in 0..5 {
        let phases = [(30.0, 0.5 * dense), (60.0, 1.5 * dense), (120.0, 0.4 * dense)];
        let seen = simulate(&recorded, recorded.controller(target), &phases, seed);
        println!(
            "seed {seed}: p99 {:.0} ms of {:.0} ms before, {:.0} ms in the surge; changes {:?}",
            1e3 * seen.p99(0.0, 30.0),
            1e3 * target,
            1e3 * seen.p99(30.0, 90.0),
            seen.changes
        );
        assert_eq!(seen.refused, 0);
        assert!(seen.p99(30.0, 90.0) <= target, "in the surge");
        assert!(seen.p99(90.0, 210.0) <= target, "after it");
        assert_eq!(seen.changes.last().map(|(_, point)| *point), Some(0), "back at the dense model");
        // Without the controller, the same surge fills the queue.
        let fixed = Elastic::new(vec![recorded.gmacs[0]], STREAMS, 1.0, f64::INFINITY);
        let overrun = simulate(&recorded, fixed, &phases, seed);
        assert!(overrun.refused > 0 && overrun.p99(60.0, 90.0) > target);
    }
}

#[test]
fn steady_loads_do_not_make_the_point_flutter() {
    let recorded = Recorded::read();
    let dense = recorded.capacity(0);
    for load in [0.3, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35] {
        for seed in 0..3 {
            let seen =
                simulate(&recorded, recorded.controller(target(&recorded)), &[(600.0, load * dense)], seed);
            // The first minutes find the point; the dwell time doubles after each step back that did not last.
            let (all, settled) = (seen.changes.len(), seen.changes_within(120.0, 600.0));
            println!("load {load}, seed {seed}: {all} changes in 10 minutes, {settled} in the last 8");
            assert!(settled <= 24, "load {load}: {:?}", seen.changes);
            assert_eq!(seen.refused, 0);
            assert!(seen.p99(120.0, 600.0) <= target(&recorded), "load {load}");
        }
    }
}

#[test]
fn silence_leads_back_to_the_dense_model() {
    let recorded = Recorded::read();
    let mut controller = recorded.controller(target(&recorded));
    controller.arrived(0.0, CAPACITY);
    assert_eq!(controller.choose(0.0, CAPACITY, 0.0), recorded.gmacs.len() - 1, "at once");
    // The server lets it see every second.
    let levels: Vec<usize> = (1..60).map(|second| controller.choose(f64::from(second), 0, 0.0)).collect();
    assert!(levels.windows(2).all(|pair| pair[1] <= pair[0] && pair[0] - pair[1] <= 1), "{levels:?}");
    assert_eq!(levels.last(), Some(&0), "{levels:?}");
}

/// Measures what the other tests replay: one core, one image at a time. To run it:
/// `cargo test --release -p vitrim-serve --test simulation record -- --ignored`.
#[test]
#[ignore = "measures this machine; writes service_times.json"]
fn record() {
    use vitrim_measure::Loaded;
    use vitrim_prune::{Method, NoPruner, Pruner, image_macs, run_to_answer};
    use vitrim_vit::{Backbone, PixelBatch, Precision, SessionOptions, Threads, Want};

    const MODEL: &str = "deit_tiny_patch16_224";
    const TIMES: usize = 100;
    let loaded = Loaded::random(MODEL, Precision::F32).unwrap();
    let session = loaded.model.session(SessionOptions::sharing(&Threads::pool(1).unwrap()));
    let pixels: Vec<f32> = (0..loaded.transform.pixel_count()).map(|i| uniform(&[i as u64]) as f32).collect();
    let method: Method = "evit".parse().unwrap();
    let mut pruners: Vec<Box<dyn Pruner>> = vec![Box::new(NoPruner)];
    for keep in [0.9f64, 0.8, 0.7, 0.6, 0.5] {
        let shares = [keep, keep.powi(2), keep.powi(3)];
        pruners.push(method.at_shares(&loaded.spec, &[3, 6, 9], &shares).unwrap());
    }
    let mut recorded = Recorded {
        what: format!("{MODEL}, dense and evit at keep ratios 0.9 to 0.5, one image on one core, f32"),
        gmacs: vec![0.0; pruners.len()],
        seconds: vec![Vec::new(); pruners.len()],
    };
    for _ in 0..TIMES {
        for (at, pruner) in pruners.iter().enumerate() {
            let started = std::time::Instant::now();
            session.enter(|| {
                let mut state = session.embed(PixelBatch::new(&pixels, 1)).unwrap();
                let stages = run_to_answer(&session, pruner.as_ref(), &mut state, &[0]).unwrap();
                session.finish(&state, Want::Logits).unwrap();
                recorded.gmacs[at] = image_macs(session.spec(), pruner.as_ref(), &stages, 0) as f64 / 1e9;
            });
            recorded.seconds[at].push(started.elapsed().as_secs_f64());
        }
    }
    std::fs::write(FILE, serde_json::to_string(&recorded).unwrap() + "\n").unwrap();
}
