//! From rewards to advantages, per agent.

/// Generalised advantage estimation (Schulman et al., 2016, equation 16) over one agent's steps. The steps end when
/// the agent is pruned or after the last stage; the value after the end is 0.
///
/// `rewards`, `values` and the result have one entry per step. Returns are advantage + value.
pub fn gae(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> Vec<f64> {
    assert_eq!(rewards.len(), values.len(), "one value a step");
    let mut advantages = vec![0.0; rewards.len()];
    let mut next = 0.0;
    for t in (0..rewards.len()).rev() {
        let next_value = values.get(t + 1).copied().unwrap_or(0.0);
        let delta = rewards[t] + gamma * next_value - values[t];
        next = delta + gamma * lambda * next;
        advantages[t] = next;
    }
    advantages
}

/// The return of each of R >= 2 rollouts of one image minus the mean of the others, for one agent.
pub fn leave_one_out(returns: &[f64]) -> Vec<f64> {
    let n = returns.len() as f64;
    let sum: f64 = returns.iter().sum();
    returns.iter().map(|r| r - (sum - r) / (n - 1.0)).collect()
}

/// Scales to zero mean and unit standard deviation, in place (MAPPO, over all live agent-steps).
pub fn normalize(advantages: &mut [f32]) {
    let n = advantages.len().max(1) as f64;
    let mean = advantages.iter().map(|a| f64::from(*a)).sum::<f64>() / n;
    let variance = advantages.iter().map(|a| (f64::from(*a) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance.sqrt() + 1e-8);
    advantages.iter_mut().for_each(|a| *a = ((f64::from(*a) - mean) * scale) as f32);
}

/// Divides by the root mean square, in place; the mean stays.
pub fn scale_by_rms(advantages: &mut [f32]) {
    let n = advantages.len().max(1) as f64;
    let rms = (advantages.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>() / n).sqrt();
    let scale = 1.0 / (rms + 1e-8);
    advantages.iter_mut().for_each(|a| *a = (f64::from(*a) * scale) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// gamma = 0.9, lambda = 0.5; deltas by hand.
    #[test]
    fn gae_by_hand() {
        let advantages = gae(&[1.0, -2.0, 3.0], &[0.5, 1.0, 2.0], 0.9, 0.5);
        // delta_2 = 3 - 2 = 1; delta_1 = -2 + 0.9*2 - 1 = -1.2; delta_0 = 1 + 0.9*1 - 0.5 = 1.4
        let a2 = 1.0;
        let a1 = -1.2 + 0.45 * a2;
        let a0 = 1.4 + 0.45 * a1;
        for (ours, hand) in advantages.iter().zip([a0, a1, a2]) {
            assert!((ours - hand).abs() < 1e-12);
        }
    }

    #[test]
    fn an_agent_pruned_at_once_has_one_step() {
        assert_eq!(gae(&[-1.5], &[0.25], 0.99, 0.95), [-1.75]);
        assert!(gae(&[], &[], 0.99, 0.95).is_empty());
    }

    #[test]
    fn lambda_one_is_return_minus_value() {
        let advantages = gae(&[1.0, 2.0, 4.0], &[0.3, 0.6, 0.9], 1.0, 1.0);
        for (ours, hand) in advantages.iter().zip([7.0 - 0.3, 6.0 - 0.6, 4.0 - 0.9]) {
            assert!((ours - hand).abs() < 1e-12);
        }
    }

    #[test]
    fn leave_one_out_by_hand() {
        assert_eq!(leave_one_out(&[1.0, 2.0, 6.0]), [-3.0, -1.5, 4.5]);
    }

    #[test]
    fn scalings() {
        let mut a = [1.0, 2.0, 3.0, 6.0];
        normalize(&mut a);
        assert!((a.iter().sum::<f32>()).abs() < 1e-5);
        assert!((a.iter().map(|v| v * v).sum::<f32>() / 4.0 - 1.0).abs() < 1e-5);
        let mut b = [3.0, 4.0];
        scale_by_rms(&mut b);
        assert!((b[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6 && b[1] > b[0]);
    }
}
