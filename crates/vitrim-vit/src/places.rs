//! Where on the patch grid tokens come from, for attention that looks at it (rotary position embeddings, a bias by
//! relative position).

use std::ops::Range;

use crate::packed::Origin;

/// The grid places of consecutive rows of a packed batch. A token keeps its place whoever leaves; what others are merged
/// into keeps its own.
#[derive(Clone, Copy, Debug)]
pub struct GridPlaces<'a> {
    /// `[t]`
    origins: &'a [Origin],
    /// Rows and columns.
    grid: [usize; 2],
}

impl<'a> GridPlaces<'a> {
    /// Of the rows that come from `origins: [t]` in a grid of `grid` rows and columns.
    pub fn new(origins: &'a [Origin], grid: [usize; 2]) -> Self {
        GridPlaces { origins, grid }
    }

    /// t.
    #[expect(clippy::len_without_is_empty, reason = "a batch has tokens")]
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Row and column of token `t`, counted from 0; `None` for a prefix token.
    pub(crate) fn get(&self, t: usize) -> Option<[usize; 2]> {
        let index = self.origins[t].grid()?;
        Some([index / self.grid[1], index % self.grid[1]])
    }

    /// Of each token.
    pub fn iter(&self) -> impl Iterator<Item = Option<[usize; 2]>> {
        (0..self.len()).map(|t| self.get(t))
    }

    /// Those of `rows` alone.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Self {
        GridPlaces { origins: &self.origins[rows], grid: self.grid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::{PackedBatch, Reduction};
    use crate::spec::VitSpec;

    /// After tokens were dropped, then merged, each has the place that it came from.
    #[test]
    fn survivors_keep_their_places() {
        // A grid of 2 x 3.
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 48]);
        spec.dim = 1;
        let mut packed = PackedBatch::dense(&spec, vec![0.0; 14], 2);
        let places = |packed: &PackedBatch| -> Vec<_> {
            GridPlaces::new(&packed.origins, spec.grid()).iter().collect()
        };
        let image =
            [None, Some([0, 0]), Some([0, 1]), Some([0, 2]), Some([1, 0]), Some([1, 1]), Some([1, 2])];
        assert_eq!(places(&packed), [image, image].concat());

        let dropped = [1, 6, 8, 9, 10];
        let keep: Vec<bool> = (0..14).map(|row| !dropped.contains(&row)).collect();
        packed.reduce(&Reduction::keep(&packed.offsets, &keep)).unwrap();
        let first = [None, Some([0, 1]), Some([0, 2]), Some([1, 0]), Some([1, 1])];
        let second = [None, Some([1, 0]), Some([1, 1]), Some([1, 2])];
        assert_eq!(places(&packed), [first.as_slice(), &second].concat());

        // Row 4 joins row 2, row 6 joins row 8.
        let into = [0, 1, 2, 3, 2, 5, 8, 7, 8];
        packed.reduce(&Reduction::join(&packed.offsets, &into, &packed.sizes)).unwrap();
        let left = [None, Some([0, 1]), Some([0, 2]), Some([1, 0]), None, Some([1, 1]), Some([1, 2])];
        assert_eq!(places(&packed), left);
        let rows = GridPlaces::new(&packed.origins, spec.grid()).rows(2..5);
        assert_eq!(rows.iter().collect::<Vec<_>>(), left[2..5]);
    }
}
