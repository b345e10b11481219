//! The layout of T tokens: which image each belongs to, its place on the patch grid, and how often it counts.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use vitrim_vit::{GridPlaces, Origin, PackedBatch, VitSpec};

/// B images over T tokens. For attention they are `[B, n, ..]`, n the number of tokens of the longest image.
#[derive(Clone, Debug)]
pub(super) struct TokenLayout {
    batch: usize,
    longest: usize,
    /// Origin of each token, `[T]`.
    origins: Vec<Origin>,
    /// Rows and columns of the patch grid.
    grid: [usize; 2],
    padding: Option<Padding>,
    /// Padding, which attention must ignore, `[B, 1, 1, n]`.
    dead: Option<Tensor<4, Bool>>,
    /// Bias of the scores of each key, `[B, 1, 1, n]`.
    key_bias: Option<Tensor<4>>,
    /// How often each key counts, `[B, 1, 1, n]`: like a bias of its logarithm, but with a gradient at 0.
    key_weights: Option<Tensor<4>>,
    /// Weights of the patch tokens in their image's mean, `[B, n - prefix]`; `None` if they are equal.
    weights: Option<Tensor<2>>,
    /// How often each token counts when a learned query pools them, 0 for padding, `[B, n]`; `None` if all count once.
    sizes: Option<Tensor<2>>,
}

/// Indices from `[T]` to `[B, n]` and back, for images of different lengths.
#[derive(Clone, Debug)]
struct Padding {
    /// Row of `[T]` at each position, `[B * n]`; padding has row 0.
    row_of: Tensor<1, Int>,
    /// Position of each row, `[T]`.
    place_of: Tensor<1, Int>,
}

impl TokenLayout {
    /// `batch` unpruned images.
    pub fn dense(spec: &VitSpec, batch: usize) -> Self {
        let patches: Vec<usize> = (0..spec.num_patches()).collect();
        Self::of_patches(spec, batch, &patches.repeat(batch))
    }

    /// Images with only the patches at the grid positions `patches: [B, M]`.
    pub fn of_patches(spec: &VitSpec, batch: usize, patches: &[usize]) -> Self {
        let prefix = spec.num_prefix_tokens();
        let seen = patches.len() / batch.max(1);
        let image = |b: usize| {
            let patches = &patches[b * seen..(b + 1) * seen];
            std::iter::repeat_n(Origin::PREFIX, prefix).chain(patches.iter().copied().map(Origin::patch))
        };
        Self::uncounted(spec, batch, prefix + seen, (0..batch).flat_map(image).collect())
    }

    /// `batch` images of at most `longest` tokens, each of which counts once.
    fn uncounted(spec: &VitSpec, batch: usize, longest: usize, origins: Vec<Origin>) -> Self {
        TokenLayout {
            batch,
            longest,
            origins,
            grid: spec.grid(),
            padding: None,
            dead: None,
            key_bias: None,
            key_weights: None,
            weights: None,
            sizes: None,
        }
    }

    /// Whole images in which each token counts `sizes: [B * N]` times, in attention and in the mean of the patch
    /// tokens. Gradients reach the sizes.
    pub fn weighted(spec: &VitSpec, batch: usize, sizes: Tensor<1>) -> Self {
        let (n, n0, prefix) = (spec.num_tokens(), spec.num_patches(), spec.num_prefix_tokens());
        let mass = sizes.clone().reshape([batch, n]).narrow(1, prefix, n0);
        let total = mass.clone().sum_dim(1).clamp_min(f32::MIN_POSITIVE);
        TokenLayout {
            sizes: Some(sizes.clone().reshape([batch, n])),
            key_weights: Some(sizes.reshape([batch, 1, 1, n])),
            weights: Some(mass / total),
            ..TokenLayout::dense(spec, batch)
        }
    }

    /// A packed batch; sizes are the weights of the mean of the patch tokens.
    pub fn packed(spec: &VitSpec, packed: &PackedBatch, device: &Device) -> Self {
        let prefix = spec.num_prefix_tokens();
        let (offsets, sizes) = (&packed.offsets, &packed.sizes);
        let batch = offsets.len() - 1;
        let lengths = || offsets.windows(2).map(|image| image[1] - image[0]);
        let longest = lengths().max().unwrap_or(0);
        let mut layout = TokenLayout::uncounted(spec, batch, longest, packed.origins.clone());
        let mut mass = Vec::with_capacity(batch * longest);
        for image in offsets.windows(2) {
            let patches = &sizes[(image[0] + prefix).min(image[1])..image[1]];
            mass.extend_from_slice(patches);
            mass.resize(mass.len() + longest.saturating_sub(prefix) - patches.len(), 0.0);
        }
        layout.weights = Some(shares(mass, batch, device));
        if sizes.iter().any(|size| *size != 1.0) {
            let mut values = Vec::with_capacity(batch * longest);
            for (b, image) in offsets.windows(2).enumerate() {
                values.extend_from_slice(&sizes[image[0]..image[1]]);
                values.resize((b + 1) * longest, 0.0);
            }
            layout.sizes = Some(Tensor::from_data(TensorData::new(values, [batch, longest]), device));
        }
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

    /// Places of the T tokens on the patch grid.
    pub fn places(&self) -> GridPlaces<'_> {
        GridPlaces::new(&self.origins, self.grid)
    }

    /// Tokens per image, if all images have the same number and every token counts once; otherwise `None`.
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

    pub fn sizes(&self) -> Option<Tensor<2>> {
        self.sizes.clone()
    }

    pub fn weights(&self) -> Option<Tensor<2>> {
        self.weights.clone()
    }
}

/// `mass: [B, n]`, divided by its sum in each image.
fn shares(mut mass: Vec<f32>, batch: usize, device: &Device) -> Tensor<2> {
    let n = mass.len() / batch;
    for image in mass.chunks_exact_mut(n.max(1)) {
        let total: f32 = image.iter().sum();
        // An image without patch tokens has no mean; it occurs only with class-token pooling.
        image.iter_mut().for_each(|m| *m /= total.max(f32::MIN_POSITIVE));
    }
    Tensor::from_data(TensorData::new(mass, [batch, n]), device)
}

#[cfg(test)]
mod tests {
    use vitrim_vit::Reduction;

    use super::*;

    /// Survivors keep the places of their origins.
    #[test]
    fn places_are_the_survivors_own() {
        // A grid of 2 x 3.
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 48]);
        (spec.dim, spec.attention.heads) = (2, 1);
        let device = Device::flex();
        let places = |layout: &TokenLayout| layout.places().iter().collect::<Vec<_>>();
        let image =
            [None, Some([0, 0]), Some([0, 1]), Some([0, 2]), Some([1, 0]), Some([1, 1]), Some([1, 2])];
        assert_eq!(places(&TokenLayout::dense(&spec, 2)), [image, image].concat());
        let seen = TokenLayout::of_patches(&spec, 2, &[1, 5, 0, 3]);
        assert_eq!(places(&seen), [image[0], image[2], image[6], image[0], image[1], image[4]]);

        let mut packed = PackedBatch::dense(&spec, vec![0.0; 28], vec![spec.grid(); 2]);
        let keep: Vec<bool> = (0..14).map(|row| ![1, 8, 9, 13].contains(&row)).collect();
        packed.reduce(&Reduction::keep(&packed.offsets, &keep)).unwrap();
        let layout = TokenLayout::packed(&spec, &packed, &device);
        let left = [&image[..1], &image[2..], &image[..1], &image[3..6]].concat();
        assert_eq!(places(&layout), left);
    }
}
