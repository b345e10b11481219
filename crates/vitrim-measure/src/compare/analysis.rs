//! From figures of single images to a comparison of methods, with paired intervals.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vitrim_random::uniform;

use super::POLICY;
use super::matched::{at_cost, at_loss};
use super::measure::Measured;
use super::outcome::{Mean, Outcome};
use super::setting::Subject;
use crate::metrics::CostSpread;
use crate::statistics::{Quantiles, spearman};

/// Number of bootstrap resamples behind an interval.
const RESAMPLES: u64 = 1_000;
/// Seed of the resamples.
const SEED: u64 = 0x5eed;

/// A figure with its paired 95 % bootstrap interval: the same images are resampled for all methods.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The value on the measured images.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A method's or a study's front.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodFigures {
    /// Name of the method or study.
    pub method: String,
    /// Whether this is a study of the policy.
    pub study: bool,
    /// From the costliest to the cheapest.
    pub points: Vec<PointFigures>,
}

/// One setting on the images of the comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointFigures {
    /// The setting.
    pub setting: String,
    /// Cost, D and top-1.
    pub mean: Mean,
    /// Dense minus pruned top-1, pp.
    pub drop_pp: Interval,
    /// How the cost differs between images.
    pub cost_spread: CostSpread,
    /// Spearman's rank correlation of an image's cost with the dense model's confidence in its answer; null if all
    /// images cost the same.
    pub cost_and_confidence: Option<f64>,
    /// Spearman's rank correlation of an image's cost with the diameter of its object; null if the data set does not
    /// have it.
    pub cost_and_object_size: Option<f64>,
    /// Pruned over dense images/s at batch 32, if it was measured.
    pub speed_up: Option<f64>,
}

/// The methods at one cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtCost {
    /// Share of the dense MACs.
    pub cost: f64,
    /// One entry for each method that reaches this cost.
    pub methods: Vec<MethodAtCost>,
}

/// A method at a cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodAtCost {
    /// Name of the method.
    pub method: String,
    /// D, nats: the mean over seeds, like all figures here.
    pub divergence: f64,
    /// D of each seed, if there are several.
    pub of_seeds: Vec<f64>,
    /// Dense minus pruned top-1, pp.
    pub drop_pp: Interval,
    /// The policy's D divided by this method's D, if there is a policy.
    pub policy_divergence_ratio: Option<Interval>,
    /// The policy's top-1 minus this method's, pp, if there is a policy.
    pub policy_top1_gain_pp: Option<Interval>,
}

/// The methods at one drop.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtLoss {
    /// The drop: dense minus pruned top-1, pp.
    pub drop_pp: f64,
    /// One entry for each method.
    pub methods: Vec<MethodAtLoss>,
}

/// A method at a drop.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodAtLoss {
    /// Name of the method.
    pub method: String,
    /// Share of the dense MACs at which the drop is first reached; the mean over seeds.
    pub cost: f64,
    /// The cost of each seed, if there are several.
    pub of_seeds: Vec<f64>,
    /// The share of this method's cost that the policy saves, if there is a policy.
    pub policy_saves: Option<Interval>,
}

/// `scale` times `mean` with `digits` digits, and the standard deviation over seeds, if there are several:
/// `48.8 +- 0.6`.
pub fn with_spread(mean: f64, of_seeds: &[f64], scale: f64, digits: usize) -> String {
    let mean_text = format!("{:.digits$}", scale * mean);
    if of_seeds.len() < 2 {
        return mean_text;
    }
    let squares: f64 = of_seeds.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / (of_seeds.len() - 1) as f64).sqrt();
    format!("{mean_text} \u{b1} {:.digits$}", scale * deviation)
}

/// Fronts of all methods on one set of images (possibly resampled); the dense model is the first point of each.
type Fronts = Vec<Vec<Mean>>;

/// Computes all figures of a comparison except for speed.
pub fn analyse(
    measured: &[(Subject, Measured)],
    costs: &[f64],
    losses: &[f64],
) -> (Vec<MethodFigures>, Vec<AtCost>, Vec<AtLoss>) {
    let images = measured.first().map_or(0, |(_, figures)| figures.dense.costs.len());
    let fronts = |weights: &[u32]| -> Fronts {
        let front = |figures: &Measured| {
            std::iter::once(&figures.dense)
                .chain(&figures.outcomes)
                .map(|outcome| outcome.mean(weights))
                .collect()
        };
        measured.iter().map(|(_, figures)| front(figures)).collect()
    };
    let whole = fronts(&vec![1; images]);
    let drawn: Vec<Fronts> =
        (0..RESAMPLES).into_par_iter().map(|round| fronts(&resample(images, round))).collect();
    let interval = |figure: &dyn Fn(&Fronts) -> Option<f64>| -> Option<Interval> {
        let quantiles = Quantiles::of(drawn.iter().filter_map(figure).collect())?;
        Some(Interval { value: figure(&whole)?, low: quantiles.at(0.025), high: quantiles.at(0.975) })
    };
    let groups = groups(measured);
    let policy = groups.iter().position(|group| group.name == POLICY);

    let point = |m: usize, i: usize| {
        let figures = &measured[m].1;
        let outcome = &figures.outcomes[i];
        let costs: Vec<f64> = outcome.costs.iter().copied().map(f64::from).collect();
        let correlation = |of: &[f32]| {
            let of: Vec<f64> = of.iter().copied().map(f64::from).collect();
            (of.len() == costs.len()).then(|| spearman(&of, &costs)).flatten()
        };
        Some(PointFigures {
            setting: outcome.setting.to_string(),
            mean: whole[m][i + 1],
            drop_pp: interval(&|fronts| Some(fronts[m][0].top1 - fronts[m][i + 1].top1))?,
            cost_spread: spread(outcome)?,
            cost_and_confidence: correlation(&figures.confidences),
            cost_and_object_size: correlation(&figures.object_sizes),
            speed_up: None,
        })
    };
    let points = |m: usize| (0..measured[m].1.outcomes.len()).filter_map(|i| point(m, i)).collect();
    let methods = (0..measured.len())
        .map(|m| MethodFigures {
            method: measured[m].0.to_string(),
            study: measured[m].0.is_study(),
            points: points(m),
        })
        .collect();

    let at_each_cost = costs.iter().map(|&cost| {
        let at = |fronts: &Fronts, g: usize| groups[g].mean(|m| at_cost(&fronts[m], cost));
        let method = |g: usize| {
            let ratio =
                |p: usize| interval(&|fronts| Some(at(fronts, p)?.divergence / at(fronts, g)?.divergence));
            let gain = |p: usize| interval(&|fronts| Some(at(fronts, p)?.top1 - at(fronts, g)?.top1));
            let others = policy.filter(|p| *p != g);
            // The dense model is the same in every front.
            let dense = |fronts: &Fronts| fronts[groups[g].members[0]][0].top1;
            Some(MethodAtCost {
                method: groups[g].name.clone(),
                divergence: at(&whole, g)?.divergence,
                of_seeds: groups[g].of_seeds(|m| at_cost(&whole[m], cost).map(|mean| mean.divergence)),
                drop_pp: interval(&|fronts| Some(dense(fronts) - at(fronts, g)?.top1))?,
                policy_divergence_ratio: others.and_then(ratio),
                policy_top1_gain_pp: others.and_then(gain),
            })
        };
        AtCost { cost, methods: (0..groups.len()).filter_map(method).collect() }
    });
    let at_each_loss = losses.iter().map(|&loss| {
        let at = |fronts: &Fronts, g: usize| groups[g].mean(|m| Some(at_loss(&fronts[m], loss)));
        let method = |g: usize| {
            Some(MethodAtLoss {
                method: groups[g].name.clone(),
                cost: at(&whole, g)?.cost,
                of_seeds: groups[g].of_seeds(|m| Some(at_loss(&whole[m], loss).cost)),
                policy_saves: policy
                    .filter(|p| *p != g)
                    .and_then(|p| interval(&|fronts| Some(1.0 - at(fronts, p)?.cost / at(fronts, g)?.cost))),
            })
        };
        AtLoss { drop_pp: loss, methods: (0..groups.len()).filter_map(method).collect() }
    });
    (methods, at_each_cost.collect(), at_each_loss.collect())
}

/// The subjects that count as one method: policies that differ only in their seed are compared by their means.
struct Group {
    name: String,
    /// Indices into the list of subjects.
    members: Vec<usize>,
}

impl Group {
    /// The mean over the members; `None` if one of them has no value.
    fn mean(&self, of: impl Fn(usize) -> Option<Mean>) -> Option<Mean> {
        let share = 1.0 / self.members.len() as f64;
        self.members.iter().try_fold(Mean { cost: 0.0, divergence: 0.0, top1: 0.0 }, |sum, &m| {
            let more = of(m)?;
            Some(Mean {
                cost: sum.cost + share * more.cost,
                divergence: sum.divergence + share * more.divergence,
                top1: sum.top1 + share * more.top1,
            })
        })
    }

    /// The figure of each member, if there are several.
    fn of_seeds(&self, of: impl Fn(usize) -> Option<f64>) -> Vec<f64> {
        let several = self.members.len() > 1;
        self.members.iter().filter(|_| several).filter_map(|&m| of(m)).collect()
    }
}

/// The groups of the measured subjects, in their order.
fn groups(measured: &[(Subject, Measured)]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (m, (subject, _)) in measured.iter().enumerate() {
        let name = subject.group();
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.members.push(m),
            None => groups.push(Group { name, members: vec![m] }),
        }
    }
    groups
}

/// How often each of `images` images is drawn in resample `round`, with replacement.
fn resample(images: usize, round: u64) -> Vec<u32> {
    let mut weights = vec![0; images];
    for draw in 0..images as u64 {
        let place = (uniform(&[SEED, round, draw]) * images as f64) as usize;
        weights[place.min(images - 1)] += 1;
    }
    weights
}

fn spread(outcome: &Outcome) -> Option<CostSpread> {
    let quantiles = Quantiles::of(outcome.costs.iter().map(|cost| f64::from(*cost)).collect())?;
    Some(CostSpread { p10: quantiles.at(0.1), p50: quantiles.at(0.5), p90: quantiles.at(0.9) })
}

#[cfg(test)]
mod tests {
    use super::super::setting::Setting;
    use super::*;

    /// 400 images; a method's D is `level` times a figure of the image, and a tenth of the images become wrong.
    fn measured(level: f32) -> Measured {
        let images = 400;
        let figure = |i: usize| 1.0 + (i % 7) as f32;
        let outcome = |setting, cost: f32, level: f32, wrong: usize| Outcome {
            setting,
            costs: vec![cost; images],
            divergences: (0..images).map(|i| level * figure(i)).collect(),
            right: (0..images).map(|i| wrong == 0 || i % wrong != 0).collect(),
            patch_tokens: Vec::new(),
            patches: 0,
        };
        Measured {
            labelled: true,
            dense: outcome(Setting::Dense, 1.0, 0.0, 0),
            confidences: vec![0.5; images],
            object_sizes: Vec::new(),
            outcomes: vec![
                outcome(Setting::Merged(1), 0.8, level, 20),
                outcome(Setting::Merged(2), 0.6, 3.0 * level, 10),
            ],
        }
    }

    fn policy(seed: usize) -> Subject {
        Subject::Learned { name: POLICY.into(), seed, place: seed }
    }

    #[test]
    fn seeds_of_a_policy_count_by_their_mean() {
        let all = [
            (policy(0), measured(0.1)),
            (Subject::Method("random".parse().unwrap()), measured(0.4)),
            (policy(1), measured(0.3)),
        ];
        let (methods, costs, losses) = analyse(&all, &[0.7], &[5.0]);
        let names: Vec<&str> = methods.iter().map(|method| method.method.as_str()).collect();
        assert_eq!(names, ["policy", "random", "policy-2"]);
        let names: Vec<&str> = costs[0].methods.iter().map(|method| method.method.as_str()).collect();
        assert_eq!(names, ["policy", "random"]);
        let seeds = &costs[0].methods[0].of_seeds;
        assert!((seeds[1] / seeds[0] - 3.0).abs() < 1e-5, "{seeds:?}");
        let mean = costs[0].methods[0].divergence;
        assert!((mean - (seeds[0] + seeds[1]) / 2.0).abs() < 1e-9);
        let ratio = costs[0].methods[1].policy_divergence_ratio.unwrap();
        assert!((ratio.value - 0.5).abs() < 1e-6, "{ratio:?}");
        assert_eq!((losses[0].methods[0].of_seeds.len(), losses[0].methods[1].of_seeds.len()), (2, 0));
    }

    #[test]
    fn methods_meet_at_a_cost_and_at_a_drop() {
        let all = [(policy(0), measured(0.1)), (Subject::Method("random".parse().unwrap()), measured(0.2))];
        let (methods, costs, losses) = analyse(&all, &[0.7, 0.5], &[5.0, 7.5]);
        assert_eq!(methods.len(), 2);
        assert!((methods[0].points[1].drop_pp.value - 10.0).abs() < 1e-9);
        let point = &methods[0].points[1].drop_pp;
        assert!(point.low < 8.5 && point.low > 5.0 && point.high > 11.5 && point.high < 15.0, "{point:?}");
        let random = &costs[0].methods[1];
        let ratio = random.policy_divergence_ratio.unwrap();
        // Both have the same images: the ratio is exact in every resample.
        assert!((ratio.value - 0.5).abs() < 1e-6 && (ratio.high - ratio.low) < 1e-6, "{ratio:?}");
        assert!((random.drop_pp.value - 7.5).abs() < 1e-5);
        assert_eq!(random.policy_top1_gain_pp.unwrap().value, 0.0);
        assert!(costs[0].methods[0].policy_divergence_ratio.is_none(), "the policy against itself");
        assert!(costs[1].methods.is_empty(), "nothing is as cheap as 0.5");
        assert!(
            (losses[0].methods[0].cost - 0.8).abs() < 1e-6 && (losses[1].methods[0].cost - 0.7).abs() < 1e-5
        );
    }

    #[test]
    fn resamples_draw_as_many_as_there_are() {
        let weights = resample(1_000, 3);
        assert_eq!(weights.iter().sum::<u32>(), 1_000);
        let unseen = weights.iter().filter(|weight| **weight == 0).count();
        assert!((330..410).contains(&unseen), "{unseen}"); // 1000 / e = 368
    }
}
