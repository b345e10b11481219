//! Which of T tokens belong to which image, and how often each counts.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use vitrim_vit::{PackedBatch, VitSpec};

/// B images over T tokens. Attention sees them as `[B, n, ..]`, n the longest image's tokens.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    batch: usize,
    longest: usize,
    padding: Option<Padding>,
    /// Padding, which attention must not look at, `[B, 1, 1, n]`.
    dead: Option<Tensor<4, Bool>>,
    /// What is added to the scores of each key, `[B, 1, 1, n]`.
    key_bias: Option<Tensor<4>>,
    /// How often each key counts, `[B, 1, 1, n]`: the same as a bias of its logarithm, but with a gradient at 0.
    key_weights: Option<Tensor<4>>,
    /// Shares of the patch tokens in their image's mean, `[B, n - prefix]`; `None` where they are equal.
    weights: Option<Tensor<2>>,
}

/// The way from `[T]` to `[B, n]` and back, where images differ in length.
#[derive(Clone, Debug)]
struct Padding {
    /// Row of `[T]` shown at each place, `[B * n]`; padding shows row 0.
    row_of: Tensor<1, Int>,
    /// Place of each row, `[T]`.
    place_of: Tensor<1, Int>,
}

impl Layout {
    /// Unpruned images of `tokens` tokens each.
    pub fn dense(batch: usize, tokens: usize) -> Self {
        Layout {
            batch,
            longest: tokens,
            padding: None,
            dead: None,
            key_bias: None,
            key_weights: None,
            weights: None,
        }
    }

    /// Whole images of which each token counts as often as `sizes: [B * N]` says, in attention and in the mean of the
    /// patch tokens. Gradients reach the sizes.
    pub fn weighted(spec: &VitSpec, batch: usize, sizes: Tensor<1>) -> Self {
        let (n, n0, prefix) = (spec.num_tokens(), spec.num_patches(), spec.num_prefix_tokens());
        let mass = sizes.clone().reshape([batch, n]).narrow(1, prefix, n0);
        let total = mass.clone().sum_dim(1).clamp_min(f32::MIN_POSITIVE);
        Layout {
            key_weights: Some(sizes.reshape([batch, 1, 1, n])),
            weights: Some(mass / total),
            ..Layout::dense(batch, n)
        }
    }

    /// A packed batch whose images start with `prefix` prefix tokens; sizes weigh the mean of the patch tokens.
    pub fn packed(prefix: usize, packed: &PackedBatch, device: &Device) -> Self {
        let (offsets, sizes) = (&packed.offsets, &packed.sizes);
        let batch = offsets.len() - 1;
        let lengths = || offsets.windows(2).map(|image| image[1] - image[0]);
        let longest = lengths().max().unwrap_or(0);
        let mut layout = Layout::dense(batch, longest);
        let mut mass = Vec::with_capacity(batch * longest);
        for image in offsets.windows(2) {
            let patches = &sizes[(image[0] + prefix).min(image[1])..image[1]];
            mass.extend_from_slice(patches);
            mass.resize(mass.len() + longest.saturating_sub(prefix) - patches.len(), 0.0);
        }
        layout.weights = Some(shares(mass, batch, device));
        layout.key_bias = packed.key_bias().map(|bias| {
            let mut values = Vec::with_capacity(batch * longest);
            for (b, image) in offsets.windows(2).enumerate() {
                values.extend_from_slice(&bias[image[0]..image[1]]);
                values.resize((b + 1) * longest, 0.0);
            }
            Tensor::from_data(TensorData::new(values, [batch, 1, 1, longest]), device)
        });
        if lengths().all(|length| length == longest) {
            return layout;
        }
        let (mut row_of, mut place_of, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        for (b, image) in offsets.windows(2).enumerate() {
            for i in 0..longest {
                let row = image[0] + i;
                dead.push(row >= image[1]);
                row_of.push(if row < image[1] { row as i32 } else { 0 });
                if row < image[1] {
                    place_of.push((b * longest + i) as i32);
                }
            }
        }
        let indices = |values: Vec<i32>| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), device)
        };
        layout.padding = Some(Padding { row_of: indices(row_of), place_of: indices(place_of) });
        layout.dead = Some(Tensor::from_data(TensorData::new(dead, [batch, 1, 1, longest]), device));
        layout
    }

    /// `x: [T, W]` to `[B, n, W]`.
    pub fn spread(&self, x: Tensor<2>) -> Tensor<3> {
        let width = x.dims()[1];
        let x = match &self.padding {
            Some(padding) => x.select(0, padding.row_of.clone()),
            None => x,
        };
        x.reshape([self.batch, self.longest, width])
    }

    /// `x: [B, n, W]` to `[T, W]`.
    pub fn gather(&self, x: Tensor<3>) -> Tensor<2> {
        let [batch, n, width] = x.dims();
        let x = x.reshape([batch * n, width]);
        match &self.padding {
            Some(padding) => x.select(0, padding.place_of.clone()),
            None => x,
        }
    }

    /// Tokens of each image, where all images have as many and every token counts once.
    pub fn uniform(&self) -> Option<usize> {
        let plain = self.padding.is_none() && self.key_bias.is_none() && self.key_weights.is_none();
        plain.then_some(self.longest)
    }

    pub fn dead(&self) -> Option<Tensor<4, Bool>> {
        self.dead.clone()
    }

    pub fn key_bias(&self) -> Option<Tensor<4>> {
        self.key_bias.clone()
    }

    pub fn key_weights(&self) -> Option<Tensor<4>> {
        self.key_weights.clone()
    }

    pub fn weights(&self) -> Option<Tensor<2>> {
        self.weights.clone()
    }
}

/// `mass: [B, n]` with each image's divided by its sum.
fn shares(mut mass: Vec<f32>, batch: usize, device: &Device) -> Tensor<2> {
    let n = mass.len() / batch;
    for image in mass.chunks_exact_mut(n.max(1)) {
        let total: f32 = image.iter().sum();
        // An image without patch tokens has no mean; only class-token pooling lets it come here.
        image.iter_mut().for_each(|m| *m /= total.max(f32::MIN_POSITIVE));
    }
    Tensor::from_data(TensorData::new(mass, [batch, n]), device)
}
