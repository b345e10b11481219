//! Fine-tuning learns under a policy, continues after an interruption with the same result, and writes files that the
//! executor and the policy can use.

mod scenes;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use vitrim_data::{Dataset, OnBadImage, Transform};
use vitrim_prune::policy::{BackboneId, Policy};
use vitrim_prune::{LearnedPruner, ReadOut};
use vitrim_ranks::{Ranks, threads};
use vitrim_train::finetune::{FinetuneConfig, Finetuning, HeldOut, finetune, steps_done};
use vitrim_train::perceptron::orthogonal_init;
use vitrim_train::pretrain::{
    AugmentConfig, ModelConfig, PretrainConfig, WeightType, initial_weights, save_backbone,
};
use vitrim_train::{DeviceChoice, Outcome, RunFolder, TrainConfig};
use vitrim_vit::{Checkpoint, CpuBackbone, Tensors, VitSpec};

/// A backbone of 36 patch tokens on scenes, and images.
struct Setting {
    folder: tempfile::TempDir,
    checkpoint: Checkpoint,
    train: Dataset,
    held_out: Dataset,
    transform: Transform,
}

impl Setting {
    fn new() -> Self {
        Self::with_classes(10)
    }

    /// With 0 classes, the backbone has no head.
    fn with_classes(classes: usize) -> Self {
        let preprocess = scenes::preprocess();
        let model = ModelConfig { img_size: 96, patch_size: 16, dim: 16, depth: 4, heads: 2, mlp_ratio: 2 };
        let spec = PretrainConfig { model, ..PretrainConfig::scenes_preset() }.spec(classes).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let Tensors::Owned(mut weights) = initial_weights(&spec, 1) else {
            panic!("drawn weights are owned")
        };
        // A head whose answers depend on the tokens.
        if let Some(head) = weights.get_mut("head.weight") {
            head.1.iter_mut().for_each(|weight| *weight *= 50.0);
        }
        let weights = Tensors::Owned(weights);
        save_backbone(folder.path(), &spec, &weights, &preprocess, &[], WeightType::F32).unwrap();
        Setting {
            checkpoint: Checkpoint::open(folder.path()).unwrap(),
            folder,
            train: Dataset::scenes("train").unwrap().first(64),
            held_out: Dataset::scenes("validation").unwrap(),
            transform: Transform::new(preprocess).unwrap(),
        }
    }

    fn spec(&self) -> &VitSpec {
        &self.checkpoint.spec
    }

    /// An actor with random weights of `preset`, which keeps 70 % of the tokens at each stage.
    fn policy(&self, preset: &str) -> Policy {
        let config = TrainConfig::preset(preset).unwrap();
        let actor = config.actor_spec(self.spec());
        let stages = config.stages(self.spec());
        Policy {
            backbone: BackboneId::of(self.spec(), &self.checkpoint.tensors).unwrap(),
            read_out: ReadOut::TopR { keep: (1..=stages.len()).map(|k| 0.7f64.powi(k as i32)).collect() },
            stages,
            departure: config.departure,
            observation: config.actor.observation,
            weights: orthogonal_init(&actor, 3, 1.0, &[0.0, 0.0]),
            actor,
            offsets: Vec::new(),
            calibration: None,
        }
    }

    fn go(
        &self,
        config: &FinetuneConfig,
        policy: Option<&Policy>,
        folder: &Path,
        stop_after: usize,
    ) -> (Outcome, Vec<HeldOut>) {
        self.go_among(&Ranks::alone(), config, policy, folder, stop_after)
    }

    fn go_among(
        &self,
        ranks: &Ranks,
        config: &FinetuneConfig,
        policy: Option<&Policy>,
        folder: &Path,
        stop_after: usize,
    ) -> (Outcome, Vec<HeldOut>) {
        let folder = &RunFolder::among(ranks, folder).unwrap();
        let run = Finetuning {
            config,
            checkpoint: &self.checkpoint,
            policy,
            train: &self.train,
            held_out: &self.held_out,
            transform: &self.transform,
            workers: 1,
            on_bad_image: OnBadImage::Fail,
            device: DeviceChoice::Cpu,
            ranks,
            weight_type: WeightType::F32,
            folder,
        };
        let stop = AtomicBool::new(false);
        let mut seen = Vec::new();
        let (outcome, _) = finetune(&run, &stop, &mut |entry, _| {
            seen.extend(entry.held_out);
            if seen.len() >= stop_after {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        })
        .unwrap();
        (outcome, seen)
    }
}

fn config() -> FinetuneConfig {
    FinetuneConfig {
        images: 320,
        batch: 16,
        learning_rate: 1e-3,
        log_every: 2,
        evaluate_every: 2,
        held_out_images: 64,
        augment: AugmentConfig { crop_padding: 0, flip: false, color_jitter: 0.0 },
        ..FinetuneConfig::default()
    }
}

#[test]
fn what_leaves_is_made_up_for_and_the_policy_takes_the_result() {
    let setting = Setting::new();
    for preset in ["default", "drop"] {
        let policy = setting.policy(preset);
        let out = setting.folder.path().join(preset);
        let (outcome, seen) = setting.go(&config(), Some(&policy), &out, usize::MAX);
        assert_eq!((outcome, seen.len()), (Outcome::Finished, 5));
        let (first, last) = (seen[0], seen[4]);
        assert!(first.disagreement < 1e-4, "{preset}: {first:?}");
        // Dropping acts late, so that on so small a backbone its scoring costs what it saves.
        assert!(preset == "drop" || first.cost < 0.95, "{preset}: {first:?}");
        assert!(last.divergence < 0.8 * first.divergence, "{preset}: {first:?} to {last:?}");

        let model = Checkpoint::open(&out.join("model")).unwrap();
        let tuned = Policy::load(&out.join("policy")).unwrap();
        assert!(tuned.check_backbone(&out, &BackboneId::of(&model.spec, &model.tensors).unwrap()).is_ok());
        assert!(policy.check_backbone(&out, &tuned.backbone).is_err(), "other weights than before");
        assert_eq!((&tuned.weights, &tuned.read_out), (&policy.weights, &policy.read_out));
        let backbone = CpuBackbone::new(&model.spec, &model.tensors).unwrap();
        let pixels = vec![0.1; 3 * 96 * 96];
        let pruner = LearnedPruner::new(&model.spec, &tuned);
        vitrim_prune::run(&backbone, &pruner, vitrim_vit::PixelBatch::new(&pixels, 1), &[0]).unwrap();
    }
}

#[test]
fn a_backbone_without_classes_learns_its_features_again() {
    let setting = Setting::with_classes(0);
    let policy = setting.policy("default");
    let out = setting.folder.path().join("features");
    for feature_weight in [0.0, 5.0] {
        let out = out.join(feature_weight.to_string());
        let config = FinetuneConfig { feature_weight, ..config() };
        let (_, seen) = setting.go(&config, Some(&policy), &out, usize::MAX);
        let (first, last) = (seen[0], seen[4]);
        assert!(last.divergence < 0.8 * first.divergence, "{feature_weight}: {first:?} to {last:?}");
        assert_eq!((last.top1, last.teacher_top1), (None, None));
    }
}

/// In the same number of steps, D falls further if features are matched, too.
#[test]
fn features_teach_what_answers_do() {
    let setting = Setting::new();
    let policy = setting.policy("default");
    let divergence = |feature_weight| {
        let out = setting.folder.path().join(format!("weight-{feature_weight}"));
        let config = FinetuneConfig { feature_weight, learning_rate: 3e-4, ..config() };
        let (_, seen) = setting.go(&config, Some(&policy), &out, usize::MAX);
        seen[4].divergence
    };
    let (without, with) = (divergence(0.0), divergence(5.0));
    assert!(with < without, "D {with} with the features, {without} without");
}

#[test]
fn an_interruption_changes_nothing() {
    let setting = Setting::new();
    let policy = setting.policy("default");
    let config = FinetuneConfig { label_weight: 0.5, ..config() };
    let (whole, parts) = (setting.folder.path().join("whole"), setting.folder.path().join("parts"));
    let (_, all) = setting.go(&config, Some(&policy), &whole, usize::MAX);
    let (outcome, mut seen) = setting.go(&config, Some(&policy), &parts, 2);
    assert_eq!((outcome, steps_done(&parts).unwrap()), (Outcome::Interrupted, Some(8)));
    let (outcome, rest) = setting.go(&config, Some(&policy), &parts, usize::MAX);
    seen.extend(rest);
    assert_eq!((outcome, &seen), (Outcome::Finished, &all));
    for file in ["model/model.safetensors", "policy/policy.json"] {
        assert_eq!(
            std::fs::read(whole.join(file)).unwrap(),
            std::fs::read(parts.join(file)).unwrap(),
            "{file}"
        );
    }
}

#[test]
fn the_dense_control_starts_where_the_teacher_is() {
    let setting = Setting::new();
    let out = setting.folder.path().join("control");
    let config = FinetuneConfig { images: 32, learning_rate: 0.0, learning_rate_end: 0.0, ..config() };
    let (_, seen) = setting.go(&config, None, &out, usize::MAX);
    let last = seen.last().unwrap();
    assert!(last.divergence < 1e-6 && last.cost == 1.0 && last.top1 == last.teacher_top1, "{last:?}");
    assert!(out.join("model/config.json").is_file() && !out.join("policy").exists());
}

#[test]
fn ranks_tune_as_one_process_does() {
    let setting = Setting::new();
    let policy = setting.policy("default");
    // Batches of 30 images in four parts: two ranks have whole halves of the tree, three do not.
    let config = FinetuneConfig { images: 120, batch: 30, label_weight: 0.5, evaluate_every: 1, ..config() };
    let tuned = |size: usize| {
        let folder = setting.folder.path().join(format!("{size} ranks"));
        let ranks = threads::ranks(size);
        std::thread::scope(|scope| {
            for ranks in &ranks {
                let (setting, config, policy, folder) = (&setting, &config, Some(&policy), &folder);
                scope.spawn(move || setting.go_among(ranks, config, policy, folder, usize::MAX));
            }
        });
        ["checkpoint.safetensors", "model/model.safetensors"]
            .map(|file| std::fs::read(folder.join(file)).unwrap())
    };
    let alone = tuned(1);
    for size in [2, 3, 5] {
        assert!(tuned(size) == alone, "{size} ranks");
    }
}
