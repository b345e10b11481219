//! For tests: packed batches of random tokens, of images that differ in length.

use vitrim_random::uniform;
use vitrim_vit::{HostState, Pool, Pooling, Reduction, VitSpec};

/// A small geometry with a class token, or without prefix tokens.
pub fn spec(class_token: bool) -> VitSpec {
    let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([112, 48]);
    (spec.dim, spec.depth, spec.num_classes) = (12, 4, 5);
    (spec.attention.heads, spec.mlp.hidden) = (3, 16);
    if !class_token {
        spec.embedding.class_token = false;
        spec.pooling = Pooling::plain(Pool::Avg, true);
    }
    spec.check().unwrap();
    spec
}

/// Three images of random tokens, sizes and taps, from which random patch tokens were dropped before.
pub fn state(spec: &VitSpec, seed: u64) -> HostState {
    let value = |kind: u64, i: usize| uniform(&[seed, kind, i as u64]) as f32;
    let tokens = (0..3 * spec.num_tokens() * spec.dim).map(|i| 2.0 * value(0, i) - 1.0).collect();
    let mut state = HostState::embedded(spec, tokens, vec![spec.grid(); 3]);
    let prefix = spec.num_prefix_tokens();
    let keep: Vec<bool> =
        (0..3 * spec.num_tokens()).map(|i| i % spec.num_tokens() < prefix || value(1, i) < 0.7).collect();
    let reduction = Reduction::keep(&state.packed.offsets, &keep);
    state.reduce(&reduction).unwrap();
    let total = state.packed.total();
    state.packed.sizes = (0..total).map(|i| 1.0 + (4.0 * value(2, i)).floor()).collect();
    state.taps.cls_attention = Some((0..total).map(|i| value(3, i)).collect());
    state.taps.keys = Some((0..total * spec.head_dim()).map(|i| 2.0 * value(4, i) - 1.0).collect());
    state
}

/// Cosine of two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// ToMe's matching in image `b` of `state`, pair by pair: (cosine, row that merges, its partner), best first.
pub fn matching(state: &HostState, spec: &VitSpec, b: usize) -> Vec<(f64, usize, usize)> {
    let (view, d) = (state.view(spec), spec.head_dim());
    let key = |row: usize| &view.keys.unwrap()[row * d..(row + 1) * d];
    let of_parity =
        |parity: usize| view.patch_rows(b).filter(move |row| (row - view.offsets[b]) % 2 == parity);
    let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
    for from in of_parity(0) {
        let scored = of_parity(1).map(|to| (cosine(key(from), key(to)), to));
        let best = scored.max_by(|x, y| x.0.total_cmp(&y.0));
        pairs.extend(best.map(|(cosine, to)| (cosine, from, to)));
    }
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0));
    pairs
}

/// Checks that `reduction` of `state` gives the rows `expected`: each named by the row whose origin it has, with its
/// token and its size. Their order within an image is free, but prefix tokens come first and unchanged.
pub fn check(
    state: &HostState,
    spec: &VitSpec,
    reduction: &Reduction,
    expected: &[Vec<(usize, Vec<f32>, f32)>],
) {
    let (before, mut after) = (&state.packed, state.packed.clone());
    after.reduce(reduction).unwrap();
    for (b, expected) in expected.iter().enumerate() {
        let rows = after.offsets[b]..after.offsets[b + 1];
        assert_eq!(rows.len(), expected.len(), "image {b}");
        for i in 0..spec.num_prefix_tokens() {
            let (now, then) = (rows.start + i, before.offsets[b] + i);
            assert_eq!(after.sizes[now], before.sizes[then], "prefix token {i}");
            let token = |tokens: &[f32], row: usize| tokens[row * spec.dim..(row + 1) * spec.dim].to_vec();
            assert_eq!(token(&after.tokens, now), token(&before.tokens, then), "prefix token {i}");
        }
        let patches = rows.start + spec.num_prefix_tokens()..rows.end;
        for (row, token, size) in expected.iter().filter(|(row, ..)| before.origins[*row].grid().is_some()) {
            let found = patches.clone().find(|found| after.origins[*found] == before.origins[*row]);
            let found = found.unwrap_or_else(|| panic!("image {b} has lost row {row}"));
            assert!((after.sizes[found] - size).abs() < 1e-4, "{} for {size}", after.sizes[found]);
            let got = &after.tokens[found * spec.dim..(found + 1) * spec.dim];
            assert!(got.iter().zip(token).all(|(a, b)| (a - b).abs() < 1e-4), "{got:?} for {token:?}");
        }
    }
}
