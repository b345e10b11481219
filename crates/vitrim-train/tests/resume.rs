//! An interrupted and resumed run equals one that was never stopped, bit for bit.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use vitrim_data::{Dataset, OnBadImage, Preprocess, RgbImage, Transform};
use vitrim_prune::policy::{BackboneId, Departure};
use vitrim_prune::{LearnedPruner, Pruner};
use vitrim_random::uniform;
use vitrim_train::{
    DeviceChoice, Images, Outcome, Run, RunEvent, RunFolder, Source, TrainConfig, TrainError, Trainer, train,
};
use vitrim_vit::{Backbone, CpuBackbone, PixelBatch, Precision, Tensors, VitSpec};

struct Setting {
    model: CpuBackbone,
    id: BackboneId,
    source: Source,
    config: TrainConfig,
}

/// A PNG of random blocks, and its label.
fn png(i: u32) -> (Vec<u8>, Option<u32>) {
    let image = RgbImage::from_fn(32, 32, |x, y| {
        let value = |c| (uniform(&[u64::from(i), u64::from(x / 8), u64::from(y / 8), c]) * 255.0) as u8;
        [value(0), value(1), value(2)].into()
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, vitrim_data::image::ImageFormat::Png).unwrap();
    (bytes.into_inner(), Some(i % 3))
}

fn setting() -> Setting {
    let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 32]);
    (spec.dim, spec.depth, spec.num_classes, spec.patch_size) = (24, 4, 3, 8);
    (spec.attention.heads, spec.mlp.hidden) = (3, 48);
    let tensors = Tensors::random(&spec, 1);
    let names = ["a", "b", "c"].map(str::to_owned).to_vec();
    let dataset = Dataset::from_memory((0..22).map(png).collect(), names).unwrap();
    let preprocess = Preprocess {
        input_size: [3, 32, 32],
        crop_pct: 1.0,
        ..Preprocess::from_pretrained_cfg(&serde_json::json!({})).unwrap()
    };
    let mut config = TrainConfig::drop_preset();
    (config.updates, config.images_per_update, config.checkpoint_every) = (9, 4, 3);
    config.reward.reference_images = 8;
    Setting {
        model: CpuBackbone::new(&spec, &tensors).unwrap(),
        id: BackboneId::of(&spec, &tensors).unwrap(),
        source: Source {
            dataset,
            transform: Transform::new(preprocess).unwrap(),
            workers: 2,
            on_bad_image: OnBadImage::Fail,
        },
        config,
    }
}

/// The same setting with agents that merge and start from a gate.
fn merging() -> Setting {
    let s = setting();
    let mut config = TrainConfig::default_preset();
    (config.updates, config.images_per_update, config.checkpoint_every) =
        (s.config.updates, s.config.images_per_update, s.config.checkpoint_every);
    (config.reward, config.stages) = (s.config.reward.clone(), vec![0, 1, 2]);
    (config.actor.gate, config.actor.initial_keep) = (50.0, 0.5);
    Setting { config, ..s }
}

/// Trains in `folder`; `at(update)` is called after each update and may stop the run.
fn run(s: &Setting, folder: &Path, mut at: impl FnMut(usize, &AtomicBool)) -> Result<Outcome, TrainError> {
    let stop = AtomicBool::new(false);
    let folder = &RunFolder::open(folder)?;
    let run = Run {
        id: &s.id,
        precision: Precision::F32,
        weights: None,
        config: &s.config,
        source: &s.source,
        device: DeviceChoice::Cpu,
        folder,
    };
    train(&s.model, &run, &stop, &mut |progress| {
        if let RunEvent::Entry(log, _) = progress {
            at(log.update, &stop);
        }
    })
}

/// The log without what depends on when the run was started.
fn log(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("log.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut entry: serde_json::Value = serde_json::from_str(line).unwrap();
            // A resumed run computes the dense model's answers again.
            for figure in ["images_per_s", "dense_passes"] {
                entry.as_object_mut().unwrap().remove(figure).unwrap();
            }
            entry
        })
        .collect()
}

fn assert_same_run(a: &Path, b: &Path) {
    for file in ["policy/policy.safetensors", "policy/policy.json", "checkpoint.safetensors"] {
        assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{file} differs");
    }
    assert_eq!(log(a), log(b));
}

#[test]
fn interrupted_and_resumed_equals_uninterrupted() {
    interrupted_and_resumed(&setting());
    interrupted_and_resumed(&merging());
}

fn interrupted_and_resumed(s: &Setting) {
    let root = tempfile::tempdir().unwrap();
    let straight = root.path().join("straight");
    assert_eq!(run(s, &straight, |_, _| {}).unwrap(), Outcome::Finished);
    assert_eq!(log(&straight).len(), 9);

    // Stopped between checkpoints by Ctrl-C, twice.
    let stopped = root.path().join("stopped");
    for until in [4, 8] {
        let outcome =
            run(s, &stopped, |update, stop| stop.store(update == until, Ordering::Relaxed)).unwrap();
        assert_eq!(outcome, Outcome::Interrupted);
        assert!(stopped.join("policy/policy.json").is_file(), "the policy is usable");
    }
    assert_eq!(run(s, &stopped, |_, _| {}).unwrap(), Outcome::Finished);
    assert_same_run(&straight, &stopped);

    // Killed two updates after a checkpoint: the run continues from the checkpoint.
    let killed = root.path().join("killed");
    let copy = root.path().join("copy");
    run(s, &killed, |update, stop| {
        if update == 5 {
            fs::create_dir(&copy).unwrap();
            for file in ["checkpoint.safetensors", "log.jsonl"] {
                fs::copy(killed.join(file), copy.join(file)).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        }
    })
    .unwrap();
    assert_eq!(log(&copy).len(), 5);
    let mut first = None;
    run(s, &copy, |update, _| first = first.or(Some(update))).unwrap();
    assert_eq!(first, Some(4), "it goes on behind the checkpoint of update 3");
    assert_same_run(&straight, &copy);
}

#[test]
fn agents_start_where_the_gate_lies() {
    let s = merging();
    let device = DeviceChoice::Cpu.device().unwrap();
    let mut trainer = Trainer::new(&s.model, s.id.clone(), None, &s.config, &device).unwrap();
    let pixels: Vec<f32> = (0..8 * 3 * 32 * 32).map(|i| uniform(&[3, i]) as f32).collect();
    let (pixels, keys) = (PixelBatch::new(&pixels, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(trainer.needs_probes());
    let probes = trainer.probe(Images { pixels, labels: &[None; 8], keys: &keys }).unwrap();
    trainer.begin(&probes);

    let pruner = LearnedPruner::new(s.model.spec(), &trainer.policy());
    let (site, taps) = pruner.sites(s.model.spec())[0];
    let mut state = s.model.embed(pixels).unwrap();
    s.model.advance(&mut state, site, taps).unwrap();
    let view = s.model.view(&state).unwrap();
    let decision = pruner.decision(0, &view).unwrap();
    let free: Vec<usize> =
        (0..8).flat_map(|b| view.patch_rows(b)).filter(|t| decision.may_leave(*t)).collect();
    assert_eq!(free.len(), probes.iter().map(|probe| probe.unlikeness.len()).sum::<usize>());
    let staying = free.iter().filter(|t| decision.logits[**t] > 0.0).count() as f64 / free.len() as f64;
    assert!(free.len() > 30 && (staying - s.config.actor.initial_keep).abs() < 0.1, "{staying}");
    let most_alike = free.iter().min_by(|a, b| {
        let of = |t: usize| decision.unlikeness(pruner.observation(), t).unwrap();
        of(**a).total_cmp(&of(**b))
    });
    assert!(decision.logits[*most_alike.unwrap()] < 0.0, "what is most alike leaves");
}

#[test]
fn a_checkpoint_of_another_run_is_refused_and_left_alone() {
    let mut s = setting();
    s.config.updates = 2;
    let root = tempfile::tempdir().unwrap();
    run(&s, root.path(), |_, _| {}).unwrap();
    let checkpoint = root.path().join("checkpoint.safetensors");
    let good = fs::read(&checkpoint).unwrap();
    s.config.seed = 5;
    let refusal = run(&s, root.path(), |_, _| {}).unwrap_err().to_string();
    assert!(refusal.contains("another configuration") && !refusal.contains('\n'), "{refusal}");
    s.config.seed = 0;
    s.id.fingerprint = "other".into();
    assert!(run(&s, root.path(), |_, _| {}).unwrap_err().to_string().contains("another backbone"));
    s.id.fingerprint.clone_from(&setting().id.fingerprint);
    let whole = s.source.dataset.clone();
    let held_out = Dataset::from_memory(vec![png(3)], vec![]).unwrap().to_exclude(&mut |_, _| {}).unwrap();
    s.source.dataset = whole.without(&held_out, &mut |_, _| {}).unwrap().0;
    assert!(run(&s, root.path(), |_, _| {}).unwrap_err().to_string().contains("another training set"));
    s.source.dataset = whole;
    assert!(fs::read(&checkpoint).unwrap() == good);

    fs::write(&checkpoint, &good[..good.len() - 9]).unwrap();
    let damaged = run(&s, root.path(), |_, _| {}).unwrap_err().to_string();
    assert!(damaged.contains("damaged") && damaged.contains("checkpoint.safetensors"), "{damaged}");
}

#[test]
fn two_runs_never_write_one_folder() {
    let mut s = setting();
    s.config.updates = 2;
    let root = tempfile::tempdir().unwrap();
    let held = RunFolder::open(root.path()).unwrap();
    let refusal = run(&s, root.path(), |_, _| {}).unwrap_err().to_string();
    let expected = format!("{}: another vitrim run is writing there", root.path().display());
    assert!(refusal.starts_with(&expected) && !refusal.contains('\n'), "{refusal}");
    drop(held);
    assert_eq!(run(&s, root.path(), |_, _| {}).unwrap(), Outcome::Finished);
}

#[test]
fn a_log_that_cannot_be_read_is_refused_and_left_alone() {
    let mut s = setting();
    s.config.updates = 2;
    let root = tempfile::tempdir().unwrap();
    run(&s, root.path(), |update, stop| stop.store(update == 1, Ordering::Relaxed)).unwrap();
    let path = root.path().join("log.jsonl");
    let damaged = [&fs::read(&path).unwrap()[..], b"\xff\n"].concat();
    fs::write(&path, &damaged).unwrap();
    let refusal = run(&s, root.path(), |_, _| {}).unwrap_err().to_string();
    assert!(refusal.contains("log.jsonl") && !refusal.contains('\n'), "{refusal}");
    assert!(fs::read(&path).unwrap() == damaged);
}

#[test]
fn configurations_that_cannot_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |change: fn(&mut TrainConfig)| {
        let mut bad = setting();
        change(&mut bad.config);
        run(&bad, folder.path(), |_, _| {}).unwrap_err().to_string()
    };
    assert!(refused(|c| c.stages = vec![2, 1]).contains("stages"));
    assert!(refused(|c| c.rollouts_per_image = 1).contains("rollouts_per_image"));
    assert!(refused(|c| c.ppo.learning_rate = f64::NAN).contains("learning_rate"));
    assert!(refused(|c| c.actor.hidden = vec![]).contains("actor.hidden"));
    assert!(refused(|c| c.actor.observation.pair = true).contains("departure"));
    assert!(refused(|c| c.actor.gate = 4.0).contains("actor.gate"));
    assert!(refused(|c| (c.departure, c.stages) = (Departure::Merge, vec![1, 3])).contains("after block 3"));
    assert_eq!(TrainConfig::preset("paper"), Some(TrainConfig::paper_preset()));
    assert!(TrainConfig::preset("none").is_none());
}
