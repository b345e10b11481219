//! Operations of the networks with their own kernels for the derivative.
//!
//! Burn differentiates a softmax or a LayerNorm as a dozen operations, each of which reads and writes memory, and its
//! Flex backend copies the result of every product. On the CPU, softmax, LayerNorm, GELU, tanh, linear layers and
//! attention are therefore single nodes of the graph, on the kernels of `vitrim-kernels`; elsewhere they are Burn's.

mod backward;
mod forward;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Device, FloatDType, Tensor, activation, module};

/// Exact GELU of `x`.
pub fn gelu<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    if !here(&x) {
        return activation::gelu(x);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_gelu(x.into_dispatch()))
}

/// Hyperbolic tangent of `x`.
pub fn tanh<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    if !here(&x) {
        return activation::tanh(x);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_tanh(x.into_dispatch()))
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
        // bf16 and f16 cannot hold the sum of squares.
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

/// Attention of `heads` heads for `qkv: [T, 3D]`, of whole images of `tokens` tokens each; the output is `[T, D]`.
/// Only if `qkv` is [`here`].
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
    /// Hyperbolic tangent.
    fn fused_tanh(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Softmax over the last axis.
    fn fused_softmax(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// LayerNorm of `x: [R, D]` with `weight` and `bias: [D]`.
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    /// The product of `x: [R, in]` with `weight: [out, in]`, plus `bias: [out]`.
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Attention of `heads` heads for `qkv: [T, 3D]`, in images of `tokens` tokens.
    fn fused_attention(qkv: FloatTensor<Self>, heads: usize, tokens: usize) -> FloatTensor<Self>;
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use vitrim_random::SplitMix64;

    use super::*;

    fn device() -> Device {
        Device::flex().autodiff()
    }

    /// Random values, `[rows, columns]`.
    fn leaf(rows: usize, columns: usize, seed: u64) -> Tensor<2> {
        let mut generator = SplitMix64::new(seed);
        let values: Vec<f32> = (0..rows * columns).map(|_| 2.0 * generator.symmetric()).collect();
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device()).require_grad()
    }

    /// Checks that `ours` and `theirs` have the same values, and the same gradients for all of `leaves`.
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
    fn tanh_is_burns() {
        let wide = |x: &Tensor<2>| x.clone().mul_scalar(4.0);
        assert_alike([leaf(7, 13, 1)], |[x]| tanh(wide(x)), |[x]| activation::tanh(wide(x)));
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
