//! A linear layer with its weight packed once, in the layout that the GEMM micro-kernel reads.

use rten_gemm::{BiasVector, GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;

thread_local! {
    /// The f32 GEMM of this machine; one a thread, since the executor is `Sync` but not `Send`.
    pub(crate) static GEMM: GemmExecutor<f32> = GemmExecutor::new();
}

/// Name of the f32 GEMM micro-kernel chosen for this machine.
pub fn kernel_name() -> String {
    GEMM.with(|gemm| gemm.kernel_name().to_owned())
}

/// `y = x W^T + b`.
pub struct Linear {
    weight: PackedBMatrix<f32>,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Packs `weight: [out, in]` row-major and copies `bias: [out]`.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn new(weight: &[f32], bias: Option<&[f32]>, outputs: usize, inputs: usize) -> Self {
        assert_eq!(weight.len(), outputs * inputs, "weight is [out, in]");
        assert!(bias.is_none_or(|b| b.len() == outputs), "bias is [out]");
        let view = NdTensorView::from_data([outputs, inputs], weight);
        Linear {
            weight: GEMM.with(|gemm| gemm.prepack_b(view.transposed())),
            bias: bias.map(<[f32]>::to_vec),
        }
    }

    /// Inputs a row.
    pub fn inputs(&self) -> usize {
        self.weight.rows()
    }

    /// Outputs a row.
    pub fn outputs(&self) -> usize {
        self.weight.cols()
    }

    /// `y = x W^T + b` with `x: [rows, in]` and `y: [rows, out]`.
    ///
    /// # Panics
    /// If the lengths are not whole rows, or not as many.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        self.run(x, y, 0.0);
    }

    /// `y += x W^T + b`: a residual branch's last layer.
    ///
    /// # Panics
    /// As [`Linear::forward`].
    pub fn forward_add(&self, x: &[f32], y: &mut [f32]) {
        self.run(x, y, 1.0);
    }

    fn run(&self, x: &[f32], y: &mut [f32], beta: f32) {
        let rows = x.len() / self.inputs();
        assert_eq!(x.len(), rows * self.inputs(), "x is [rows, in]");
        assert_eq!(y.len(), rows * self.outputs(), "y is [rows, out]");
        if rows == 0 {
            return;
        }
        let options =
            GemmOptions { beta, bias: self.bias.as_deref().map(BiasVector::Row), ..Default::default() };
        let x = NdTensorView::from_data([rows, self.inputs()], x);
        GEMM.with(|gemm| gemm.gemm(y, GemmInputA::Unpacked(x), GemmInputB::Packed(&self.weight), options))
            .expect("shapes were checked above");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference;

    proptest! {
        #[test]
        fn equals_the_reference(rows in 0usize..40, inputs in 1usize..70, outputs in 1usize..70, seed: u64) {
            let mut values = reference::values(seed);
            let mut draw = |n: usize| (0..n).map(|_| values()).collect::<Vec<f32>>();
            let (weight, bias, x, y0) = (draw(outputs * inputs), draw(outputs), draw(rows * inputs), draw(rows * outputs));
            let layer = Linear::new(&weight, Some(&bias), outputs, inputs);
            let expected = reference::linear(&x, &weight, &bias, inputs, outputs);
            let mut y = y0.clone();
            layer.forward(&x, &mut y);
            prop_assert!(reference::max_difference(&y, &expected) < 1e-5 * inputs as f32);
            y.copy_from_slice(&y0);
            layer.forward_add(&x, &mut y);
            let sum: Vec<f32> = expected.iter().zip(&y0).map(|(a, b)| a + b).collect();
            prop_assert!(reference::max_difference(&y, &sum) < 1e-5 * inputs as f32);
        }
    }
}
