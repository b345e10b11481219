//! A game whose best policy is known is learned within seconds, by both presets' rewards; and the same
//! seed gives the same policy.

mod toy;

use vitrim_prune::policy::{BackboneId, Policy};
use vitrim_prune::{LearnedPruner, ReadOut, run};
use vitrim_train::{DeviceChoice, Images, TrainConfig, Trainer, UpdateLog};
use vitrim_vit::{Backbone, PixelBatch};

use toy::{Evidence, MARKED, Toy};

fn id(toy: &Toy) -> BackboneId {
    let spec = toy.spec();
    BackboneId {
        architecture: spec.architecture.clone(),
        img_size: spec.img_size,
        patch_size: spec.patch_size,
        dim: spec.dim,
        depth: spec.depth,
        fingerprint: "toy".into(),
    }
}

fn play(toy: &Toy, config: &TrainConfig) -> (Policy, UpdateLog) {
    let device = DeviceChoice::Cpu.device().unwrap();
    let mut trainer = Trainer::new(toy, id(toy), None, config, &device).unwrap();
    let per_update = config.images_per_update as u64;
    let mut last = None;
    for update in 0..config.updates as u64 {
        let (pixels, labels, _) = toy.images(update * per_update, per_update);
        let keys: Vec<u64> = (update * per_update..(update + 1) * per_update).collect();
        let images = Images { pixels: PixelBatch::new(&pixels, keys.len()), labels: &labels, keys: &keys };
        if trainer.needs_probes() {
            let probes = trainer.probe(0, images).unwrap();
            trainer.begin(&[probes]);
        }
        last = Some(trainer.update(images).unwrap());
    }
    (trainer.policy(), last.unwrap())
}

/// On new images: accuracy, share of marked and of unmarked tokens that survive the last stage.
fn judge(toy: &Toy, policy: &Policy, read_out: ReadOut) -> (f64, f64, f64) {
    let n = 500;
    let (pixels, labels, marks) = toy.images(1 << 40, n);
    let keys: Vec<u64> = (0..n).collect();
    let pruner = LearnedPruner::new(toy.spec(), policy).with_read_out(read_out);
    let out = run(toy, &pruner, PixelBatch::new(&pixels, n as usize), &keys).unwrap();
    let right = out.answer.argmax().iter().zip(&labels).filter(|(p, l)| Some(**p as u32) == **l).count();
    let (mut marked, mut unmarked) = (0, 0);
    for (b, marks) in marks.iter().enumerate() {
        for position in out.stages.last().unwrap().grid_positions(b) {
            *if marks[position] { &mut marked } else { &mut unmarked } += 1;
        }
    }
    let share = |count: i32, of: usize| f64::from(count) / (n as usize * of) as f64;
    (right as f64 / n as f64, share(marked, MARKED), share(unmarked, 16 - MARKED))
}

fn default_config() -> TrainConfig {
    let mut config = TrainConfig::drop_preset();
    config.updates = 100;
    config.actor.observation.cls_attention = false;
    config.actor.observation.layer_norm = false;
    config.critic.layer_norm = false;
    config.ppo.learning_rate = 5e-3;
    config
}

#[test]
fn the_default_preset_keeps_the_marked_tokens_alone() {
    let toy = Toy::new(Evidence::Contested);
    let (policy, log) = play(&toy, &default_config());
    let (accuracy, marked, unmarked) = judge(&toy, &policy, ReadOut::Threshold { threshold: 0.5 });
    println!("default: accuracy {accuracy}, marked {marked}, unmarked {unmarked}, {log:?}");
    assert!(accuracy > 0.99, "accuracy {accuracy}");
    assert!(marked > 0.99, "marked kept {marked}");
    assert!(unmarked < 0.01, "unmarked kept {unmarked}");
}

#[test]
fn the_papers_rewards_learn_whom_to_keep() {
    let toy = Toy::new(Evidence::Unanimous);
    let mut config = TrainConfig::paper_preset();
    config.updates = 200;
    config.ppo.learning_rate = 3e-4;
    config.ppo.learning_rate_end = 3e-4;
    config.actor.hidden = vec![32, 32];
    config.critic.hidden = vec![32, 32];
    // R = 98 * 16 / 196 = 8. With the default R = 2, 0.2 per survivor, the prize is small compared with a penalty of
    // at least 1 that does not depend on which tokens leave.
    config.reward.prize = 98.0;
    let (policy, log) = play(&toy, &config);
    let (accuracy, marked, unmarked) = judge(&toy, &policy, ReadOut::Sample { seed: 1 });
    println!("paper: accuracy {accuracy}, marked {marked}, unmarked {unmarked}, {log:?}");
    assert!(accuracy > 0.97, "accuracy {accuracy}");
    assert!(marked > 0.85 && unmarked < 0.4, "marked {marked}, unmarked {unmarked}");
}

#[test]
fn the_same_seed_gives_the_same_policy_and_another_another() {
    let toy = Toy::new(Evidence::Contested);
    let mut config = default_config();
    config.updates = 3;
    let (policy, _) = play(&toy, &config);
    assert_eq!(policy, play(&toy, &config).0);
    config.seed = 1;
    assert_ne!(policy.weights, play(&toy, &config).0.weights);
}

#[test]
fn agents_start_blind_to_the_context_and_learn_to_see_it() {
    let toy = Toy::new(Evidence::Contested);
    let mut config = default_config();
    config.updates = 2;
    config.actor.observation.context = true;
    let device = DeviceChoice::Cpu.device().unwrap();
    let start =
        |config: &TrainConfig| Trainer::new(&toy, id(&toy), None, config, &device).unwrap().policy().weights;
    let seeing = start(&config);
    assert!(!seeing.context.is_empty() && seeing.context.iter().all(|weight| *weight == 0.0));
    let mut blind = config.clone();
    blind.actor.observation.context = false;
    assert_eq!(seeing.embedding, start(&blind).embedding, "all else is as without one");
    let (learned, _) = play(&toy, &config);
    assert!(learned.weights.context.iter().any(|weight| *weight != 0.0));
}
