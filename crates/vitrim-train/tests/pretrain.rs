//! Pre-training learns, continues after an interruption with the same result, and writes files that the executor (and
//! timm, in the CLI's tests) can load.

mod scenes;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use vitrim_data::{Dataset, OnBadImage, Transform};
use vitrim_ranks::{Ranks, threads};
use vitrim_train::pretrain::{ModelConfig, PretrainConfig, Pretraining, WeightType, pretrain, steps_done};
use vitrim_train::{DeviceChoice, Outcome, RunFolder};
use vitrim_vit::{Checkpoint, Precision};

fn config() -> PretrainConfig {
    PretrainConfig {
        images: 320,
        batch: 16,
        log_every: 2,
        evaluate_every: 2,
        held_out_images: 32,
        model: ModelConfig { img_size: 96, patch_size: 16, dim: 16, depth: 2, heads: 2, mlp_ratio: 2 },
        crop: 4,
        ..PretrainConfig::scenes_preset()
    }
}

struct Run {
    train: Dataset,
    held_out: Dataset,
    transform: Transform,
}

impl Run {
    fn new() -> Self {
        let preprocess = scenes::preprocess();
        Run {
            train: Dataset::scenes("train").unwrap().first(64),
            held_out: Dataset::scenes("validation").unwrap(),
            transform: Transform::new(preprocess).unwrap(),
        }
    }

    fn go(&self, config: &PretrainConfig, folder: &Path, stop_after: usize) -> (Outcome, Vec<f64>) {
        self.go_among(&Ranks::alone(), config, folder, stop_after)
    }

    fn go_among(
        &self,
        ranks: &Ranks,
        config: &PretrainConfig,
        folder: &Path,
        stop_after: usize,
    ) -> (Outcome, Vec<f64>) {
        let folder = &RunFolder::among(ranks, folder).unwrap();
        let run = Pretraining {
            config,
            train: &self.train,
            held_out: &self.held_out,
            transform: &self.transform,
            workers: 1,
            init: None,
            on_bad_image: OnBadImage::Fail,
            device: DeviceChoice::Cpu,
            ranks,
            weight_type: WeightType::Bf16,
            folder,
        };
        let (stop, mut losses) = (AtomicBool::new(false), Vec::new());
        let (outcome, _) = pretrain(&run, &stop, &mut |entry, _| {
            losses.push(entry.loss);
            if entry.step >= stop_after {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        })
        .unwrap();
        (outcome, losses)
    }
}

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model/model.safetensors")).unwrap()
}

#[test]
fn an_interrupted_run_goes_on_bit_for_bit() {
    let (run, config) = (Run::new(), config());
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (outcome, all) = run.go(&config, whole.path(), usize::MAX);
    assert_eq!((outcome, all.len()), (Outcome::Finished, 10));
    let (outcome, mut first) = run.go(&config, parts.path(), 6);
    assert_eq!((outcome, steps_done(parts.path()).unwrap()), (Outcome::Interrupted, Some(6)));
    first.extend(run.go(&config, parts.path(), usize::MAX).1);
    assert_eq!(first, all);
    assert_eq!(weights(parts.path()), weights(whole.path()));

    let checkpoint = Checkpoint::open(&whole.path().join("model")).unwrap();
    assert_eq!(checkpoint.spec, config.spec(10).unwrap());
    assert_eq!(checkpoint.classes.names[1].as_deref(), Some("ring"));
    checkpoint.into_backbone(Precision::F32).unwrap();
}

#[test]
fn the_loss_falls() {
    // Sixty-four images to be memorised, seen whole and without token labels.
    let config = PretrainConfig {
        images: 64 * 60,
        learning_rate: 3e-3,
        token_labels: 0.0,
        crop: 0,
        patch_drop: 0.0,
        log_every: 20,
        evaluate_every: 6,
        ..config()
    };
    let folder = tempfile::tempdir().unwrap();
    let (_, losses) = Run::new().go(&config, folder.path(), usize::MAX);
    assert!(losses[0] > 2.2 && losses[losses.len() - 1] < 1.2, "{losses:?}");
}

#[test]
fn another_configuration_is_refused() {
    let (run, folder) = (Run::new(), tempfile::tempdir().unwrap());
    run.go(&config(), folder.path(), 4);
    let other = PretrainConfig { weight_decay: 0.1, ..config() };
    let again = Pretraining {
        config: &other,
        train: &run.train,
        held_out: &run.held_out,
        transform: &run.transform,
        workers: 1,
        init: None,
        on_bad_image: OnBadImage::Fail,
        device: DeviceChoice::Cpu,
        ranks: &Ranks::alone(),
        weight_type: WeightType::F32,
        folder: &RunFolder::open(folder.path()).unwrap(),
    };
    let error = pretrain(&again, &AtomicBool::new(false), &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("another configuration") && !error.contains('\n'), "{error}");
}

#[test]
fn a_finished_run_that_is_run_again_keeps_its_log() {
    let (run, folder) = (Run::new(), tempfile::tempdir().unwrap());
    // Five steps, logged after the second, the fourth and the last.
    let config = PretrainConfig { images: 80, log_every: 2, ..config() };
    assert_eq!(run.go(&config, folder.path(), usize::MAX).1.len(), 3);
    let log = || std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
    let before = log();
    assert_eq!(before.lines().count(), 3);
    assert_eq!(run.go(&config, folder.path(), usize::MAX), (Outcome::Finished, vec![]));
    assert_eq!(log(), before);
}

#[test]
fn ranks_train_as_one_process_does() {
    let (run, folder) = (Run::new(), tempfile::tempdir().unwrap());
    // Images are mixed across the batch, so that each rank needs those of others.
    let config = PretrainConfig {
        images: 120,
        batch: 30,
        mixup: 0.4,
        token_labels: 0.0,
        evaluate_every: 1,
        ..config()
    };
    let trained = |size: usize| {
        let folder = folder.path().join(format!("{size} ranks"));
        let ranks = threads::ranks(size);
        std::thread::scope(|scope| {
            for ranks in &ranks {
                let (run, config, folder) = (&run, &config, &folder);
                scope.spawn(move || run.go_among(ranks, config, folder, usize::MAX));
            }
        });
        (weights(&folder), std::fs::read(folder.join("checkpoint.safetensors")).unwrap())
    };
    let alone = trained(1);
    for size in [2, 3] {
        assert!(trained(size) == alone, "{size} ranks");
    }
}
