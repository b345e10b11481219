//! The answer alone is that of the whole pass, bit for bit, and the rows that nobody reads are not computed.

use vitrim_vit::{
    Backbone, CpuBackbone, HostState, PixelBatch, Precision, Reduction, SessionOptions, Site, Taps, Tensors,
    Threads, VitSpec, Want, cost,
};

/// A class token and registers.
fn spec() -> VitSpec {
    let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([96, 64]);
    (spec.dim, spec.depth, spec.num_classes) = (96, 4, 7);
    (spec.mlp.hidden, spec.embedding.reg_tokens) = (384, 2);
    spec
}

/// Three images that differ in the number of tokens, some of them merged, at the input of block 2.
fn pruned(model: &CpuBackbone) -> HostState {
    let spec = model.spec();
    let pixels: Vec<f32> = (0..3 * 3 * 96 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut state = model.embed(PixelBatch::new(&pixels, 3)).unwrap();
    model.advance(&mut state, Site::after_attention_of(0), Taps::NONE).unwrap();
    let keep: Vec<bool> = (0..state.packed.total()).map(|t| t < 40 || t % 3 == 0 || t % 27 < 3).collect();
    let reduction = Reduction::keep(&state.packed.offsets, &keep);
    model.reduce(&mut state, &reduction).unwrap();
    model.advance(&mut state, Site::input_of(2), Taps::NONE).unwrap();
    let packed = &state.packed;
    let mut into: Vec<usize> = (0..packed.total()).collect();
    for image in packed.offsets.windows(2) {
        let first = image[0] + spec.num_prefix_tokens();
        into[first + 1] = first;
    }
    let reduction = Reduction::join(&packed.offsets, &into, &packed.sizes).with_proportional_attention();
    model.reduce(&mut state, &reduction).unwrap();
    state
}

#[test]
fn the_answer_alone_is_that_of_the_whole_pass() {
    let spec = spec();
    let tensors = Tensors::random(&spec, 1);
    for precision in Precision::ALL {
        let packed = CpuBackbone::in_precision(&spec, &tensors, precision).unwrap();
        for threads in [1, 2, 3] {
            let options =
                SessionOptions { threads: Threads::pool(threads).unwrap(), ..SessionOptions::default() };
            let model = packed.session(options);
            let start = pruned(&model);
            let mut whole = start.clone();
            model.advance(&mut whole, Site::end(&spec), Taps::NONE).unwrap();
            let mut inside = start.clone();
            model.advance(&mut inside, Site::after_attention_of(3), Taps::NONE).unwrap();
            for mut state in [start, inside] {
                model.advance_to_answer(&mut state).unwrap();
                assert_eq!(state.site, Site::end(&spec));
                assert_eq!(state.packed.offsets, [0, 3, 6, 9], "only prefix tokens are left");
                for want in [Want::Logits, Want::Pooled] {
                    let (alone, all) =
                        (model.finish(&state, want).unwrap(), model.finish(&whole, want).unwrap());
                    assert_eq!(alone, all, "{want:?} in {precision} on {threads} threads");
                }
            }
        }
    }
}

#[test]
fn where_patch_tokens_are_pooled_all_of_them_are_computed() {
    let mut spec = spec();
    spec.pooling.pool = vitrim_vit::Pool::Avg;
    let model = CpuBackbone::new(&spec, &Tensors::random(&spec, 1)).unwrap();
    let mut state = pruned(&model);
    let mut whole = state.clone();
    model.advance(&mut whole, Site::end(&spec), Taps::NONE).unwrap();
    model.advance_to_answer(&mut state).unwrap();
    assert_eq!(state.packed, whole.packed);
    assert_eq!(cost::dense_macs(&spec), cost::published_macs(&spec));
    assert_eq!(cost::layers(&spec), 4.0);
}

#[test]
fn what_is_not_computed_is_not_counted() {
    let spec = VitSpec::from_timm_name("deit_small_patch16_224").unwrap();
    let (dim, tokens) = (384, 197);
    // Of the last block's 12 D^2 and 2 T D MACs a token, QKV is left, and all of the class token's.
    let block = tokens * (12 * dim * dim + 2 * tokens * dim);
    let left = tokens * 3 * dim * dim + 2 * tokens * dim + 9 * dim * dim;
    assert_eq!(cost::published_macs(&spec) - cost::dense_macs(&spec), (block - left) as u64);
    assert!((cost::layers(&spec) - (11.0 + left as f64 / block as f64)).abs() < 1e-12);
    // 98 patch tokens from block 6 on: 6 dense blocks, 5 of 99 tokens, and the rest of one.
    let pruned = cost::image_macs(&spec, &[(Site::input_of(6), 99)]);
    let of = |tokens: usize| tokens * (12 * dim * dim + 2 * tokens * dim);
    let last = 99 * 3 * dim * dim + 2 * 99 * dim + 9 * dim * dim;
    let outside = cost::published_macs(&spec) as usize - 12 * block;
    assert_eq!(pruned as usize, outside + 6 * of(197) + 5 * of(99) + last);
    let share = cost::token_layer_share(&spec, &[(Site::input_of(6), 98)]);
    let layers = cost::layers(&spec);
    assert!((share - (6.0 + (layers - 6.0) / 2.0) / layers).abs() < 1e-12);
}
