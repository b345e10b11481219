//! Quantisation of weights to 8 bits.

use crate::simd::STEPS;

/// Quantises one output's weights to `integers` in -127..=127 and returns their scale: a weight is about `scale` times its integer.
///
/// If `max_activation` is less than 255, products are added in 16 bits ([`crate::simd::dot::ShortInt8`]): one i16
/// sums the first pairs of four words, another the second pairs. The scale is then so large that neither overflows,
/// whatever the activations are.
pub(super) fn quantise(row: &[f32], max_activation: u8, integers: &mut Vec<i8>) -> f32 {
    let mut scale = row.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    if max_activation < u8::MAX {
        // Activations are not negative: the largest and the smallest sums have weights of one sign, each of eight
        // rounded up by at most a half.
        let greatest = f32::from(i16::MAX / i16::from(max_activation) - 4);
        for words in row.chunks(4 * STEPS) {
            let mut sums = [[0.0; 2]; 2];
            for (i, v) in words.iter().enumerate() {
                sums[i / 2 % 2][usize::from(*v < 0.0)] += v.abs();
            }
            scale = sums.as_flattened().iter().fold(scale, |m, sum| m.max(sum / greatest));
        }
    }
    let scale = if scale > 0.0 { scale } else { 1.0 };
    integers.clear();
    integers.extend(row.iter().map(|v| (v / scale).round_ties_even() as i8));
    scale
}
