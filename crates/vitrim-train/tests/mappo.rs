//! MAPPO: its losses by hand, learning, determinism, resuming.

use burn::tensor::Device;
use vitrim_prune::policy::actor::{Nonlinearity, PerceptronSpec, PerceptronWeights};
use vitrim_random::SplitMix64;
use vitrim_train::Experience;
use vitrim_train::mappo::{Learner, PpoHyper, PpoStats};
use vitrim_train::perceptron::orthogonal_init;

const DIM: usize = 6;

fn spec(outputs: usize) -> PerceptronSpec {
    PerceptronSpec {
        dim: DIM,
        positions: 4,
        stages: 2,
        scalars: outputs, // another number for actor and critic
        shortcut: false,
        context: outputs == 1,
        layer_norm: false,
        hidden: vec![16, 16],
        activation: Nonlinearity::Gelu,
        outputs,
    }
}

fn hyper() -> PpoHyper {
    PpoHyper {
        actor_lr: 3e-3,
        critic_lr: 3e-3,
        clip: 0.2,
        entropy: 0.001,
        epochs: 3,
        minibatches: 4,
        max_grad_norm: 0.5,
        target_kl: None,
    }
}

fn learner(seed: u64) -> Learner {
    let actor = orthogonal_init(&spec(2), seed, 0.01, &[0.0, 0.0]);
    let critic = orthogonal_init(&spec(1), seed + 1, 1.0, &[0.0]);
    Learner::new((spec(2), &actor), (spec(1), &critic), 1e-5, &Device::flex())
}

/// P(keep) of agent-step `s` by the actor's plain weights.
fn keep_probability(weights: &PerceptronWeights, experience: &Experience, s: usize) -> f64 {
    use vitrim_train::perceptron::{Inputs, Perceptron};
    let device = Device::flex();
    let inputs = Inputs::new(&spec(2), experience, &experience.actor_scalars, &device);
    let perceptron = Perceptron::from_weights(&spec(2), weights, &device);
    let logits: Vec<f32> = perceptron.forward(&inputs).try_into_vec_as().unwrap();
    1.0 / (1.0 + f64::from(logits[2 * s] - logits[2 * s + 1]).exp())
}

/// A bandit: keeping pays +1 where the token's first feature is positive, -1 elsewhere.
fn bandit(weights: &PerceptronWeights, seed: u64, episodes: usize) -> Experience {
    let mut generator = SplitMix64::new(seed);
    let agents = 8;
    let steps = episodes * agents;
    let mut experience = Experience {
        tokens: (0..steps * DIM).map(|_| generator.normal() as f32).collect(),
        positions: (0..steps).map(|s| (s % 4) as u32).collect(),
        stages: (0..steps).map(|s| (s / 4 % 2) as u32).collect(),
        actor_scalars: (0..2 * steps).map(|_| generator.normal() as f32).collect(),
        critic_scalars: (0..steps).map(|_| generator.normal() as f32).collect(),
        context_of: (0..steps).map(|s| (s / agents) as u32).collect(),
        contexts: (0..episodes * DIM).map(|_| generator.normal() as f32).collect(),
        actions: vec![0; steps],
        episodes: (0..episodes).map(|e| e * agents..(e + 1) * agents).collect(),
        ..Experience::default()
    };
    use vitrim_train::perceptron::{Inputs, Perceptron};
    let device = Device::flex();
    let inputs = Inputs::new(&spec(2), &experience, &experience.actor_scalars, &device);
    let logits: Vec<f32> =
        Perceptron::from_weights(&spec(2), weights, &device).forward(&inputs).try_into_vec_as().unwrap();
    for s in 0..steps {
        let keep = 1.0 / (1.0 + (logits[2 * s] - logits[2 * s + 1]).exp());
        let action = generator.uniform() < f64::from(keep);
        let reward = if action == (experience.tokens[s * DIM] > 0.0) { 1.0 } else { -1.0 };
        experience.actions[s] = u8::from(action);
        experience.log_probs.push(if action { keep.ln() } else { (1.0 - keep).ln() });
        experience.advantages.push(reward);
        experience.returns.push(experience.tokens[s * DIM]);
    }
    experience
}

#[test]
fn losses_equal_those_computed_by_hand() {
    // Two agent-steps, an actor with zero weights: p = 1/2 for both actions.
    let zero = PerceptronWeights::zeros(&spec(2));
    let mut critic = PerceptronWeights::zeros(&spec(1));
    critic.layers.last_mut().unwrap().1[0] = 0.5; // predicts 0.5 everywhere
    let mut learner = Learner::new((spec(2), &zero), (spec(1), &critic), 1e-5, &Device::flex());
    let mut experience = bandit(&zero, 1, 1);
    experience.episodes.truncate(1); // all eight agent-steps
    experience.log_probs = vec![0.5f32.ln(); 8];
    experience.log_probs[0] = 0.25f32.ln(); // ratio 2: clipped at 1.2 where the advantage is positive
    experience.log_probs[1] = 0.25f32.ln(); // ratio 2, negative advantage: not clipped
    experience.advantages = vec![3.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    experience.returns = vec![1.5, -0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5];
    let hyper = PpoHyper { epochs: 1, minibatches: 1, ..hyper() };

    assert_eq!(learner.values(&experience), vec![0.5; 8]);
    let stats = learner.update(&experience, &learner.values(&experience), &hyper, 0);
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
    close(stats.policy_loss, (-1.2 * 3.0 + 2.0 - 1.0) / 8.0);
    close(stats.value_loss, (1.0 + 1.0) / 8.0);
    close(stats.entropy, 2f64.ln());
    close(stats.approx_kl, 2.0 * (1.0 - 2f64.ln()) / 8.0);
    close(stats.clip_fraction, 2.0 / 8.0);
    close(stats.explained_variance, 0.0);
    // d/db of the mean squared error is the only gradient that a zero network passes: 2 mean(v - r) = 0.
    close(stats.critic_grad_norm, 0.0);
    // Logits' gradient: agent 0 is clipped; agents 1 and 2 give -A ratio (onehot(a) - p) / 8.
    let sign = |s: usize| if experience.actions[s] == 1 { 1.0 } else { -1.0 };
    let component = (2.0 * 0.5 * sign(1) - 0.5 * sign(2)) / 8.0;
    close(stats.actor_grad_norm, (2.0f64 * component * component).sqrt());
    assert_eq!(stats.epochs_run, 1);
}

#[test]
fn a_bandit_is_learnt() {
    let mut learner = learner(1);
    let (mut first, mut last) = (PpoStats::default(), PpoStats::default());
    for update in 0..60 {
        let experience = bandit(&learner.actor_weights(), update, 32);
        last = learner.update(&experience, &learner.values(&experience), &hyper(), update);
        if update == 0 {
            first = last;
        }
    }
    let test = bandit(&learner.actor_weights(), 1000, 32);
    let weights = learner.actor_weights();
    for s in (0..test.len()).filter(|s| test.tokens[s * DIM].abs() > 0.5).take(50) {
        let keep = keep_probability(&weights, &test, s);
        let right = if test.tokens[s * DIM] > 0.0 { keep } else { 1.0 - keep };
        assert!(right > 0.8, "agent-step {s}: the right action has probability {right}");
    }
    assert!(last.entropy < first.entropy);
    assert!(last.value_loss < 0.2 * first.value_loss, "{} after {}", last.value_loss, first.value_loss);
    assert!(last.explained_variance > 0.8, "{}", last.explained_variance);
}

#[test]
fn the_same_inputs_give_the_same_bits() {
    let run = || {
        let mut learner = learner(5);
        for update in 0..4 {
            let experience = bandit(&learner.actor_weights(), update, 64);
            learner.update(&experience, &learner.values(&experience), &hyper(), update);
        }
        learner.save()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_resumed_learner_equals_an_uninterrupted_one() {
    let step = |learner: &mut Learner, update: u64| {
        let experience = bandit(&learner.actor_weights(), update, 16);
        learner.update(&experience, &learner.values(&experience), &hyper(), update)
    };
    let mut uninterrupted = learner(9);
    (0..3).for_each(|update| {
        step(&mut uninterrupted, update);
    });
    let saved = uninterrupted.save();
    (3..6).for_each(|update| {
        step(&mut uninterrupted, update);
    });

    let mut resumed = learner(77);
    resumed.load(&saved).unwrap();
    assert_eq!(resumed.save(), saved);
    (3..6).for_each(|update| {
        step(&mut resumed, update);
    });
    assert_eq!(resumed.save(), uninterrupted.save());
}

#[test]
fn a_foreign_state_is_refused_and_a_fresh_one_is_kept() {
    let mut learner = learner(2);
    let fresh = learner.save();
    learner.load(&fresh).unwrap();
    let error = learner.load(&fresh[1..]).unwrap_err().to_string();
    assert!(error.contains("actor.embedding"), "{error}");
    assert_eq!(learner.save(), fresh);
}

#[test]
fn a_large_divergence_stops_the_update_and_nothing_is_learnt_from_nothing() {
    let mut learner = learner(3);
    let experience = bandit(&learner.actor_weights(), 1, 32);
    let eager = PpoHyper { actor_lr: 0.1, epochs: 10, target_kl: Some(0.02), ..hyper() };
    assert!(learner.update(&experience, &learner.values(&experience), &eager, 1).epochs_run < 10);

    let before = learner.save();
    assert_eq!(learner.update(&Experience::default(), &[], &hyper(), 1), PpoStats::default());
    assert_eq!(learner.save(), before);

    // Fewer episodes than minibatches, one of them without agents.
    let mut small = bandit(&learner.actor_weights(), 2, 2);
    small.episodes.insert(1, 8..8);
    assert!(learner.update(&small, &learner.values(&small), &hyper(), 1).policy_loss.is_finite());
}
