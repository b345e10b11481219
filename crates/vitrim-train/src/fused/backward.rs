//! The operations as nodes of the graph, each with a kernel for its derivative.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata};
use burn::tensor::Shape;
use vitrim_kernels as kernels;

use super::Fused;
use super::forward::{Rows, heads_over, norm, product, tensor};

#[derive(Debug)]
struct GeluNode;

impl Backward<Flex, 1> for GeluNode {
    /// The slope of GELU.
    type State = FloatTensor<Flex>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| Flex::float_mul(gradient, ops.state));
    }
}

#[derive(Debug)]
struct TanhNode;

impl Backward<Flex, 1> for TanhNode {
    /// The output y; the slope is 1 - y^2.
    type State = FloatTensor<Flex>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let (y, gradient) = (Rows::of(ops.state), Rows::of(gradient));
            let mut dx = gradient.take();
            dx.iter_mut().zip(y.values()).for_each(|(d, y)| *d *= 1.0 - y * y);
            tensor(dx, y.shape())
        });
    }
}

#[derive(Debug)]
struct SoftmaxNode;

impl Backward<Flex, 1> for SoftmaxNode {
    /// The output of softmax.
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
struct NormNode;

impl Backward<Flex, 3> for NormNode {
    /// LayerNorm's input, scale, shift and epsilon.
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
struct LinearNode;

impl Backward<Flex, 3> for LinearNode {
    /// The layer's input and weight.
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
struct AttentionNode;

impl Backward<Flex, 1> for AttentionNode {
    /// Queries, keys and values, the number of heads, and the tokens per image.
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
        match GeluNode.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let x = Rows::of(x);
                let (mut y, mut slope) = (vec![0.0; x.values().len()], vec![0.0; x.values().len()]);
                kernels::InstructionSet::current().gelu_and_slope(x.values(), &mut y, &mut slope);
                prepared.finish(tensor(slope, x.shape()), tensor(y, x.shape()))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(Flex::fused_gelu(x)),
        }
    }

    fn fused_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let y = Flex::fused_tanh(x);
        match TanhNode.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(y.clone(), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn fused_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let y = Flex::fused_softmax(x);
        match SoftmaxNode.prepare::<C>([node]).compute_bound().stateful() {
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
        match NormNode.prepare::<C>([x_node, weight_node, bias_node]).compute_bound().stateful() {
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
        match LinearNode.prepare::<C>([x_node, weight_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish([x, weight], y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn fused_attention(qkv: FloatTensor<Self>, heads: usize, tokens: usize) -> FloatTensor<Self> {
        let (qkv, node) = qkv.into_parts();
        let y = Flex::fused_attention(qkv.clone(), heads, tokens);
        match AttentionNode.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((qkv, heads, tokens), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}
