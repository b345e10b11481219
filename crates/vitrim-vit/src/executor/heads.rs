//! Operations on queries and keys between the QKV layer and attention.

use std::sync::Arc;

use vitrim_kernels::{ChannelPairs, InstructionSet, LayerNorm};

use crate::error::Result;
use crate::places::GridPlaces;
use crate::spec::VitSpec;

/// Cosines and sines of the rotary position embeddings of each place of the patch grid.
pub(super) struct Rotations {
    /// `[N0, head_dim / 2]` each.
    cosines: Vec<f32>,
    sines: Vec<f32>,
    pairs: ChannelPairs,
    /// Rows and columns of the grid.
    grid: [usize; 2],
    head_dim: usize,
}

impl Rotations {
    /// The rotations of `spec`; `None` if it has none.
    pub fn of(spec: &VitSpec) -> Option<Self> {
        let (rope, grid, head_dim) = (spec.attention.rope?, spec.grid(), spec.head_dim());
        let places = (0..grid[0]).flat_map(|row| (0..grid[1]).map(move |column| [row, column]));
        let angles: Vec<f32> = places.flat_map(|place| rope.angles(place, grid, head_dim)).collect();
        Some(Rotations {
            cosines: angles.iter().map(|angle| angle.cos()).collect(),
            sines: angles.iter().map(|angle| angle.sin()).collect(),
            pairs: rope.pairs,
            grid,
            head_dim,
        })
    }

    /// Rotates the heads of a token, `[n, head_dim]`, by its place; prefix tokens stay.
    fn apply(&self, heads: &mut [f32], place: Option<[usize; 2]>) {
        let Some([row, column]) = place else { return };
        let half = self.head_dim / 2;
        let angles = (row * self.grid[1] + column) * half..(row * self.grid[1] + column + 1) * half;
        let (cosines, sines) = (&self.cosines[angles.clone()], &self.sines[angles]);
        InstructionSet::current().rotate(heads, cosines, sines, self.pairs);
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        size_of_val(self.cosines.as_slice()) + size_of_val(self.sines.as_slice())
    }
}

/// Operations on each head's queries and keys before attention: norms, then rotary position embeddings.
pub(super) struct HeadSteps {
    /// Norm of the queries, and norm of the keys.
    norms: Option<[LayerNorm; 2]>,
    rotations: Option<Arc<Rotations>>,
    dim: usize,
    head_dim: usize,
    /// A change by grid position, for tests.
    #[cfg(test)]
    pub by_place: Option<ByPlace>,
}

/// Changes the queries and keys of a token, `[2D]`, by the token's row and column.
#[cfg(test)]
pub(super) type ByPlace = fn(&mut [f32], Option<[usize; 2]>);

impl HeadSteps {
    /// The operations of a block of `spec`, whose norms `norm` reads by name; `None` if there are none.
    pub fn of(
        spec: &VitSpec,
        rotations: Option<Arc<Rotations>>,
        norm: impl Fn(&str) -> Result<LayerNorm>,
    ) -> Result<Option<Self>> {
        if !spec.attention.qk_norm && rotations.is_none() {
            return Ok(None);
        }
        let norms = || Ok([norm("attn.q_norm")?, norm("attn.k_norm")?]);
        Ok(Some(HeadSteps {
            norms: spec.attention.qk_norm.then(norms).transpose()?,
            rotations,
            dim: spec.dim,
            head_dim: spec.head_dim(),
            #[cfg(test)]
            by_place: None,
        }))
    }

    /// Changes the queries and keys of `qkv: [rows, 3D]`, with `raw` as working space; `places: [rows]` are the
    /// places of the tokens.
    pub fn apply(&self, qkv: &mut [f32], raw: &mut Vec<f32>, places: GridPlaces<'_>) {
        debug_assert_eq!(qkv.len(), places.len() * 3 * self.dim, "a place for each row");
        for row in qkv.chunks_exact_mut(3 * self.dim) {
            for (norm, heads) in self.norms.iter().flatten().zip(row.chunks_exact_mut(self.dim)) {
                raw.clear();
                raw.extend_from_slice(heads);
                norm.forward(raw, heads, self.head_dim);
            }
        }
        if let Some(rotations) = &self.rotations {
            for (row, place) in qkv.chunks_exact_mut(3 * self.dim).zip(places.iter()) {
                rotations.apply(&mut row[..2 * self.dim], place);
            }
        }
        #[cfg(test)]
        if let Some(change) = self.by_place {
            for (row, place) in qkv.chunks_exact_mut(3 * self.dim).zip(places.iter()) {
                change(&mut row[..2 * self.dim], place);
            }
        }
    }

    /// Bytes of the weights, without the table of rotations, which all blocks share.
    pub fn bytes(&self) -> usize {
        self.norms.iter().flatten().map(LayerNorm::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::backbone::{Backbone, PixelBatch, Site, Taps, Want};
    use crate::executor::CpuBackbone;
    use crate::packed::Reduction;
    use crate::spec::VitSpec;
    use crate::tensors::Tensors;

    /// Rotates pairs of channels by an angle that grows with row and column, as rotary embeddings do.
    fn rotate(heads: &mut [f32], place: Option<[usize; 2]>) {
        let Some([row, column]) = place else { return };
        for (i, pair) in heads.chunks_exact_mut(2).enumerate() {
            let (sine, cosine) = ([row, column][i % 2] as f32).sin_cos();
            (pair[0], pair[1]) = (pair[0] * cosine - pair[1] * sine, pair[1] * cosine + pair[0] * sine);
        }
    }

    fn pixels(spec: &VitSpec, batch: usize) -> Vec<f32> {
        let [height, width] = spec.img_size;
        (0..batch * 3 * height * width).map(|i| (i as f32 * 0.37).sin()).collect()
    }

    /// Attention that rotates queries and keys by the tokens' places uses the survivors' own places: the logits are
    /// the same whether tokens were removed or only masked.
    #[test]
    fn attention_sees_survivors_at_their_own_places() {
        // A grid of 3 x 4.
        let mut spec = VitSpec::from_timm_name("vit_tiny_patch16_224").unwrap().with_img_size([48, 64]);
        (spec.dim, spec.depth, spec.num_classes) = (24, 3, 5);
        (spec.mlp.hidden, spec.attention.qk_norm) = (32, true);
        let Tensors::Owned(mut tensors) = Tensors::random(&spec, 3) else { panic!("random ones are owned") };
        // Large enough for attention to differ between tokens.
        for (name, (_, values)) in tensors.iter_mut().filter(|(name, _)| name.ends_with("weight")) {
            values.iter_mut().filter(|_| !name.contains("norm")).for_each(|v| *v *= 10.0);
        }
        let mut model = CpuBackbone::new(&spec, &Tensors::Owned(tensors)).unwrap();
        let batch = 3;
        let pixels = pixels(&spec, batch);
        let leaves = |b: usize, patch: usize| patch % (b + 2) == 1;
        let mut logits = |rotary: bool, masks: bool| {
            let weights = Arc::get_mut(&mut model.weights).expect("the only session");
            weights.change_heads_by_place(rotary.then_some(rotate));
            let mut state = model.embed(PixelBatch::new(&pixels, batch)).unwrap();
            model.advance(&mut state, Site::input_of(1), Taps::NONE).unwrap();
            let view = model.view(&state).unwrap();
            let mut keep = vec![true; view.total()];
            for b in 0..batch {
                let rows = view.patch_rows(b);
                rows.enumerate().for_each(|(patch, row)| keep[row] = !leaves(b, patch));
            }
            if masks {
                // A key of size 0 counts 0 times.
                state.packed.proportional = true;
                let sizes = state.packed.sizes.iter_mut().zip(&keep);
                sizes.filter(|(_, keep)| !**keep).for_each(|(size, _)| *size = 0.0);
            } else {
                let reduction = Reduction::keep(&state.packed.offsets, &keep);
                model.reduce(&mut state, &reduction).unwrap();
            }
            model.advance(&mut state, Site::end(&spec), Taps::NONE).unwrap();
            model.finish(&state, Want::Logits).unwrap().values
        };
        let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let (removed, masked, still) = (logits(true, false), logits(true, true), logits(false, false));
        assert!(far(&removed, &masked) < 1e-5, "{removed:?} {masked:?}");
        assert!(far(&removed, &still) > 1e-3, "places count: {removed:?} {still:?}");
    }
}
