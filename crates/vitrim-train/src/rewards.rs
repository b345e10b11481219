//! The two rewards, next to their formulas. Stages are 0-based; N0 is the number of patch tokens.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;
use vitrim_prune::divergence::TEMPERATURE;
use vitrim_vit::VitSpec;

/// Rewards of the preset `paper` (arXiv 2503.23459, section 3).
///
/// Agents compete: survivors share a fixed prize. They collaborate: there is a prize only if the image
/// is still classified correctly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaperRewards {
    /// The prize R of an image of 196 patch tokens; others have R N0 / 196.
    pub prize_at_196: f64,
    /// rho: the target keep ratio at stage k is rho^(k+1).
    pub keep_ratio: f64,
}

impl PaperRewards {
    /// R / A_k for each of `survivors` = A_k agents of an image of N0 = `num_patches` if the final prediction is right,
    /// otherwise 0. Without survivors, 0.
    pub fn accuracy(&self, survivors: usize, num_patches: usize, correct: bool) -> f64 {
        let prize = self.prize_at_196 * num_patches as f64 / 196.0;
        if correct && survivors > 0 { prize / survivors as f64 } else { 0.0 }
    }

    /// With d = kept_k / N0 - rho^(k+1): if d > 0, -exp(d) for each survivor; else -exp(-d) for each agent
    /// pruned at this stage. Returns the reward of an agent that survives or not.
    pub fn efficiency(&self, stage: usize, survivors: usize, num_patches: usize, survives: bool) -> f64 {
        let d = survivors as f64 / num_patches as f64 - self.keep_ratio.powi(stage as i32 + 1);
        match (d > 0.0, survives) {
            (true, true) => -d.exp(),
            (false, false) => -(-d).exp(),
            _ => 0.0,
        }
    }

    /// Reward of an agent that acted at `stage`.
    pub fn reward(
        &self,
        stage: usize,
        survivors: usize,
        num_patches: usize,
        survives: bool,
        correct: bool,
    ) -> f64 {
        let accuracy = if survives { self.accuracy(survivors, num_patches, correct) } else { 0.0 };
        accuracy + self.efficiency(stage, survivors, num_patches, survives)
    }
}

/// Rewards of the default preset. Each survivor pays rent for every layer up to the next stage; every agent that
/// acted at a stage receives -beta N0 (g(D_k) - g(D_{k-1})) / g_ref, where D_k is the divergence of the episode if
/// pruning had stopped after stage k (complete-prefix credit). The sum over an episode is N0 J = -sum of rents - beta
/// N0 g(D_K) / g_ref.
///
/// Divergences are heavy-tailed: most images lose next to nothing, a few lose a thousand times as much, and without
/// softening these few would dominate an update. g(D) = ln(1 + D / s) makes all of them count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefixRewards {
    /// beta: the price of divergence against token-layers.
    pub beta: f64,
    /// g_ref: mean g(D) of random pruning, which makes beta comparable across backbones.
    pub reference: f64,
    /// s, nats; 0 for g(D) = D.
    pub softening: f64,
}

impl PrefixRewards {
    /// -(l_{k+1} - l_k) / L for each survivor of a stage with `from` layers before it, and `to` layers before the
    /// next stage (or the end), of `layers` layers ([`cost::layers`](vitrim_vit::cost::layers)).
    pub fn rent(from: f64, to: f64, layers: f64) -> f64 {
        -(to - from) / layers
    }

    /// -beta N0 (g(D_to) - g(D_from)) / g_ref: the reward of every agent that acted, for the divergence that was
    /// added between two points of an episode of an image of N0 = `num_patches`.
    pub fn fidelity(&self, num_patches: usize, divergence_from: f64, divergence_to: f64) -> f64 {
        let added = soften(divergence_to, self.softening) - soften(divergence_from, self.softening);
        -self.beta * num_patches as f64 * added / self.reference
    }
}

/// g(D) = ln(1 + D / s) for a `divergence` D and a `softening` s, both in nats; D itself if s is 0.
pub fn soften(divergence: f64, softening: f64) -> f64 {
    if softening > 0.0 { (divergence / softening).ln_1p() } else { divergence }
}

/// [`divergences`](vitrim_prune::divergence::divergences) with gradients, `[B]`, of dense and pruned answers,
/// `[B, C]` or `[B, D]` each.
pub fn divergences_of_answers(spec: &VitSpec, dense: Tensor<2>, pruned: Tensor<2>) -> Tensor<1> {
    let of_images = if spec.num_classes == 0 { cosine_distances } else { divergences_of_logits };
    of_images(dense, pruned)
}

/// [`divergence`](vitrim_prune::divergence::divergence) of each image with gradients, `[B]`, of dense and pruned
/// logits, `[B, C]` each.
pub fn divergences_of_logits(dense: Tensor<2>, pruned: Tensor<2>) -> Tensor<1> {
    let log_p = log_softmax(dense.div_scalar(TEMPERATURE), 1);
    let log_q = log_softmax(pruned.div_scalar(TEMPERATURE), 1);
    let kl = (log_p.clone().exp() * (log_p - log_q)).sum_dim(1).squeeze_dim::<1>(1);
    kl.clamp_min(0.0).mul_scalar(TEMPERATURE * TEMPERATURE)
}

/// [`cosine_distance`](vitrim_prune::divergence::cosine_distance) of each image with gradients, `[B]`, of dense and
/// pruned features, `[B, D]` each.
fn cosine_distances(dense: Tensor<2>, pruned: Tensor<2>) -> Tensor<1> {
    let dot = |a: &Tensor<2>, b: &Tensor<2>| (a.clone() * b.clone()).sum_dim(1).squeeze_dim::<1>(1);
    let lengths = (dot(&dense, &dense) * dot(&pruned, &pruned)).clamp_min(f32::MIN_POSITIVE).sqrt();
    (dot(&dense, &pruned) / lengths).neg().add_scalar(1.0)
}

/// |f - f_k|^2 / |f|^2 of each image with gradients, `[B]`, of dense features f and pruned ones f_k, `[B, D]` each.
pub fn squared_distances(dense: Tensor<2>, pruned: Tensor<2>) -> Tensor<1> {
    let lengths = dense.clone().square().sum_dim(1).clamp_min(f32::MIN_POSITIVE);
    ((pruned - dense).square().sum_dim(1) / lengths).squeeze_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    /// N0 = 10, R = 5 (98 at 196 patch tokens), rho = 0.7; values computed by hand.
    #[test]
    fn paper_rewards_by_hand() {
        let rewards = PaperRewards { prize_at_196: 98.0, keep_ratio: 0.7 };
        // Stage 0, 8 of 10 survive: d = 0.8 - 0.7 = 0.1 > 0, survivors pay exp(0.1) = 1.105170918...
        assert!(close(rewards.reward(0, 8, 10, true, true), 5.0 / 8.0 - 1.105_170_918_075_647_6));
        assert!(close(rewards.reward(0, 8, 10, true, false), -1.105_170_918_075_647_6));
        assert!(close(rewards.reward(0, 8, 10, false, true), 0.0));
        // Stage 1, 4 of 10: d = 0.4 - 0.49 = -0.09, the pruned pay exp(0.09) = 1.094174283...
        assert!(close(rewards.reward(1, 4, 10, true, true), 1.25));
        assert!(close(rewards.reward(1, 4, 10, false, true), -1.094_174_283_705_210_4));
        // Exactly on target counts as d <= 0.
        assert!(close(PaperRewards { prize_at_196: 98.0, keep_ratio: 0.5 }.efficiency(0, 5, 10, true), 0.0));
        assert!(close(
            PaperRewards { prize_at_196: 98.0, keep_ratio: 0.5 }.efficiency(0, 5, 10, false),
            -1.0
        ));
        // Without survivors, no agent gets a prize.
        assert!(close(rewards.accuracy(0, 10, true), 0.0));
        assert!(close(rewards.accuracy(4, 64, true), 98.0 * 64.0 / 196.0 / 4.0));
    }

    #[test]
    fn prefix_rewards_sum_to_the_objective() {
        // L = 12, stages before 3, 6, 9; N0 = 4; one agent each leaves at stages 0 and 1, two stay.
        let rewards = PrefixRewards { beta: 0.5, reference: 0.2, softening: 0.0 };
        let d = [0.0, 0.1, 0.05, 0.3]; // D_0 (dense) .. D_K
        let rents = 3.0 * PrefixRewards::rent(3.0, 6.0, 12.0)
            + 2.0 * PrefixRewards::rent(6.0, 9.0, 12.0)
            + 2.0 * PrefixRewards::rent(9.0, 12.0, 12.0);
        assert!(close(rents, -(3.0 + 2.0 + 2.0) * 0.25));
        let team: f64 = (0..3).map(|k| rewards.fidelity(4, d[k], d[k + 1])).sum();
        assert!(close(team, rewards.fidelity(4, 0.0, 0.3)));
        assert!(close(team, -0.5 * 4.0 * 0.3 / 0.2));
        let soft = PrefixRewards { softening: 0.1, ..rewards };
        let team: f64 = (0..3).map(|k| soft.fidelity(4, d[k], d[k + 1])).sum();
        assert!(close(team, -0.5 * 4.0 * 4f64.ln() / 0.2), "g(0.3) = ln(1 + 0.3 / 0.1)");
        // Less divergence than before is a gain.
        assert!(rewards.fidelity(4, d[1], d[2]) > 0.0);
    }

    #[test]
    fn distances_with_gradients_by_hand() {
        let device = burn::tensor::Device::flex();
        let dense = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0], [1.0, -1.0], [0.0, 0.0]], &device);
        let pruned = Tensor::<2>::from_data([[2.0, 4.0], [4.0, 3.0], [-1.0, 1.0], [1.0, 0.0]], &device);
        let host = |x: Tensor<1>| -> Vec<f32> { x.into_data().try_into_vec_as().unwrap() };
        let cosine = host(cosine_distances(dense.clone(), pruned.clone()));
        for (found, expected) in cosine.iter().zip([0.0, 1.0 / 25.0, 2.0, 1.0]) {
            assert!((found - expected).abs() < 1e-6, "{cosine:?}");
        }
        let squared = host(squared_distances(dense.slice([0..3, 0..2]), pruned.slice([0..3, 0..2])));
        for (found, expected) in squared.iter().zip([1.0, 2.0 / 25.0, 4.0]) {
            assert!((found - expected).abs() < 1e-6, "{squared:?}");
        }
    }

    #[test]
    fn divergence_with_gradients_by_hand() {
        // z = (3 ln 3, 0), z_k = (0, 0): p = (3/4, 1/4), q = (1/2, 1/2).
        let kl = 0.75 * (1.5f64).ln() + 0.25 * (0.5f64).ln();
        let device = burn::tensor::Device::flex();
        let logits = |values: [f32; 2]| Tensor::<2>::from_data([values], &device);
        let tensor = divergences_of_logits(logits([3.0 * 3f32.ln(), 0.0]), logits([0.0, 0.0]));
        assert!((f64::from(tensor.into_scalar::<f32>()) - 9.0 * kl).abs() < 1e-5);
    }
}
