//! Gates play the same game as rollouts, and learn from their gradient.

use burn::tensor::Device;
use vitrim_prune::policy::BackboneId;
use vitrim_random::SplitMix64;
use vitrim_train::{Images, TrainConfig, Trainer, UpdateLog};
use vitrim_vit::{CpuBackbone, PixelBatch, Tensors, VitSpec};

fn spec() -> VitSpec {
    let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([64, 64]);
    (spec.dim, spec.depth, spec.num_classes) = (16, 4, 5);
    (spec.attention.heads, spec.mlp.hidden) = (2, 32);
    spec
}

/// `updates` updates of `config` on the same 16 images of noise.
fn train(config: &TrainConfig, updates: usize) -> Vec<UpdateLog> {
    let spec = spec();
    let Tensors::Owned(mut tensors) = Tensors::random(&spec, 3) else { panic!("random weights are owned") };
    let mut generator = SplitMix64::new(8);
    tensors.values_mut().for_each(|(_, v)| v.iter_mut().for_each(|v| *v += 0.2 * generator.normal() as f32));
    let tensors = Tensors::Owned(tensors);
    let backbone = CpuBackbone::new(&spec, &tensors).unwrap();
    let id = BackboneId::of(&spec, &tensors).unwrap();
    let mut trainer = Trainer::new(&backbone, id, Some(&tensors), config, &Device::flex()).unwrap();
    let pixels: Vec<f32> = (0..16 * 3 * 64 * 64).map(|_| generator.normal() as f32).collect();
    let keys: Vec<u64> = (0..16).collect();
    let images = Images { pixels: PixelBatch::new(&pixels, 16), labels: &[None; 16], keys: &keys };
    if trainer.needs_probes() {
        let probes = trainer.probe(0, images).unwrap();
        trainer.begin(&[probes]);
    }
    (0..updates).map(|_| trainer.update(images).unwrap()).collect()
}

fn small(preset: &str) -> TrainConfig {
    let mut config = TrainConfig::preset(preset).unwrap();
    (config.updates, config.stages) = (40, vec![1, 2]);
    config.ppo.learning_rate = 1e-2;
    config
}

#[test]
fn the_first_draw_is_that_of_a_rollout() {
    let (gumbel, mut mappo) = (small("gumbel"), small("default"));
    // The key is the same as that of the first rollout alone.
    mappo.rollouts_per_image = 1;
    mappo.advantage.baseline = vitrim_train::config::Baseline::Critic;
    let (gates, rollout) = (&train(&gumbel, 1)[0], &train(&mappo, 1)[0]);
    assert_eq!(gates.keep_ratio, rollout.keep_ratio);
    assert!((gates.cost - rollout.cost).abs() < 1e-6, "{} and {}", gates.cost, rollout.cost);
    let (a, b) = (gates.divergence.unwrap(), rollout.divergence.unwrap());
    assert!(b > 1e-6 && (a - b).abs() < 1e-3 * b, "{a} and {b}");
    assert_eq!(gates.sampled_accuracy_loss, rollout.sampled_accuracy_loss);
    assert!(gates.ppo.is_none() && rollout.ppo.is_some());
}

#[test]
fn dynamicvits_loss_reaches_its_keep_ratio() {
    let mut config = small("dynamicvit");
    config.reward.keep_ratio = 0.6;
    let updates = train(&config, 40);
    let missed = |log: &UpdateLog| {
        let of_stage =
            log.keep_ratio.iter().enumerate().map(|(k, kept)| (kept - 0.6f64.powi(k as i32 + 1)).abs());
        of_stage.fold(0.0, f64::max)
    };
    let (first, last) = (&updates[0], &updates[39]);
    assert!(missed(first) > 0.2, "{:?}", first.keep_ratio);
    assert!(missed(last) < 0.08, "{:?}", last.keep_ratio);
    assert!(last.beta.is_none() && last.divergence.is_some());
}

#[test]
fn what_has_no_gradient_is_refused() {
    let refused = |preset: &str, change: &dyn Fn(&mut TrainConfig)| {
        let mut config = small(preset);
        change(&mut config);
        config.check(&spec()).unwrap_err()
    };
    let paper = vitrim_train::config::RewardKind::Paper;
    assert!(refused("gumbel", &|c| c.reward.kind = paper).contains("no gradient"));
    let mappo = vitrim_train::config::LearnerKind::Mappo;
    assert!(refused("dynamicvit", &|c| c.learner = mappo).contains("learner"));
    assert!(small("gumbel").check(&VitSpec { num_classes: 0, ..spec() }).unwrap_err().contains("no classes"));
}
