//! Pruners on images of several aspect ratios in one packed batch.

#[expect(dead_code, reason = "other tests use the rest")]
mod toy;

use vitrim_prune::policy::{BackboneId, Nonlinearity, Universal};
use vitrim_prune::{KeepProfile, LearnedPruner, Method, NoPruner, Policy, Pruner, ReadOut, run};
use vitrim_vit::{AttentionPool, CpuBackbone, PixelBatch, Pool, Pooling, Tensors, VitSpec, cost};

/// The positions' own grid is the second.
const GRIDS: [[usize; 2]; 4] = [[2, 7], [4, 3], [5, 3], [1, 9]];

fn spec() -> VitSpec {
    let mut spec = toy::spec(false);
    let pool = AttentionPool { heads: 3, prefix: false, query: true, bias: true, mlp: Some(spec.mlp) };
    spec.pooling = Pooling { attention: Some(pool), ..Pooling::plain(Pool::Map, false) };
    spec.embedding.position_grid = Some(spec.grid());
    assert_eq!(spec.grid(), GRIDS[1]);
    spec
}

fn images(spec: &VitSpec) -> (Vec<[usize; 2]>, Vec<Vec<f32>>) {
    let sizes: Vec<[usize; 2]> = GRIDS.iter().map(|grid| grid.map(|side| side * spec.patch_size)).collect();
    let image = |(b, [h, w]): (usize, &[usize; 2])| {
        (0..3 * h * w).map(|i| ((i + 31 * b) as f32 * 0.37).sin()).collect()
    };
    let images = sizes.iter().enumerate().map(image).collect();
    (sizes, images)
}

/// Every method, the universal policy with every read-out that it has, and exact counts by a policy without positions.
fn pruners(spec: &VitSpec, model: &CpuBackbone, tensors: &Tensors) -> Vec<(String, Box<dyn Pruner>)> {
    let (sizes, images) = images(spec);
    let (pixels, stages, shares) = (images.concat(), [1, 2, 3], [0.75, 0.5, 0.25]);
    let mut pruners: Vec<(String, Box<dyn Pruner>)> = Vec::new();
    for method in Method::all().skip(1).filter(|method| method.can_act(&stages)) {
        let profile = KeepProfile::new(spec, &stages, &shares).unwrap();
        let pruner = if method.needs_images(spec) {
            let fit = method.fit(model, PixelBatch::of_sizes(&pixels, &sizes), &mut |_, _| Ok(())).unwrap();
            fit.at_cost(profile.macs(spec, 0))
        } else {
            method.at_profile(spec, profile).unwrap()
        };
        pruners.push((method.to_string(), pruner));
    }
    let id = BackboneId::of(spec, tensors).unwrap();
    let universal = Universal::bundled().bind(spec, &id).unwrap();
    for threshold in [0.02, 0.5, 1.0] {
        let learned = LearnedPruner::new(spec, &universal);
        let learned = learned.with_read_out(ReadOut::Threshold { threshold });
        pruners.push((format!("universal at {threshold}"), Box::new(learned)));
    }
    let sample = LearnedPruner::new(spec, &universal).with_read_out(ReadOut::Sample { seed: 3 });
    pruners.push(("universal, sampled".into(), Box::new(sample)));
    pruners
}

/// Batch composition changes no decision and, bit for bit, no answer; and an image costs what it costs alone.
#[test]
fn every_pruner_treats_each_image_as_if_it_were_alone() {
    let spec = spec();
    let tensors = Tensors::random(&spec, 2);
    let model = CpuBackbone::new(&spec, &tensors).unwrap();
    let (sizes, images) = images(&spec);
    let (all, keys) = (images.concat(), [10, 11, 12, 13]);
    for (name, pruner) in pruners(&spec, &model, &tensors) {
        let together = run(&model, pruner.as_ref(), PixelBatch::of_sizes(&all, &sizes), &keys).unwrap();
        assert_eq!(together.grids, GRIDS);
        for (b, image) in images.iter().enumerate() {
            let own = PixelBatch::of_sizes(image, &sizes[b..=b]);
            let alone = run(&model, pruner.as_ref(), own, &keys[b..=b]).unwrap();
            for (of_batch, of_one) in together.stages.iter().zip(&alone.stages) {
                assert_eq!(of_batch.grid_positions(b), of_one.grid_positions(0), "{name}, image {b}");
                assert!(of_one.grid_positions(0).iter().all(|place| *place < GRIDS[b][0] * GRIDS[b][1]));
            }
            assert_eq!(together.answer.row(b), alone.answer.values, "{name}, image {b}");
            assert_eq!(together.macs[b], alone.macs[0], "{name}, image {b}");
        }
    }
}

/// Shares are of the image's own patches, and so is the dense cost.
#[test]
fn shares_are_of_each_images_own_patches() {
    let spec = spec();
    let model = CpuBackbone::new(&spec, &Tensors::random(&spec, 2)).unwrap();
    let (sizes, images) = images(&spec);
    let all = images.concat();
    let batch = PixelBatch::of_sizes(&all, &sizes);
    let profile = KeepProfile::new(&spec, &[1, 2, 3], &[0.75, 0.5, 0.25]).unwrap();
    let pruner = "random".parse::<Method>().unwrap().at_profile(&spec, profile).unwrap();
    let pruned = run(&model, pruner.as_ref(), batch, &[0, 1, 2, 3]).unwrap();
    let dense = run(&model, &NoPruner, batch, &[0, 1, 2, 3]).unwrap();
    for (b, [rows, columns]) in GRIDS.into_iter().enumerate() {
        let patches = (rows * columns) as f64;
        let counts: Vec<usize> = pruned.stages.iter().map(|stage| stage.patch_tokens(b)).collect();
        assert_eq!(counts, [0.75, 0.5, 0.25].map(|share| (share * patches).round() as usize));
        assert_eq!(dense.macs[b], cost::dense_macs(&spec.of_grid([rows, columns])));
        assert!(pruned.macs[b] < dense.macs[b]);
    }
    assert!(dense.macs[0] != dense.macs[1], "larger images cost more");
}

/// On the grid of the positions, decisions and answers are those of a backbone with that one grid.
#[test]
fn the_positions_own_grid_is_that_of_a_fixed_size() {
    let spec = spec();
    let tensors = Tensors::random(&spec, 2);
    let mut fixed = spec.clone();
    fixed.embedding.position_grid = None;
    let [naflex, fixed] = [spec, fixed].map(|spec| (CpuBackbone::new(&spec, &tensors).unwrap(), spec));
    let (sizes, images) = images(&naflex.1);
    let id = BackboneId::of(&naflex.1, &tensors).unwrap();
    let answer = |(model, spec): &(CpuBackbone, VitSpec), pixels| {
        let policy = Universal::bundled().bind(spec, &id).unwrap();
        let pruner = LearnedPruner::new(spec, &policy);
        let pruned = run(model, &pruner, pixels, &[7]).unwrap();
        let kept: Vec<Vec<usize>> = pruned.stages.iter().map(|stage| stage.grid_positions(0)).collect();
        (pruned.answer, kept, pruned.macs)
    };
    let one = answer(&naflex, PixelBatch::of_sizes(&images[1], &sizes[1..2]));
    assert_eq!(one, answer(&fixed, PixelBatch::new(&images[1], 1)));
}

/// A policy that knows the places of one grid has no place for those of others.
#[test]
fn a_policy_with_places_of_one_grid_is_refused() {
    let spec = spec();
    let model = CpuBackbone::new(&spec, &Tensors::random(&spec, 2)).unwrap();
    let pruner = LearnedPruner::new(&spec, &toy::policy(&spec, toy::FULL, Nonlinearity::Gelu));
    let (sizes, images) = images(&spec);
    let pixels = PixelBatch::of_sizes(&images[0], &sizes[..1]);
    let error = run(&model, &pruner, pixels, &[0]).err().unwrap();
    assert!(error.to_string().contains("places"), "{error}");
    let id = BackboneId::of(&spec, &Tensors::random(&spec, 2)).unwrap();
    let untrained = LearnedPruner::new(&spec, &Policy::untrained(&spec, id, &[1, 2], &[0.5, 0.25]));
    let counts = run(&model, &untrained, pixels, &[0]).unwrap().stages;
    assert_eq!(counts.iter().map(|stage| stage.patch_tokens(0)).collect::<Vec<_>>(), [7, 4]);
}
