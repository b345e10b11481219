//! Lower precisions on trained backbones: they answer as f32 does, and keep the same tokens.

use std::path::Path;

use vitrim_data::{Dataset, Loader, LoaderOptions, Order};
use vitrim_measure::Loaded;
use vitrim_measure::requests::DatasetArgs;
use vitrim_prune::{LearnedPruner, Policy, Pruner, ReadOut, run};
use vitrim_vit::{Backbone, PixelBatch, Precision};

/// Images of small inputs, and photos for backbones of 224 pixels, of which two cores answer some fifty a second.
const IMAGES: usize = 2_000;
const PHOTOS: usize = 200;

/// The trained backbones of the shared folder, each with a data set that it has the classes of.
const SHARED: [(&str, &str, &str, usize); 3] = [
    ("cifar10_vit_d128", "cifar10", "validation", IMAGES),
    ("vit_tiny_patch16_224", "imagenet-photos", "train", PHOTOS),
    ("deit_tiny_patch16_224", "imagenet-photos", "train", PHOTOS),
];

/// What a precision may cost.
struct Bounds {
    precision: Precision,
    /// Least share of the images whose class is that of f32.
    agreement: f64,
    /// Most that top-1 differs from f32's, pp.
    accuracy_pp: f64,
    /// Least share of the patch tokens, over all stages, that stay or leave as in f32.
    decisions: f64,
}

const BOUNDS: [Bounds; 2] = [
    Bounds { precision: Precision::Bf16, agreement: 0.995, accuracy_pp: 0.2, decisions: 0.99 },
    Bounds { precision: Precision::Int8, agreement: 0.985, accuracy_pp: 0.5, decisions: 0.97 },
];

/// Among 1,000 classes more calls are close, and one photo of [`PHOTOS`] is half a point.
const BOUNDS_OF_PHOTOS: [Bounds; 2] = [
    Bounds { precision: Precision::Bf16, agreement: 0.98, accuracy_pp: 2.0, decisions: 0.985 },
    Bounds { precision: Precision::Int8, agreement: 0.95, accuracy_pp: 3.0, decisions: 0.96 },
];

/// What a backbone said of the first images.
struct Answers {
    classes: Vec<usize>,
    right: usize,
    /// Whether each patch token was left after each stage, `[images][K][N0]`.
    kept: Vec<bool>,
}

#[test]
fn the_bundled_backbone_keeps_its_answers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/backbone");
    check(&folder, &Dataset::scenes("validation").unwrap(), IMAGES, BOUNDS);
}

#[test]
fn shared_backbones_keep_their_answers() {
    let Some(shared) = vitrim_skips::shared() else { return };
    for (model, data, split, images) in SHARED {
        let model = shared.join("models").join(model);
        let reading = DatasetArgs::default();
        let parts = reading.open(&shared.join("data").join(data), &Loaded::open(&model).unwrap()).unwrap();
        let bounds = if images == PHOTOS { BOUNDS_OF_PHOTOS } else { BOUNDS };
        check(&model, &parts.named(split, &mut |_, _| ()).unwrap(), images, bounds);
    }
}

/// Compares the precisions of the backbone in `folder` on the first `images` of `dataset`; they differ no more than `allowed`.
fn check(folder: &Path, dataset: &Dataset, images: usize, allowed: [Bounds; 2]) {
    let loaded = Loaded::open(folder).unwrap();
    let policy = threshold_policy(&loaded, dataset);
    let exact = answers(&loaded, &policy, dataset, images);
    let kept = exact.kept.iter().filter(|kept| **kept).count() as f64 / exact.kept.len() as f64;
    assert!((0.2..0.8).contains(&kept), "{}: a policy that keeps {kept} says little", folder.display());
    for bounds in allowed {
        let precision = bounds.precision;
        let rounded = answers(&Loaded::open_in(folder, precision).unwrap(), &policy, dataset, images);
        let agreement = equal(&exact.classes, &rounded.classes);
        let decisions = equal(&exact.kept, &rounded.kept);
        let accuracy_pp = 100.0 * (rounded.right as f64 - exact.right as f64) / images as f64;
        let found = format!(
            "{} in {precision}: agreement {:.2} %, top-1 {accuracy_pp:+.2} pp, decisions {:.2} % (kept {:.0} %)",
            folder.display(),
            100.0 * agreement,
            100.0 * decisions,
            100.0 * kept
        );
        println!("{found}");
        assert!(agreement >= bounds.agreement, "{found}");
        assert!(accuracy_pp.abs() <= bounds.accuracy_pp + 1e-9, "{found}");
        assert!(decisions >= bounds.decisions, "{found}");
        // Rounding shows: the precision asked for is the one in use.
        assert!(decisions < 1.0, "{found}");
    }
}

/// A policy of random weights that keeps about 0.7 of the first images' patch tokens at its first stage.
fn threshold_policy(loaded: &Loaded, dataset: &Dataset) -> Policy {
    let stages = loaded.spec.default_stages();
    let mut policy = Policy::untrained(&loaded.spec, loaded.id.clone(), &stages, &vec![1.0; stages.len()]);
    let pruner = LearnedPruner::new(&loaded.spec, &policy);
    let (site, taps) = pruner.sites(&loaded.spec)[0];
    let options = LoaderOptions { batch: 64, limit: Some(64), ..LoaderOptions::default() };
    let mut loader = Loader::new(dataset, Order::Sequential, &loaded.transform, options).unwrap();
    let batch = loader.next().unwrap().unwrap();
    let mut state = loaded.model.embed(PixelBatch::new(&batch.pixels, batch.len())).unwrap();
    loaded.model.advance(&mut state, site, taps).unwrap();
    let mut logits = pruner.decision(0, &loaded.model.view(&state).unwrap()).unwrap().logits;
    logits.sort_by(f32::total_cmp);
    let threshold = f64::from(logits[logits.len() * 3 / 10]);
    policy.read_out = ReadOut::Threshold { threshold: 1.0 / (1.0 + (-threshold).exp()) };
    policy
}

fn answers(loaded: &Loaded, policy: &Policy, dataset: &Dataset, images: usize) -> Answers {
    let pruner = LearnedPruner::new(&loaded.spec, policy);
    let options = LoaderOptions { batch: 100, limit: Some(images), ..LoaderOptions::default() };
    let mut answers = Answers { classes: Vec::new(), right: 0, kept: Vec::new() };
    for batch in Loader::new(dataset, Order::Sequential, &loaded.transform, options).unwrap() {
        let batch = batch.unwrap();
        let pixels = PixelBatch::new(&batch.pixels, batch.len());
        let classes = loaded.model.dense_logits(pixels).unwrap().argmax();
        let labelled = classes.iter().zip(&batch.labels);
        answers.right += labelled.filter(|(class, label)| **label == Some(**class as u32)).count();
        answers.classes.extend(classes);
        let pruned = run(&loaded.model, &pruner, pixels, &vec![0; batch.len()]).unwrap();
        for b in 0..batch.len() {
            for stage in &pruned.stages {
                let start = answers.kept.len();
                answers.kept.resize(start + loaded.spec.num_patches(), false);
                stage.grid_positions(b).into_iter().for_each(|i| answers.kept[start + i] = true);
            }
        }
    }
    assert_eq!(answers.classes.len(), images);
    answers
}

/// Share of the places where both say the same.
fn equal<T: PartialEq>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}
