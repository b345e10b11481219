//! Token merging by thresholds: adaptive without learning.

use vitrim_vit::{Backbone, CpuBackbone, PixelBatch, Reduction, Site, Taps, View, VitSpec};

use super::fit::{FIT_IMAGES, FitPoint};
use super::groups::{keys, merged_by_size};
use super::tome::{Pair, matched, matching_macs, pairs, sites_for_keys};
use super::{Acts, HandMade};
use crate::pruner::{ImageKey, Pruner, Result, Tell};
use crate::run::{StageRecord, image_macs};

pub(super) const METHOD: HandMade = HandMade {
    name: "dtome",
    about: "merges pairs above a threshold of each block, which is set on unlabelled images",
    first_block: 0,
    keeps_budgets: false,
    acts: Acts::Fitted {
        published: |_| None,
        images: FIT_IMAGES,
        on_images: points,
        numbers: |depth| depth,
        make: |spec, thresholds| Box::new(DtomePruner::new(spec, thresholds)),
    },
};

/// Numbers of tokens merged per image and block, as shares of N0 / L, for which thresholds are set.
const MERGED: [f64; 14] = [0.0, 0.08, 0.16, 0.24, 0.32, 0.4, 0.48, 0.56, 0.64, 0.72, 0.8, 0.88, 0.95, 1.0];

/// DToMe (DyMU; Wang et al., 2025): ToMe's matching, but every pair merges whose cosine is above the block's threshold, so
/// that images differ in how many of their tokens stay. At most half of an image's patch tokens leave in a block.
#[derive(Clone, Debug)]
struct DtomePruner {
    /// Threshold of each block, `[L]`.
    thresholds: Vec<f32>,
    head_dim: usize,
}

impl DtomePruner {
    fn new(spec: &VitSpec, thresholds: &[f64]) -> Self {
        DtomePruner {
            thresholds: thresholds.iter().map(|threshold| *threshold as f32).collect(),
            head_dim: spec.head_dim(),
        }
    }

    /// The threshold at which the whole batch loses `merged` tokens: the cosine of the best pair that does not merge, at
    /// least 0.
    fn threshold_of(&self, view: &View<'_>, merged: usize) -> Result<f32> {
        let keys = keys(view, "dtome")?;
        let mut cosines: Vec<f32> = (0..view.batch())
            .flat_map(|b| pairs(keys(b), self.head_dim, view.prefix))
            .map(|pair| pair.cosine)
            .collect();
        cosines.sort_by(|x, y| y.total_cmp(x));
        let last = cosines.len().saturating_sub(1);
        Ok(cosines.get(merged.min(last)).map_or(1.0, |cosine| cosine.max(0.0)))
    }
}

impl Pruner for DtomePruner {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        sites_for_keys(spec)
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let keys = keys(view, "dtome")?;
        let merge = merged_by_size(view, |b| {
            let n = view.rows(b).len();
            let pairs = pairs(keys(b), self.head_dim, view.prefix);
            matched(n, view.prefix, &pairs, above(&pairs, self.thresholds[stage], n, view.prefix))
        });
        Ok(merge.with_proportional_attention())
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        matching_macs(tokens, self.head_dim)
    }
}

/// How many of `pairs`, the best first, merge in an image of `n` tokens.
fn above(pairs: &[Pair], threshold: f32, n: usize, prefix: usize) -> usize {
    pairs.partition_point(|pair| pair.cosine > threshold).min((n - prefix) / 2)
}

/// Thresholds at several costs, set on the images `pixels` in one batch.
fn points(model: &CpuBackbone, pixels: PixelBatch<'_>, tell: Tell<'_>) -> Result<Vec<FitPoint>> {
    let spec = model.spec();
    let merged = |share: f64| share * (spec.num_patches() * pixels.batch) as f64 / spec.depth as f64;
    let mut at = |(done, share): (usize, &f64)| {
        let point = model.enter(|| thresholds(model, pixels, merged(*share).round() as usize))?;
        tell(done + 1, MERGED.len())?;
        Ok(point)
    };
    MERGED.iter().enumerate().map(&mut at).collect()
}

/// The thresholds at which the whole batch loses `merged` tokens in each block, block by block: a block sees the batch as
/// the blocks before have merged it.
fn thresholds(model: &CpuBackbone, pixels: PixelBatch<'_>, merged: usize) -> Result<FitPoint> {
    let spec = model.spec();
    let mut state = model.embed(pixels)?;
    let images: Vec<ImageKey> = (0..pixels.batch as u64).collect();
    let (mut pruner, mut stages) = (DtomePruner::new(spec, &[]), Vec::new());
    for (site, taps) in pruner.sites(spec) {
        model.advance(&mut state, site, taps)?;
        let reduction = {
            let view = model.view(&state)?;
            let threshold = pruner.threshold_of(&view, merged)?;
            pruner.thresholds.push(threshold);
            pruner.decide(pruner.thresholds.len() - 1, &view, &images)?
        };
        model.reduce(&mut state, &reduction)?;
        let view = model.view(&state)?;
        stages.push(StageRecord {
            site,
            prefix: view.prefix,
            offsets: view.offsets.to_vec(),
            origins: view.origins.to_vec(),
        });
    }
    // Later stages change no answer, and are left out of a pass.
    stages.retain(|stage| stage.site < Site::of_answer(spec));
    let grids = state.packed.grids.iter().enumerate();
    let macs: u64 = grids.map(|(b, grid)| image_macs(&spec.of_grid(*grid), &pruner, &stages, b)).sum();
    Ok(FitPoint {
        macs: macs as f64 / pixels.batch as f64,
        numbers: pruner.thresholds.iter().map(|threshold| f64::from(*threshold)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use vitrim_vit::Tensors;

    use super::*;
    use crate::handmade::random_states;
    use crate::run::run;

    #[test]
    fn pairs_above_the_threshold_merge() {
        let pair = |cosine, from| Pair { cosine, from, to: 1 };
        let pairs = [pair(0.9, 2), pair(0.5, 4), pair(0.5, 6), pair(-0.1, 8)];
        assert_eq!(above(&pairs, 0.5, 9, 1), 1, "not those that are just as high");
        assert_eq!(above(&pairs, 0.4, 9, 1), 3);
        assert_eq!(above(&pairs, -1.0, 7, 1), 3, "at most half of the patch tokens");
        assert_eq!(above(&pairs, 1.0, 9, 1), 0);
    }

    #[test]
    fn decisions_are_the_definition() {
        let mut counts = std::collections::BTreeSet::new();
        for seed in 0..30 {
            let spec = random_states::spec(seed % 2 == 0);
            let state = random_states::state(&spec, seed);
            let view = state.view(&spec);
            for threshold in [0.3, 0.6, 0.9, -1.0] {
                let pruner = DtomePruner::new(&spec, &[threshold]);
                let reduction = pruner.decide(0, &view, &[0, 1, 2]).unwrap();
                let expected: Vec<_> = (0..3)
                    .map(|b| {
                        let mut pairs = random_states::matching(&state, &spec, b);
                        pairs.retain(|pair| pair.0 > threshold);
                        pairs.truncate(view.patch_rows(b).len() / 2);
                        counts.insert(pairs.len());
                        let stays = |row: &usize| pairs.iter().all(|pair| pair.1 != *row);
                        let of_row = |row: usize| {
                            let sources = pairs.iter().filter(|pair| pair.2 == row).map(|pair| pair.1);
                            let group: Vec<usize> = std::iter::once(row).chain(sources).collect();
                            let size: f32 = group.iter().map(|row| view.sizes[*row]).sum();
                            let sum = |i: usize| -> f32 {
                                group.iter().map(|row| view.sizes[*row] * view.token(*row)[i]).sum()
                            };
                            (row, (0..spec.dim).map(|i| sum(i) / size).collect(), size)
                        };
                        view.rows(b).filter(stays).map(of_row).collect()
                    })
                    .collect();
                random_states::check(&state, &spec, &reduction, &expected);
            }
        }
        assert!(counts.len() > 4, "images differ in how many pairs merge: {counts:?}");
    }

    #[test]
    fn the_batch_loses_what_a_threshold_was_set_for() {
        let mut spec = random_states::spec(true);
        spec.depth = 3;
        let model = CpuBackbone::new(&spec, &Tensors::random(&spec, 1)).unwrap();
        let values: Vec<f32> = (0..3 * 3 * 112 * 48).map(|i| (i as f32 * 0.37).sin()).collect();
        let pixels = PixelBatch::new(&values, 3);
        let point = thresholds(&model, pixels, 8).unwrap();
        let out = run(&model, &DtomePruner::new(&spec, &point.numbers), pixels, &[0, 1, 2]).unwrap();
        let left = |stage: usize| (0..3).map(|b| out.stages[stage].patch_tokens(b)).sum::<usize>();
        assert_eq!((left(0), left(1)), (3 * 21 - 8, 3 * 21 - 16));
        assert_eq!(point.macs, out.macs.iter().sum::<u64>() as f64 / 3.0);
        let none = thresholds(&model, pixels, 0).unwrap();
        let out = run(&model, &DtomePruner::new(&spec, &none.numbers), pixels, &[0, 1, 2]).unwrap();
        assert_eq!(out.stages[1].patch_tokens(0), 21, "nothing is above the highest cosine");
    }
}
