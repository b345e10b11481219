//! A policy folder may come from a stranger: what could not run or be held is refused when it is loaded.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use vitrim_prune::policy::BackboneId;
use vitrim_prune::{LearnedPruner, Policy, run};
use vitrim_vit::{CpuBackbone, PixelBatch, Tensors, VitSpec};

fn spec() -> VitSpec {
    VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 32])
}

/// A folder with an untrained policy.
fn saved() -> TempDir {
    let (spec, folder) = (spec(), TempDir::new().unwrap());
    let id = BackboneId::of(&spec, &Tensors::random(&spec, 0)).unwrap();
    Policy::untrained(&spec, id, &[3, 6], &[0.7, 0.5]).save(folder.path()).unwrap();
    Policy::load(folder.path()).unwrap();
    folder
}

fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("policy.json");
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
}

fn refused(folder: &Path, words: &[&str]) {
    let error = Policy::load(folder).expect_err("must be refused").to_string();
    println!("{error}");
    assert!(error.len() < 500 && !error.contains('\n'), "{error}");
    for word in words {
        assert!(error.contains(word), "no '{word}' in: {error}");
    }
}

#[test]
fn no_number_takes_memory_or_panics() {
    type Change = fn(&mut Value);
    let changes: [Change; 14] = [
        |policy| policy["actor"]["hidden"] = json!([4_000_000_000u64]),
        |policy| policy["actor"]["hidden"] = json!([]),
        |policy| policy["actor"]["hidden"] = json!(vec![1; 100_000]),
        |policy| policy["actor"]["hidden"] = json!([65_536, 65_536]),
        |policy| policy["actor"]["outputs"] = json!(3),
        |policy| policy["actor"]["positions"] = json!(u64::MAX),
        |policy| policy["actor"]["scalars"] = json!(1u64 << 40),
        |policy| policy["backbone"]["patch_size"] = json!(0),
        |policy| policy["backbone"]["img_size"] = json!([u64::MAX, u64::MAX]),
        |policy| policy["stages"] = json!(vec![5; 100_000]),
        |policy| policy["stages"] = json!([3, 60]),
        |policy| policy["offsets"] = json!([0.5]),
        |policy| policy["offsets"] = json!([0.5, 1e30]),
        |policy| policy["read_out"] = json!({"kind": "top-r", "keep": vec![0.5; 100_000]}),
    ];
    for change in changes {
        let folder = saved();
        edit(folder.path(), change);
        refused(folder.path(), &["policy.json"]);
    }
}

#[test]
fn what_is_no_policy_is_called_what_it_is() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 35\n";
    for name in ["policy.json", "policy.safetensors"] {
        let folder = saved();
        fs::write(folder.path().join(name), pointer).unwrap();
        refused(folder.path(), &[name, "Git LFS pointer"]);
    }
    let folder = saved();
    fs::File::create(folder.path().join("policy.safetensors")).unwrap().set_len(2 << 30).unwrap();
    refused(folder.path(), &["policy.safetensors", "1073741824 bytes"]);
    // A byte order mark changes nothing.
    let folder = saved();
    let json = fs::read_to_string(folder.path().join("policy.json")).unwrap();
    fs::write(folder.path().join("policy.json"), format!("\u{feff}{json}")).unwrap();
    Policy::load(folder.path()).unwrap();
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_tensor() {
    let (folder, spec) = (saved(), spec());
    let mut policy = Policy::load(folder.path()).unwrap();
    policy.weights.bias[1] = f32::NAN;
    policy.save(folder.path()).unwrap();
    refused(folder.path(), &["policy.safetensors", "'bias'", "NaN"]);
    assert_eq!(policy.backbone.dim, spec.dim);
}

/// The fingerprint's first eight bytes may end inside a character.
#[test]
fn any_fingerprint_can_be_shown() {
    let folder = saved();
    edit(folder.path(), |policy| policy["backbone"]["fingerprint"] = json!("aééééééé"));
    assert!(Policy::load(folder.path()).unwrap().backbone.to_string().ends_with("weights aééééééé"));
}

/// As a library, without the command line's check of the backbone.
#[test]
fn a_policy_for_another_backbone_does_not_run() {
    let folder = saved();
    let policy = Policy::load(folder.path()).unwrap();
    let narrow = VitSpec { dim: 96, ..spec() };
    let large = spec().with_img_size([64, 64]);
    for other in [narrow, large] {
        let model = CpuBackbone::new(&other, &Tensors::random(&other, 0)).unwrap();
        let pixels = vec![0.0; 3 * other.img_size[0] * other.img_size[1]];
        let pruner = LearnedPruner::new(&other, &policy);
        let error = run(&model, &pruner, PixelBatch::new(&pixels, 1), &[0]).err().unwrap().to_string();
        assert!(error.contains("give the backbone it was trained for"), "{error}");
    }
}
