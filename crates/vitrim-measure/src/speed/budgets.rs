//! Budgets that differ between the images of a batch, compared with equal ones of the same total: the overhead of
//! ragged sequences in a packed batch.

use vitrim_prune::{ImageKey, KeepProfile, Pruner};
use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use crate::error::Result;

/// Largest relative difference of a budget from the mean.
const SPREAD: f64 = 0.3;

/// Keeps the first patch tokens of each image; their number depends only on the image's position in the batch.
#[derive(Clone, Debug)]
pub struct Budgets {
    stages: Vec<usize>,
    /// Patch tokens left of each image after each stage, `[B][K]`.
    patch_tokens: Vec<Vec<usize>>,
}

impl Budgets {
    /// Equal budgets for all of `batch` images: `shares[k]` of N0 before block `stages[k]`.
    ///
    /// # Errors
    /// If the shares do not fit, see [`KeepProfile::new`].
    pub fn equal(spec: &VitSpec, stages: &[usize], shares: &[f64], batch: usize) -> Result<Self> {
        let profile = KeepProfile::new(spec, stages, shares)?;
        let image: Vec<usize> =
            (0..stages.len()).map(|stage| profile.patch_tokens(stage, 0, spec.num_patches())).collect();
        Ok(Budgets { stages: stages.to_vec(), patch_tokens: vec![image; batch] })
    }

    /// Budgets that are up to 30 % smaller or larger for each image. At each stage, their sum over all images is that
    /// of [`Budgets::equal`].
    ///
    /// # Errors
    /// As [`Budgets::equal`].
    pub fn varied(spec: &VitSpec, stages: &[usize], shares: &[f64], batch: usize) -> Result<Self> {
        let mut budgets = Budgets::equal(spec, stages, shares, batch)?;
        let pairs = batch / 2;
        for (i, pair) in budgets.patch_tokens.chunks_exact_mut(2).enumerate() {
            let spread = SPREAD * (i + 1) as f64 / pairs as f64;
            let (less, more) = pair.split_at_mut(1);
            for (less, more) in less[0].iter_mut().zip(&mut more[0]) {
                let difference = (spread * *less as f64).round() as usize;
                let room = (spec.num_patches() - *more).min(less.saturating_sub(spec.min_patch_tokens()));
                *less -= difference.min(room);
                *more += difference.min(room);
            }
        }
        Ok(budgets)
    }
}

impl Pruner for Budgets {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        self.stages.iter().map(|&block| (Site::input_of(block), Taps::NONE)).collect()
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> vitrim_prune::Result<Reduction> {
        let mut keep = vec![true; view.total()];
        for b in 0..view.batch() {
            let budget = self.patch_tokens[b % self.patch_tokens.len()][stage];
            view.patch_rows(b).skip(budget).for_each(|row| keep[row] = false);
        }
        Ok(Reduction::keep(view.offsets, &keep))
    }

    fn macs(&self, _: usize, _: usize) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varied_budgets_have_the_total_of_equal_ones_and_do_not_rise() {
        let spec = VitSpec::from_timm_name("deit_small_patch16_224").unwrap();
        for shares in [[0.7, 0.49, 0.343], [0.95, 0.95, 0.01], [1.0, 0.5, 0.0]] {
            for batch in [1, 2, 7, 32] {
                let equal = Budgets::equal(&spec, &[3, 6, 9], &shares, batch).unwrap();
                let varied = Budgets::varied(&spec, &[3, 6, 9], &shares, batch).unwrap();
                let total = |budgets: &Budgets, k: usize| -> usize {
                    budgets.patch_tokens.iter().map(|image| image[k]).sum()
                };
                for k in 0..3 {
                    assert_eq!(total(&equal, k), total(&varied, k));
                }
                for image in &varied.patch_tokens {
                    assert!(image.is_sorted_by(|a, b| a >= b) && image[0] <= 196, "{image:?}");
                }
            }
        }
        let varied = Budgets::varied(&spec, &[3], &[0.5], 4).unwrap();
        assert_eq!(varied.patch_tokens, [[83], [113], [69], [127]]);
    }
}
