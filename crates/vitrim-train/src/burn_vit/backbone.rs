//! The Burn ViT as a [`Backbone`], the second implementation: for rollouts on the device that computes gradients.
//!
//! The packed batch is kept on the host, where pruners read it, and is on the device while blocks run.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use vitrim_vit::{
    At, AttentionTaps, Backbone, HostState, Output, PackedBatch, PixelBatch, Reduction, Result, Site, Taps,
    View, VitError, VitSpec, Want,
};

use super::block::Attended;
use super::{BurnVit, TokenLayout, pixel_tensor};

impl BurnVit {
    /// The device of the weights, without gradients.
    fn host_device(&self) -> Device {
        self.device().without_autodiff()
    }

    fn upload(&self, packed: &PackedBatch, device: &Device) -> (Tensor<2>, TokenLayout) {
        let shape = [packed.total(), self.spec.dim];
        let tokens = Tensor::from_data(TensorData::new(packed.tokens.clone(), shape), device);
        (tokens, TokenLayout::packed(&self.spec, packed, device))
    }

    /// Runs `x: [T, D]` from `site` to `to`. Returns the requested `taps` of the last attention on the way, if one
    /// ran. `queries() : [B, n]` says which positions of each image of `layout` are tokens of the image.
    pub(super) fn run(
        &self,
        mut x: Tensor<2>,
        site: &mut Site,
        to: Site,
        layout: &TokenLayout,
        queries: impl Fn() -> Vec<bool>,
        taps: Taps,
    ) -> Result<(Tensor<2>, Option<AttentionTaps>)> {
        site.check_forward(to, &self.spec)?;
        let mut tapped = None;
        while *site < to {
            let l = site.block;
            match site.at {
                At::BlockInput => {
                    let (y, attended) = self.blocks[l].attend(x.clone(), layout);
                    // Taps are taken from the last attention before the target.
                    let taps = if to <= Site::input_of(l + 1) { taps } else { Taps::NONE };
                    let inputs = taps.inputs.then(|| download(x)).transpose()?;
                    tapped = Some(AttentionTaps { inputs, ..self.tap(attended, layout, &queries, taps)? });
                    x = y;
                    *site = Site::after_attention_of(l);
                }
                At::AfterAttention => {
                    x = self.blocks[l].transform(x);
                    *site = Site::input_of(l + 1);
                }
            }
        }
        Ok((x, tapped))
    }

    /// The requested `taps` of an attention over the T tokens of `layout`, but not its inputs. `queries() : [B, n]` says which positions
    /// are tokens of the image; it is used for the mean over queries.
    fn tap(
        &self,
        attended: Attended,
        layout: &TokenLayout,
        queries: impl Fn() -> Vec<bool>,
        taps: Taps,
    ) -> Result<AttentionTaps> {
        let Attended { keys, values, probabilities } = attended;
        let (t, heads, d) = (keys.dims()[0], self.spec.attention.heads, self.spec.head_dim());
        let keys = taps.keys.then(|| download(keys.reshape([t, heads, d]).mean_dim(1)));
        let value_norm = taps.value_norm.then(|| download(values.square().sum_dim(1).sqrt()));
        let mean = || probabilities.clone().mean_dim(1).squeeze_dim::<3>(1); // [B, n, n]
        let received_attention = taps.received_attention.then(|| {
            // Padding shows other rows as queries; the mean is over the image's own tokens.
            let row = mean_over_queries(mean(), &queries());
            download(layout.gather(row.swap_dims(1, 2)))
        });
        let cls_attention = taps.cls_attention.then(|| {
            let row = if self.spec.embedding.class_token {
                mean().narrow(1, 0, 1)
            } else {
                mean_over_queries(mean(), &queries())
            };
            download(layout.gather(row.swap_dims(1, 2)))
        });
        Ok(AttentionTaps {
            cls_attention: cls_attention.transpose()?,
            received_attention: received_attention.transpose()?,
            keys: keys.transpose()?,
            value_norm: value_norm.transpose()?,
            inputs: None,
        })
    }
}

/// The mean of `attention: [B, n, n]` over the queries of each image for which `queries: [B, n]` is true,
/// `[B, 1, n]`.
fn mean_over_queries(attention: Tensor<3>, queries: &[bool]) -> Tensor<3> {
    let [batch, n, _] = attention.dims();
    let mut weights = vec![0.0f32; batch * n];
    for (weights, own) in weights.chunks_exact_mut(n).zip(queries.chunks_exact(n)) {
        let count = own.iter().filter(|own| **own).count() as f32;
        weights.iter_mut().zip(own).filter(|(_, own)| **own).for_each(|(weight, _)| *weight = 1.0 / count);
    }
    let weights = Tensor::from_data(TensorData::new(weights, [batch, n, 1]), &attention.device());
    (attention * weights).sum_dim(1)
}

/// Which positions of a packed batch's images are not padding, `[B, n]` with n the length of the longest image.
pub(super) fn no_padding(packed: &PackedBatch) -> Vec<bool> {
    let lengths = || packed.offsets.windows(2).map(|image| image[1] - image[0]);
    let longest = lengths().max().unwrap_or(0);
    lengths().flat_map(|length| (0..longest).map(move |i| i < length)).collect()
}

pub(super) fn download<const R: usize>(tensor: Tensor<R>) -> Result<Vec<f32>> {
    tensor
        .without_autodiff()
        .try_into_vec_as()
        .map_err(|e| VitError::Input(format!("cannot read a tensor back from the device: {e}")))
}

impl Backbone for BurnVit {
    type State = HostState;

    fn spec(&self) -> &VitSpec {
        &self.spec
    }

    fn embed(&self, pixels: PixelBatch<'_>) -> Result<HostState> {
        pixels.check(&self.spec)?;
        let tensor = pixel_tensor(pixels.data, pixels.batch, &self.spec, &self.host_device());
        let tokens = download(self.valid().embed(tensor))?;
        Ok(HostState::embedded(&self.spec, tokens, pixels.grids(&self.spec)))
    }

    fn advance(&self, state: &mut HostState, to: Site, taps: Taps) -> Result<()> {
        state.site.check_forward(to, &self.spec)?;
        if state.site == to {
            return Ok(());
        }
        let (x, layout) = self.upload(&state.packed, &self.host_device());
        let (packed, site) = (&state.packed, &mut state.site);
        let (x, tapped) = self.valid().run(x, site, to, &layout, || no_padding(packed), taps)?;
        if let Some(tapped) = tapped {
            state.taps = tapped;
        }
        state.packed.tokens = download(x)?;
        Ok(())
    }

    fn view<'s>(&self, state: &'s HostState) -> Result<View<'s>> {
        Ok(state.view(&self.spec))
    }

    fn reduce(&self, state: &mut HostState, reduction: &Reduction) -> Result<()> {
        state.reduce(reduction)
    }

    fn finish(&self, state: &HostState, want: Want) -> Result<Output> {
        want.check(&self.spec, state.site, &state.packed.offsets)?;
        let plain = self.valid();
        let (x, layout) = self.upload(&state.packed, &self.host_device());
        let output = match want {
            Want::Tokens => plain.final_tokens(x),
            Want::Logits => plain.logits(plain.pool(x, &layout)),
            Want::Pooled => plain.pool(x, &layout).features(),
            Want::Embedding => plain.embedding(&plain.pool(x, &layout)),
        };
        let width = output.dims()[1];
        Ok(Output { values: download(output)?, width })
    }
}
