//! The places of tokens on the patch grid, for attention that depends on them (rotary position embeddings, relative
//! position bias).

use std::ops::Range;

use crate::packed::Origin;

/// The grid places of consecutive rows of a packed batch. A token keeps its place when other tokens leave or merge
/// into it.
#[derive(Clone, Copy, Debug)]
pub struct GridPlaces<'a> {
    /// Origin of each row, `[t]`.
    origins: &'a [Origin],
    /// Rows and columns of the grid.
    grid: [usize; 2],
}

impl<'a> GridPlaces<'a> {
    /// The places of rows with `origins: [t]` on a grid of `grid` rows and columns.
    pub fn new(origins: &'a [Origin], grid: [usize; 2]) -> Self {
        GridPlaces { origins, grid }
    }

    /// t, the number of rows.
    #[expect(clippy::len_without_is_empty, reason = "a batch has tokens")]
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Rows and columns of the grid.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// Row and column of token `t`, counted from 0; `None` for a prefix token.
    pub(crate) fn get(&self, t: usize) -> Option<[usize; 2]> {
        let index = self.origins[t].grid()?;
        Some([index / self.grid[1], index % self.grid[1]])
    }

    /// The place of each token.
    pub fn iter(&self) -> impl Iterator<Item = Option<[usize; 2]>> {
        (0..self.len()).map(|t| self.get(t))
    }

    /// The places of `rows` alone.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Self {
        GridPlaces { origins: &self.origins[rows], grid: self.grid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::{PackedBatch, Reduction};
    use crate::spec::VitSpec;

    /// After a drop and a merge, each token has the place of its origin.
    #[test]
    fn survivors_keep_their_places() {
        // A grid of 2 x 3.
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 48]);
        spec.dim = 1;
        let mut packed = PackedBatch::dense(&spec, vec![0.0; 14], vec![spec.grid(); 2]);
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

        // Row 4 merges into row 2, row 6 into row 8.
        let into = [0, 1, 2, 3, 2, 5, 8, 7, 8];
        packed.reduce(&Reduction::join(&packed.offsets, &into, &packed.sizes)).unwrap();
        let left = [None, Some([0, 1]), Some([0, 2]), Some([1, 0]), None, Some([1, 1]), Some([1, 2])];
        assert_eq!(places(&packed), left);
        let rows = GridPlaces::new(&packed.origins, spec.grid()).rows(2..5);
        assert_eq!(rows.iter().collect::<Vec<_>>(), left[2..5]);
    }
}
