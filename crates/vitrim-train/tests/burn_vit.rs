//! The Burn ViT equals timm, gates equal removal, and both backbones agree.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use vitrim_prune::{KeepProfile, Method, NoPruner, Pruner, RandomPruner, run};
use vitrim_random::SplitMix64;
use vitrim_skips::SHARED_FIXTURES;
use vitrim_train::burn_vit::{BurnVit, Gated};
use vitrim_vit::{
    AttentionPool, Backbone, ChannelPairs, Checkpoint, Coordinates, CpuBackbone, EmbeddingNorm,
    MlpActivation, MlpSpec, PixelBatch, Pool, Pooling, Positions, Reduction, Rope, Site, Taps, Tensors,
    VitSpec, Want,
};

/// Fixtures of the crate `vitrim-vit`.
const OWN: [&str; 25] = [
    "timm_swiglu_reg",
    "timm_rectangular",
    "timm_headless",
    "hf_deit_teacher_sharded",
    "hf_dinov2_reg",
    "timm_clip",
    "timm_siglip",
    "timm_dinov3_plus",
    "timm_eva02",
    "timm_pe_core",
    "hf_clip",
    "hf_siglip",
    "hf_dinov3",
    "hf_ijepa",
    "hf_aimv2",
    "timm_eva02_clip",
    "meta_dinov3",
    "open_clip",
    "timm_geglu",
    "timm_beit3",
    "hf_beit",
    "hf_dinov3_geglu",
    "hf_aimv2_native",
    "timm_naflexvit",
    "timm_naflexvit_map",
];

/// The folder of the shared fixture `name`, if there is a shared folder.
fn fixture(name: &str) -> Option<PathBuf> {
    Some(vitrim_skips::shared()?.join("fixtures").join(name))
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let words = file.tensor(name).unwrap().data().chunks_exact(4);
    words.map(|w| f32::from_le_bytes(w.try_into().unwrap())).collect()
}

/// max |a - b| / max |b|.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    worst / b.iter().fold(0.0, |m, b| b.abs().max(m))
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    let distance = distance(a, b);
    assert!(distance <= 1e-4, "{what}: off by {distance}");
}

fn pixels(spec: &VitSpec, batch: usize) -> Vec<f32> {
    let mut generator = SplitMix64::new(4);
    let [h, w] = spec.img_size;
    (0..batch * 3 * h * w).map(|_| generator.normal() as f32).collect()
}

fn tensor(values: &[f32], batch: usize, spec: &VitSpec, device: &Device) -> Tensor<4> {
    let [h, w] = spec.img_size;
    Tensor::from_data(TensorData::new(values.to_vec(), [batch, 3, h, w]), device)
}

/// Small backbones of every kind: class token, distilled, mean of the patch tokens with and without a
/// class token, the norm before and after pooling, DINOv2 with registers and SwiGLU, normed queries and keys.
fn small_specs() -> Vec<VitSpec> {
    let mut base = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([64, 48]);
    (base.dim, base.depth, base.num_classes) = (24, 4, 5);
    (base.attention.heads, base.mlp.hidden) = (3, 48);
    let with = |change: fn(&mut VitSpec)| {
        let mut spec = base.clone();
        change(&mut spec);
        spec
    };
    vec![
        base.clone(),
        with(|spec| spec.embedding.distilled = true),
        with(|spec| spec.pooling = Pooling::plain(Pool::Avg, true)),
        with(|spec| {
            spec.pooling.pool = Pool::Avg;
            (spec.embedding.class_token, spec.attention.qkv_bias) = (false, false);
        }),
        with(|spec| (spec.attention.qk_norm, spec.embedding.reg_tokens) = (true, 1)),
        with(|spec| (spec.positions, spec.layer_scale) = (Positions::Patches, true)),
        with(|spec| {
            (spec.positions, spec.layer_scale) = (Positions::ClassAndPatches, true);
            (spec.embedding.reg_tokens, spec.mlp.activation) = (3, MlpActivation::SwiGlu);
            spec.pooling.pool = Pool::TokenAvg;
        }),
        // CLIP, SigLIP, DINOv3, Perception Encoder, AIMv2.
        with(|spec| {
            (spec.embedding.patch_bias, spec.embedding.norm) = (false, EmbeddingNorm::Tokens);
            spec.mlp.activation = MlpActivation::QuickGelu;
            spec.pooling = Pooling { final_norm: false, ..Pooling::plain(Pool::Avg, true) };
        }),
        with(|spec| {
            (spec.embedding.class_token, spec.mlp.activation) = (false, MlpActivation::GeluTanh);
            spec.pooling = Pooling { attention: Some(probe(false)), ..Pooling::plain(Pool::Map, false) };
        }),
        with(|spec| {
            (spec.positions, spec.embedding.reg_tokens) = (Positions::None, 2);
            spec.attention.unbiased_keys = true;
            spec.attention.rope =
                Some(Rope { theta: 100.0, coordinates: Coordinates::Centred, pairs: ChannelPairs::Halves });
        }),
        with(|spec| {
            (spec.mlp.activation, spec.mlp.norm) = (MlpActivation::SwiGlu, true);
            spec.pooling = Pooling { attention: Some(probe(true)), ..Pooling::plain(Pool::Map, false) };
            spec.attention.rope = Some(Rope {
                theta: 10_000.0,
                coordinates: Coordinates::Cells { offset: 1.0, reference: Some([5, 6]), columns_first: true },
                pairs: ChannelPairs::Neighbours,
            });
        }),
        with(|spec| {
            (spec.norm.rms, spec.embedding.norm) = (true, EmbeddingNorm::Patches);
            (spec.mlp.activation, spec.mlp.bias) = (MlpActivation::Silu, false);
            (spec.attention.qkv_bias, spec.attention.proj_bias) = (false, false);
        }),
    ]
}

fn probe(prefix: bool) -> AttentionPool {
    let mlp = (!prefix).then(|| MlpSpec::plain(20, MlpActivation::Gelu));
    AttentionPool { heads: 4, prefix, query: !prefix, bias: !prefix, mlp }
}

/// Random weights large enough that attention is far from even.
fn vivid_tensors(spec: &VitSpec) -> Tensors {
    let Tensors::Owned(mut tensors) = Tensors::random(spec, 3) else { panic!("random weights are owned") };
    let mut generator = SplitMix64::new(8);
    for (_, values) in tensors.values_mut() {
        values.iter_mut().for_each(|v| *v += 0.2 * generator.normal() as f32);
    }
    Tensors::Owned(tensors)
}

#[test]
fn equals_timm_and_transformers() {
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../vitrim-vit/tests/fixtures"));
    let own = OWN.into_iter().map(|name| own.join(name));
    for folder in own.chain(SHARED_FIXTURES.into_iter().filter_map(fixture)) {
        equals_its_library(&folder);
    }
}

fn equals_its_library(folder: &Path) {
    let (device, name) = (Device::flex(), folder.display().to_string());
    let checkpoint = Checkpoint::open(folder).unwrap();
    let spec = &checkpoint.spec;
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let values = floats(&expected, "pixel_values");
    let batch = expected.tensor("pixel_values").unwrap().shape()[0];

    let vit = BurnVit::new(spec, &checkpoint.tensors, &device).unwrap();
    let x = tensor(&values, batch, spec, &device);
    if spec.num_classes > 0 {
        let logits: Vec<f32> = vit.forward(x.clone()).try_into_vec_as().unwrap();
        assert_close(&logits, &floats(&expected, "logits"), &name);
    }
    let mut state = vit.embed(PixelBatch::new(&values, batch)).unwrap();
    vit.advance(&mut state, Site::end(spec), Taps::NONE).unwrap();
    let outputs = [("logits", Want::Logits), ("pooled", Want::Pooled), ("image_embeds", Want::Embedding)];
    for (output, want) in outputs.into_iter().filter(|(output, _)| expected.names().contains(output)) {
        let ours = vit.finish(&state, want).unwrap().values;
        let stored = floats(&expected, output);
        println!("{name}: {output} {:.1e}", distance(&ours, &stored));
        assert_close(&ours, &stored, &format!("{name}: {output}"));
    }
    if expected.names().contains(&"features") {
        let stored = floats(&expected, "features");
        let features: Vec<f32> = vit.forward_features(x).try_into_vec_as().unwrap();
        println!("{name}: features {:.1e}", distance(&features, &stored));
        assert_close(&features, &stored, &name);
        assert_close(&vit.finish(&state, Want::Tokens).unwrap().values, &stored, &name);
    }
}

/// Gates of 0 and 1 give the same result as removal, whether tokens are dropped or merged.
#[test]
fn gated_equals_removed() {
    let taps = Taps::ALL;
    let (batch, stages) = (3, [0, 1, 2]);
    for (seed, (spec, merge)) in
        small_specs().into_iter().flat_map(|spec| [(spec.clone(), false), (spec, true)]).enumerate()
    {
        let tensors = vivid_tensors(&spec);
        let vit = BurnVit::new(&spec, &tensors, &Device::flex().autodiff()).unwrap();
        let cpu = CpuBackbone::new(&spec, &tensors).unwrap();
        let mut generator = SplitMix64::new(seed as u64);
        let values = pixels(&spec, batch);
        let mut gated = Gated::open(&vit, &values, batch);
        let mut state = cpu.embed(PixelBatch::new(&values, batch)).unwrap();
        for stage in stages {
            let site = if merge { Site::after_attention_of(stage) } else { Site::input_of(stage + 1) };
            gated.advance(site, taps).unwrap();
            cpu.advance(&mut state, site, taps).unwrap();
            let (left, view) = (gated.survivors().unwrap(), cpu.view(&state).unwrap());
            let seen = left.view(&spec);
            assert_eq!((seen.offsets, seen.origins), (view.offsets, view.origins));
            assert_close(seen.tokens, view.tokens, "tokens");
            assert_close(seen.sizes, view.sizes, "sizes");
            assert_close(seen.keys.unwrap(), view.keys.unwrap(), "keys");
            assert_close(seen.value_norm.unwrap(), view.value_norm.unwrap(), "value norms");
            assert_close(seen.cls_attention.unwrap(), view.cls_attention.unwrap(), "attention");
            assert_close(seen.inputs.unwrap(), view.inputs.unwrap(), "inputs");
            let received = [seen, view].map(|view| view.received_attention.unwrap());
            assert_close(received[0], received[1], "received attention");

            // The first patch token of each image stays, and every leaving token merges into it.
            let mut into: Vec<usize> = (0..view.total()).collect();
            let (mut agents, mut stays) = (Vec::new(), Vec::new());
            for row in (0..batch).flat_map(|b| view.patch_rows(b).skip(1).map(move |row| (b, row))) {
                let (b, row) = row;
                agents.push(row);
                stays.push(generator.uniform() < 0.6);
                if stays.last() == Some(&false) {
                    into[row] = view.patch_rows(b).start;
                }
            }
            let rows: Vec<usize> = agents.iter().map(|&agent| left.rows[agent]).collect();
            let targets: Vec<usize> = agents
                .iter()
                .map(|&agent| {
                    let b = view.offsets.iter().filter(|start| **start <= agent).count() - 1;
                    left.rows[view.patch_rows(b).start]
                })
                .collect();
            let gates: Vec<f32> = stays.iter().map(|&stays| f32::from(u8::from(stays))).collect();
            let gates = Tensor::from_data(TensorData::new(gates, [agents.len()]), &gated.device());
            let reduction = match merge {
                true => Reduction::join(view.offsets, &into, view.sizes).with_proportional_attention(),
                false => {
                    let flags: Vec<bool> = into.iter().enumerate().map(|(row, to)| row == *to).collect();
                    Reduction::keep(view.offsets, &flags)
                }
            };
            gated.gate(gates, &rows, merge.then_some(&targets[..]));
            cpu.reduce(&mut state, &reduction).unwrap();
        }
        cpu.advance(&mut state, Site::end(&spec), Taps::NONE).unwrap();
        let removed = cpu.finish(&state, Want::Logits).unwrap().values;
        let logits: Vec<f32> = gated.finish().unwrap().without_autodiff().try_into_vec_as().unwrap();
        assert_close(&logits, &removed, &format!("merge {merge}, {spec:?}"));
    }
}

/// The gradient of a gate equals that of finite differences, at both ends of its range.
#[test]
fn gates_have_the_gradient_of_leaving() {
    let spec = small_specs().remove(0);
    let vit = BurnVit::new(&spec, &vivid_tensors(&spec), &Device::flex().autodiff()).unwrap();
    let values = pixels(&spec, 1);
    let (rows, into) = ([3, 5, 6], [2, 2, 4]);
    for merge in [false, true] {
        let score = |gates: Tensor<1>| {
            let mut gated = Gated::open(&vit, &values, 1);
            gated.advance(Site::after_attention_of(1), Taps::NONE).unwrap();
            gated.gate(gates, &rows, merge.then_some(&into[..]));
            gated.finish().unwrap().narrow(1, 2, 1).sum()
        };
        let gates = |values: [f32; 3]| {
            Tensor::<1>::from_data(TensorData::new(values.to_vec(), [3]), &Device::flex().autodiff())
        };
        let at = [1.0, 0.0, 0.4];
        let leaf = gates(at).require_grad();
        let gradient: Vec<f32> =
            leaf.grad(&score(leaf.clone()).backward()).unwrap().try_into_vec_as().unwrap();
        for i in 0..3 {
            let moved = |by: f32| {
                let mut values = at;
                values[i] += by;
                score(gates(values)).into_scalar::<f32>()
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let bound = 0.02 * slope.abs().max(gradient[i].abs()) + 2e-3;
            assert!(
                (gradient[i] - slope).abs() < bound,
                "merge {merge}, gate {i}: {} and {slope}",
                gradient[i]
            );
        }
    }
}

/// A drop at one site, a merge at another, and all taps: the Burn and the CPU backbone agree.
#[test]
fn both_backbones_agree() {
    let all = Taps::ALL;
    for (spec, proportional) in
        small_specs().into_iter().flat_map(|spec| [(spec.clone(), false), (spec, true)])
    {
        let tensors = vivid_tensors(&spec);
        let burn = BurnVit::new(&spec, &tensors, &Device::flex().autodiff()).unwrap();
        let cpu = CpuBackbone::new(&spec, &tensors).unwrap();
        let values = pixels(&spec, 2);
        let mut a = burn.embed(PixelBatch::new(&values, 2)).unwrap();
        let mut b = cpu.embed(PixelBatch::new(&values, 2)).unwrap();
        assert!(burn.view(&a).unwrap().keys.is_none());
        for (step, site) in
            [Site::input_of(1), Site::after_attention_of(1), Site::input_of(2), Site::end(&spec)]
                .into_iter()
                .enumerate()
        {
            burn.advance(&mut a, site, all).unwrap();
            cpu.advance(&mut b, site, all).unwrap();
            let (x, y) = (burn.view(&a).unwrap(), cpu.view(&b).unwrap());
            assert_eq!((x.site, x.offsets, x.origins, x.sizes), (y.site, y.offsets, y.origins, y.sizes));
            assert_close(x.tokens, y.tokens, "tokens");
            for (got, want) in [
                (x.cls_attention, y.cls_attention),
                (x.received_attention, y.received_attention),
                (x.keys, y.keys),
                (x.value_norm, y.value_norm),
                (x.inputs, y.inputs),
            ] {
                assert_eq!(got.is_some(), want.is_some(), "{site}");
                if let (Some(got), Some(want)) = (got, want) {
                    assert_close(got, want, "tap");
                }
            }
            let reduction = match step {
                0 => {
                    let keep: Vec<bool> =
                        x.origins.iter().enumerate().map(|(t, o)| o.grid().is_none() || t % 5 != 0).collect();
                    Reduction::keep(x.offsets, &keep)
                }
                1 => {
                    let merge = Reduction::merge(x.offsets, &[merge_pairs(&x, 0, 2), merge_pairs(&x, 1, 1)]);
                    if proportional { merge.with_proportional_attention() } else { merge }
                }
                _ => continue,
            };
            burn.reduce(&mut a, &reduction).unwrap();
            cpu.reduce(&mut b, &reduction).unwrap();
        }
        for want in [Want::Tokens, Want::Pooled, Want::Logits] {
            let (x, y) = (burn.finish(&a, want).unwrap(), cpu.finish(&b, want).unwrap());
            assert_eq!(x.width, y.width);
            assert_close(&x.values, &y.values, "output");
        }
    }
}

/// Merges each of the last `pairs` pairs of image `b`'s patch tokens into one token.
fn merge_pairs(view: &vitrim_vit::View<'_>, b: usize, pairs: usize) -> Vec<Vec<(usize, f32)>> {
    let rows = view.rows(b);
    let cut = rows.end - 2 * pairs;
    let single = (rows.start..cut).map(|row| vec![(row, 1.0)]);
    single.chain((0..pairs).map(|i| vec![(cut + 2 * i, 0.25), (cut + 2 * i + 1, 0.75)])).collect()
}

/// A pruned forward pass with gradients gives the executor's logits, and the gradient of every weight.
#[test]
fn every_weight_gets_a_gradient_through_pruning_and_goes_back_to_timm() {
    let (device, keys) = (Device::flex().autodiff(), [0, 1]);
    for spec in small_specs() {
        let tensors = vivid_tensors(&spec);
        let vit = BurnVit::new(&spec, &tensors, &device).unwrap();
        let cpu = CpuBackbone::new(&spec, &tensors).unwrap();
        let values = pixels(&spec, 2);
        let profile = KeepProfile::new(&spec, &[1, 2], &[0.7, 0.4]).unwrap();
        let pruners: [Box<dyn Pruner>; 3] = [
            Box::new(RandomPruner::new(profile, 3)),
            "tome".parse::<Method>().unwrap().merging(&spec, 2).unwrap(),
            Box::new(NoPruner),
        ];
        for pruner in pruners {
            let learned = vit.forward_pruned(&values, &keys, pruner.as_ref()).unwrap();
            let host = |x: Tensor<2>| -> Vec<f32> { x.without_autodiff().try_into_vec_as().unwrap() };
            let served = run(&cpu, pruner.as_ref(), PixelBatch::new(&values, 2), &keys).unwrap();
            assert_close(&host(learned.answer.clone()), &served.answer.values, &format!("{spec:?}"));
            let without = VitSpec { num_classes: 0, ..spec.clone() };
            let headless = CpuBackbone::new(&without, &tensors).unwrap();
            let served = run(&headless, pruner.as_ref(), PixelBatch::new(&values, 2), &keys).unwrap();
            assert_close(&host(learned.features), &served.answer.values, &format!("features of {spec:?}"));
            let loss = learned.answer.square().mean();
            let gradients = burn::optim::GradientsParams::from_grads(loss.backward(), &vit);
            assert_eq!(gradients.len(), spec.tensor_shapes().len());
        }

        let (Tensors::Owned(before), Tensors::Owned(after)) = (&tensors, vit.tensors()) else {
            panic!("both are owned")
        };
        assert_eq!(*before, after);
    }
}
