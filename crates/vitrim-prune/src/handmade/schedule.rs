//! How many tokens a method that acts in every block removes in each of them.

use vitrim_vit::{Site, Taps, VitSpec, cost};

use crate::pruner::Pruner;

/// How a total number of removed tokens is distributed over the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// The same number in every block (ToMe).
    Constant,
    /// Numbers that fall linearly to 0 in the last block (ToMe's "decreasing" schedule).
    Decreasing,
    /// The same share of the patch tokens that are left, in every block (PiToMe, ToFu).
    Share,
}

impl Schedule {
    /// Tokens that each block of `spec` removes, `[L]`; `total` of them in all, or slightly fewer where numbers are
    /// rounded down.
    pub fn removed(self, spec: &VitSpec, total: usize) -> Vec<usize> {
        let (depth, patches) = (spec.depth, spec.num_patches() as f64);
        match self {
            Schedule::Constant => {
                (0..depth).map(|block| total / depth + usize::from(block < total % depth)).collect()
            }
            Schedule::Decreasing => {
                let mean = total as f64 / depth as f64;
                let step = 2.0 * mean / (depth.max(2) - 1) as f64;
                (0..depth).map(|block| (2.0 * mean - step * block as f64).max(0.0) as usize).collect()
            }
            Schedule::Share => {
                let kept = (1.0 - total as f64 / patches).max(0.0).powf(1.0 / depth as f64);
                let mut left = spec.num_patches();
                let of_block = |_| {
                    let removed = (left as f64 * (1.0 - kept)).floor() as usize;
                    left -= removed;
                    removed
                };
                (0..depth).map(of_block).collect()
            }
        }
    }

    /// The pruner whose cost is nearest to `macs` per image, its own scoring included.
    pub fn at_cost(
        self,
        spec: &VitSpec,
        macs: u64,
        make: impl Fn(&VitSpec, Vec<usize>) -> Box<dyn Pruner>,
    ) -> Box<dyn Pruner> {
        let nearest = (0..=most(spec)).min_by_key(|total| {
            let removed = self.removed(spec, *total);
            let pruner = make(spec, removed.clone());
            image_macs(pruner.as_ref(), spec, &removed).abs_diff(macs)
        });
        make(spec, self.removed(spec, nearest.expect("removing nothing is a schedule")))
    }

    /// MACs of an image from which as many tokens are removed as [`Schedule::at_cost`] tries at most, scoring included.
    pub fn least_macs(self, spec: &VitSpec, make: impl Fn(&VitSpec, Vec<usize>) -> Box<dyn Pruner>) -> u64 {
        let removed = self.removed(spec, most(spec));
        image_macs(make(spec, removed.clone()).as_ref(), spec, &removed)
    }
}

/// The largest number of tokens that are removed from an image.
fn most(spec: &VitSpec) -> usize {
    spec.depth * spec.num_patches() / 2
}

/// How many of an image's `tokens` tokens leave a block that is to remove `r`: at most half of the patch tokens.
pub(super) fn leaving(tokens: usize, prefix: usize, r: usize) -> usize {
    r.min((tokens - prefix) / 2)
}

/// MACs of an image from which `pruner` removes `removed[l]` tokens in block l, if it acts there; its scoring included.
fn image_macs(pruner: &dyn Pruner, spec: &VitSpec, removed: &[usize]) -> u64 {
    let (mut tokens, mut scoring) = (spec.num_tokens(), 0);
    let mut trajectory = Vec::with_capacity(removed.len());
    let before = |(site, _): &(Site, Taps)| *site < Site::of_answer(spec);
    for (stage, (site, _)) in pruner.sites(spec).into_iter().take_while(before).enumerate() {
        scoring += pruner.macs(stage, tokens);
        tokens -= leaving(tokens, spec.num_prefix_tokens(), removed[site.block]);
        trajectory.push((site, tokens));
    }
    cost::image_macs(spec, &trajectory) + scoring
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_distribute_the_total() {
        let spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap();
        assert_eq!(Schedule::Constant.removed(&spec, 26), [3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
        // ToMe's parse_r(12, (8, -1)).
        let decreasing = [16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1, 0];
        assert_eq!(Schedule::Decreasing.removed(&spec, 96), decreasing);
        let share = Schedule::Share.removed(&spec, 156);
        // 0.2041^(1/12) = 0.876 of 196 stays, then 0.876 of the rest.
        assert_eq!(share[..3], [24, 21, 18]);
        assert!((146..=156).contains(&share.iter().sum::<usize>()), "{share:?}");
        for schedule in [Schedule::Constant, Schedule::Decreasing, Schedule::Share] {
            assert_eq!(schedule.removed(&spec, 0), [0; 12], "{schedule:?}");
        }
        assert!(Schedule::Share.removed(&spec, 500).iter().all(|removed| *removed <= 196));
    }

    #[test]
    fn one_block_is_a_network_too() {
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap();
        spec.depth = 1;
        for schedule in [Schedule::Constant, Schedule::Decreasing, Schedule::Share] {
            let removed = schedule.removed(&spec, 10);
            assert!(removed.len() == 1 && removed[0] >= 9, "{schedule:?}: {removed:?}");
        }
    }
}
