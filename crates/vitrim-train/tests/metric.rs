//! A learned metric starts as ToMe, its gradual merging is bipartite soft matching in the limit, and training makes merging
//! cost less accuracy; an interruption or more ranks change nothing.

mod scenes;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use vitrim_data::{Dataset, OnBadImage, Transform};
use vitrim_prune::policy::{BackboneId, MetricHeads};
use vitrim_prune::{AnyPolicy, Dial, Method, Pruned, Pruner, run};
use vitrim_random::SplitMix64;
use vitrim_ranks::{Ranks, threads};
use vitrim_train::burn_vit::{BurnVit, Metric, Softness};
use vitrim_train::metric::{MetricConfig, MetricTraining, steps_done, train_metric};
use vitrim_train::pretrain::{ModelConfig, PretrainConfig, initial_weights};
use vitrim_train::{DeviceChoice, Outcome, RunFolder, TrainError};
use vitrim_vit::{Backbone, CpuBackbone, PixelBatch, Pool, Tensors, VitSpec};

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    worst / b.iter().fold(0.0, |m, b| b.abs().max(m))
}

/// Small backbones: one, two and no prefix tokens; the last one pools all patch tokens.
fn specs() -> [VitSpec; 3] {
    let mut base = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([64, 80]);
    (base.dim, base.depth, base.num_classes) = (24, 4, 5);
    (base.attention.heads, base.mlp.hidden) = (3, 48);
    let (mut distilled, mut pooled) = (base.clone(), base.clone());
    distilled.embedding.distilled = true;
    pooled.embedding.class_token = false;
    pooled.pooling.pool = Pool::Avg;
    [base, distilled, pooled]
}

fn pixels(spec: &VitSpec, batch: usize) -> Vec<f32> {
    let mut generator = SplitMix64::new(4);
    let [h, w] = spec.img_size;
    (0..batch * 3 * h * w).map(|_| generator.normal() as f32).collect()
}

/// A random backbone of geometry `spec`, in the executor and with gradients.
fn both(spec: &VitSpec) -> (CpuBackbone, BurnVit) {
    let tensors = Tensors::random(spec, 7);
    let burn = BurnVit::new(spec, &tensors, &Device::flex().autodiff()).unwrap();
    (CpuBackbone::new(spec, &tensors).unwrap(), burn)
}

fn pruned(model: &CpuBackbone, pruner: &dyn Pruner, pixels: &[f32]) -> Pruned {
    run(model, pruner, PixelBatch::new(pixels, 2), &[0, 1]).unwrap()
}

#[test]
fn the_start_is_tome() {
    for spec in specs() {
        let (cpu, burn) = both(&spec);
        let values = pixels(&spec, 2);
        let tome = "tome".parse::<Method>().unwrap().merging(&spec, 3).unwrap();
        let (tome, start) = (
            pruned(&cpu, tome.as_ref(), &values),
            pruned(&cpu, burn.key_metric(1).merging(vec![3; 4]).as_ref(), &values),
        );
        let left = |out: &Pruned| out.stages.iter().map(|stage| stage.patch_tokens(1)).collect::<Vec<_>>();
        assert_eq!(left(&start), left(&tome));
        let apart = distance(&start.answer.values, &tome.answer.values);
        assert!(apart < 1e-5, "off by {apart}");
        // Another metric merges other tokens.
        let finer = pruned(&cpu, burn.key_metric(3).merging(vec![3; 4]).as_ref(), &values);
        assert!(distance(&finer.answer.values, &tome.answer.values) > 1e-4);
        assert!(finer.macs[0] > start.macs[0], "a wider metric costs more");
    }
}

/// With a low temperature, what the first block merges is what the executor removes. The halves that match are the same only if
/// the number of prefix tokens is even.
#[test]
fn gradual_merging_ends_as_removal() {
    for spec in specs().iter().filter(|spec| spec.num_prefix_tokens().is_multiple_of(2)) {
        let (cpu, burn) = both(spec);
        let values = pixels(spec, 2);
        let heads = burn.key_metric(3);
        let metric = Metric::new(&heads.first(1), &Device::flex().autodiff());
        for removed in [1, 4, 10] {
            let hard = pruned(&cpu, heads.merging(vec![removed, 0, 0, 0]).as_ref(), &values);
            let apart = |round_temperature| {
                let softness = Softness { cosine_temperature: 0.1, round_temperature, candidates: 3 };
                let soft = burn.forward_softly(&values, 2, &metric, removed, softness);
                distance(&soft.into_data().try_into_vec::<f32>().unwrap(), &hard.answer.values)
            };
            let (cold, warm) = (apart(1e-4), apart(1.0));
            assert!(cold < 1e-4 && warm > 1e-3, "{removed} removed: off by {cold}, {warm} when warm");
        }
    }
}

/// A backbone of 36 patch tokens on scenes, and images.
struct Setting {
    folder: tempfile::TempDir,
    backbone: CpuBackbone,
    tensors: Tensors,
    id: BackboneId,
    train: Dataset,
    transform: Transform,
}

impl Setting {
    fn new() -> Self {
        let model = ModelConfig { img_size: 96, patch_size: 16, dim: 16, depth: 4, heads: 2, mlp_ratio: 2 };
        let spec = PretrainConfig { model, ..PretrainConfig::scenes_preset() }.spec(10).unwrap();
        let Tensors::Owned(mut weights) = initial_weights(&spec, 1) else {
            panic!("drawn weights are owned")
        };
        // A head whose answers depend on the tokens.
        weights.get_mut("head.weight").unwrap().1.iter_mut().for_each(|weight| *weight *= 50.0);
        let tensors = Tensors::Owned(weights);
        Setting {
            folder: tempfile::tempdir().unwrap(),
            backbone: CpuBackbone::new(&spec, &tensors).unwrap(),
            id: BackboneId::of(&spec, &tensors).unwrap(),
            tensors,
            train: Dataset::scenes("train").unwrap().first(64),
            transform: Transform::new(scenes::preprocess()).unwrap(),
        }
    }

    /// Trains in the folder called `name`; stops after so many log entries. Returns D of each.
    fn go(&self, ranks: &Ranks, config: &MetricConfig, name: &str, entries: usize) -> (Outcome, Vec<f64>) {
        self.try_to_go(ranks, config, name, entries).unwrap()
    }

    fn try_to_go(
        &self,
        ranks: &Ranks,
        config: &MetricConfig,
        name: &str,
        entries: usize,
    ) -> Result<(Outcome, Vec<f64>), TrainError> {
        let folder = &RunFolder::among(ranks, &self.folder.path().join(name)).unwrap();
        let run = MetricTraining {
            config,
            backbone: &self.backbone,
            tensors: &self.tensors,
            id: &self.id,
            train: &self.train,
            transform: &self.transform,
            workers: 1,
            on_bad_image: OnBadImage::Fail,
            device: DeviceChoice::Cpu,
            ranks,
            folder,
        };
        let (stop, mut seen) = (AtomicBool::new(false), Vec::new());
        let outcome = train_metric(&run, &stop, &mut |entry, _| {
            seen.push(entry.divergence);
            stop.store(seen.len() >= entries, Ordering::Relaxed);
        });
        Ok((outcome?, seen))
    }

    fn file(&self, name: &str, file: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(name).join(file)).unwrap()
    }
}

fn config() -> MetricConfig {
    MetricConfig { images: 192, batch: 16, flip: false, log_every: 2, ..MetricConfig::default() }
}

#[test]
fn training_finds_what_is_alike() {
    let setting = Setting::new();
    let config = MetricConfig { images: 640, learning_rate: 0.01, ..config() };
    let (outcome, seen) = setting.go(&Ranks::alone(), &config, "run", usize::MAX);
    assert_eq!((outcome, seen.len()), (Outcome::Finished, 20));
    let mean = |entries: &[f64]| entries.iter().sum::<f64>() / entries.len() as f64;
    let (first, last) = (mean(&seen[..5]), mean(&seen[15..]));
    assert!(last < 0.9 * first, "D of gradual merging from {first} to {last}");

    // What was learned holds for real merging, on images that were not trained on.
    let folder = setting.folder.path().join("run/policy");
    let spec = setting.backbone.spec();
    let learned = AnyPolicy::open(&folder, spec, &setting.id).unwrap();
    let burn = BurnVit::new(spec, &setting.tensors, &Device::flex().autodiff()).unwrap();
    let AnyPolicy::Method(policy) = &learned else { panic!("{learned:?}") };
    assert_eq!((policy.recipe.name(), learned.dial()), ("dtem", Dial::Cost(1.0)));
    let (cost, dense) = (Dial::Cost(0.7), learned.pruner(spec).unwrap());
    assert!(dense.sites(spec).is_empty(), "at the dense cost every token stays");
    let trained = divergence(&setting, learned.pruner_at(spec, &cost).unwrap().as_ref());
    let start = divergence(&setting, removing_as(&learned, &burn.key_metric(1), spec).as_ref());
    assert!(trained < 0.95 * start, "D {trained} at 70 % of the MACs, {start} with ToMe's metric");
}

/// The pruner of `heads` that removes as many tokens as `learned` does at 70 % of the MACs.
fn removing_as(learned: &AnyPolicy, heads: &MetricHeads, spec: &VitSpec) -> Box<dyn Pruner> {
    let AnyPolicy::Method(policy) = learned else { panic!("{learned:?}") };
    let recipe = vitrim_prune::policy::Recipe::Metric(heads.clone());
    vitrim_prune::MethodPolicy { recipe, ..policy.clone() }.at_cost(spec, 0.7).unwrap()
}

/// Mean D of 64 images that were not trained on.
fn divergence(setting: &Setting, pruner: &dyn Pruner) -> f64 {
    let images = Dataset::scenes("validation").unwrap().first(64);
    let options = vitrim_data::LoaderOptions { batch: 64, workers: 1, ..Default::default() };
    let mut loader =
        vitrim_data::Loader::new(&images, vitrim_data::Order::Sequential, &setting.transform, options)
            .unwrap();
    let batch = loader.next().unwrap().unwrap();
    let pixels = PixelBatch::new(&batch.pixels, batch.len());
    let answers = |pruner: &dyn Pruner| run(&setting.backbone, pruner, pixels, &batch.keys()).unwrap().answer;
    let (dense, pruned) = (answers(&vitrim_prune::NoPruner), answers(pruner));
    let spec = setting.backbone.spec();
    let all = vitrim_prune::divergence::divergences(spec, &dense, &pruned);
    all.iter().sum::<f64>() / all.len() as f64
}

#[test]
fn an_interruption_changes_nothing() {
    let (setting, alone) = (Setting::new(), Ranks::alone());
    let (_, all) = setting.go(&alone, &config(), "whole", usize::MAX);
    let (outcome, mut seen) = setting.go(&alone, &config(), "parts", 2);
    let saved = steps_done(&setting.folder.path().join("parts")).unwrap();
    assert_eq!((outcome, saved), (Outcome::Interrupted, Some(4)));
    let (outcome, rest) = setting.go(&alone, &config(), "parts", usize::MAX);
    seen.extend(rest);
    assert_eq!((outcome, &seen), (Outcome::Finished, &all));
    for file in ["policy/policy.safetensors", "policy/policy.json", "checkpoint.safetensors"] {
        assert!(setting.file("whole", file) == setting.file("parts", file), "{file}");
    }
    assert_eq!(steps_done(Path::new("nowhere")).unwrap(), None);
}

#[test]
fn ranks_learn_as_one_process_does() {
    let setting = Setting::new();
    let config = MetricConfig { images: 90, batch: 30, ..config() };
    let learned = |size: usize| {
        let (ranks, name) = (threads::ranks(size), format!("{size} ranks"));
        std::thread::scope(|scope| {
            for ranks in &ranks {
                let (setting, config, name) = (&setting, &config, &name);
                scope.spawn(move || setting.go(ranks, config, name, usize::MAX));
            }
        });
        ["checkpoint.safetensors", "policy/policy.safetensors"].map(|file| setting.file(&name, file))
    };
    let alone = learned(1);
    for size in [2, 3] {
        assert!(learned(size) == alone, "{size} ranks");
    }
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let (good, [spec, ..]) = (MetricConfig::default(), specs());
    assert!(good.check(&spec).is_ok());
    for (config, word) in [
        (MetricConfig { parts: 4, ..good.clone() }, "parts = 4 must lie between 1 and 3"),
        (MetricConfig { parts: 0, ..good.clone() }, "parts"),
        (MetricConfig { batch: 0, ..good.clone() }, "batch"),
        (MetricConfig { batch: 1 << 30, ..good.clone() }, "batch"),
        (MetricConfig { candidates: 0, ..good.clone() }, "candidates"),
        (MetricConfig { round_temperature: 0.0, ..good.clone() }, "round_temperature"),
        (MetricConfig { learning_rate: f64::NAN, ..good.clone() }, "learning_rate"),
    ] {
        let error = config.check(&spec).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let shallow = VitSpec { depth: 1, ..spec.clone() };
    for spec in [shallow, spec.with_img_size([16, 16])] {
        let error = good.check(&spec).unwrap_err().to_string();
        assert!(error.contains("no two patch tokens"), "{error}");
    }
}

/// Vectors of 0, which have no direction, give finite gradients; weights that are too large are no numbers, and end the run
/// before they are written.
#[test]
fn a_metric_that_is_no_number_is_not_written() {
    let setting = Setting::new();
    let Tensors::Owned(mut weights) = setting.tensors else { panic!("owned") };
    for block in 0..4 {
        let [weight, bias] = ["weight", "bias"].map(|of| format!("blocks.{block}.attn.qkv.{of}"));
        for name in [weight, bias] {
            let values = &mut weights.get_mut(&name).unwrap().1;
            let part = values.len() / 3;
            values[part..2 * part].fill(0.0);
        }
    }
    let setting = Setting { tensors: Tensors::Owned(weights), ..setting };
    let (outcome, seen) = setting.go(&Ranks::alone(), &config(), "keyless", usize::MAX);
    assert!(outcome == Outcome::Finished && seen.iter().all(|divergence| divergence.is_finite()), "{seen:?}");

    let broken = MetricConfig { learning_rate: 1.0, max_grad_norm: 1e6, warmup: 0.0, ..config() };
    let Tensors::Owned(mut weights) = setting.tensors else { panic!("owned") };
    weights.get_mut("head.weight").unwrap().1.fill(f32::MAX);
    let setting = Setting { tensors: Tensors::Owned(weights), ..setting };
    let error = setting.try_to_go(&Ranks::alone(), &broken, "broken", usize::MAX).unwrap_err().to_string();
    assert!(error.contains("step 1") && error.contains("NaN or infinite"), "{error}");
    assert!(!setting.folder.path().join("broken/policy").exists());
}
