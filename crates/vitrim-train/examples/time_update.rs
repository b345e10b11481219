//! Measures the time of a MAPPO update: `cargo run --release -p vitrim-train --example time_update`.

use std::time::Instant;

use burn::tensor::Device;
use vitrim_prune::policy::actor::{Nonlinearity, PerceptronSpec};
use vitrim_random::SplitMix64;
use vitrim_train::Experience;
use vitrim_train::mappo::{Learner, PpoHyper};
use vitrim_train::perceptron::orthogonal_init;

fn main() {
    let default = PerceptronSpec {
        dim: 128,
        positions: 64,
        stages: 3,
        scalars: 1,
        shortcut: false,
        context: false,
        layer_norm: true,
        hidden: vec![32, 32],
        activation: Nonlinearity::Gelu,
        outputs: 2,
    };
    let paper = PerceptronSpec {
        stages: 0,
        scalars: 0,
        layer_norm: false,
        hidden: vec![64, 256, 64],
        activation: Nonlinearity::Tanh,
        ..default.clone()
    };
    time("default: 35,000 agent-steps, 32-32 GELU", default, 35_000, 256);
    time("paper: 9,000 agent-steps, 64-256-64 tanh", paper, 9_000, 64);
}

fn time(name: &str, actor: PerceptronSpec, steps: usize, episodes: usize) {
    let critic = PerceptronSpec { context: true, outputs: 1, ..actor.clone() };
    let actor_weights = orthogonal_init(&actor, 1, 0.01, &[0.0, 0.0]);
    let critic_weights = orthogonal_init(&critic, 2, 1.0, &[0.0]);
    let scalars = actor.scalars;
    let mut learner = Learner::new((actor, &actor_weights), (critic, &critic_weights), 1e-5, &Device::flex());

    let mut generator = SplitMix64::new(1);
    let mut normals = |n: usize| (0..n).map(|_| generator.normal() as f32).collect::<Vec<f32>>();
    let experience = Experience {
        tokens: normals(steps * 128),
        positions: (0..steps).map(|s| (s % 64) as u32).collect(),
        stages: (0..steps).map(|s| (s % 3) as u32).collect(),
        actor_scalars: normals(steps * scalars),
        critic_scalars: normals(steps * scalars),
        context_of: (0..steps).map(|s| (s * 3 * episodes / steps) as u32).collect(),
        contexts: normals(3 * episodes * 128),
        actions: (0..steps).map(|s| (s % 2) as u8).collect(),
        log_probs: vec![0.5f32.ln(); steps],
        advantages: normals(steps),
        returns: normals(steps),
        episodes: (0..episodes).map(|e| e * steps / episodes..(e + 1) * steps / episodes).collect(),
    };
    let hyper = PpoHyper {
        actor_lr: 1e-3,
        critic_lr: 1e-3,
        clip: 0.2,
        entropy: 0.003,
        epochs: 4,
        minibatches: 4,
        max_grad_norm: 0.5,
        target_kl: None,
    };
    learner.update(&experience, &learner.values(&experience), &hyper, 0);
    let start = Instant::now();
    let updates = 5;
    for update in 0..updates {
        learner.update(&experience, &learner.values(&experience), &hyper, update);
    }
    let update = start.elapsed().as_secs_f64() / updates as f64;
    let start = Instant::now();
    learner.values(&experience);
    println!(
        "{name}: {:.3} s an update of {} epochs, {:.3} s an epoch, values in {:.3} s",
        update,
        hyper.epochs,
        update / hyper.epochs as f64,
        start.elapsed().as_secs_f64()
    );
}
