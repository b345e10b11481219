//! Copies of a module for threads that compute gradients side by side.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor};

/// `module` in `dtype`, with leaves of its own, which keep a thread's graph apart from the others', under the same ids.
pub fn replica<M: Module>(module: &M, dtype: FloatDType) -> M {
    module.clone().map(&mut Leaves { dtype })
}

/// `gradients` of a replica of `module` taken back to f32.
pub fn widened<M: Module>(module: &M, gradients: GradientsParams) -> GradientsParams {
    let mut widened = Widened { gradients, f32: GradientsParams::new() };
    module.visit(&mut widened);
    widened.f32
}

struct Leaves {
    dtype: FloatDType,
}

impl ModuleMapper for Leaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let tensor = tensor.without_autodiff().cast(self.dtype);
        Param::from_mapped_value(id, tensor.autodiff().require_grad(), mapper)
    }
}

struct Widened {
    gradients: GradientsParams,
    f32: GradientsParams,
}

impl ModuleVisitor for Widened {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.f32.register(param.id, gradient.cast(FloatDType::F32));
        }
    }
}
