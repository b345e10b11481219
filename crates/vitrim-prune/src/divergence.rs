//! D, the divergence of the pruned model's predictions from the dense model's.

use vitrim_vit::{Output, VitSpec};

/// D of each image, `[B]`, between the answers of the dense and the pruned model of geometry `spec`: [`divergence`]
/// of the logits, or [`cosine_distance`] of the pooled features if the model has no head.
pub fn divergences(spec: &VitSpec, dense: &Output, pruned: &Output) -> Vec<f64> {
    let of_image = if spec.num_classes == 0 { cosine_distance } else { divergence };
    let rows = dense.values.chunks_exact(dense.width).zip(pruned.values.chunks_exact(pruned.width));
    rows.map(|(dense, pruned)| of_image(dense, pruned)).collect()
}

/// D = 1 - cos of the pooled features of the dense and the pruned model, `[D]` each: 0 to 2.
pub fn cosine_distance(dense: &[f32], pruned: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(dense, dense) * dot(pruned, pruned)).sqrt();
    if lengths > 0.0 { (1.0 - dot(dense, pruned) / lengths).max(0.0) } else { 1.0 }
}

/// The temperature that logits are divided by before they are compared.
pub const TEMPERATURE: f64 = 3.0;

/// D = 9 KL(softmax(z/3) || softmax(z_k/3)) in nats, for dense logits z and pruned logits z_k, `[C]`
/// each; the factor is the square of the temperature, as in distillation (Hinton et al., 2015).
pub fn divergence(dense: &[f32], pruned: &[f32]) -> f64 {
    let log_softmax = |z: &[f32]| -> Vec<f64> {
        let max = z.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let shifted: Vec<f64> = z.iter().map(|v| f64::from(v - max) / TEMPERATURE).collect();
        let log_sum = shifted.iter().map(|v| v.exp()).sum::<f64>().ln();
        shifted.iter().map(|v| v - log_sum).collect()
    };
    let (p, q) = (log_softmax(dense), log_softmax(pruned));
    let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
    TEMPERATURE * TEMPERATURE * kl.max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn cosine_distance_by_hand() {
        assert!(close(cosine_distance(&[1.0, 2.0], &[2.0, 4.0]), 0.0));
        assert!(close(cosine_distance(&[1.0, 0.0], &[0.0, 3.0]), 1.0));
        assert!(close(cosine_distance(&[3.0, 4.0], &[4.0, 3.0]), 1.0 / 25.0));
        assert!(close(cosine_distance(&[1.0, -1.0], &[-1.0, 1.0]), 2.0));
        assert!(close(cosine_distance(&[0.0, 0.0], &[1.0, 0.0]), 1.0), "nothing points nowhere");
    }

    #[test]
    fn divergence_by_hand() {
        assert!(close(divergence(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0]), 0.0));
        // z = (3 ln 3, 0), z_k = (0, 0): p = (3/4, 1/4), q = (1/2, 1/2).
        let kl = 0.75 * (1.5f64).ln() + 0.25 * (0.5f64).ln();
        assert!((divergence(&[3.0 * 3f32.ln(), 0.0], &[0.0, 0.0]) - 9.0 * kl).abs() < 1e-6);
    }
}
