//! Trained weights are written in the layout of the checkpoint's library.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use vitrim_train::pretrain::{WeightType, save_as};
use vitrim_vit::{Checkpoint, Tensors, WeightFiles};

/// One of each layout: timm's own names, DeiT-III's, and transformers' four families, whole, headless, sharded and as a pickle;
/// the authors', and open_clip's.
const FIXTURES: [&str; 18] = [
    "timm_swiglu_reg",
    "timm_rectangular",
    "timm_distilled",
    "deit3_pth",
    "hf_vit",
    "hf_vit_bin",
    "hf_vit_model",
    "hf_deit_teacher_sharded",
    "hf_dinov2_swiglu",
    "hf_dinov2_reg",
    "timm_eva02_clip",
    "hf_vit_mae",
    "apple_aimv2",
    "meta_dinov2_reg",
    "meta_dinov3",
    "meta_pe_core",
    "open_clip",
    "timm_naflexvit_map",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vitrim-vit/tests/fixtures").join(name)
}

/// Names and shapes of the tensors stored in `folder`.
fn stored(folder: &Path) -> BTreeMap<String, Vec<usize>> {
    let mut names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let ends = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", ".pth"];
    let weights = names.find(|path| ends.iter().any(|end| path.display().to_string().ends_with(end)));
    let files = WeightFiles::open(&weights.unwrap()).unwrap();
    files.names().map(|name| (name.to_owned(), files.shape(name).unwrap().to_vec())).collect()
}

/// Other weights for the geometry of `checkpoint`: its own, halved.
fn halved(checkpoint: &Checkpoint) -> Tensors {
    let shapes = checkpoint.spec.tensor_shapes().into_iter();
    let tensors = shapes.map(|(name, shape)| {
        let values = checkpoint.tensors.get(&name, &shape).unwrap().iter().map(|v| 0.5 * v).collect();
        (name, (shape, values))
    });
    Tensors::Owned(tensors.collect())
}

/// Of the shared fixtures, layouts that those above do not have: shapes that differ, tensors that hold several of ours,
/// text towers, separate biases and gates.
const SHARED: [&str; 9] = [
    "hf_clip_full",
    "hf_clip_classes",
    "hf_siglip_full",
    "hf_siglip_classes",
    "timm_siglip_classes",
    "timm_dinov3_qkvb",
    "hf_dinov3",
    "timm_eva02",
    "hf_aimv2",
];

#[test]
fn weights_are_written_as_they_were_stored() {
    let own = FIXTURES.into_iter().map(|name| (name, fixture(name)));
    let shared = vitrim_skips::shared();
    let shared =
        shared.iter().flat_map(|shared| SHARED.map(|name| (name, shared.join("fixtures").join(name))));
    for (name, folder) in own.chain(shared) {
        let to = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let weights = halved(&checkpoint);
        save_as(to.path(), &checkpoint, &weights, WeightType::F32).unwrap();
        let again = Checkpoint::open(to.path()).unwrap();
        assert_eq!(again.spec, checkpoint.spec, "{name}");
        let print = |tensors: &Tensors| tensors.fingerprint(&checkpoint.spec).unwrap();
        assert_eq!(print(&again.tensors), print(&weights), "{name}");
        assert_ne!(print(&weights), print(&checkpoint.tensors), "{name}: nothing was changed");
        assert_eq!(stored(to.path()), stored(&folder), "{name}");
        assert_eq!(again.classes, checkpoint.classes, "{name}");
        assert_eq!(again.preprocessor_config, checkpoint.preprocessor_config, "{name}");
    }
}

#[test]
fn what_was_trained_at_another_size_is_of_that_size() {
    for (name, size) in [("hf_vit", [24, 20]), ("timm_distilled", [24, 32])] {
        let to = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open_at(&fixture(name), Some(size)).unwrap();
        let weights = halved(&checkpoint);
        save_as(to.path(), &checkpoint, &weights, WeightType::F32).unwrap();
        let again = Checkpoint::open(to.path()).unwrap();
        assert_eq!(again.spec.img_size, size, "{name}");
        let print = |tensors: &Tensors| tensors.fingerprint(&checkpoint.spec).unwrap();
        assert_eq!(print(&again.tensors), print(&weights), "{name}");
    }
}
