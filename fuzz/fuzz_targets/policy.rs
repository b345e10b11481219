//! A `policy.json` beside weights that belong to it; a policy that loads must run, or be refused for the backbone.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use vitrim_fuzz::{file, folder, small};
use vitrim_prune::policy::BackboneId;
use vitrim_prune::{LearnedPruner, Policy, run};
use vitrim_vit::{CpuBackbone, PixelBatch, Tensors};

static BACKBONE: LazyLock<CpuBackbone> = LazyLock::new(|| {
    let spec = small();
    CpuBackbone::new(&spec, &Tensors::random(&spec, 0)).expect("a small backbone")
});

/// The weights of an untrained policy, and their hash.
static WEIGHTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let spec = small();
    let id = BackboneId::of(&spec, &Tensors::random(&spec, 0)).expect("weights in memory");
    Policy::untrained(&spec, id, &[1, 2], &[0.7, 0.5]).save(folder()).expect("a writable folder");
    std::fs::read(folder().join("policy.safetensors")).expect("it was written")
});

fuzz_target!(|json: &[u8]| {
    let weights = &*WEIGHTS;
    let Ok(mut policy) = serde_json::from_slice::<Value>(json) else { return };
    if let Value::Object(policy) = &mut policy {
        policy.insert("weights_hash".into(), json!(&blake3::hash(weights).to_hex()[..32]));
    }
    file("policy.json", policy.to_string().as_bytes());
    let Ok(policy) = Policy::load(folder()) else { return };
    let _ = policy.backbone.to_string();
    let spec = small();
    let pruner = LearnedPruner::new(&spec, &policy);
    let pixels = vec![0.5; 3 * spec.img_size[0] * spec.img_size[1]];
    let _ = run(&*BACKBONE, &pruner, PixelBatch::new(&pixels, 1), &[7]);
});
