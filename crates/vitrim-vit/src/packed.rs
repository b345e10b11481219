//! The packed batch: all images' survivors back to back, without padding, and how it shrinks.

use rayon::prelude::*;
use vitrim_kernels::ROW_CHUNK;

use crate::error::{Result, VitError};
use crate::spec::VitSpec;

/// Origin of a token: a position of the patch grid, or a prefix token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(u32);

impl Origin {
    /// A prefix token: class, distillation or register.
    pub const PREFIX: Origin = Origin(u32::MAX);

    /// The patch token of grid position `index` (row-major, 0..N0).
    pub fn patch(index: usize) -> Self {
        Origin(u32::try_from(index).expect("grids have fewer than 2^32 positions"))
    }

    /// The grid position, or `None` for a prefix token.
    pub fn grid(self) -> Option<usize> {
        (self != Origin::PREFIX).then_some(self.0 as usize)
    }
}

/// T tokens of B images, back to back; each image starts with its prefix tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedBatch {
    /// `[T, D]` row-major.
    pub tokens: Vec<f32>,
    /// Index of the first token of each image, `[B + 1]`.
    pub offsets: Vec<usize>,
    /// Rows and columns of the patches of each image before any pruning, `[B]`.
    pub grids: Vec<[usize; 2]>,
    /// Origin of each token, `[T]`.
    pub origins: Vec<Origin>,
    /// Size of each token, `[T]`: the number of patches that it stands for; 1 unless merged.
    pub sizes: Vec<f32>,
    /// Whether attention counts a key as often as its size says (ToMe's proportional attention).
    pub proportional: bool,
    dim: usize,
}

impl PackedBatch {
    /// Unpruned images of `grids: [B]` rows and columns of patches over `tokens: [T, D]`.
    ///
    /// # Panics
    /// If there are more or fewer tokens.
    pub fn dense(spec: &VitSpec, tokens: Vec<f32>, grids: Vec<[usize; 2]>) -> Self {
        let prefix = spec.num_prefix_tokens();
        let mut offsets = Vec::with_capacity(grids.len() + 1);
        offsets.push(0);
        let mut origins = Vec::with_capacity(tokens.len() / spec.dim);
        for [rows, columns] in &grids {
            origins.resize(origins.len() + prefix, Origin::PREFIX);
            origins.extend((0..rows * columns).map(Origin::patch));
            offsets.push(origins.len());
        }
        assert_eq!(tokens.len(), origins.len() * spec.dim, "tokens are [T, D]");
        let sizes = vec![1.0; origins.len()];
        PackedBatch { tokens, offsets, grids, origins, sizes, proportional: false, dim: spec.dim }
    }

    /// B, the number of images.
    pub fn batch(&self) -> usize {
        self.offsets.len() - 1
    }

    /// T, the number of tokens.
    pub fn total(&self) -> usize {
        self.origins.len()
    }

    /// The bias of each key's scores, `[T]`: the logarithm of its size. `None` if attention ignores sizes.
    pub fn key_bias(&self) -> Option<Vec<f32>> {
        self.proportional.then(|| self.sizes.iter().map(|size| size.ln()).collect())
    }

    /// Applies `reduction`, in place if it merges nothing.
    ///
    /// # Errors
    /// [`VitError::Reduction`] if it was made for another batch or removes a prefix token.
    pub fn reduce(&mut self, reduction: &Reduction) -> Result<()> {
        reduction.check(&self.offsets, &self.origins)?;
        let dim = self.dim;
        match &reduction.sources {
            Sources::Keep(rows) => {
                for (to, &from) in rows.iter().enumerate() {
                    if to != from {
                        self.tokens.copy_within(from * dim..(from + 1) * dim, to * dim);
                        self.origins[to] = self.origins[from];
                        self.sizes[to] = self.sizes[from];
                    }
                }
                self.tokens.truncate(rows.len() * dim);
                self.origins.truncate(rows.len());
                self.sizes.truncate(rows.len());
            }
            Sources::Merge { starts, rows, weights } => {
                let total = starts.len() - 1;
                let mut tokens = vec![0.0; total * dim];
                let sources = |to: usize| starts[to]..starts[to + 1];
                tokens.par_chunks_mut(ROW_CHUNK * dim).enumerate().for_each(|(chunk, tokens)| {
                    for (i, out) in tokens.chunks_exact_mut(dim).enumerate() {
                        for i in sources(chunk * ROW_CHUNK + i) {
                            let source = &self.tokens[rows[i] * dim..(rows[i] + 1) * dim];
                            out.iter_mut().zip(source).for_each(|(o, s)| *o += weights[i] * s);
                        }
                    }
                });
                let origins = (0..total).map(|to| self.origins[rows[starts[to]]]).collect();
                let size = |to| rows[sources(to)].iter().map(|&row| self.sizes[row]).sum();
                let sizes = (0..total).map(size).collect();
                self.tokens = tokens;
                self.origins = origins;
                self.sizes = sizes;
            }
        }
        if let Some(sizes) = &reduction.sizes {
            self.sizes.clone_from(sizes);
        }
        self.offsets.clone_from(&reduction.offsets);
        self.proportional |= reduction.proportional;
        Ok(())
    }
}

/// The rows of the next packed batch. Output row i is a weighted sum of source rows of its image; a single source of
/// weight 1 is kept unchanged. Sizes add up unless others are given, and the first source gives the origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduction {
    before: Vec<usize>,
    offsets: Vec<usize>,
    sources: Sources,
    proportional: bool,
    /// Size of each output row, if it is not the sum of its sources', `[T]`.
    sizes: Option<Vec<f32>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Sources {
    /// Source row of each output row, strictly increasing.
    Keep(Vec<usize>),
    /// Output row i sums `weights[j] * rows[j]` for j in `starts[i]..starts[i + 1]`.
    Merge { starts: Vec<usize>, rows: Vec<usize>, weights: Vec<f32> },
}

impl Reduction {
    /// Keeps the rows for which `keep: [T]` is true, in their order.
    ///
    /// # Panics
    /// If the length of `keep` is not that of the batch that `offsets: [B + 1]` describes.
    pub fn keep(offsets: &[usize], keep: &[bool]) -> Self {
        assert_eq!(keep.len(), offsets[offsets.len() - 1], "one flag a token");
        let mut after = Vec::with_capacity(offsets.len());
        let mut rows = Vec::with_capacity(keep.len());
        after.push(0);
        for image in offsets.windows(2) {
            rows.extend((image[0]..image[1]).filter(|&row| keep[row]));
            after.push(rows.len());
        }
        Reduction {
            before: offsets.to_vec(),
            offsets: after,
            sources: Sources::Keep(rows),
            proportional: false,
            sizes: None,
        }
    }

    /// Keeps the first `prefix` rows of each image of `offsets: [B + 1]`: its prefix tokens.
    pub fn prefix(offsets: &[usize], prefix: usize) -> Self {
        let lengths = offsets.windows(2).map(|image| image[1] - image[0]);
        let keep: Vec<bool> = lengths.flat_map(|n| (0..n).map(|row| row < prefix)).collect();
        Reduction::keep(offsets, &keep)
    }

    /// Merges rows: for each image of `offsets: [B + 1]`, its output rows, each a list of
    /// (source row, weight) with at least one entry.
    ///
    /// # Panics
    /// If the length of `images` is not B.
    pub fn merge(offsets: &[usize], images: &[Vec<Vec<(usize, f32)>>]) -> Self {
        assert_eq!(images.len() + 1, offsets.len(), "one list an image");
        let (mut starts, mut rows, mut weights) = (vec![0], Vec::new(), Vec::new());
        let mut after = vec![0];
        for image in images {
            for output in image {
                for &(row, weight) in output {
                    rows.push(row);
                    weights.push(weight);
                }
                starts.push(rows.len());
            }
            after.push(starts.len() - 1);
        }
        Reduction {
            before: offsets.to_vec(),
            offsets: after,
            sources: Sources::Merge { starts, rows, weights },
            proportional: false,
            sizes: None,
        }
    }

    /// Row `t` merges into row `into[t]` of its image, which stays (`into[into[t]] == into[t]`); a row with
    /// `into[t] == t` stays. Means are weighted by `sizes`. `into: [T]`, `sizes: [T]`.
    ///
    /// # Panics
    /// If the length of `into` or `sizes` is not that of the batch that `offsets: [B + 1]` describes, or a row merges
    /// into one that leaves.
    pub fn join(offsets: &[usize], into: &[usize], sizes: &[f32]) -> Self {
        let total = offsets[offsets.len() - 1];
        assert!(into.len() == total && sizes.len() == total, "one target and one size a token");
        let (mut sources, mut mass) = (vec![0; total], vec![0.0; total]);
        for (&target, size) in into.iter().zip(sizes) {
            assert!(into[target] == target, "a row joins one that stays");
            sources[target] += 1;
            mass[target] += size;
        }
        // Every row is the source of one output; the row that stays comes first, because it gives the origin.
        let (mut starts, mut after) = (Vec::with_capacity(total + 1), vec![0]);
        let (mut rows, mut weights) = (vec![0; total], vec![0.0; total]);
        let (mut next, mut end) = (vec![0; total], 0);
        for image in offsets.windows(2) {
            for row in (image[0]..image[1]).filter(|&row| into[row] == row) {
                starts.push(end);
                (rows[end], weights[end]) = (row, sizes[row] / mass[row]);
                next[row] = end + 1;
                end += sources[row];
            }
            after.push(starts.len());
        }
        for (row, &target) in into.iter().enumerate().filter(|(row, target)| row != *target) {
            (rows[next[target]], weights[next[target]]) = (row, sizes[row] / mass[target]);
            next[target] += 1;
        }
        starts.push(end);
        Reduction {
            before: offsets.to_vec(),
            offsets: after,
            sources: Sources::Merge { starts, rows, weights },
            proportional: false,
            sizes: None,
        }
    }

    /// From here on, attention counts a key as often as its size says (ToMe's proportional attention).
    pub fn with_proportional_attention(self) -> Self {
        Reduction { proportional: true, ..self }
    }

    /// The output rows have these positive `sizes: [T]`, not the sums of their sources'.
    ///
    /// # Panics
    /// If the length of `sizes` is not the number of output rows.
    pub fn with_sizes(self, sizes: Vec<f32>) -> Self {
        assert_eq!(sizes.len(), self.offsets[self.offsets.len() - 1], "one size a row");
        Reduction { sizes: Some(sizes), ..self }
    }

    /// Index of the first output row of each image, `[B + 1]`.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// All terms of the weighted sums: output row, source row, weight; sorted by output row.
    pub fn terms(&self) -> Vec<(usize, usize, f32)> {
        match &self.sources {
            Sources::Keep(rows) => rows.iter().enumerate().map(|(to, &from)| (to, from, 1.0)).collect(),
            Sources::Merge { starts, rows, weights } => starts
                .windows(2)
                .enumerate()
                .flat_map(|(to, range)| (range[0]..range[1]).map(move |i| (to, rows[i], weights[i])))
                .collect(),
        }
    }

    /// The source rows of a reduction that only drops, one per output row; `None` if it merges.
    pub fn kept_rows(&self) -> Option<&[usize]> {
        match &self.sources {
            Sources::Keep(rows) => Some(rows),
            Sources::Merge { .. } => None,
        }
    }

    fn check(&self, offsets: &[usize], origins: &[Origin]) -> Result<()> {
        if self.before != offsets {
            return Err(VitError::Reduction(format!(
                "made for {} tokens in {} images, applied to {} in {}",
                self.before[self.before.len() - 1],
                self.before.len() - 1,
                origins.len(),
                offsets.len() - 1
            )));
        }
        for (b, (before, after)) in offsets.windows(2).zip(self.offsets.windows(2)).enumerate() {
            let prefix = (before[0]..before[1]).take_while(|&r| origins[r] == Origin::PREFIX).count();
            for i in 0..prefix {
                let row = after[0] + i;
                let untouched = row < after[1]
                    && match &self.sources {
                        Sources::Keep(rows) => rows[row] == before[0] + i,
                        Sources::Merge { starts, rows, weights } => {
                            starts[row + 1] == starts[row] + 1
                                && rows[starts[row]] == before[0] + i
                                && weights[starts[row]] == 1.0
                        }
                    };
                if !untouched {
                    return Err(VitError::Reduction(format!("prefix token {i} of image {b} must stay")));
                }
            }
            if let Sources::Merge { starts, rows, .. } = &self.sources {
                for output in after[0]..after[1] {
                    let sources = &rows[starts[output]..starts[output + 1]];
                    if sources.is_empty() || sources.iter().any(|r| !(before[0]..before[1]).contains(r)) {
                        return Err(VitError::Reduction(format!(
                            "output row {output} of image {b} must have sources, all of that image"
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}
