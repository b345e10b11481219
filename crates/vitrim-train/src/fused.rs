//! Operations of the networks whose derivative is a kernel of its own.
//!
//! Burn differentiates a softmax or a LayerNorm as the dozen operations that it consists of, each of which walks through
//! memory, and its Flex backend copies the result of every product. On the CPU, softmax, LayerNorm, GELU, linear layers
//! and attention are therefore single nodes of the graph over the kernels of `vitrim-kernels`; elsewhere they are Burn's.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Device, FloatDType, Shape, Tensor, TensorData, activation, module};
use rayon::prelude::*;
use vitrim_kernels as kernels;

/// Exact GELU of `x`.
pub fn gelu<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    if !here(&x) {
        return activation::gelu(x);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_gelu(x.into_dispatch()))
}

/// Softmax of `x` over its last axis.
pub fn softmax<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    if !here(&x) {
        return activation::softmax(x, R - 1);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_softmax(x.into_dispatch()))
}

/// LayerNorm of the rows of `x: [R, D]` with scale `weight` and shift `bias`, `[D]` each.
pub fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<2> {
    if !here(&x) {
        // Half-width types do not hold the sum of squares.
        let (dtype, wide) = (FloatDType::from(x.dtype()), FloatDType::F32);
        let bias = Some(bias.cast(wide));
        return module::layer_norm(x.cast(wide), weight.cast(wide), bias, epsilon).cast(dtype);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_layer_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        epsilon,
    ))
}

/// `y = x W^T + b` for `x: [R, in]`, `weight: [out, in]` and `bias: [out]`.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    if !here(&x) {
        return module::linear(x, weight.transpose(), bias);
    }
    let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[0]], &x.device()));
    Tensor::from_dispatch(<Dispatch as Fused>::fused_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// Attention of `heads` heads for `qkv: [T, 3D]`, `[T, D]`, of whole images of `tokens` tokens each; only where `qkv` is
/// [`here`].
pub fn attention(qkv: Tensor<2>, heads: usize, tokens: usize) -> Tensor<2> {
    assert!(here(&qkv), "only the CPU has a kernel for it");
    Tensor::from_dispatch(<Dispatch as Fused>::fused_attention(qkv.into_dispatch(), heads, tokens))
}

/// Whether `x` is f32 on the CPU.
pub fn here<const R: usize>(x: &Tensor<R>) -> bool {
    x.device().without_autodiff() == Device::flex() && x.dtype() == DType::F32
}

#[backend_extension(Flex, Autodiff)]
trait Fused: Backend {
    /// GELU.
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Softmax over the last axis.
    fn fused_softmax(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// LayerNorm of `x: [R, D]` with `weight` and `bias: [D]`.
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    /// `x: [R, in]` through `weight: [out, in]` and `bias: [out]`.
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Attention of `heads` heads for `qkv: [T, 3D]`, in images of `tokens` tokens.
    fn fused_attention(qkv: FloatTensor<Self>, heads: usize, tokens: usize) -> FloatTensor<Self>;
}

/// A tensor of Flex, dense and row-major.
struct Rows(FloatTensor<Flex>);

impl Rows {
    fn of(x: FloatTensor<Flex>) -> Self {
        Rows(x.to_contiguous())
    }

    fn values(&self) -> &[f32] {
        let start = self.0.layout().start_offset();
        &self.0.storage()[start..start + self.0.layout().num_elements()]
    }

    fn shape(&self) -> Shape {
        self.0.shape()
    }

    /// Values of the last axis.
    fn width(&self) -> usize {
        *self.shape().last().expect("an axis")
    }

    /// Its values to write to, copied only where somebody else holds them as well.
    fn take(self) -> Vec<f32> {
        self.0.into_data().try_into_vec().expect("f32")
    }
}

fn tensor(values: Vec<f32>, shape: Shape) -> FloatTensor<Flex> {
    Flex::float_from_data(TensorData::new(values, shape), &Default::default())
}

fn norm(weight: &Rows, bias: &Rows, epsilon: f64) -> kernels::LayerNorm {
    kernels::LayerNorm::new(weight.values(), bias.values(), epsilon as f32)
}

/// `x: [R, in]` through `weight: [out, in]` and `bias: [out]`.
fn product(x: &Rows, weight: &Rows, bias: Option<&Rows>) -> FloatTensor<Flex> {
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

/// Attention over `qkv: [T, 3D]`, and where its images of `tokens` tokens each start.
fn heads_over(qkv: &Rows, heads: usize, tokens: usize) -> (kernels::Attention, Vec<usize>) {
    let head_dim = qkv.width() / (3 * heads);
    let offsets = (0..=qkv.shape()[0] / tokens).map(|image| image * tokens).collect();
    (kernels::Attention::new(heads, head_dim, false), offsets)
}

#[derive(Debug)]
struct Gelu;

impl Backward<Flex, 1> for Gelu {
    /// Its slope.
    type State = FloatTensor<Flex>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| Flex::float_mul(gradient, ops.state));
    }
}

#[derive(Debug)]
struct Softmax;

impl Backward<Flex, 1> for Softmax {
    /// Its values.
    type State = FloatTensor<Flex>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let (y, gradient) = (Rows::of(ops.state), Rows::of(gradient));
            let mut dx = gradient.take();
            kernels::InstructionSet::current().softmax_backward(y.values(), &mut dx, y.width());
            tensor(dx, y.shape())
        });
    }
}

#[derive(Debug)]
struct Norm;

impl Backward<Flex, 3> for Norm {
    /// Its input, scale, shift and epsilon.
    type State = ([FloatTensor<Flex>; 3], f64);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let ([x, weight, bias], epsilon) = ops.state;
        let (x, norm) = (Rows::of(x), norm(&Rows::of(weight), &Rows::of(bias), epsilon));
        let mut dx = Rows::of(gradients.consume::<Flex>(&ops.node)).take();
        let (dw, db) = norm.backward(x.values(), &mut dx, x.width());
        let channels = Shape::new([x.width()]);
        let of_parents = [tensor(dx, x.shape()), tensor(dw, channels.clone()), tensor(db, channels)];
        for (parent, gradient) in ops.parents.into_iter().zip(of_parents) {
            if let Some(parent) = parent {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Linear;

impl Backward<Flex, 3> for Linear {
    /// Its input and weight.
    type State = [FloatTensor<Flex>; 2];

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x, weight] = ops.state;
        let [of_x, of_weight, of_bias] = ops.parents;
        let gradient = gradients.consume::<Flex>(&ops.node);
        if let Some(parent) = of_bias {
            let sum = Flex::float_sum_dim(gradient.clone(), 0);
            let channels = Shape::new([sum.shape()[1]]);
            gradients.register::<Flex>(parent.id, Flex::float_reshape(sum, channels));
        }
        if let Some(parent) = of_weight {
            let by_output = Flex::float_swap_dims(gradient.clone(), 0, 1);
            gradients.register::<Flex>(parent.id, Flex::float_matmul(by_output, x));
        }
        if let Some(parent) = of_x {
            let transposed = Rows::of(Flex::float_swap_dims(weight, 0, 1));
            let dx = product(&Rows::of(gradient), &transposed, None);
            gradients.register::<Flex>(parent.id, dx);
        }
    }
}

#[derive(Debug)]
struct Attention;

impl Backward<Flex, 1> for Attention {
    /// Its queries, keys and values, its heads, and the tokens of an image.
    type State = (FloatTensor<Flex>, usize, usize);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let (qkv, heads, tokens) = ops.state;
            let (qkv, gradient) = (Rows::of(qkv), Rows::of(gradient));
            let (attention, offsets) = heads_over(&qkv, heads, tokens);
            let mut into = vec![0.0; qkv.values().len()];
            attention.backward(qkv.values(), &offsets, gradient.values(), &mut into);
            tensor(into, qkv.shape())
        });
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        match Gelu.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let x = Rows::of(x);
                let (mut y, mut slope) = (vec![0.0; x.values().len()], vec![0.0; x.values().len()]);
                kernels::InstructionSet::current().gelu_and_slope(x.values(), &mut y, &mut slope);
                prepared.finish(tensor(slope, x.shape()), tensor(y, x.shape()))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(Flex::fused_gelu(x)),
        }
    }

    fn fused_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let y = Flex::fused_softmax(x);
        match Softmax.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(y.clone(), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node), (bias, bias_node)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        let y = Flex::fused_layer_norm(x.clone(), weight.clone(), bias.clone(), epsilon);
        match Norm.prepare::<C>([x_node, weight_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(([x, weight, bias], epsilon), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node), (bias, bias_node)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        let y = Flex::fused_linear(x.clone(), weight.clone(), bias);
        match Linear.prepare::<C>([x_node, weight_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish([x, weight], y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn fused_attention(qkv: FloatTensor<Self>, heads: usize, tokens: usize) -> FloatTensor<Self> {
        let (qkv, node) = qkv.into_parts();
        let y = Flex::fused_attention(qkv.clone(), heads, tokens);
        match Attention.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((qkv, heads, tokens), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        Device::flex().autodiff()
    }

    /// Values that nobody chose, `[rows, columns]`.
    fn leaf(rows: usize, columns: usize, seed: u64) -> Tensor<2> {
        let mut value = kernels::reference::values(seed);
        let values: Vec<f32> = (0..rows * columns).map(|_| 2.0 * value()).collect();
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device()).require_grad()
    }

    /// That `ours` and `theirs` give the same values, and the same gradients in all of `leaves`.
    fn assert_alike<const N: usize>(
        leaves: [Tensor<2>; N],
        ours: impl Fn(&[Tensor<2>; N]) -> Tensor<2>,
        theirs: impl Fn(&[Tensor<2>; N]) -> Tensor<2>,
    ) {
        assert!(leaves.iter().all(here), "else Burn would be compared with itself");
        let near = |a: Tensor<2>, b: Tensor<2>| {
            let far = (a - b).abs().max().into_scalar::<f32>();
            assert!(far < 2e-5, "{far}");
        };
        let run = |f: &dyn Fn(&[Tensor<2>; N]) -> Tensor<2>| {
            let y = f(&leaves);
            let rows = y.dims()[0];
            // A gradient that differs everywhere.
            let weights = leaf(rows, y.dims()[1], 9).without_autodiff();
            let gradients = (y.clone() * Tensor::from_data(weights.into_data(), &device())).sum().backward();
            let of = leaves.each_ref().map(|leaf| leaf.grad(&gradients).expect("a gradient of every leaf"));
            (y.without_autodiff(), of)
        };
        let ((y, dy), (z, dz)) = (run(&ours), run(&theirs));
        near(y, z);
        dy.into_iter().zip(dz).for_each(|(a, b)| near(a, b));
    }

    #[test]
    fn gelu_is_burns() {
        assert_alike([leaf(7, 13, 1)], |[x]| gelu(x.clone()), |[x]| activation::gelu(x.clone()));
    }

    #[test]
    fn softmax_is_burns_also_of_a_view() {
        assert_alike([leaf(7, 13, 1)], |[x]| softmax(x.clone()), |[x]| activation::softmax(x.clone(), 1));
        assert_alike(
            [leaf(7, 13, 1)],
            |[x]| softmax(x.clone().transpose().narrow(0, 2, 5)),
            |[x]| activation::softmax(x.clone().transpose().narrow(0, 2, 5), 1),
        );
    }

    #[test]
    fn layer_norm_is_burns() {
        let channels = |x: &Tensor<2>| x.clone().reshape([13]);
        assert_alike(
            [leaf(7, 13, 1), leaf(1, 13, 2), leaf(1, 13, 3)],
            |[x, w, b]| layer_norm(x.clone(), channels(w), channels(b), 1e-3),
            |[x, w, b]| module::layer_norm(x.clone(), channels(w), Some(channels(b)), 1e-3),
        );
    }

    #[test]
    fn linear_is_burns_with_and_without_bias() {
        let ours = |x: &Tensor<2>, w: &Tensor<2>, b: Option<Tensor<1>>| linear(x.clone(), w.clone(), b);
        let theirs = |x: &Tensor<2>, w: &Tensor<2>, b: Option<Tensor<1>>| {
            module::linear(x.clone(), w.clone().transpose(), b)
        };
        let leaves = || [leaf(7, 13, 1), leaf(5, 13, 2), leaf(1, 5, 3)];
        let bias = |b: &Tensor<2>| Some(b.clone().reshape([5]));
        assert_alike(leaves(), |[x, w, b]| ours(x, w, bias(b)), |[x, w, b]| theirs(x, w, bias(b)));
        let leaves = || [leaf(7, 13, 1), leaf(5, 13, 2)];
        assert_alike(leaves(), |[x, w]| ours(x, w, None), |[x, w]| theirs(x, w, None));
    }

    #[test]
    fn values_without_gradients_are_burns() {
        let x = leaf(3, 4, 1).without_autodiff();
        assert!(here(&x));
        let y = softmax(gelu(x.clone()));
        let expected = activation::softmax(activation::gelu(x), 1);
        assert!((y - expected).abs().max().into_scalar::<f32>() < 1e-5);
    }

    #[test]
    fn attention_is_burns() {
        const HEADS: usize = 2;
        const TOKENS: usize = 5;
        let theirs = |qkv: &Tensor<2>| {
            let part = |i: i32| {
                let x = qkv.clone().reshape([2, TOKENS, 3, HEADS, 3]).slice([0..2, 0..5, i..i + 1]);
                x.reshape([2, TOKENS, HEADS, 3]).swap_dims(1, 2)
            };
            let scores = part(0).mul_scalar(3f64.powf(-0.5)).matmul(part(1).swap_dims(2, 3));
            activation::softmax(scores, 3).matmul(part(2)).swap_dims(1, 2).reshape([2 * TOKENS, 3 * HEADS])
        };
        assert_alike(
            [leaf(2 * TOKENS, 9 * HEADS, 1)],
            |[qkv]| attention(qkv.clone(), HEADS, TOKENS),
            |[qkv]| theirs(qkv),
        );
    }
}
