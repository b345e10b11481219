//! Counts over images that ran through the dense model and through a pruned one.

use serde::{Deserialize, Serialize};
use vitrim_prune::Pruned;
use vitrim_prune::divergence::divergences;
use vitrim_vit::{Output, VitSpec};

use crate::error::Result;
use crate::front::FrontPoint;
use crate::passes::dense_macs;
use crate::statistics::{Drift, Loss, PairedLoss, Quantiles};

/// Figures of a pruned model on the images seen so far.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    images: usize,
    /// Number of patches at each grid position, `[N0]`.
    places: Vec<u32>,
    /// Images with a label.
    labelled: usize,
    right: usize,
    dense_only_right: usize,
    pruned_only_right: usize,
    disagreed: usize,
    divergence: f64,
    /// For a backbone without classes: sums of the powers 1 to 3 of the images' drifts, percent.
    drifts: Option<[f64; 3]>,
    spec: VitSpec,
    /// Number of images whose patch at each grid position is left after each stage, `[K][N0]`.
    survivors: Vec<Vec<u32>>,
    /// MACs of each image.
    macs: Vec<u64>,
    /// MACs of each image without pruning.
    dense_macs: Vec<u64>,
}

/// What a pruned model did to each image of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrunedFigures {
    /// D of each image, `[B]`.
    #[serde(with = "bits")]
    divergences: Vec<f64>,
    /// The class of each image, `[B]`; of a backbone without classes, the largest feature.
    classes: Vec<usize>,
    /// Number of images whose patch at each grid position is left after each stage, `[K][N0]`. Places on the grid of an
    /// image's own are scaled to that of the input size.
    survivors: Vec<Vec<u32>>,
    /// MACs of each image, `[B]`.
    macs: Vec<u64>,
    /// MACs of each image without pruning, `[B]`.
    dense_macs: Vec<u64>,
    /// Number of patches at each grid position, `[N0]`.
    places: Vec<u32>,
}

impl PrunedFigures {
    /// From the answers of the dense and the pruned model, of geometry `spec`.
    pub(crate) fn of(spec: &VitSpec, dense: &Output, pruned: &Pruned) -> Self {
        let mut places = vec![0; spec.num_patches()];
        let mut survivors = vec![places.clone(); pruned.stages.len()];
        for (b, [rows, columns]) in pruned.grids.iter().enumerate() {
            let place = |p: usize| {
                let [all_rows, all_columns] = spec.grid();
                p / columns * all_rows / rows * all_columns + p % columns * all_columns / columns
            };
            (0..rows * columns).for_each(|p| places[place(p)] += 1);
            for (counts, stage) in survivors.iter_mut().zip(&pruned.stages) {
                stage.grid_positions(b).into_iter().for_each(|p| counts[place(p)] += 1);
            }
        }
        PrunedFigures {
            divergences: divergences(spec, dense, &pruned.answer),
            classes: pruned.answer.argmax(),
            survivors,
            macs: pruned.macs.clone(),
            dense_macs: dense_macs(spec, &pruned.grids),
            places,
        }
    }
}

/// Numbers as their bits, so that every value is read back as it was.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        values.iter().map(|value| value.to_bits()).collect::<Vec<u64>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        Ok(Vec::<u64>::deserialize(deserializer)?.into_iter().map(f64::from_bits).collect())
    }
}

/// Quantiles of the cost over images, as shares of the dense MACs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostSpread {
    /// A tenth of the images take less.
    pub p10: f64,
    /// Half of the images take less.
    pub p50: f64,
    /// A tenth of the images take more.
    pub p90: f64,
}

impl Metrics {
    /// Metrics before any image, for a backbone of geometry `spec`.
    pub fn new(spec: &VitSpec) -> Self {
        Metrics {
            images: 0,
            places: vec![0; spec.num_patches()],
            labelled: 0,
            right: 0,
            dense_only_right: 0,
            pruned_only_right: 0,
            disagreed: 0,
            divergence: 0.0,
            drifts: (spec.num_classes == 0).then_some([0.0; 3]),
            spec: spec.clone(),
            survivors: Vec::new(),
            macs: Vec::new(),
            dense_macs: Vec::new(),
        }
    }

    /// Adds a batch: the dense model's classes, what the pruned model did, and `labels: [B]`.
    pub fn add(&mut self, dense: &[usize], pruned: &PrunedFigures, labels: &[Option<u32>]) {
        self.images += pruned.divergences.len();
        self.divergence += pruned.divergences.iter().sum::<f64>();
        match &mut self.drifts {
            Some(sums) => {
                for drift in pruned.divergences.iter().map(|d| 100.0 * d) {
                    for (sum, power) in sums.iter_mut().zip([drift, drift.powi(2), drift.powi(3)]) {
                        *sum += power;
                    }
                }
            }
            None => self.add_classes(dense, &pruned.classes, labels),
        }
        let patches = self.spec.num_patches();
        self.survivors.resize_with(pruned.survivors.len(), || vec![0; patches]);
        for (counts, more) in self.survivors.iter_mut().zip(&pruned.survivors) {
            counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        }
        self.macs.extend(&pruned.macs);
        self.dense_macs.extend(&pruned.dense_macs);
        self.places.iter_mut().zip(&pruned.places).for_each(|(count, more)| *count += more);
    }

    fn add_classes(&mut self, dense: &[usize], pruned: &[usize], labels: &[Option<u32>]) {
        for ((&dense_class, &pruned_class), label) in dense.iter().zip(pruned).zip(labels) {
            self.disagreed += usize::from(dense_class != pruned_class);
            if let Some(label) = label {
                let right = |class: usize| class == *label as usize;
                self.labelled += 1;
                self.right += usize::from(right(pruned_class));
                self.dense_only_right += usize::from(right(dense_class) && !right(pruned_class));
                self.pruned_only_right += usize::from(!right(dense_class) && right(pruned_class));
            }
        }
    }

    /// Images seen.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Images seen that had a label.
    pub fn labelled(&self) -> usize {
        self.labelled
    }

    /// Top-1, percent, over the labelled images.
    pub fn top1(&self) -> Option<f64> {
        (self.labelled > 0).then(|| 100.0 * self.right as f64 / self.labelled as f64)
    }

    /// The loss: the drift for a backbone without classes, the drop if there are labels, otherwise the disagreement
    /// with the dense model, which bounds the drop.
    ///
    /// # Errors
    /// If no image was seen.
    pub fn loss(&self) -> Result<Loss> {
        if let Some(drift) = self.drift()? {
            return Ok(Loss::Drift(drift));
        }
        let (images, lost, won) = self.paired();
        Ok(Loss::Accuracy(PairedLoss::new(images, lost, won)?))
    }

    fn drift(&self) -> Result<Option<Drift>> {
        Ok(self.drifts.map(|sums| Drift::new(self.images, sums)).transpose()?)
    }

    /// Images on which the two models name different classes, percent. `None` without classes.
    pub fn disagreement(&self) -> Option<f64> {
        self.drifts.is_none().then(|| 100.0 * self.disagreed as f64 / self.images.max(1) as f64)
    }

    /// Mean D ([`divergences`]).
    pub fn mean_divergence(&self) -> f64 {
        self.divergence / self.images.max(1) as f64
    }

    /// Mean share of N0 left after each stage, `[K]`; never rises.
    pub fn keep_ratio(&self) -> Vec<f64> {
        let left = |counts: &Vec<u32>| counts.iter().map(|n| f64::from(*n)).sum::<f64>();
        let all = left(&self.places).max(1.0);
        self.survivors.iter().map(|counts| left(counts) / all).collect()
    }

    /// Share of the patches at each grid position that is left after each stage, `[K][N0]`.
    pub fn keep_maps(&self) -> Vec<Vec<f32>> {
        let share = |(left, all): (&u32, &u32)| *left as f32 / (*all).max(1) as f32;
        self.survivors.iter().map(|counts| counts.iter().zip(&self.places).map(share).collect()).collect()
    }

    /// MACs of each image as a share of the dense model's, in the order seen.
    pub fn costs(&self) -> Vec<f32> {
        self.shares().map(|share| share as f32).collect()
    }

    /// MACs of each image as a share of its MACs without pruning.
    fn shares(&self) -> impl Iterator<Item = f64> {
        self.macs.iter().zip(&self.dense_macs).map(|(macs, dense)| *macs as f64 / *dense as f64)
    }

    /// Mean MACs per image, in units of 1e9.
    pub fn gmacs(&self) -> f64 {
        self.macs.iter().map(|m| *m as f64).sum::<f64>() / self.images.max(1) as f64 / 1e9
    }

    /// Mean MACs as a share of the dense model's.
    pub fn cost(&self) -> f64 {
        let dense = self.dense_macs.iter().map(|m| *m as f64).sum::<f64>() / self.images.max(1) as f64;
        self.gmacs() * 1e9 / dense
    }

    /// How the cost differs between images. `None` if no image was seen.
    pub fn spread(&self) -> Option<CostSpread> {
        let quantiles = Quantiles::of(self.shares().collect())?;
        Some(CostSpread { p10: quantiles.at(0.1), p50: quantiles.at(0.5), p90: quantiles.at(0.9) })
    }

    /// The point of a front, measured at `setting`.
    ///
    /// # Errors
    /// If no image was seen.
    pub fn front_point(&self, setting: f64) -> Result<FrontPoint> {
        let (images, dense_only_right, pruned_only_right) = self.paired();
        Ok(FrontPoint {
            setting,
            cost: self.cost(),
            gmacs: self.gmacs(),
            images,
            dense_only_right,
            pruned_only_right,
            drift: self.drift()?,
            fidelity: self.mean_divergence(),
            keep_ratio: self.keep_ratio(),
        })
    }

    /// (images, dense only right, pruned only right); without labels, disagreements count as lost.
    fn paired(&self) -> (usize, usize, usize) {
        if self.labelled > 0 {
            (self.labelled, self.dense_only_right, self.pruned_only_right)
        } else {
            (self.images, self.disagreed, 0)
        }
    }
}
