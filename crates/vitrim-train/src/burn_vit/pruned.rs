//! A pruned forward pass with gradients with respect to the weights. Tokens are removed, so that the pass costs as
//! little as in inference.

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use vitrim_prune::{ImageKey, Pruner};
use vitrim_vit::{HostState, Reduction, Site, Taps};

use super::backbone::{download, no_padding};
use super::{BurnVit, PrunedOutput, TokenLayout, pixel_tensor};
use crate::error::Result;

impl BurnVit {
    /// Answers for the images `keys: [B]`, `pixels: [B, 3, H, W]`, reduced by `pruner` at its sites. Gradients flow
    /// through tokens that stay or merge, not through the decisions.
    ///
    /// # Errors
    /// Errors of the pruner.
    pub fn forward_pruned(
        &self,
        pixels: &[f32],
        keys: &[ImageKey],
        pruner: &dyn Pruner,
    ) -> Result<PrunedOutput> {
        let (spec, device, batch) = (&self.spec, self.device(), keys.len());
        let mut x = self.embed(pixel_tensor(pixels, batch, spec, &device));
        let mut state = HostState::embedded(
            spec,
            vec![0.0; batch * spec.num_tokens() * spec.dim],
            vec![spec.grid(); batch],
        );
        let mut layout = TokenLayout::dense(spec, batch);
        for (stage, (site, taps)) in pruner.sites(spec).into_iter().enumerate() {
            let (y, tapped) =
                self.run(x, &mut state.site, site, &layout, || no_padding(&state.packed), taps)?;
            state.packed.tokens = download(y.clone())?;
            state.taps = tapped.unwrap_or_default();
            let reduction = pruner.decide(stage, &state.view(spec), keys)?;
            x = reduced(y, &reduction, &device);
            state.reduce(&reduction)?;
            layout = TokenLayout::packed(spec, &state.packed, &device);
        }
        let (end, queries) = (Site::end(spec), || no_padding(&state.packed));
        let (x, _) = self.run(x, &mut state.site, end, &layout, queries, Taps::NONE)?;
        let pooled = self.pool(x, &layout);
        let features = pooled.features();
        let answer = if self.head.is_some() { self.logits(pooled) } else { self.embedding(&pooled) };
        Ok(PrunedOutput { answer, features })
    }
}

/// The output rows of `reduction` over `x: [T, D]`.
fn reduced(x: Tensor<2>, reduction: &Reduction, device: &Device) -> Tensor<2> {
    let indices = |values: Vec<usize>| {
        let values: Vec<i32> = values.into_iter().map(|value| value as i32).collect();
        let count = values.len();
        Tensor::<1, Int>::from_data(TensorData::new(values, [count]), device)
    };
    if let Some(rows) = reduction.kept_rows() {
        return x.select(0, indices(rows.to_vec()));
    }
    let terms = reduction.terms();
    let weights: Vec<f32> = terms.iter().map(|(_, _, weight)| *weight).collect();
    let weights = Tensor::<2>::from_data(TensorData::new(weights, [terms.len(), 1]), device);
    let sources = x.clone().select(0, indices(terms.iter().map(|(_, from, _)| *from).collect()));
    let outputs = terms.last().map_or(0, |(to, _, _)| to + 1);
    Tensor::zeros([outputs, x.dims()[1]], device).select_assign(
        0,
        indices(terms.iter().map(|(to, _, _)| *to).collect()),
        sources * weights,
        IndexingUpdateOp::Add,
    )
}
