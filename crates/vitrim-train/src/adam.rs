//! Adam over a whole module, with gradient-norm clipping and a state that can be saved.
//!
//! Burn's own `ModuleOptimizer` keys its state by random parameter ids, which do not survive a restart;
//! here the state follows the order of the module's parameters. The step itself is Burn's Adam.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{Adam, AdamConfig, AdamState, AdaptiveMomentumState, GradientsParams, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};

pub use vitrim_vit::NamedTensor;

use crate::error::{Result, TrainError};

/// Adam (Kingma and Ba, 2015) with betas 0.9 and 0.999, and optional decoupled weight decay (AdamW: Loshchilov and
/// Hutter, 2019).
#[derive(Clone)]
pub struct ModuleAdam {
    adam: Adam,
    weight_decay: f64,
    /// Parameters that do not decay.
    exempt: Vec<ParamId>,
    /// State of each parameter of the module, in order; empty before the first step.
    states: Vec<AdamState<1>>,
}

impl ModuleAdam {
    /// An Adam before its first step.
    pub fn new(eps: f32) -> Self {
        let adam = AdamConfig::new().with_epsilon(eps).build();
        ModuleAdam { adam, weight_decay: 0.0, exempt: Vec::new(), states: Vec::new() }
    }

    /// Sets the weight decay. The parameters `exempt` and all of rank 1 (biases, norms) do not decay.
    pub fn with_weight_decay(self, weight_decay: f64, exempt: Vec<ParamId>) -> Self {
        ModuleAdam { weight_decay, exempt, ..self }
    }

    /// The weight decay.
    pub fn weight_decay(&self) -> f64 {
        self.weight_decay
    }

    /// One step at learning rate `lr`. The gradient over all parameters is first scaled down to norm `max_grad_norm`
    /// if it is longer (like PyTorch's `clip_grad_norm_`). Returns the module and the gradient's norm before
    /// clipping.
    ///
    /// # Panics
    /// If a parameter has no gradient.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        mut gradients: GradientsParams,
        lr: f64,
        max_grad_norm: f64,
    ) -> (M, f64) {
        let mut sum = SumOfSquares { gradients: &gradients, total: None };
        module.visit(&mut sum);
        let norm = sum.total.map_or(0.0, |total| f64::from(total.into_scalar::<f32>())).sqrt();
        let scale = (max_grad_norm / (norm + 1e-6)).min(1.0);

        let states = std::mem::take(&mut self.states);
        let mut step = Step {
            adam: &self.adam,
            gradients: &mut gradients,
            before: states.into_iter(),
            after: Vec::new(),
            scale,
            lr,
            decay: 1.0 - lr * self.weight_decay,
            exempt: &self.exempt,
        };
        let module = module.map(&mut step);
        self.states = step.after;
        (module, norm)
    }

    /// The state under `prefix`, for parameters called `names` in the module's order: both moments of
    /// each, and the number of steps.
    pub fn named(&self, prefix: &str, names: &[(String, Vec<usize>)]) -> Vec<NamedTensor> {
        let steps = self.states.first().map_or(0, |state| state.momentum.time);
        // f32 represents step counts exactly up to 16.7 million.
        let mut named = vec![(format!("{prefix}.steps"), vec![1], vec![steps as f32])];
        for ((name, shape), AdamState { momentum }) in names.iter().zip(&self.states) {
            for (kind, moment) in [("moment_1", &momentum.moment_1), ("moment_2", &momentum.moment_2)] {
                let values = moment.clone().try_into_vec_as().expect("the device gives moments up as f32");
                named.push((format!("{prefix}.{name}.{kind}"), shape.clone(), values));
            }
        }
        named
    }

    /// Restores the output of [`ModuleAdam::named`].
    ///
    /// # Errors
    /// [`TrainError::LearnerState`] with the first tensor that is missing or has the wrong shape.
    pub fn restore(
        &mut self,
        prefix: &str,
        names: &[(String, Vec<usize>)],
        saved: &[NamedTensor],
        device: &Device,
    ) -> Result<()> {
        let time = find(saved, &format!("{prefix}.steps"), &[1])?[0] as usize;
        let moment = |name: &str, shape: &[usize]| -> Result<Tensor<1>> {
            let values = find(saved, name, shape)?;
            Ok(Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device))
        };
        let mut states = Vec::new();
        for (name, shape) in names.iter().filter(|_| time > 0) {
            let moment_1 = moment(&format!("{prefix}.{name}.moment_1"), shape)?;
            let moment_2 = moment(&format!("{prefix}.{name}.moment_2"), shape)?;
            states.push(AdamState::new(AdaptiveMomentumState::new(time, moment_1, moment_2)));
        }
        self.states = states;
        Ok(())
    }
}

/// The values of the tensor `name` of `shape`.
///
/// # Errors
/// [`TrainError::LearnerState`] if it is missing or has the wrong shape.
pub fn find<'a>(saved: &'a [NamedTensor], name: &str, shape: &[usize]) -> Result<&'a [f32]> {
    saved
        .iter()
        .find(|(n, s, _)| n == name && s == shape)
        .map(|(_, _, values)| values.as_slice())
        .ok_or_else(|| TrainError::LearnerState { name: name.to_owned(), expected: shape.to_vec() })
}

struct SumOfSquares<'a> {
    gradients: &'a GradientsParams,
    total: Option<Tensor<1>>,
}

impl ModuleVisitor for SumOfSquares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let squares = gradient.square().sum();
            self.total = Some(match self.total.take() {
                Some(total) => total + squares,
                None => squares,
            });
        }
    }
}

struct Step<'a> {
    adam: &'a Adam,
    gradients: &'a mut GradientsParams,
    before: std::vec::IntoIter<AdamState<1>>,
    after: Vec<AdamState<1>>,
    scale: f64,
    lr: f64,
    /// Factor of a weight in a step, before its gradient is applied.
    decay: f64,
    exempt: &'a [ParamId],
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let gradient = self.gradients.remove::<D>(id).expect("every parameter takes part in the loss");
        let shape = tensor.dims();
        let count = shape.iter().product::<usize>();
        let mut tensor = tensor.without_autodiff().reshape([count]);
        if self.decay < 1.0 && D > 1 && !self.exempt.contains(&id) {
            tensor = tensor.mul_scalar(self.decay);
        }
        let (tensor, state) = self.adam.step(
            self.lr,
            tensor,
            gradient.reshape([count]).mul_scalar(self.scale),
            self.before.next(),
        );
        self.after.push(state.expect("Adam keeps a state"));
        Param::from_mapped_value(id, tensor.reshape(shape).autodiff().require_grad(), mapper)
    }
}
