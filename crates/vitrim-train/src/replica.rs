//! Gradients that threads compute in parallel, each with a copy of the module.

use std::ops::Range;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{FloatDType, Tensor};
use rayon::prelude::*;

use crate::error::Result;

/// The sum of the gradients that `share` computes for ranges of a `batch` of images, `shards` of them in parallel,
/// each with a copy of `module` in `dtype`; `None` if no share has any. Also returns the other results of the shares,
/// in order. The sum is taken in the same order, so that it depends on the number of shares but not on their timing.
///
/// # Errors
/// The first error of a share.
pub fn side_by_side<M: Module + Sync, T: Send>(
    module: &M,
    batch: usize,
    shards: usize,
    dtype: FloatDType,
    share: impl Fn(&M, Range<usize>) -> Result<(Option<GradientsParams>, T)> + Sync,
) -> Result<(Option<GradientsParams>, Vec<T>)> {
    let each = batch.div_ceil(shards.clamp(1, batch));
    let ranges: Vec<Range<usize>> =
        (0..batch).step_by(each).map(|start| start..(start + each).min(batch)).collect();
    let replicas: Vec<M> = ranges.iter().map(|_| replica(module, dtype)).collect();
    let found: Vec<(Option<GradientsParams>, T)> = replicas
        .par_iter()
        .zip(ranges)
        .map(|(replica, images)| share(replica, images))
        .collect::<Result<_>>()?;
    let (mut sum, mut any) = (GradientsAccumulator::new(), false);
    let mut rest = Vec::with_capacity(found.len());
    for (gradients, other) in found {
        if let Some(gradients) = gradients {
            sum.accumulate(module, gradients);
            any = true;
        }
        rest.push(other);
    }
    Ok((any.then(|| sum.grads()), rest))
}

/// A copy of `module` in `dtype`, with its own leaves under the same ids, so that the graphs of threads are separate.
fn replica<M: Module>(module: &M, dtype: FloatDType) -> M {
    module.clone().map(&mut Leaves { dtype })
}

/// Converts `gradients` of a replica of `module` to f32.
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
