//! The operations without gradients, on the kernels of `vitrim-kernels`.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Shape, TensorData};
use rayon::prelude::*;
use vitrim_kernels as kernels;

use super::Fused;

/// A dense, row-major tensor of Flex.
pub(super) struct Rows(FloatTensor<Flex>);

impl Rows {
    pub fn of(x: FloatTensor<Flex>) -> Self {
        Rows(x.to_contiguous())
    }

    pub fn values(&self) -> &[f32] {
        let start = self.0.layout().start_offset();
        &self.0.storage()[start..start + self.0.layout().num_elements()]
    }

    pub fn shape(&self) -> Shape {
        self.0.shape()
    }

    /// Length of the last axis.
    pub fn width(&self) -> usize {
        *self.shape().last().expect("an axis")
    }

    /// Its values, mutable; copied only if they are shared.
    pub fn take(self) -> Vec<f32> {
        self.0.into_data().try_into_vec().expect("f32")
    }
}

pub(super) fn tensor(values: Vec<f32>, shape: Shape) -> FloatTensor<Flex> {
    Flex::float_from_data(TensorData::new(values, shape), &Default::default())
}

pub(super) fn norm(weight: &Rows, bias: &Rows, epsilon: f64) -> kernels::LayerNorm {
    kernels::LayerNorm::new(weight.values(), bias.values(), epsilon as f32)
}

/// The product of `x: [R, in]` with `weight: [out, in]`, plus `bias: [out]`.
pub(super) fn product(x: &Rows, weight: &Rows, bias: Option<&Rows>) -> FloatTensor<Flex> {
    let (rows, outputs) = (x.shape()[0], weight.shape()[0]);
    let layer = kernels::Linear::new(weight.values(), bias.map(Rows::values), outputs, x.width());
    let mut y = vec![0.0; rows * outputs];
    let each = kernels::rows_per_task(rows);
    let parts = x.values().par_chunks(each * x.width()).zip(y.par_chunks_mut(each * outputs));
    parts.for_each(|(x, y)| layer.forward(x, y));
    tensor(y, Shape::new([rows, outputs]))
}

impl Fused for Flex {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = Rows::of(x);
        let shape = x.shape();
        let mut y = x.take();
        kernels::InstructionSet::current().gelu(&mut y);
        tensor(y, shape)
    }

    fn fused_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = Rows::of(x);
        let shape = x.shape();
        let mut y = x.take();
        kernels::tanh(&mut y);
        tensor(y, shape)
    }

    fn fused_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = Rows::of(x);
        let (shape, width) = (x.shape(), x.width());
        let mut y = x.take();
        kernels::InstructionSet::current().softmax(&mut y, width);
        tensor(y, shape)
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (x, norm) = (Rows::of(x), norm(&Rows::of(weight), &Rows::of(bias), epsilon));
        let mut y = vec![0.0; x.values().len()];
        norm.forward(x.values(), &mut y, x.width());
        tensor(y, x.shape())
    }

    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        product(&Rows::of(x), &Rows::of(weight), Some(&Rows::of(bias)))
    }

    fn fused_attention(qkv: FloatTensor<Self>, heads: usize, tokens: usize) -> FloatTensor<Self> {
        let qkv = Rows::of(qkv);
        let (attention, offsets) = heads_over(&qkv, heads, tokens);
        let mut y = vec![0.0; qkv.values().len() / 3];
        attention.forward(qkv.values(), &offsets, &mut y, kernels::AttentionOptions::default());
        tensor(y, Shape::new([qkv.shape()[0], attention.dim()]))
    }
}

/// Attention over `qkv: [T, 3D]`, and the offsets of its images of `tokens` tokens each.
pub(super) fn heads_over(qkv: &Rows, heads: usize, tokens: usize) -> (kernels::Attention, Vec<usize>) {
    let head_dim = qkv.width() / (3 * heads);
    let offsets = (0..=qkv.shape()[0] / tokens).map(|image| image * tokens).collect();
    (kernels::Attention::new(heads, head_dim, false), offsets)
}
