//! Scalar inputs that mean the same on every backbone: ranks, ratios to the image's own means, shares.
//!
//! A cosine of 0.9 is high among the keys of one backbone and low among those of another, and so is a norm. The same
//! value divided by its mean over the image has no such unit.

use vitrim_kernels::InstructionSet;
use vitrim_vit::{View, VitSpec};

use super::pairing::Roles;

/// Names of the relative scalars, in order. Logarithms are natural and clipped to -4..4; ranks lie between -1 and 1.
pub const RELATIVE: [&str; 20] = [
    // Class attention over the mean of the image's patch tokens, ln; its rank; the partner's.
    "relative_attention",
    "attention_rank",
    "relative_partner_attention",
    // Dissimilarity (1 - cosine) of the pair's keys over the mean of all pairs of the image, ln; its rank among the tokens
    // that may leave.
    "relative_unlikeness",
    "unlikeness_rank",
    // The same of the tokens themselves, each minus its mean over D.
    "relative_token_unlikeness",
    "token_unlikeness_rank",
    // ln of the sizes.
    "own_size",
    "size_of_partner",
    // Norms over their mean, ln.
    "relative_norm",
    "relative_partner_norm",
    // ln of the pair's distance on the grid, in patches; the token's distance from the middle, in half sides, minus 3/4.
    "distance",
    "eccentricity",
    // Mean dissimilarity of the token's key and all others over that of all tokens, ln.
    "relative_seclusion",
    // Dissimilarity of token and class token (without one: the mean token) over its mean, ln.
    "relative_context_unlikeness",
    // ln of the number of tokens that would join the same partner.
    "crowd",
    // Means over the tokens that may leave of relative_unlikeness and relative_token_unlikeness: how redundant the image is.
    "redundancy",
    "token_redundancy",
    // Share of the depth that lies before, in -1..3; ln of the share of N0 that is alive.
    "depth",
    "alive",
];

/// What the tokens of an image are compared with.
pub(super) struct Surroundings {
    scalars: Vec<[f32; RELATIVE.len()]>,
}

impl Surroundings {
    /// Compares the tokens of image `b` of `view`, whose `roles` were dealt with similarities of tokens and seclusions.
    pub fn of(spec: &VitSpec, view: &View<'_>, b: usize, roles: &Roles<'_>) -> Self {
        let (first, prefix) = (view.rows(b).start, view.prefix);
        let rows = view.patch_rows(b);
        let n = rows.len();
        let leaving: Vec<usize> = (prefix..prefix + n).filter(|&i| roles.may_leave(i)).collect();
        let mut scalars = vec![[0.0; RELATIVE.len()]; prefix + n];

        let attention: Vec<f32> = match view.cls_attention {
            Some(attention) => attention[rows.clone()].to_vec(),
            None => vec![1.0; n],
        };
        let attention = Relative::to_mean(&attention);
        let attention_rank = ranks(&attention.0);
        let crowd = Tokens::of(view, b);
        let norm = Relative::to_mean(&crowd.norms);
        let context = Relative::to_mean(&crowd.context_unlikeness);
        let seclusion = &roles.seclusion[prefix..];
        let all_pairs = mean(seclusion.iter().copied());
        let seclusion = Relative::to_mean(seclusion);
        let of_leaving = |value: &dyn Fn(usize) -> f32| leaving.iter().map(|&i| value(i)).collect::<Vec<_>>();
        let by_keys = of_leaving(&|i| ratio(1.0 - roles.similarity[i], all_pairs));
        let by_tokens = of_leaving(&|i| ratio(1.0 - roles.token_similarity[i], crowd.mean_unlikeness));
        let (key_rank, token_rank) = (ranks(&by_keys), ranks(&by_tokens));
        let (redundancy, token_redundancy) = (mean(by_keys.iter().copied()), mean(by_tokens.iter().copied()));
        let mut joining = vec![0.0f32; prefix + n];
        leaving.iter().for_each(|&i| joining[roles.partner[i] - first] += 1.0);

        let [height, width] = view.grids[b].map(|side| side as f32);
        let place = |row: usize| {
            let at = view.origins[row].grid().unwrap_or(0);
            [(at / view.grids[b][1]) as f32, (at % view.grids[b][1]) as f32]
        };
        let depth = (4.0 * (view.site.block as f32 + 0.5) / spec.depth as f32) - 1.0;
        let alive = ratio(n as f32, view.num_patches(b) as f32);
        for (k, &i) in leaving.iter().enumerate() {
            let (own, partner) = (i - prefix, roles.partner[i] - first - prefix);
            let ([y, x], [to_y, to_x]) = (place(first + i), place(roles.partner[i]));
            let distance = (y - to_y).hypot(x - to_x);
            let from_middle = |at: f32, side: f32| (2.0 * at + 1.0) / side - 1.0;
            scalars[i] = [
                attention.0[own],
                attention_rank[own],
                attention.0[partner],
                by_keys[k],
                key_rank[k],
                by_tokens[k],
                token_rank[k],
                ratio(view.sizes[first + i], 1.0),
                ratio(view.sizes[roles.partner[i]], 1.0),
                norm.0[own],
                norm.0[partner],
                ratio(distance.max(1.0), 1.0),
                from_middle(y, height).hypot(from_middle(x, width)) - 0.75,
                seclusion.0[own],
                context.0[own],
                ratio(joining[partner + prefix], 1.0),
                redundancy,
                token_redundancy,
                depth,
                alive,
            ];
        }
        Surroundings { scalars }
    }

    /// The relative scalars of token `i` of the image, in the order of [`RELATIVE`].
    pub fn scalars(&self, i: usize) -> [f32; RELATIVE.len()] {
        self.scalars[i]
    }
}

/// Values of an image's patch tokens over their mean, ln, `[n]`.
struct Relative(Vec<f32>);

impl Relative {
    fn to_mean(values: &[f32]) -> Self {
        let mean = mean(values.iter().copied());
        Relative(values.iter().map(|value| ratio(*value, mean)).collect())
    }
}

/// What the patch tokens themselves are like.
struct Tokens {
    /// Norm of each token minus its mean over D, `[n]`.
    norms: Vec<f32>,
    /// 1 - cosine of each token and the class token, or the mean token, `[n]`.
    context_unlikeness: Vec<f32>,
    /// Mean of 1 - cosine over all pairs of tokens.
    mean_unlikeness: f32,
}

impl Tokens {
    fn of(view: &View<'_>, b: usize) -> Self {
        let (isa, rows, dim) = (InstructionSet::current(), view.patch_rows(b), view.dim);
        let (mut norms, mut sum) = (Vec::with_capacity(rows.len()), vec![0.0f32; dim]);
        for row in rows.clone() {
            let token = view.token(row);
            let (total, squares) = moments(token);
            let centre = total / dim as f32;
            let norm = (squares - total * centre).max(f32::MIN_POSITIVE).sqrt();
            sum.iter_mut().zip(token).for_each(|(sum, x)| *sum += (x - centre) / norm);
            norms.push(norm);
        }
        let n = rows.len() as f32;
        // The mean cosine of a pair, from the squared norm of the sum of n unit vectors.
        let together = (moments(&sum).1 - n) / (n * (n - 1.0)).max(1.0);
        let context = if view.prefix > 0 { view.token(view.rows(b).start) } else { &sum };
        Tokens {
            norms,
            context_unlikeness: rows.map(|row| 1.0 - isa.centred_cosine(view.token(row), context)).collect(),
            mean_unlikeness: 1.0 - together,
        }
    }
}

/// Sum of the values and of their squares, in eight lanes.
fn moments(values: &[f32]) -> (f32, f32) {
    let (mut sums, mut squares) = ([0.0f32; 8], [0.0f32; 8]);
    let (lanes, rest) = values.as_chunks::<8>();
    let mut add = |lane: &[f32]| {
        for ((sum, square), x) in sums.iter_mut().zip(&mut squares).zip(lane) {
            *sum += x;
            *square += x * x;
        }
    };
    lanes.iter().for_each(|lane| add(lane));
    add(rest);
    (sums.iter().sum(), squares.iter().sum())
}

fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = values.len().max(1) as f32;
    values.sum::<f32>() / count
}

/// `ln(value / unit)`, clipped to -4..4.
fn ratio(value: f32, unit: f32) -> f32 {
    (value.max(1e-9) / unit.max(1e-9)).ln().clamp(-4.0, 4.0)
}

/// The place of each of n values among all, from -1 (the lowest) to 1; of equal ones, the first is lower.
fn ranks(values: &[f32]) -> Vec<f32> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]).then(a.cmp(&b)));
    let mut ranks = vec![0.0; values.len()];
    for (place, i) in order.into_iter().enumerate() {
        ranks[i] = (2.0 * place as f32 + 1.0) / values.len() as f32 - 1.0;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_ratios_have_no_unit() {
        assert_eq!(ranks(&[3.0, -1.0, 3.0, 9.0]), [-0.25, -0.75, 0.25, 0.75]);
        assert_eq!(ranks(&[]), [0.0; 0]);
        let of = |scale: f32| Relative::to_mean(&[scale, 3.0 * scale]).0;
        assert_eq!(of(1.0), [0.5f32.ln(), 1.5f32.ln()]);
        assert!(of(1e-3).iter().zip(of(1.0)).all(|(a, b)| (a - b).abs() < 1e-5));
        let (sum, squares) = moments(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!((sum, squares), (45.0, 285.0));
    }
}
