//! The central property: removing tokens gives the same result as masking them.

mod reference;

use proptest::prelude::*;
use vitrim_kernels::reference::{max_difference, relative_difference, values};
use vitrim_vit::{
    At, AttentionPool, AttentionSpec, Backbone, ChannelPairs, Coordinates, CpuBackbone, Embedding,
    EmbeddingNorm, HostState, MlpActivation, MlpSpec, NormSpec, PixelBatch, Pool, Pooling, Positions,
    Reduction, Rope, Site, Taps, Tensors, VitSpec, Want,
};

fn small(class_token: bool, distilled: bool, pool: Pool, grid: [usize; 2]) -> VitSpec {
    let spec = VitSpec {
        architecture: "test".into(),
        img_size: [grid[0] * 4, grid[1] * 4],
        patch_size: 4,
        dim: 24,
        depth: 4,
        num_classes: 5,
        embedding: Embedding { class_token, distilled, ..Embedding::default() },
        positions: Positions::All,
        attention: AttentionSpec::plain(3),
        mlp: MlpSpec::plain(40, MlpActivation::Gelu),
        norm: NormSpec::layer(1e-6),
        layer_scale: false,
        pooling: Pooling::plain(pool, pool == Pool::Avg),
    };
    spec.check().unwrap();
    spec
}

/// One backbone of each kind.
fn kinds(grid: [usize; 2]) -> Vec<VitSpec> {
    let plain = small(true, false, Pool::Token, grid);
    let mut dinov2 = VitSpec { positions: Positions::Patches, layer_scale: true, ..plain.clone() };
    (dinov2.embedding.reg_tokens, dinov2.mlp.activation) = (3, MlpActivation::SwiGlu);
    let mut both = VitSpec { positions: Positions::ClassAndPatches, ..dinov2.clone() };
    both.pooling.pool = Pool::TokenAvg;
    let mut normed = plain.clone();
    (normed.attention.qk_norm, normed.attention.qkv_bias, normed.embedding.reg_tokens) = (true, false, 1);
    let clip = VitSpec {
        embedding: Embedding { patch_bias: false, norm: EmbeddingNorm::Tokens, ..plain.embedding },
        mlp: MlpSpec::plain(40, MlpActivation::QuickGelu),
        pooling: Pooling { final_norm: false, ..Pooling::plain(Pool::Avg, true) },
        ..plain.clone()
    };
    let map = |prefix| AttentionPool {
        heads: 4,
        prefix,
        query: !prefix,
        bias: !prefix,
        mlp: (!prefix).then(|| MlpSpec::plain(20, MlpActivation::GeluTanh)),
    };
    let siglip = VitSpec {
        mlp: MlpSpec::plain(40, MlpActivation::GeluTanh),
        pooling: Pooling { attention: Some(map(false)), ..Pooling::plain(Pool::Map, false) },
        ..small(false, false, Pool::Avg, grid)
    };
    let rope = |coordinates, pairs| Some(Rope { theta: 100.0, coordinates, pairs });
    let dinov3 = VitSpec {
        positions: Positions::None,
        attention: AttentionSpec {
            unbiased_keys: true,
            rope: rope(Coordinates::Centred, ChannelPairs::Halves),
            ..plain.attention
        },
        ..dinov2.clone()
    };
    let cells = Coordinates::Cells { offset: 1.0, reference: Some([5, 6]), columns_first: true };
    let mut eva = VitSpec { layer_scale: false, ..small(true, false, Pool::Avg, grid) };
    (eva.mlp.activation, eva.mlp.norm) = (MlpActivation::SwiGlu, true);
    eva.attention.rope = rope(cells, ChannelPairs::Neighbours);
    eva.pooling = Pooling { attention: Some(map(true)), ..Pooling::plain(Pool::Map, false) };
    let mut aimv2 = small(false, false, Pool::Avg, grid);
    (aimv2.norm.rms, aimv2.embedding.norm) = (true, EmbeddingNorm::Patches);
    aimv2.mlp.activation = MlpActivation::GeGlu;
    (aimv2.attention.qkv_bias, aimv2.attention.proj_bias, aimv2.mlp.bias) = (false, false, false);
    let mut eva_clip = VitSpec { pooling: plain.pooling, positions: Positions::All, ..eva.clone() };
    (eva_clip.attention.inner_norm, eva_clip.attention.unbiased_keys) = (true, true);
    // The widths of SigLIP so400m (72) and of CLIP H and g (80, 88), in patches of 14; an odd width.
    let of_heads = |dim: usize, heads: usize, patch: usize| VitSpec {
        dim,
        patch_size: patch,
        img_size: grid.map(|side| side * patch),
        attention: AttentionSpec::plain(heads),
        ..siglip.clone()
    };
    let (so400m, huge, odd) = (of_heads(144, 2, 14), of_heads(80, 1, 4), of_heads(36, 4, 3));
    let mut zero_shot = clip.clone();
    zero_shot.pooling = Pooling {
        projection: Some(7),
        projection_bias: true,
        zero_shot: true,
        ..Pooling::plain(Pool::Token, true)
    };
    for spec in [&clip, &siglip, &dinov3, &eva, &aimv2, &eva_clip, &so400m, &huge, &odd, &zero_shot] {
        spec.check().unwrap();
    }
    vec![
        clip,
        siglip,
        dinov3,
        eva,
        aimv2,
        eva_clip,
        so400m,
        huge,
        odd,
        zero_shot,
        small(true, true, Pool::Token, grid),
        small(true, false, Pool::Avg, grid),
        small(false, false, Pool::Avg, grid),
        both,
        normed,
        dinov2,
        plain,
    ]
}

/// Weights large enough for attention to differ between tokens.
fn tensors(spec: &VitSpec, seed: u64) -> Tensors {
    let Tensors::Owned(mut tensors) = Tensors::random(spec, seed) else { unreachable!() };
    let mut values = values(seed ^ 7);
    for (name, (_, tensor)) in &mut tensors {
        let one = name.contains("norm") || name.ends_with("gamma");
        let (scale, shift) = (
            if one { 1.0 } else { 8.0 },
            if name.ends_with("bias") || name.ends_with("gamma") { 0.1 } else { 0.0 },
        );
        tensor.iter_mut().for_each(|v| *v = *v * scale + shift * values());
    }
    Tensors::Owned(tensors)
}

fn pixels(spec: &VitSpec, batch: usize, seed: u64) -> Vec<f32> {
    let mut values = values(seed);
    (0..batch * 3 * spec.img_size[0] * spec.img_size[1]).map(|_| values()).collect()
}

/// Runs `masks[k][b]: [N0]` before `blocks[k]` on the executor; returns logits `[B, C]`.
fn removed(
    model: &CpuBackbone,
    pixels: &[f32],
    batch: usize,
    blocks: &[usize],
    masks: &[Vec<Vec<bool>>],
) -> Vec<f32> {
    let mut state = model.embed(PixelBatch::new(pixels, batch)).unwrap();
    for (&block, masks) in blocks.iter().zip(masks) {
        model.advance(&mut state, Site::input_of(block), Taps::NONE).unwrap();
        let view = model.view(&state).unwrap();
        let mut keep = vec![true; view.total()];
        for (b, mask) in masks.iter().enumerate() {
            for t in view.patch_rows(b) {
                keep[t] = mask[view.origins[t].grid().unwrap()];
            }
        }
        let reduction = Reduction::keep(view.offsets, &keep);
        model.reduce(&mut state, &reduction).unwrap();
    }
    model.advance(&mut state, Site::end(model.spec()), Taps::NONE).unwrap();
    model.finish(&state, Want::Logits).unwrap().values
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn random_masks_and_stages(
        kind in 0usize..17, rows in 1usize..4, columns in 1usize..4, batch in 1usize..4,
        first in 0usize..4, gap in 1usize..4, keep_percent in 0u64..101, seed: u64,
    ) {
        let spec = kinds([rows, columns]).swap_remove(kind);
        let tensors = tensors(&spec, seed);
        let model = CpuBackbone::new(&spec, &tensors).unwrap();
        let pixels = pixels(&spec, batch, seed ^ 1);
        let blocks: Vec<usize> = (0..3).map(|k| first + k * gap).filter(|&l| l < spec.depth).collect();
        let mut values = values(seed ^ 2);
        let mut alive = vec![vec![true; spec.num_patches()]; batch];
        let masks: Vec<Vec<Vec<bool>>> = blocks.iter().map(|_| {
            for image in &mut alive {
                image.iter_mut().for_each(|a| *a &= (values() + 1.0) * 50.0 < keep_percent as f32);
                if spec.min_patch_tokens() == 1 {
                    image[0] = true; // one token must be left to pool
                }
            }
            alive.clone()
        }).collect();
        let logits = removed(&model, &pixels, batch, &blocks, &masks);
        let image_len = pixels.len() / batch;
        for b in 0..batch {
            let stages: Vec<_> = blocks.iter().zip(&masks).map(|(&l, m)| (l, m[b].clone())).collect();
            let image = &pixels[b * image_len..(b + 1) * image_len];
            let expected = reference::masked_logits(&spec, &tensors, image, &stages);
            let ours = &logits[b * spec.num_classes..(b + 1) * spec.num_classes];
            prop_assert!(relative_difference(ours, &expected) < 1e-4, "{ours:?} {expected:?}");

            // A packed ragged batch equals one image at a time.
            let alone: Vec<Vec<Vec<bool>>> = masks.iter().map(|m| vec![m[b].clone()]).collect();
            let alone = removed(&model, image, 1, &blocks, &alone);
            prop_assert!(max_difference(ours, &alone) < 1e-5);
        }
    }
}

/// Threads carry parts of a batch independently. However a batch is split, an image's tokens and taps are bit for bit
/// those that it has alone, with budgets and sizes that differ between images.
#[test]
fn images_of_a_batch_do_not_see_each_other() {
    let batch = 5;
    // Image b merges its first b + 1 pairs of patch tokens; attention then counts sizes.
    let merged = |offsets: &[usize], prefix: usize, pairs: &[usize], sizes: &[f32]| {
        let mut into: Vec<usize> = (0..offsets[offsets.len() - 1]).collect();
        for (start, pairs) in offsets.iter().zip(pairs) {
            (0..*pairs).for_each(|i| into[start + prefix + 2 * i] = start + prefix + 2 * i + 1);
        }
        Reduction::join(offsets, &into, sizes).with_proportional_attention()
    };
    let run = |model: &CpuBackbone, pixels: &[f32], pairs: &[usize]| {
        let mut state = model.embed(PixelBatch::new(pixels, pairs.len())).unwrap();
        model.advance(&mut state, Site::after_attention_of(1), Taps::NONE).unwrap();
        let view = model.view(&state).unwrap();
        let reduction = merged(view.offsets, view.prefix, pairs, view.sizes);
        model.reduce(&mut state, &reduction).unwrap();
        model.advance(&mut state, Site::after_attention_of(3), Taps::ALL).unwrap();
        state
    };
    for (i, spec) in kinds([4, 4]).into_iter().enumerate() {
        let model = CpuBackbone::new(&spec, &tensors(&spec, i as u64)).unwrap();
        let pixels = pixels(&spec, batch, 9);
        let pairs: Vec<usize> = (1..=batch).collect();
        let together = run(&model, &pixels, &pairs);
        for (b, pixels) in pixels.chunks_exact(pixels.len() / batch).enumerate() {
            let alone = run(&model, pixels, &pairs[b..=b]);
            let rows = together.packed.offsets[b]..together.packed.offsets[b + 1];
            assert_eq!(rows.len(), alone.packed.total());
            let same = |all: &[f32], one: &[f32]| {
                let width = one.len() / rows.len();
                assert_eq!(
                    &all[rows.start * width..rows.end * width],
                    one,
                    "image {b} of {}",
                    spec.num_tokens()
                );
            };
            same(&together.packed.tokens, &alone.packed.tokens);
            let taps = |state: &HostState| {
                let taps = state.taps.clone();
                let received = taps.received_attention.unwrap();
                let of_tokens = [taps.keys.unwrap(), taps.value_norm.unwrap(), taps.inputs.unwrap()];
                [taps.cls_attention.unwrap(), received].into_iter().chain(of_tokens).collect::<Vec<_>>()
            };
            taps(&together).iter().zip(taps(&alone)).for_each(|(all, one)| same(all, &one));
        }
    }
}

#[test]
fn stopping_anywhere_changes_nothing() {
    let spec = small(true, false, Pool::Token, [3, 2]);
    let model = CpuBackbone::new(&spec, &tensors(&spec, 3)).unwrap();
    let pixels = pixels(&spec, 2, 4);
    let straight = model.dense_logits(PixelBatch::new(&pixels, 2)).unwrap();
    let mut state = model.embed(PixelBatch::new(&pixels, 2)).unwrap();
    for block in 0..spec.depth {
        for at in [At::BlockInput, At::AfterAttention] {
            model.advance(&mut state, Site { block, at }, Taps::CLS_ATTENTION).unwrap();
            let tapped = model.view(&state).unwrap().cls_attention;
            assert_eq!(tapped.is_some(), block > 0 || at == At::AfterAttention);
            if let Some(attention) = tapped {
                let sum: f32 = attention[..spec.num_tokens()].iter().sum();
                assert!((sum - 1.0).abs() < 1e-5, "the class token's attention sums to 1, not {sum}");
            }
        }
    }
    let fork = state.clone();
    model.advance(&mut state, Site::end(&spec), Taps::NONE).unwrap();
    assert_eq!(model.finish(&state, Want::Logits).unwrap(), straight);
    assert!(model.finish(&fork, Want::Logits).is_err(), "a state that is not at the end cannot finish");
    assert!(model.advance(&mut state, Site::input_of(1), Taps::NONE).is_err(), "no way back");
}

#[test]
fn merging_sums_sizes_and_weighs_rows() {
    let spec = small(true, false, Pool::Token, [2, 2]);
    let model = CpuBackbone::new(&spec, &tensors(&spec, 3)).unwrap();
    let mut state = model.embed(PixelBatch::new(&pixels(&spec, 1, 4), 1)).unwrap();
    let before = state.packed.clone();
    let merge = Reduction::merge(
        &before.offsets,
        &[vec![vec![(0, 1.0)], vec![(1, 1.0)], vec![(2, 0.25), (3, 0.75)], vec![(4, 1.0)]]],
    );
    model.reduce(&mut state, &merge).unwrap();
    let after = &state.packed;
    assert_eq!(after.offsets, [0, 4]);
    assert_eq!(after.sizes, [1.0, 1.0, 2.0, 1.0]);
    assert_eq!(after.origins[2].grid(), Some(1));
    let d = spec.dim;
    for i in 0..d {
        let expected = 0.25 * before.tokens[2 * d + i] + 0.75 * before.tokens[3 * d + i];
        assert!((after.tokens[2 * d + i] - expected).abs() < 1e-6);
    }
}

#[test]
fn joining_is_merging_by_size() {
    let spec = small(true, false, Pool::Token, [2, 2]);
    let model = CpuBackbone::new(&spec, &tensors(&spec, 3)).unwrap();
    let mut state = model.embed(PixelBatch::new(&pixels(&spec, 2, 4), 2)).unwrap();
    state.packed.sizes = vec![1.0, 3.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 4.0];
    // In the first image 2 and 4 merge into 1; in the second, 6 merges into 9, which comes after it.
    let into = [0, 1, 1, 3, 1, 5, 9, 7, 8, 9];
    let join = Reduction::join(&state.packed.offsets, &into, &state.packed.sizes);
    let alone = |row| vec![(row, 1.0)];
    let merge = Reduction::merge(
        &state.packed.offsets,
        &[
            vec![alone(0), vec![(1, 3.0 / 6.0), (2, 1.0 / 6.0), (4, 2.0 / 6.0)], alone(3)],
            vec![alone(5), alone(7), alone(8), vec![(9, 4.0 / 5.0), (6, 1.0 / 5.0)]],
        ],
    );
    let mut joined = state.clone();
    model.reduce(&mut joined, &join).unwrap();
    model.reduce(&mut state, &merge).unwrap();
    assert_eq!(joined.packed, state.packed);
    assert_eq!(joined.packed.sizes, [1.0, 6.0, 1.0, 1.0, 1.0, 1.0, 5.0]);
}

#[test]
fn equal_tokens_may_be_merged_under_proportional_attention() {
    // Pooling by attention and by mean counts the merged token twice, too.
    let [_, siglip, ..] = &kinds([2, 2])[..] else { panic!("several kinds") };
    for spec in
        [small(true, false, Pool::Token, [2, 2]), small(false, false, Pool::Avg, [2, 2]), siglip.clone()]
    {
        equal_tokens_may_be_merged(&spec);
    }
}

fn equal_tokens_may_be_merged(spec: &VitSpec) {
    let model = CpuBackbone::new(spec, &tensors(spec, 3)).unwrap();
    let mut state = model.embed(PixelBatch::new(&pixels(spec, 1, 4), 1)).unwrap();
    let (d, n) = (spec.dim, spec.num_tokens());
    state.packed.tokens.copy_within((n - 3) * d..(n - 2) * d, (n - 2) * d);
    let mut pair: Vec<Vec<(usize, f32)>> = (0..n).map(|row| vec![(row, 1.0)]).collect();
    pair[n - 3] = vec![(n - 3, 0.5), (n - 2, 0.5)];
    pair.remove(n - 2);
    let merge = Reduction::merge(&state.packed.offsets, &[pair]);
    let logits = |reduction: Option<Reduction>| {
        let mut state = state.clone();
        reduction.iter().for_each(|reduction| model.reduce(&mut state, reduction).unwrap());
        model.advance(&mut state, Site::end(spec), Taps::NONE).unwrap();
        model.finish(&state, Want::Logits).unwrap().values
    };
    let apart = logits(None);
    let together = logits(Some(merge.clone().with_proportional_attention()));
    assert!(relative_difference(&together, &apart) < 1e-5, "{together:?} {apart:?}");
    assert!(relative_difference(&logits(Some(merge)), &apart) > 1e-3, "each key counts once");
}

#[test]
fn bad_reductions_are_refused() {
    let spec = small(true, false, Pool::Token, [2, 2]);
    let model = CpuBackbone::new(&spec, &tensors(&spec, 3)).unwrap();
    let mut state = model.embed(PixelBatch::new(&pixels(&spec, 1, 4), 1)).unwrap();
    let before = state.packed.clone();
    let no_class_token = Reduction::keep(&[0, 5], &[false, true, true, true, true]);
    let of_another_batch = Reduction::keep(&[0, 4], &[true; 4]);
    let from_nothing = Reduction::merge(&[0, 5], &[vec![vec![(0, 1.0)], vec![]]]);
    for bad in [no_class_token, of_another_batch, from_nothing] {
        assert!(model.reduce(&mut state, &bad).is_err());
        assert_eq!(state.packed, before, "a refused reduction leaves the state alone");
    }
}
