//! An interrupted and resumed run equals one that was never stopped, bit for bit, whatever the number of ranks.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vitrim_data::{Dataset, OnBadImage, Preprocess, RgbImage, Transform};
use vitrim_prune::policy::{BackboneId, Departure, Universal};
use vitrim_prune::{LearnedPruner, Policy, Pruner};
use vitrim_random::uniform;
use vitrim_ranks::{Ranks, threads};
use vitrim_train::{
    Aim, DeviceChoice, Ground, Images, Outcome, Run, RunEvent, RunFolder, Source, Start, TrainConfig,
    TrainError, Trainer, UpdateLog, train,
};
use vitrim_vit::{Backbone, CpuBackbone, PixelBatch, Pool, Pooling, Precision, Tensors, VitSpec};

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

/// The same setting by gradients through gates, with updates of 20 images in three parts.
fn gated() -> Setting {
    let s = setting();
    let mut config = TrainConfig::preset("gumbel").unwrap();
    (config.updates, config.images_per_update, config.checkpoint_every) = (9, 20, 3);
    (config.reward.reference_images, config.stages) = (8, vec![0, 1, 2]);
    Setting { config, ..s }
}

/// A setting with a backbone of another width and depth, without a class token.
fn other() -> Setting {
    let s = setting();
    let mut spec = s.model.spec().clone();
    (spec.dim, spec.depth, spec.mlp.hidden, spec.embedding.class_token) = (36, 6, 72, false);
    spec.pooling = Pooling::plain(Pool::Avg, true);
    let tensors = Tensors::random(&spec, 2);
    let model = CpuBackbone::new(&spec, &tensors).unwrap();
    Setting { model, id: BackboneId::of(&spec, &tensors).unwrap(), ..s }
}

/// The preset `universal`, small.
fn universal() -> TrainConfig {
    let (s, mut config) = (setting(), TrainConfig::universal_preset());
    (config.updates, config.images_per_update, config.checkpoint_every) = (6, 4, 1);
    (config.reward, config.actor.initial_loss) = (s.config.reward, 0.0);
    config
}

/// Trains one policy on two backbones in `folder`, from `start`.
fn run_on_two(
    folder: &Path,
    start: Option<&Start>,
    mut at: impl FnMut(&UpdateLog, &AtomicBool),
) -> Result<Outcome, TrainError> {
    let (stop, folder, config) = (AtomicBool::new(false), &RunFolder::open(folder)?, universal());
    let settings = [("first", setting()), ("second", other())];
    let grounds: Vec<_> = settings
        .iter()
        .map(|(name, s)| Ground {
            backbone: &s.model,
            id: &s.id,
            name,
            precision: Precision::F32,
            source: &s.source,
        })
        .collect();
    let run = Run {
        grounds: &grounds,
        aim: Aim::AnyBackbone,
        start,
        config: &config,
        device: DeviceChoice::Cpu,
        folder,
        ranks: &Ranks::alone(),
    };
    let (outcome, _) = train(&run, &stop, &mut |progress| {
        if let RunEvent::Entry(log, _) = progress {
            at(log, &stop);
        }
    })?;
    Ok(outcome)
}

#[test]
fn one_policy_is_trained_on_two_backbones_by_turns_and_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (straight, stopped) = (folder.path().join("straight"), folder.path().join("stopped"));
    let mut played = Vec::new();
    run_on_two(&straight, None, |log, _| played.push(log.backbone.clone().unwrap())).unwrap();
    assert_eq!(played, ["first", "second", "first", "second", "first", "second"]);
    let outcome = run_on_two(&stopped, None, |log, stop| {
        if log.update == 3 {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Interrupted);
    let mut first = None;
    run_on_two(&stopped, None, |log, _| first = first.or(Some(log.update))).unwrap();
    assert_eq!(first, Some(4));
    assert_same_run(&straight, &stopped);

    // The policy is for every backbone: here for one that it was not trained on.
    let policy = Universal::open(&straight.join("policy")).unwrap().unwrap();
    assert_eq!(policy.trained_on.len(), 2);
    let (spec, tensors) = {
        let mut spec = other().model.spec().clone();
        (spec.dim, spec.depth) = (60, 12);
        let tensors = Tensors::random(&spec, 3);
        (spec, tensors)
    };
    let bound = policy.bind(&spec, &BackboneId::of(&spec, &tensors).unwrap()).unwrap();
    assert_eq!(bound.stages, [0, 1, 2, 3, 4, 6]);

    // A run from another policy is another run.
    let start = Start::from(&policy);
    let refused = run_on_two(&straight, Some(&start), |_, _| ()).unwrap_err().to_string();
    assert!(refused.contains("another policy to start from"), "{refused}");
}

/// An actor that is given decides, before the first update, as the policy that it is of, whatever else it can see.
#[test]
fn training_starts_from_the_given_actor() {
    let s = setting();
    let policy = Universal::bundled();
    let start = Start::from(&policy);
    let mut config = start.widen(&TrainConfig::default_preset());
    config.stages = vec![0, 1, 2];
    assert!(config.actor.observation.embedding && config.actor.observation.relative);
    let device = DeviceChoice::Cpu.device().unwrap();
    let trainer = Trainer::new(&s.model, s.id.clone(), None, &config, &device).unwrap();
    let trainer = trainer.from_start(start.clone()).unwrap();
    let pixels: Vec<f32> = (0..2 * 3 * 32 * 32).map(|i| uniform(&[3, i]) as f32).collect();
    let mut state = s.model.embed(PixelBatch::new(&pixels, 2)).unwrap();
    let bound = Policy { stages: vec![0, 1, 2], ..policy.bind(s.model.spec(), &s.id).unwrap() };
    let [given, wide] = [&bound, &trainer.policy()].map(|policy| LearnedPruner::new(s.model.spec(), policy));
    let (site, taps) = wide.sites(s.model.spec())[0];
    s.model.advance(&mut state, site, taps).unwrap();
    let view = s.model.view(&state).unwrap();
    let [given, wide] = [given, wide].map(|pruner| pruner.decision(0, &view).unwrap().logits);
    assert!(given.iter().any(|logit| logit.is_finite()));
    for (a, b) in given.iter().zip(&wide) {
        assert!(a == b || (a - b).abs() < 1e-4, "{a} {b}");
    }

    let narrow = TrainConfig { actor: TrainConfig::default_preset().actor, ..config };
    let trainer = Trainer::new(&s.model, s.id.clone(), None, &narrow, &device).unwrap();
    let Err(refused) = trainer.from_start(start) else { panic!("it cannot see what the policy needs") };
    assert!(refused.to_string().contains("sees what the configuration's actor does not"), "{refused}");
}

/// Trains in `folder`; `at(update)` is called after each update and may stop the run.
fn run(s: &Setting, folder: &Path, at: impl FnMut(usize, &AtomicBool)) -> Result<Outcome, TrainError> {
    run_as(s, folder, &Ranks::alone(), at)
}

/// The same as one of `ranks`.
fn run_as(
    s: &Setting,
    folder: &Path,
    ranks: &Ranks,
    mut at: impl FnMut(usize, &AtomicBool),
) -> Result<Outcome, TrainError> {
    let stop = AtomicBool::new(false);
    let folder = &RunFolder::among(ranks, folder)?;
    let ground =
        Ground { backbone: &s.model, id: &s.id, name: "toy", precision: Precision::F32, source: &s.source };
    let weights = Tensors::random(s.model.spec(), 1);
    let run = Run {
        grounds: &[ground],
        aim: Aim::OneBackbone(Some(&weights)),
        start: None,
        config: &s.config,
        device: DeviceChoice::Cpu,
        folder,
        ranks,
    };
    let (outcome, _) = train(&run, &stop, &mut |progress| {
        if let RunEvent::Entry(log, _) = progress {
            at(log.update, &stop);
        }
    })?;
    Ok(outcome)
}

/// The log without what depends on when the run was started.
fn log(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("log.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut entry: serde_json::Value = serde_json::from_str(line).unwrap();
            // A resumed run computes the dense model's answers again.
            for figure in ["images_per_s", "play_s", "gather_s", "learn_s", "gathered_mb", "dense_passes"] {
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

/// Trains in `folder` by as many ranks as there are settings, one each, with as many threads as its number says;
/// `at(rank, update)` tells whether the rank is to be stopped.
fn run_by_ranks(
    settings: &[Setting],
    folder: &Path,
    at: impl Fn(usize, usize) -> bool + Sync,
) -> Vec<Result<Outcome, TrainError>> {
    let ranks = threads::ranks(settings.len());
    let work = |s: &Setting, ranks: &Ranks| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1 + ranks.rank()).build().unwrap();
        let ended = pool.install(|| {
            run_as(s, folder, ranks, |update, stop| stop.store(at(ranks.rank(), update), Ordering::Relaxed))
        });
        match ended {
            Err(error) if !ranks.is_over() => Err(ranks.fail(&error.to_string()).into()),
            ended => ended,
        }
    };
    thread::scope(|scope| {
        let each = settings.iter().zip(&ranks).map(|(s, ranks)| scope.spawn(move || work(s, ranks)));
        let each: Vec<_> = each.collect();
        each.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn ranks_train_what_one_process_trains() {
    // With four images an update, one of five ranks has none.
    for (setting, sizes) in
        [(setting as fn() -> Setting, &[2, 3][..]), (merging, &[2, 4, 5]), (gated, &[2, 4])]
    {
        let root = tempfile::tempdir().unwrap();
        let straight = root.path().join("straight");
        run(&setting(), &straight, |_, _| {}).unwrap();
        for &size in sizes {
            let settings: Vec<Setting> = (0..size).map(|_| setting()).collect();
            let folder = root.path().join(size.to_string());
            // The last rank alone is asked to stop, and all do.
            let first = run_by_ranks(&settings, &folder, |rank, update| rank + 1 == size && update == 4);
            assert!(first.iter().all(|ended| matches!(ended, Ok(Outcome::Interrupted))), "{first:?}");
            assert_eq!(log(&folder).len(), 4);
            // It goes on with another number of ranks.
            let rest = run_by_ranks(&settings[1..], &folder, |_, _| false);
            assert!(rest.iter().all(|ended| matches!(ended, Ok(Outcome::Finished))), "{rest:?}");
            assert_same_run(&straight, &folder);
        }
    }
}

#[test]
fn an_image_that_one_rank_cannot_read_ends_all_and_the_run_goes_on_without_it() {
    let settings = || -> Vec<Setting> { (0..3).map(|_| setting()).collect() };
    let root = tempfile::tempdir().unwrap();
    let (straight, folder) = (root.path().join("straight"), root.path().join("ranks"));
    run(&setting(), &straight, |_, _| {}).unwrap();
    let mut broken = settings();
    let images = (0..22).map(|i| if i % 3 == 1 { (vec![0; 30], png(i).1) } else { png(i) });
    let names = ["a", "b", "c"].map(str::to_owned).to_vec();
    broken[2].source.dataset = Dataset::from_memory(images.collect(), names).unwrap();
    for ended in run_by_ranks(&broken, &folder, |_, _| false) {
        let line = ended.unwrap_err().to_string();
        assert!(line.starts_with("rank 2: ") && line.contains("cannot be decoded"), "{line}");
    }
    run_by_ranks(&settings(), &folder, |_, _| false).into_iter().for_each(|ended| {
        ended.unwrap();
    });
    assert_same_run(&straight, &folder);
}

#[test]
fn bad_images_are_left_out_by_ranks_as_by_one_process() {
    let skipping = || {
        let mut s = setting();
        let images = (0..22).map(|i| if i % 5 == 1 { (vec![0; 30], png(i).1) } else { png(i) });
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        s.source.dataset = Dataset::from_memory(images.collect(), names).unwrap();
        s.source.on_bad_image = OnBadImage::Skip;
        s
    };
    let root = tempfile::tempdir().unwrap();
    let (straight, folder) = (root.path().join("straight"), root.path().join("ranks"));
    run(&skipping(), &straight, |_, _| {}).unwrap();
    let ended = run_by_ranks(&[skipping(), skipping(), skipping()], &folder, |_, _| false);
    assert!(ended.iter().all(|ended| matches!(ended, Ok(Outcome::Finished))), "{ended:?}");
    assert_same_run(&straight, &folder);
}

#[test]
fn agents_start_where_the_gate_lies() {
    let s = merging();
    let device = DeviceChoice::Cpu.device().unwrap();
    let mut trainer = Trainer::new(&s.model, s.id.clone(), None, &s.config, &device).unwrap();
    let pixels: Vec<f32> = (0..8 * 3 * 32 * 32).map(|i| uniform(&[3, i]) as f32).collect();
    let (pixels, keys) = (PixelBatch::new(&pixels, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(trainer.needs_probes());
    let probes = trainer.probe(0, Images { pixels, labels: &[None; 8], keys: &keys }).unwrap();
    trainer.begin(std::slice::from_ref(&probes));

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
