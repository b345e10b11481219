//! Prepares a batch of images for a step: targets, mixing, and the patches that are used.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Beta, Distribution};
use vitrim_data::Batch;
use vitrim_random::SplitMix64;
use vitrim_vit::VitSpec;

use super::Pretraining;
use super::step::{Samples, TokenTargets};
use crate::error::{Result, TrainError};

/// Smallest share of a patch that an object must cover for the patch token to get the object's class.
const COVERED: f32 = 0.2;

/// Targets, mixing and patches of a batch: a function of seed, step and position in the batch.
pub(super) fn samples(batch: &Batch, run: &Pretraining<'_>, step: usize, spec: &VitSpec) -> Result<Samples> {
    let config = run.config;
    let (count, classes) = (batch.len(), spec.num_classes);
    let key = config.seed ^ (step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut random = SplitMix64::new(key);

    let off = (config.label_smoothing / classes as f64) as f32;
    let mut targets = vec![off; count * classes];
    for (row, (label, name)) in targets.chunks_exact_mut(classes).zip(batch.labels.iter().zip(&batch.names)) {
        let label = label.ok_or_else(|| TrainError::NoLabel(name.clone()))?;
        let place = row.get_mut(label as usize).ok_or(TrainError::Label { label, classes })?;
        *place += 1.0 - config.label_smoothing as f32;
    }
    let mut pixels = batch.pixels.clone();
    if config.mixup > 0.0 {
        let beta =
            Beta::new(config.mixup, config.mixup).map_err(|e| TrainError::Config(format!("mixup: {e}")))?;
        let share = beta.sample(&mut StdRng::seed_from_u64(key)) as f32;
        mix(&mut pixels, count, share);
        mix(&mut targets, count, share);
    }
    let window = config.window_at(step, spec.grid());
    let kept = config.patches_kept_at(step, window[0] * window[1], random.uniform());
    let mut patches = Vec::with_capacity(count * kept);
    for index in &batch.indices {
        let object = run.train.object_shares(*index, spec.patch_size);
        let seen = crop(spec.grid(), window, object.as_deref(), &mut random);
        patches.extend(choose(seen, kept, &mut random));
    }
    let tokens = (config.token_labels > 0.0 && run.train.knows_objects())
        .then(|| token_targets(batch, run, &patches, &targets, spec));
    let [height, width] = spec.img_size;
    Ok(Samples { tokens, pixels, shape: [3, height, width], targets, patches })
}

/// Grid positions of a random `window` of rows and columns that contains the patches which the `object` covers, or as
/// many of them as fit.
fn crop(grid: [usize; 2], window: [usize; 2], object: Option<&[f32]>, random: &mut SplitMix64) -> Vec<usize> {
    let covered = |axis: usize| {
        let all = object.unwrap_or_default().iter().enumerate().filter(|(_, share)| **share > 0.0);
        let places: Vec<usize> =
            all.map(|(p, _)| if axis == 0 { p / grid[1] } else { p % grid[1] }).collect();
        let last = grid[axis] - 1;
        (places.iter().min().copied().unwrap_or(last), places.iter().max().copied().unwrap_or(0))
    };
    let start = [0, 1].map(|axis| {
        let (first, last) = covered(axis);
        let highest = grid[axis] - window[axis];
        let (a, b) = ((last + 1).saturating_sub(window[axis]).min(highest), first.min(highest));
        let (low, high) = (a.min(b), a.max(b));
        low + random.below(high - low + 1)
    });
    let rows = start[0]..start[0] + window[0];
    rows.flat_map(|row| (start[1]..start[1] + window[1]).map(move |column| row * grid[1] + column)).collect()
}

/// `kept` of the `patches`, in their order; every subset has the same probability.
fn choose(mut patches: Vec<usize>, kept: usize, random: &mut SplitMix64) -> Vec<usize> {
    random.shuffle(&mut patches);
    patches.truncate(kept);
    patches.sort_unstable();
    patches
}

/// Labels of the `patches: [B, M]`: the image's class if the object covers enough of a patch, "no object" if it
/// covers none, otherwise no label. Patches with and without an object have the same total weight.
fn token_targets(
    batch: &Batch,
    run: &Pretraining<'_>,
    patches: &[usize],
    targets: &[f32],
    spec: &VitSpec,
) -> TokenTargets {
    let (count, classes) = (batch.len(), spec.num_classes);
    let seen = patches.len() / count;
    let covered: Vec<f32> = batch
        .indices
        .iter()
        .zip(patches.chunks_exact(seen))
        .flat_map(|(index, patches)| {
            let shares = run.train.object_shares(*index, spec.patch_size).unwrap_or_default();
            patches.iter().map(move |p| shares.get(*p).copied().unwrap_or(0.0)).collect::<Vec<_>>()
        })
        .collect();
    let (on, off) = (|share: f32| share >= COVERED, |share: f32| share == 0.0);
    let weight = |count: usize| (0.5 * run.config.token_labels / count.max(1) as f64) as f32;
    let on_weight = weight(covered.iter().filter(|share| on(**share)).count());
    let off_weight = weight(covered.iter().filter(|share| off(**share)).count());
    let mut values = vec![0.0; covered.len() * (classes + 1)];
    for (i, (row, share)) in values.chunks_exact_mut(classes + 1).zip(&covered).enumerate() {
        if on(*share) {
            let image = &targets[i / seen * classes..][..classes];
            row.iter_mut().zip(image).for_each(|(value, target)| *value = on_weight * target);
        } else if off(*share) {
            row[classes] = off_weight;
        }
    }
    TokenTargets { values }
}

/// Replaces row b of the `count` rows by `share` of itself plus the rest of the row at the mirrored position (like
/// timm's batch mode).
fn mix(values: &mut [f32], count: usize, share: f32) {
    let other: Vec<f32> = values.chunks_exact(values.len() / count).rev().flatten().copied().collect();
    values.iter_mut().zip(other).for_each(|(a, b)| *a = share * *a + (1.0 - share) * b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_the_object_as_far_as_it_fits() {
        let (grid, window) = ([12, 10], [5, 4]);
        let mut random = SplitMix64::new(3);
        let mut starts = std::collections::HashSet::new();
        for round in 0..400 {
            // An object of 3 x 2 patches, somewhere.
            let (top, left) = (round % 10, round % 9);
            let mut object = vec![0.0; 120];
            for (row, column) in (top..top + 3).flat_map(|row| [(row, left), (row, left + 1)]) {
                object[row * 10 + column] = 0.5;
            }
            let patches = crop(grid, window, Some(&object), &mut random);
            assert_eq!(patches.len(), 20);
            assert!(patches.is_sorted_by(|a, b| a < b) && patches[19] < 120);
            assert_eq!(patches[19] - patches[0], 4 * 10 + 3, "a rectangle");
            let covered = object.iter().enumerate().filter(|(_, share)| **share > 0.0);
            assert!(covered.into_iter().all(|(p, _)| patches.contains(&p)), "{top} {left}");
            starts.insert(crop(grid, window, None, &mut random)[0]);
        }
        assert_eq!(starts.len(), 8 * 7, "without an object, a window may lie anywhere");
        // Larger than the window: the window lies within it.
        let patches = crop(grid, window, Some(&[1.0; 120]), &mut random);
        assert_eq!(patches.len(), 20);
        assert_eq!(crop(grid, grid, None, &mut random), (0..120).collect::<Vec<_>>());
    }

    #[test]
    fn chosen_patches_are_as_many_as_asked_for_and_each_as_likely() {
        let mut random = SplitMix64::new(5);
        let mut counts = [0; 12];
        for _ in 0..4_000 {
            let patches = choose((0..12).collect(), 3, &mut random);
            assert!(patches.len() == 3 && patches.is_sorted_by(|a, b| a < b), "{patches:?}");
            patches.iter().for_each(|p| counts[*p] += 1);
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}"); // 1,000 +- 27
        assert_eq!(choose(vec![4, 7, 9], 3, &mut random), [4, 7, 9]);
    }

    #[test]
    fn mixing_pairs_an_image_with_its_mirror() {
        let mut values = vec![1.0, 1.0, 2.0, 2.0, 4.0, 4.0];
        mix(&mut values, 3, 0.75);
        assert_eq!(values, [1.75, 1.75, 2.0, 2.0, 3.25, 3.25]);
    }
}
