//! Multi-head self-attention over a packed batch: each image attends to itself alone.

mod backward;
mod head;
mod product;

use rayon::prelude::*;

use crate::InstructionSet;
use crate::tasks::rows_per_task;
use crate::word::Word;
use backward::HeadBackward;
use head::{Head, Places, SCRATCH};

/// Attention of `heads` heads over `[T, 3, heads, head_dim]` rows (timm's `qkv` output).
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    heads: usize,
    head_dim: usize,
    class_token: bool,
    isa: InstructionSet,
}

/// Optional outputs of attention, see [`Attention::forward`], [`Attention::mean_keys`] and
/// [`Attention::value_norms`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionTaps {
    /// Mean over heads of the class token's attention (or of the attention that each token receives), `[T]`.
    pub cls_attention: Option<Vec<f32>>,
    /// Mean over heads and queries of the attention that each token receives, `[T]`.
    pub received_attention: Option<Vec<f32>>,
    /// Mean over heads of the keys, `[T, head_dim]`.
    pub keys: Option<Vec<f32>>,
    /// Norm of the values over all heads, `[T]`.
    pub value_norm: Option<Vec<f32>>,
    /// The tokens before attention's norm and residual, `[T, D]`, which the caller copies.
    pub inputs: Option<Vec<f32>>,
}

/// Options of [`Attention::forward`].
pub struct AttentionOptions<'a> {
    /// Bias of each key, `[T]`, added to every query's scaled scores: the logarithms of merged tokens' sizes, for
    /// proportional attention (ToMe, equation 1).
    pub key_bias: Option<&'a [f32]>,
    /// Output for [`AttentionTaps::cls_attention`], `[T]`.
    pub cls_attention: Option<&'a mut [f32]>,
    /// Whether the output above is [`AttentionTaps::received_attention`] also if there is a class token.
    pub of_all_queries: bool,
    /// Number of threads that are free for this call, including the calling one; 0 means 1. If there are more threads
    /// than heads, or the last heads would leave some threads idle, the queries of a head are split.
    pub threads: usize,
    /// Only the first so many tokens of each image attend; the output rows of the others are left as they are, and there
    /// must be no tap of all queries. `None`: all attend.
    pub queries: Option<usize>,
}

impl Default for AttentionOptions<'_> {
    fn default() -> Self {
        AttentionOptions {
            key_bias: None,
            cls_attention: None,
            of_all_queries: false,
            threads: 1,
            queries: None,
        }
    }
}

impl Attention {
    /// Attention of `heads` heads of `head_dim` channels, with the current instruction set. With a `class_token`, row
    /// 0 of each image, the attention tap is that row's attention; otherwise the mean attention that each token
    /// receives.
    pub fn new(heads: usize, head_dim: usize, class_token: bool) -> Self {
        Attention { heads, head_dim, class_token, isa: InstructionSet::current() }
    }

    /// Replaces the instruction set by `isa`.
    #[cfg(test)]
    fn with(self, isa: InstructionSet) -> Self {
        Attention { isa, ..self }
    }

    /// Channels of a row: `heads * head_dim`.
    pub fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Writes attention to `out: [T, dim]`, from `qkv: [T, 3 * dim]` (in [`Word`]s, which hold one or two values
    /// each); image b has the rows from `offsets[b]` to `offsets[b + 1]`, minus `offsets[0]`. Heads of images run in
    /// parallel. If words are pairs of bf16, queries, keys, probabilities and values are multiplied in bf16,
    /// otherwise in f32; sums and softmax are f32.
    ///
    /// # Panics
    /// If a length does not match, or the channels of a head are not whole words.
    pub fn forward<Q: Word, O: Word>(
        &self,
        qkv: &[Q],
        offsets: &[usize],
        out: &mut [O],
        options: AttentionOptions<'_>,
    ) {
        let (dim, d) = (self.dim(), self.head_dim);
        let AttentionOptions { key_bias, cls_attention, of_all_queries, threads, queries: attending } =
            options;
        let class_token = self.class_token && !of_all_queries;
        assert!(offsets.is_sorted(), "offsets ascend");
        let base = offsets[0];
        let total = offsets[offsets.len() - 1] - base;
        assert!(d.is_multiple_of(Q::VALUES) && d.is_multiple_of(O::VALUES), "a head is whole words");
        let (part, width) = (dim / Q::VALUES, dim / O::VALUES);
        assert!(qkv.len() == total * 3 * part && out.len() == total * width, "qkv is [T, 3D], out is [T, D]");
        assert!(key_bias.is_none_or(|bias| bias.len() == total), "the key bias is [T]");
        let mut received = vec![0.0; if cls_attention.is_some() { total * self.heads } else { 0 }];

        // One task per image, head and share of the head's queries, by number: a list of tasks would be allocated for
        // each block.
        let (heads, images) = (self.heads, offsets.len() - 1);
        let whole = cls_attention.is_some() && !class_token;
        assert!(!whole || attending.is_none(), "a tap of all queries needs all of them");
        let shares = if whole || attending.is_some() { 1 } else { shares(images * heads, threads) };
        let places = Places::new(out, &mut received);
        (0..images * heads * shares).into_par_iter().for_each(|task| {
            let (image, head, share) = (task / (heads * shares), task / shares % heads, task % shares);
            let (start, n) = (offsets[image] - base, offsets[image + 1] - offsets[image]);
            let attending = attending.map_or(n, |first| first.min(n));
            let queries = share * attending / shares..(share + 1) * attending / shares;
            if queries.is_empty() {
                return;
            }
            // SAFETY: both buffers are borrowed until the tasks are done. Images ascend within them, as asserted
            // above, so that no other image has these rows, no other head these words, and no other share these
            // queries. The taps are written by the share that has the class token, or by the only share.
            let (out, tap) = unsafe {
                let (first, words) = (start + queries.start, d / O::VALUES);
                let out = places.columns(first, queries.len(), width, head * words, words);
                (out, if queries.start == 0 { places.tap(start, n, head, heads) } else { &mut [] })
            };
            // The next head of this image, or the first head of the next image.
            let next = if head + 1 < heads { start * 3 * heads + head + 1 } else { (start + n) * 3 * heads };
            let words = d / Q::VALUES;
            SCRATCH.with_borrow_mut(|scratch| {
                let head = Head {
                    qkv: &qkv[start * 3 * part + head * words..(start + n) * 3 * part],
                    next: qkv.as_ptr().wrapping_add(next * words),
                    n,
                    queries,
                    stride: 3 * part,
                    part,
                    head_dim: d,
                    key_bias: key_bias.map(|bias| &bias[start..start + n]),
                    out,
                    tap,
                    class_token,
                    scratch,
                };
                self.isa.run(head);
            });
        });

        if let Some(tap) = cls_attention {
            for image in offsets.windows(2) {
                let (rows, n) = (image[0] - base..image[1] - base, image[1] - image[0]);
                let heads = &received[rows.start * self.heads..rows.end * self.heads];
                for (t, value) in tap[rows].iter_mut().enumerate() {
                    let sum: f32 = (0..self.heads).map(|h| heads[h * n + t]).sum();
                    *value = sum / self.heads as f32;
                }
            }
        }
    }

    /// The gradient of [`Attention::forward`] in f32, without a bias, at `qkv: [T, 3 * dim]`. `gradient: [T, dim]` is
    /// the gradient with respect to the output; the gradient with respect to `qkv` is written to
    /// `into: [T, 3 * dim]`. Heads of images run in parallel.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn backward(&self, qkv: &[f32], offsets: &[usize], gradient: &[f32], into: &mut [f32]) {
        let (dim, d) = (self.dim(), self.head_dim);
        let total = offsets[offsets.len() - 1];
        assert!(qkv.len() == total * 3 * dim && into.len() == qkv.len(), "qkv and its gradient are [T, 3D]");
        assert_eq!(gradient.len(), total * dim, "the gradient is [T, D]");
        assert!(offsets[0] == 0 && offsets.is_sorted(), "offsets ascend from 0");
        let places = Places::new(into, &mut []);
        (0..(offsets.len() - 1) * self.heads).into_par_iter().for_each(|task| {
            let (image, head) = (task / self.heads, task % self.heads);
            let (start, n) = (offsets[image], offsets[image + 1] - offsets[image]);
            if n == 0 {
                return;
            }
            // SAFETY: `into` is borrowed until the tasks are done. Images ascend within it, as asserted above, so
            // that no other image has these rows, and no other head or part these words.
            let out =
                [0, 1, 2].map(|part| unsafe { places.columns(start, n, 3 * dim, part * dim + head * d, d) });
            backward::SCRATCH.with_borrow_mut(|scratch| {
                let head = HeadBackward {
                    qkv: &qkv[start * 3 * dim + head * d..(start + n) * 3 * dim],
                    n,
                    stride: 3 * dim,
                    part: dim,
                    head_dim: d,
                    gradient: &gradient[start * dim + head * d..(start + n) * dim],
                    out,
                    scratch,
                };
                self.isa.run(head);
            });
        });
    }

    /// Writes the mean over heads of the keys of `qkv: [T, 3 * dim]` to `mean: [T, head_dim]`.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn mean_keys<Q: Word>(&self, qkv: &[Q], mean: &mut [f32]) {
        let (d, scale) = (self.head_dim, 1.0 / self.heads as f32);
        let (part, words) = (self.dim() / Q::VALUES, d / Q::VALUES);
        assert_eq!(qkv.len() * d, mean.len() * 3 * part, "qkv is [T, 3D], the mean is [T, head_dim]");
        let each = rows_per_task(qkv.len() / (3 * part));
        mean.par_chunks_mut(each * d).zip(qkv.par_chunks(each * 3 * part)).for_each(|(mean, qkv)| {
            for (mean, row) in mean.chunks_exact_mut(d).zip(qkv.chunks_exact(3 * part)) {
                mean.fill(0.0);
                for key in row[part..2 * part].chunks_exact(words) {
                    for (mean, k) in mean.chunks_exact_mut(Q::VALUES).zip(key) {
                        mean.iter_mut().zip(k.values()).for_each(|(mean, k)| *mean += k);
                    }
                }
                mean.iter_mut().for_each(|mean| *mean *= scale);
            }
        });
    }

    /// Writes the norms, over all heads, of the values of `qkv: [T, 3 * dim]` to `norms: [T]`.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn value_norms<Q: Word>(&self, qkv: &[Q], norms: &mut [f32]) {
        let part = self.dim() / Q::VALUES;
        assert_eq!(qkv.len(), norms.len() * 3 * part, "qkv is [T, 3D], the norms are [T]");
        let norm =
            |row: &[Q]| row[2 * part..].iter().flat_map(|v| v.values()).map(|v| v * v).sum::<f32>().sqrt();
        norms.par_iter_mut().zip(qkv.par_chunks_exact(3 * part)).for_each(|(to, row)| *to = norm(row));
    }
}

/// The number of shares into which the queries of each of `heads` are split, to minimise the time on `threads`
/// threads. Each share packs the head's keys and values again, which is assumed to take a tenth of the time of all
/// its queries.
fn shares(heads: usize, threads: usize) -> usize {
    let threads = threads.max(1);
    // Time of the busiest thread, in units of 1/840 of a head's time: 1 to 8 divide 840.
    let time = |shares: &usize| (heads * shares).div_ceil(threads) * (84 + 840 / shares);
    (1..=8).min_by_key(time).expect("there is one to begin with")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference;
    use crate::word::Bf16Pair;

    /// Offsets of images of these lengths, and the total number of tokens.
    fn offsets(lengths: &[usize]) -> (Vec<usize>, usize) {
        let mut offsets = vec![0];
        lengths.iter().for_each(|n| offsets.push(offsets[offsets.len() - 1] + n));
        let total = offsets[lengths.len()];
        (offsets, total)
    }

    #[test]
    fn queries_are_cut_where_heads_do_not_go_round() {
        assert_eq!(
            [(6, 1), (6, 2), (12, 4), (3, 2), (6, 4), (6, 12)].map(|(h, t)| shares(h, t)),
            [1, 1, 1, 2, 2, 2]
        );
        assert!(shares(3, 16) >= 5, "nobody is left idle");
        assert_eq!(shares(6, 0), shares(6, 1), "this thread is always there");
    }

    /// A random batch.
    struct Case {
        attention: Attention,
        offsets: Vec<usize>,
        /// Bias of each key, `[T]`; zero if there is none.
        bias: Vec<f32>,
        biased: bool,
        threads: usize,
        /// First offset of the batch, which may be part of a larger one.
        base: usize,
    }

    impl Case {
        fn total(&self) -> usize {
            self.offsets[self.offsets.len() - 1]
        }

        fn run<Q: Word, O: Word>(
            &self,
            set: InstructionSet,
            qkv: &[Q],
            threads: usize,
        ) -> (Vec<O>, Vec<f32>) {
            let placed: Vec<usize> = self.offsets.iter().map(|offset| offset + self.base).collect();
            let mut out = vec![O::default(); self.total() * self.attention.dim() / O::VALUES];
            let mut tap = vec![f32::NAN; self.total()];
            self.attention.with(set).forward(
                qkv,
                &placed,
                &mut out,
                AttentionOptions {
                    key_bias: self.biased.then_some(&self.bias),
                    cls_attention: Some(&mut tap),
                    of_all_queries: false,
                    threads,
                    queries: None,
                },
            );
            (out, tap)
        }

        /// Checks that the first queries of each image alone have the same outputs as among all, `out`, and that the other
        /// rows are left as they are.
        fn check_first_queries<Q: Word, O: Word>(
            &self,
            set: InstructionSet,
            qkv: &[Q],
            out: &[O],
        ) -> Result<(), TestCaseError> {
            for first in [1, 3] {
                let mut alone = vec![O::default(); out.len()];
                let options = AttentionOptions {
                    key_bias: self.biased.then_some(&self.bias),
                    threads: self.threads,
                    queries: Some(first),
                    ..AttentionOptions::default()
                };
                self.attention.with(set).forward(qkv, &self.offsets, &mut alone, options);
                let mut expected = vec![O::default(); out.len()];
                let width = self.attention.dim() / O::VALUES;
                for image in self.offsets.windows(2) {
                    let rows = image[0] * width..image[1].min(image[0] + first) * width;
                    expected[rows.clone()].copy_from_slice(&out[rows]);
                }
                prop_assert_eq!(alone, expected, "the first {} queries", first);
            }
            Ok(())
        }

        /// Compares attention over words of `qkv`, and its taps, with the reference over their values.
        fn check<Q: Word, O: Word>(&self, set: InstructionSet, qkv: &[f32]) -> Result<(), TestCaseError> {
            let Attention { heads, head_dim: d, class_token, .. } = self.attention;
            let dim = heads * d;
            let mut words = vec![Q::default(); qkv.len() / Q::VALUES];
            set.convert(qkv, &mut words);
            let qkv = values_of(&words);
            let (out, tap) = self.run::<Q, O>(set, &words, self.threads);
            let (alone, _) = self.run::<Q, O>(set, &words, 1);
            prop_assert_eq!(&alone, &out, "whoever shares the queries");
            self.check_first_queries(set, &words, &out)?;
            let out = values_of(&out);
            let (mut keys, mut norms) = (vec![f32::NAN; self.total() * d], vec![f32::NAN; self.total()]);
            self.attention.mean_keys(&words, &mut keys);
            self.attention.value_norms(&words, &mut norms);
            for image in self.offsets.windows(2) {
                let n = image[1] - image[0];
                if n == 0 {
                    continue;
                }
                let rows = &qkv[image[0] * 3 * dim..image[1] * 3 * dim];
                let (expected, p) = reference::biased_attention(rows, &self.bias[image[0]..image[1]], heads);
                // Rounding to bf16 affects probabilities and operands, or the output, or both.
                let tolerance = [2e-5, 5e-3, 1e-2][Q::VALUES + O::VALUES - 2];
                let out = &out[image[0] * dim..image[1] * dim];
                prop_assert!(reference::max_difference(out, &expected) < tolerance, "{set}");
                for t in 0..n {
                    let mean: f32 = (0..heads)
                        .map(|h| {
                            if class_token {
                                p[h * n * n + t]
                            } else {
                                (0..n).map(|q| p[(h * n + q) * n + t]).sum::<f32>() / n as f32
                            }
                        })
                        .sum::<f32>()
                        / heads as f32;
                    prop_assert!((tap[image[0] + t] - mean).abs() < 1e-5);
                }
            }
            for t in 0..self.total() {
                let row = &qkv[t * 3 * dim..(t + 1) * 3 * dim];
                for c in 0..d {
                    let key = (0..heads).map(|h| row[dim + h * d + c]).sum::<f32>() / heads as f32;
                    prop_assert!((keys[t * d + c] - key).abs() < 1e-5);
                }
                let norm = row[2 * dim..].iter().map(|v| v * v).sum::<f32>().sqrt();
                prop_assert!((norms[t] - norm).abs() < 1e-4);
            }
            Ok(())
        }
    }

    fn values_of<W: Word>(words: &[W]) -> Vec<f32> {
        words.iter().flat_map(|word| word.values().into_iter().take(W::VALUES)).collect()
    }

    proptest! {
        #[test]
        fn equals_the_reference(
            lengths in proptest::collection::vec(0usize..60, 1..5), heads in 1usize..4, d in 1usize..40,
            class_token: bool, biased: bool, base in 0usize..3, threads in 0usize..9, seed: u64,
        ) {
            let attention = Attention::new(heads, d, class_token);
            let (offsets, total) = offsets(&lengths);
            let mut values = reference::values(seed);
            let qkv: Vec<f32> = (0..total * 3 * heads * d).map(|_| values() * 2.0).collect();
            let bias: Vec<f32> = (0..total).map(|_| if biased { values() * 2.0 } else { 0.0 }).collect();
            let case = Case { attention, offsets, bias, biased, threads, base };
            for set in InstructionSet::supported() {
                case.check::<f32, f32>(set, &qkv)?;
                if d.is_multiple_of(2) {
                    case.check::<Bf16Pair, f32>(set, &qkv)?;
                    case.check::<f32, Bf16Pair>(set, &qkv)?;
                    case.check::<Bf16Pair, Bf16Pair>(set, &qkv)?;
                }
            }
        }
    }

    /// With a class token, the attention that tokens receive is the same as without.
    #[test]
    fn received_attention_is_over_all_queries() {
        let (heads, d, offsets) = (2, 8, [0, 5, 12]);
        let qkv: Vec<f32> = (0..12 * 3 * heads * d).map(|i| (i as f32 * 0.61).sin()).collect();
        let tapped = |class_token: bool, of_all_queries: bool, threads: usize| {
            let (mut out, mut tap) = (vec![0.0f32; 12 * heads * d], vec![0.0; 12]);
            let cls_attention = Some(&mut tap[..]);
            let options =
                AttentionOptions { cls_attention, of_all_queries, threads, ..AttentionOptions::default() };
            Attention::new(heads, d, class_token).forward(&qkv, &offsets, &mut out, options);
            (out, tap)
        };
        let (out, received) = tapped(false, false, 1);
        assert_eq!(tapped(true, true, 1), (out.clone(), received.clone()));
        assert_eq!(tapped(true, true, 4), (out, received.clone()), "queries are not split");
        assert_ne!(tapped(true, false, 1).1, received);
        assert!((received[..5].iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }

    proptest! {
        #[test]
        fn the_gradient_equals_the_reference(
            lengths in proptest::collection::vec(0usize..40, 1..4), heads in 1usize..4, d in 1usize..40, seed: u64,
        ) {
            let attention = Attention::new(heads, d, true);
            let dim = heads * d;
            let (offsets, total) = offsets(&lengths);
            let mut values = reference::values(seed);
            let qkv: Vec<f32> = (0..total * 3 * dim).map(|_| values() * 2.0).collect();
            let gradient: Vec<f32> = (0..total * dim).map(|_| values()).collect();
            let expected: Vec<f32> = offsets
                .windows(2)
                .flat_map(|image| {
                    let qkv = &qkv[image[0] * 3 * dim..image[1] * 3 * dim];
                    let gradient = &gradient[image[0] * dim..image[1] * dim];
                    reference::attention_backward(qkv, gradient, image[1] - image[0], heads)
                })
                .collect();
            for set in InstructionSet::supported() {
                let mut into = vec![f32::NAN; total * 3 * dim];
                attention.with(set).backward(&qkv, &offsets, &gradient, &mut into);
                prop_assert!(reference::max_difference(&into, &expected) < 2e-5, "{set}");
            }
        }
    }

    /// More keys than fit into a block of scores at full height.
    #[test]
    fn long_images_are_cut_into_blocks() {
        let attention = Attention::new(1, 32, true);
        let n = 1025;
        let mut values = reference::values(5);
        let qkv: Vec<f32> = (0..n * 96).map(|_| values() * 2.0).collect();
        let (expected, _) = reference::attention(&qkv, &vec![true; n], 1);
        for set in InstructionSet::supported() {
            let mut out = vec![0.0; n * 32];
            attention.with(set).forward(&qkv, &[0, n], &mut out, AttentionOptions::default());
            assert!(reference::max_difference(&out, &expected) < 2e-5, "{set}");
        }
    }
}
