//! MACs (multiply-accumulate operations) of the forward pass actually run.
//!
//! The matrix products are counted: patch embedding, QKV, attention scores and sums, projection, MLP, pooling by
//! attention, head. Norms,
//! activations and softmax are not, as in the figures of papers (DeiT-S: 4.6 G). GFLOPs are 2 x MACs / 1e9.

use crate::backbone::{At, Site};
use crate::spec::VitSpec;

/// MACs of the patch embedding of one image.
fn embed_macs(spec: &VitSpec) -> u64 {
    (spec.num_patches() * spec.dim * 3 * spec.patch_size * spec.patch_size) as u64
}

/// MACs of one block's attention (QKV, scores, sums, projection) over one image of `tokens` tokens.
fn attention_macs(spec: &VitSpec, tokens: usize) -> u64 {
    (tokens * 4 * spec.dim * spec.dim + 2 * tokens * tokens * spec.dim) as u64
}

/// MACs of one block's MLP over `tokens` tokens.
fn mlp_macs(spec: &VitSpec, tokens: usize) -> u64 {
    (tokens * spec.dim * (spec.mlp.first() + spec.mlp.hidden)) as u64
}

/// MACs of pooling `tokens` tokens of one image by attention: for each head, a score and a sum over the tokens; then the
/// values, the projection and the MLP of one token. 0 for other pooling.
pub fn pool_macs(spec: &VitSpec, tokens: usize) -> u64 {
    let Some(pool) = spec.pooling.attention else { return 0 };
    let tokens = if pool.prefix { tokens } else { tokens - spec.num_prefix_tokens() };
    let mlp = pool.mlp.map_or(0, |mlp| mlp.first() + mlp.hidden);
    (2 * tokens * pool.heads * spec.dim + 2 * spec.dim * spec.dim + spec.dim * mlp) as u64
}

/// MACs of the classifier of one image, or of the projection that takes its place.
pub fn head_macs(spec: &VitSpec) -> u64 {
    (spec.head_names().len() * spec.head_inputs() * spec.num_classes) as u64 + projection_macs(spec)
}

/// MACs of the projection of one image's pooled features to its embedding; 0 without a projection.
pub fn projection_macs(spec: &VitSpec) -> u64 {
    (spec.pooling.projection.unwrap_or(0) * spec.num_features()) as u64
}

/// MACs of the answer for one unpruned image, as the executor computes it ([`image_macs`]).
pub fn dense_macs(spec: &VitSpec) -> u64 {
    image_macs(spec, &[])
}

/// MACs of one unpruned image as papers count: of all tokens in all blocks.
pub fn published_macs(spec: &VitSpec) -> u64 {
    macs_of_blocks(spec, &[], spec.depth) + pool_macs(spec, spec.num_tokens()) + head_macs(spec)
}

/// MACs of the last block over one image of `tokens` tokens where the answer is made of prefix tokens: QKV of all tokens,
/// and the rest of the prefix tokens alone.
fn macs_of_prefix_block(spec: &VitSpec, tokens: usize) -> u64 {
    let (prefix, dim) = (spec.num_prefix_tokens(), spec.dim);
    (3 * tokens * dim * dim + 2 * prefix * tokens * dim + prefix * dim * dim) as u64 + mlp_macs(spec, prefix)
}

/// MACs of the answer ([`Backbone::advance_to_answer`](crate::Backbone::advance_to_answer): what nobody reads in the last
/// block is not computed) for one image that has `spec.num_tokens()` tokens at first (prefix tokens included), and `n` tokens from each
/// `(site, n)` on. Sites ascend; the pruner's own scoring is not included.
pub fn image_macs(spec: &VitSpec, trajectory: &[(Site, usize)]) -> u64 {
    let tokens = trajectory.last().map_or(spec.num_tokens(), |(_, n)| *n);
    let blocks = if spec.answers_from_prefix() {
        let last = Site::input_of(spec.depth - 1);
        let entering = trajectory.iter().take_while(|(site, _)| *site <= last).last();
        let entering = entering.map_or(spec.num_tokens(), |(_, n)| *n);
        macs_of_blocks(spec, trajectory, last.block) + macs_of_prefix_block(spec, entering)
    } else {
        macs_of_blocks(spec, trajectory, spec.depth)
    };
    blocks + pool_macs(spec, tokens) + head_macs(spec)
}

/// Like [`image_macs`], of the patch embedding and the first `blocks` blocks alone.
pub fn macs_of_blocks(spec: &VitSpec, trajectory: &[(Site, usize)], blocks: usize) -> u64 {
    let mut steps = trajectory.iter().peekable();
    let mut tokens = spec.num_tokens();
    let mut macs = embed_macs(spec);
    for block in 0..blocks {
        for at in [At::BlockInput, At::AfterAttention] {
            let site = Site { block, at };
            while let Some((_, n)) = steps.next_if(|(s, _)| *s <= site) {
                tokens = *n;
            }
            macs += match at {
                At::BlockInput => attention_macs(spec, tokens),
                At::AfterAttention => mlp_macs(spec, tokens),
            };
        }
    }
    macs
}

/// Blocks that a patch token goes through for the answer. Where only prefix tokens are read, the last block is a fraction:
/// keys and values, by their share of the MACs of a dense block.
pub fn layers(spec: &VitSpec) -> f64 {
    let (tokens, last) = (spec.num_tokens(), spec.depth - 1);
    let block = attention_macs(spec, tokens) + mlp_macs(spec, tokens);
    let part = if spec.answers_from_prefix() { macs_of_prefix_block(spec, tokens) } else { block };
    last as f64 + part as f64 / block as f64
}

/// Blocks before `site`. For a site between attention and MLP it is a fraction: attention counts by its share of the
/// MACs of a dense block.
pub fn layers_before(spec: &VitSpec, site: Site) -> f64 {
    let part = match site.at {
        At::BlockInput => 0.0,
        At::AfterAttention => {
            let attention = attention_macs(spec, spec.num_tokens()) as f64;
            attention / (attention + mlp_macs(spec, spec.num_tokens()) as f64)
        }
    };
    site.block as f64 + part
}

/// Token-layers of patch tokens as a share of the dense model's `L N0` ([`layers`] for L), for `(site, patch tokens)`
/// stages: the cost c of the Markov game.
pub fn token_layer_share(spec: &VitSpec, stages: &[(Site, usize)]) -> f64 {
    let mut sum = 0.0;
    let (mut from, mut tokens) = (0.0, spec.num_patches());
    for &(site, n) in stages {
        let here = layers_before(spec, site);
        sum += (here - from) * tokens as f64;
        (from, tokens) = (here, n);
    }
    sum += (layers(spec) - from).max(0.0) * tokens as f64;
    sum / (layers(spec) * spec.num_patches() as f64)
}

/// Tokens per image at each stage of a keep profile (shares of N0), prefix tokens included, rounded to the nearest
/// token.
pub fn profile_tokens(spec: &VitSpec, keep: &[f64]) -> Vec<usize> {
    let tokens = |share: &f64| (share * spec.num_patches() as f64).round() as usize;
    keep.iter().map(|share| tokens(share) + spec.num_prefix_tokens()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_deit_costs_what_papers_print() {
        for (name, giga) in [("tiny", "1.3"), ("small", "4.6"), ("base", "17.6")] {
            let spec = VitSpec::from_timm_name(&format!("deit_{name}_patch16_224")).unwrap();
            assert_eq!(format!("{:.1}", published_macs(&spec) as f64 / 1e9), giga);
        }
    }

    #[test]
    fn swiglu_has_three_matrices_and_dinov2s_head_two_inputs() {
        let spec = VitSpec::from_timm_name("vit_giant_patch14_dinov2").unwrap();
        assert_eq!(mlp_macs(&spec, 10), 10 * 3 * 1536 * 4096);
        assert_eq!(head_macs(&spec), 0);
        let mut headed = VitSpec { num_classes: 1000, ..spec };
        headed.pooling.pool = crate::Pool::TokenAvg;
        assert_eq!(head_macs(&headed), 2 * 1536 * 1000);
    }

    #[test]
    fn pooling_by_attention_costs_by_the_tokens_that_are_left() {
        let spec = VitSpec::from_timm_name("vit_base_patch16_siglip_224").unwrap();
        let of_one = 2 * 768 * 768 + 2 * 768 * 3072;
        assert_eq!(pool_macs(&spec, 196), 2 * 196 * 12 * 768 + of_one);
        let last = Site::end(&spec);
        let saved = dense_macs(&spec) - image_macs(&spec, &[(last, 96)]);
        assert_eq!(saved, 2 * 100 * 12 * 768);
    }

    #[test]
    fn keep_profile_of_the_paper_saves_a_factor_of_1_58() {
        let spec = VitSpec::from_timm_name("deit_small_patch16_224").unwrap();
        let tokens = profile_tokens(&spec, &[0.7, 0.49, 0.343]);
        assert_eq!(tokens, [138, 97, 68]);
        let stages = spec.default_stages();
        assert_eq!(stages, [3, 6, 9]);
        let trajectory: Vec<_> = stages.iter().zip(tokens).map(|(&l, n)| (Site::input_of(l), n)).collect();
        let pruned = macs_of_blocks(&spec, &trajectory, spec.depth) + head_macs(&spec);
        let ratio = published_macs(&spec) as f64 / pruned as f64;
        assert!((ratio - 1.58).abs() < 0.02, "{ratio}");
    }

    #[test]
    fn a_site_after_attention_spares_the_mlp_alone() {
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap();
        let last = spec.depth - 1;
        assert_eq!(dense_macs(&spec), image_macs(&spec, &[(Site::after_attention_of(last), 1)]));
        spec.pooling.pool = crate::Pool::Avg;
        let saved = dense_macs(&spec) - image_macs(&spec, &[(Site::after_attention_of(last), 1)]);
        assert_eq!(saved, mlp_macs(&spec, 197) - mlp_macs(&spec, 1));
        assert_eq!(dense_macs(&spec), image_macs(&spec, &[(Site::end(&spec), 1)]));
    }

    #[test]
    fn token_layer_share_counts_blocks() {
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap();
        spec.pooling.pool = crate::Pool::Avg;
        assert_eq!(token_layer_share(&spec, &[]), 1.0);
        let at = Site::input_of;
        let half = token_layer_share(&spec, &[(at(3), 98), (at(6), 98), (at(9), 0)]);
        assert!((half - (3.0 + 3.0 + 0.0) / 12.0).abs() < 1e-9, "{half}");
        // Attention has 4 d^2 + 2 n d of the 12 d^2 + 2 n d MACs of a block per token.
        let (n, d) = (197.0, 192.0);
        let attention = (4.0 * d + 2.0 * n) / (12.0 * d + 2.0 * n);
        let inside = token_layer_share(&spec, &[(Site::after_attention_of(3), 0)]);
        assert!((inside - (3.0 + attention) / 12.0).abs() < 1e-9, "{inside}");
    }
}
