//! Pruning with a gradient through the decisions.
//!
//! No token is removed: a token that has left has weight 0 in attention and in means, and its content is merged into
//! its partner. If all gates are 0 or 1, the result equals that of removal.

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use vitrim_vit::{AttentionTaps, HostState, PackedBatch, Reduction, Result, Site, Taps, View, VitSpec};

use super::backbone::download;
use super::{BurnVit, TokenLayout, pixel_tensor};

/// B whole images at a site of the network, some of whose tokens have left.
pub struct Gated<'a> {
    vit: &'a BurnVit,
    batch: usize,
    site: Site,
    /// Residual stream, `[B * N, D]`.
    x: Tensor<2>,
    /// Size of each token, 0 if it has left, `[B * N]`; `None` while all sizes are 1.
    sizes: Option<Tensor<1>>,
    alive: Vec<bool>,
    /// Taps of all rows.
    taps: AttentionTaps,
}

/// The tokens that are left, as a pruner sees them.
pub struct Survivors {
    state: HostState,
    /// Row (of B * N) of each token of the view, `[T]`.
    pub rows: Vec<usize>,
}

impl<'a> Gated<'a> {
    /// `batch` images, `pixels: [B, 3, H, W]`, embedded by `vit`.
    pub fn open(vit: &'a BurnVit, pixels: &[f32], batch: usize) -> Self {
        let pixels = pixel_tensor(pixels, batch, &vit.spec, &vit.device());
        Gated {
            vit,
            batch,
            site: Site::input_of(0),
            x: vit.embed(pixels),
            sizes: None,
            alive: vec![true; batch * vit.spec.num_tokens()],
            taps: AttentionTaps::default(),
        }
    }

    /// The geometry.
    pub fn spec(&self) -> &VitSpec {
        &self.vit.spec
    }

    /// The device of the tokens.
    pub fn device(&self) -> Device {
        self.x.device()
    }

    /// Runs the network up to `to`; the next survivors carry `taps`.
    ///
    /// # Errors
    /// If `to` lies behind, or the taps cannot be read back from the device.
    pub fn advance(&mut self, to: Site, taps: Taps) -> Result<()> {
        let (x, layout) = (self.x.clone(), self.layout());
        let (x, tapped) = self.vit.run(x, &mut self.site, to, &layout, || self.alive.clone(), taps)?;
        self.x = x;
        self.taps = tapped.unwrap_or_default();
        Ok(())
    }

    /// The survivors at this site.
    ///
    /// # Errors
    /// If the tokens cannot be read back from the device.
    pub fn survivors(&self) -> Result<Survivors> {
        let spec = &self.vit.spec;
        let mut packed = PackedBatch::dense(spec, download(self.x.clone())?, vec![spec.grid(); self.batch]);
        let keep = Reduction::keep(&packed.offsets, &self.alive);
        if let Some(sizes) = &self.sizes {
            packed.sizes = download(sizes.clone())?;
        }
        packed.reduce(&keep)?;
        let rows: Vec<usize> = (0..self.alive.len()).filter(|&row| self.alive[row]).collect();
        let of_rows = |values: &Option<Vec<f32>>| {
            let values = values.as_ref()?;
            let width = values.len() / self.alive.len();
            Some(
                rows.iter().flat_map(|&row| values[row * width..(row + 1) * width].iter().copied()).collect(),
            )
        };
        let taps = AttentionTaps {
            cls_attention: of_rows(&self.taps.cls_attention),
            received_attention: of_rows(&self.taps.received_attention),
            keys: of_rows(&self.taps.keys),
            value_norm: of_rows(&self.taps.value_norm),
            inputs: of_rows(&self.taps.inputs),
        };
        Ok(Survivors { state: HostState { packed, site: self.site, taps }, rows })
    }

    /// The tokens `rows: [A]` (of B * N) stay where `keep: [A]` is 1, and leave where it is 0: they are merged into
    /// the rows `into: [A]`, a mean weighted by size, or dropped if `into` is `None`. Returns the gate of every row,
    /// `[B * N]`: 1 for all other rows.
    ///
    /// # Panics
    /// If `rows`, `into` and `keep` differ in length.
    pub fn gate(&mut self, keep: Tensor<1>, rows: &[usize], into: Option<&[usize]>) -> Tensor<1> {
        assert!(keep.dims()[0] == rows.len() && into.is_none_or(|into| into.len() == rows.len()));
        let (total, device) = (self.alive.len(), keep.device());
        let mut gate_of = vec![rows.len(); total];
        rows.iter().enumerate().for_each(|(agent, &row)| gate_of[row] = agent);
        let gates = Tensor::cat(vec![keep.clone(), Tensor::ones([1], &device)], 0)
            .select(0, indices(&gate_of, &device));

        let sizes = self.sizes.take().unwrap_or_else(|| Tensor::ones([total], &device));
        let mut after = sizes.clone() * gates.clone();
        if let Some(into) = into {
            let (from, to) = (indices(rows, &device), indices(into, &device));
            let leaving = (keep.clone().neg() + 1.0) * sizes.clone().select(0, from.clone()); // [A]
            let apart = self.x.clone().select(0, from) - self.x.clone().select(0, to.clone()); // [A, D]
            let add = IndexingUpdateOp::Add;
            let pulled = apart * leaving.clone().unsqueeze_dim::<2>(1);
            let pulled = Tensor::<2>::zeros(self.x.dims(), &device).select_assign(0, to.clone(), pulled, add);
            let gained = Tensor::<1>::zeros([total], &device).select_assign(0, to, leaving, add);
            // Tokens that have left have no mass to divide by, and gain nothing.
            let mass = (sizes + gained.clone()).clamp_min(f32::MIN_POSITIVE);
            self.x = self.x.clone() + pulled / mass.unsqueeze_dim::<2>(1);
            after = after + gained;
        }
        self.sizes = Some(after);
        let stays: Vec<f32> =
            keep.without_autodiff().try_into_vec_as().expect("the device gives gates up as f32");
        rows.iter().zip(stays).for_each(|(&row, stays)| self.alive[row] = stays > 0.5);
        gates
    }

    /// Logits `[B, C]`.
    ///
    /// # Errors
    /// As [`Gated::advance`].
    ///
    /// # Panics
    /// If the backbone has no head.
    pub fn finish(mut self) -> Result<Tensor<2>> {
        self.advance(Site::end(&self.vit.spec), Taps::NONE)?;
        let layout = self.layout();
        Ok(self.vit.logits(self.vit.pool(self.x, &layout)))
    }

    fn layout(&self) -> TokenLayout {
        let spec = &self.vit.spec;
        match &self.sizes {
            None => TokenLayout::dense(spec, self.batch),
            Some(sizes) => TokenLayout::weighted(spec, self.batch, sizes.clone()),
        }
    }
}

impl Survivors {
    /// The survivors as a pruner of a backbone of geometry `spec` sees them.
    pub fn view(&self, spec: &VitSpec) -> View<'_> {
        self.state.view(spec)
    }
}

fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
