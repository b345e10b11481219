//! A policy for every backbone runs on backbones of any geometry, and is read from a folder with the care that a
//! stranger's needs.

#[expect(dead_code, reason = "other tests use the rest")]
mod toy;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use vitrim_prune::policy::{BackboneId, Universal, blocks_at};
use vitrim_prune::{AnyPolicy, LearnedPruner, Policy, Pruner, run};
use vitrim_vit::{Backbone, CpuBackbone, PixelBatch, Site, Tensors, View, VitSpec};

/// The bundled policy for a random backbone of geometry `spec`.
fn bound(spec: &VitSpec) -> (CpuBackbone, Policy) {
    let tensors = Tensors::random(spec, 1);
    let id = BackboneId::of(spec, &tensors).unwrap();
    (CpuBackbone::new(spec, &tensors).unwrap(), Universal::bundled().bind(spec, &id).unwrap())
}

#[test]
fn stages_are_shares_of_the_depth() {
    let blocks = |depth| blocks_at(&Universal::DEPTH_SHARES, depth, Universal::bundled().departure);
    assert_eq!(blocks(12), [0, 1, 2, 3, 4, 6]);
    assert_eq!(blocks(24), [0, 2, 4, 6, 8, 12]);
    assert_eq!(blocks(4), [0, 1, 2]);
    assert_eq!(blocks(2), [0]);
    let mut spec = toy::spec(true);
    spec.depth = 1;
    let tensors = Tensors::random(&spec, 1);
    let id = BackboneId::of(&spec, &tensors).unwrap();
    let error = Universal::bundled().bind(&spec, &id).unwrap_err().to_string();
    assert!(error.contains("at least 2 blocks"), "{error}");
}

#[test]
fn it_runs_on_other_widths_depths_patches_and_without_a_class_token() {
    let shapes = [(true, 24, 4, 16), (false, 48, 12, 8), (true, 36, 7, 16), (false, 24, 3, 16)];
    for (class_token, dim, depth, patch) in shapes {
        let mut spec = toy::spec(class_token);
        (spec.dim, spec.depth, spec.patch_size, spec.mlp.hidden) = (dim, depth, patch, 2 * dim);
        let (backbone, policy) = bound(&spec);
        let pixels = toy::pixels(&spec, 3);
        // Everybody who may leave does.
        let pruner = LearnedPruner::new(&spec, &policy)
            .with_read_out(vitrim_prune::ReadOut::Threshold { threshold: 1.0 });
        let pruned = run(&backbone, &pruner, PixelBatch::new(&pixels, 3), &[0, 1, 2]).unwrap();
        assert_eq!(pruned.stages.len(), policy.stages.len());
        for stage in &pruned.stages {
            assert_eq!(stage.prefix, spec.num_prefix_tokens());
            assert!((0..3).all(|b| stage.patch_tokens(b) >= 1));
        }
        assert!(pruned.stages[0].patch_tokens(0) < spec.num_patches());
        assert!(pruned.answer.values.iter().all(|value| value.is_finite()));
    }
}

/// The inputs have no unit: a backbone whose tokens and keys are larger gives the same ones.
#[test]
fn scalars_do_not_depend_on_the_scale_of_tokens_and_keys() {
    let spec = toy::spec(true);
    let (backbone, policy) = bound(&spec);
    let pixels = toy::pixels(&spec, 2);
    let pruner = LearnedPruner::new(&spec, &policy);
    let (site, taps) = pruner.sites(&spec)[1];
    let mut state = backbone.embed(PixelBatch::new(&pixels, 2)).unwrap();
    backbone.advance(&mut state, site, taps).unwrap();
    let view = backbone.view(&state).unwrap();
    let scaled = |values: &[f32], by: f32| values.iter().map(|value| by * value).collect::<Vec<f32>>();
    let (tokens, keys) = (scaled(view.tokens, 7.0), scaled(view.keys.unwrap(), 0.01));
    let attention = scaled(view.cls_attention.unwrap(), 0.5);
    let larger = View { tokens: &tokens, keys: Some(&keys), cls_attention: Some(&attention), ..view };
    let [one, other] = [&view, &larger].map(|view| pruner.decision(1, view).unwrap());
    assert!(one.scalars.iter().filter(|value| **value != 0.0).count() > one.scalars.len() / 4);
    for (a, b) in one.scalars.iter().zip(&other.scalars) {
        assert!((a - b).abs() < 2e-3, "{a} {b}");
    }
    assert!(one.scalars.iter().all(|value| value.abs() <= 4.0));
    assert_ne!(site, Site::input_of(0));
}

#[test]
fn a_folder_is_read_for_any_backbone() {
    let folder = TempDir::new().unwrap();
    let universal = Universal { trained_on: vec!["a toy".into()], ..Universal::bundled() };
    universal.save(folder.path()).unwrap();
    assert_eq!(Universal::open(folder.path()).unwrap(), Some(universal));
    for class_token in [true, false] {
        let (_, bound) = bound(&toy::spec(class_token));
        let opened = AnyPolicy::open(folder.path(), &toy::spec(class_token), &bound.backbone).unwrap();
        assert_eq!(opened, bound.clone().into());
        let bundled =
            AnyPolicy::open(Path::new("universal"), &toy::spec(class_token), &bound.backbone).unwrap();
        assert_eq!(bundled, bound.clone().into());
        // Once it is one backbone's, it is saved and read as any policy.
        let own = TempDir::new().unwrap();
        bound.save(own.path()).unwrap();
        assert_eq!(Policy::load(own.path()).unwrap(), bound);
        assert_eq!(Universal::open(own.path()).unwrap(), None);
        let other = BackboneId { fingerprint: "other".into(), ..bound.backbone };
        let error = AnyPolicy::open(own.path(), &toy::spec(class_token), &other).unwrap_err().to_string();
        assert!(error.contains("not for this backbone"), "{error}");
    }
    let error = Policy::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("for every backbone"), "{error}");
}

#[test]
fn what_could_not_run_is_refused() {
    type Change = fn(&mut Value);
    let changes: [Change; 11] = [
        |policy| policy["depth_shares"] = json!([]),
        |policy| policy["depth_shares"] = json!([0.5, 0.25]),
        |policy| policy["depth_shares"] = json!([0.0, 1.0]),
        |policy| policy["depth_shares"] = json!((0..2000).map(|i| f64::from(i) / 2000.0).collect::<Vec<_>>()),
        |policy| policy["observation"]["embedding"] = json!(true),
        |policy| policy["observation"]["stage"] = json!(true),
        |policy| policy["actor"]["dim"] = json!(24),
        |policy| policy["actor"]["scalars"] = json!(1u64 << 40),
        |policy| policy["actor"]["hidden"] = json!([4_000_000_000u64]),
        |policy| policy["departure"] = json!("drop"),
        |policy| policy["read_out"] = json!({"kind": "top-r", "keep": [0.5]}),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let folder = TempDir::new().unwrap();
        Universal::bundled().save(folder.path()).unwrap();
        let path = folder.path().join("policy.json");
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        let (_, good) = bound(&toy::spec(true));
        let error = AnyPolicy::open(folder.path(), &toy::spec(true), &good.backbone).unwrap_err().to_string();
        assert!(error.len() < 500 && !error.contains('\n'), "change {i}: {error}");
    }
}
