//! A backbone under training, with its optimiser, in the form that a checkpoint keeps.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use vitrim_vit::{Tensors, VitSpec};

use super::step::Student;
use crate::adam::{ModuleAdam, NamedTensor, find};
use crate::burn_vit::{BurnVit, numbers};
use crate::error::Result;
use crate::linear::Linear;

/// Names of the token head in a checkpoint.
const TOKEN_WEIGHT: &str = "token_head.weight";
const TOKEN_BIAS: &str = "token_head.bias";
/// AdamW's epsilon.
const ADAM_EPS: f32 = 1e-8;

/// A backbone and its optimiser.
pub struct BackboneLearner {
    pub spec: VitSpec,
    pub student: Student,
    pub adam: ModuleAdam,
    /// Names of the parameters in the module's order, with shapes, for the optimiser's state.
    names: Vec<(String, Vec<usize>)>,
}

impl BackboneLearner {
    /// A learner with the given backbone and `token_head`: weight and bias.
    pub fn with(
        spec: VitSpec,
        tensors: &Tensors,
        token_head: Option<(Vec<f32>, Vec<f32>)>,
        weight_decay: f64,
        device: &Device,
    ) -> Result<Self> {
        let device = device.clone().autodiff();
        let vit = BurnVit::new(&spec, tensors, &device)?;
        let token_head = token_head.map(|(weight, bias)| {
            let rows = bias.len();
            Linear {
                weight: Param::from_tensor(Tensor::from_data(
                    TensorData::new(weight, [rows, spec.dim]),
                    &device,
                )),
                bias: Some(Param::from_tensor(Tensor::from_data(TensorData::new(bias, [rows]), &device))),
            }
        });
        let adam = ModuleAdam::new(ADAM_EPS).with_weight_decay(weight_decay, vit.tokens_and_positions());
        let student = Student { vit, token_head };
        let mut shapes = Shapes::default();
        student.visit(&mut shapes);
        let name = |(i, shape): (usize, Vec<usize>)| (format!("parameter_{i}"), shape);
        Ok(BackboneLearner {
            spec,
            student,
            adam,
            names: shapes.0.into_iter().enumerate().map(name).collect(),
        })
    }

    /// One step along `gradients`; returns their norm before clipping.
    pub fn step(&mut self, gradients: GradientsParams, learning_rate: f64, max_grad_norm: f64) -> f64 {
        let (student, norm) = self.adam.step(self.student.clone(), gradients, learning_rate, max_grad_norm);
        self.student = student;
        norm
    }

    pub fn named(&self) -> Vec<NamedTensor> {
        let weights = self.student.vit.tensors();
        let shapes = self.spec.tensor_shapes().into_iter();
        let mut named: Vec<NamedTensor> = shapes
            .map(|(name, shape)| {
                let values = weights.get(&name, &shape).expect("every tensor of the geometry").into_owned();
                (format!("weights.{name}"), shape, values)
            })
            .collect();
        if let Some(head) = &self.student.token_head {
            let rows = self.spec.num_classes + 1;
            named.push((TOKEN_WEIGHT.into(), vec![rows, self.spec.dim], numbers(&head.weight)));
            let bias = head.bias.as_ref().expect("built with a bias");
            named.push((TOKEN_BIAS.into(), vec![rows], numbers(bias)));
        }
        named.extend(self.adam.named("adam", &self.names));
        named
    }

    pub fn restore(&mut self, saved: &[NamedTensor], device: &Device) -> Result<()> {
        let tensors = self.spec.tensor_shapes().into_iter().map(|(name, shape)| {
            let values = find(saved, &format!("weights.{name}"), &shape)?.to_vec();
            Ok((name, (shape, values)))
        });
        let tensors = Tensors::Owned(tensors.collect::<Result<_>>()?);
        let rows = self.spec.num_classes + 1;
        let token_head = match &self.student.token_head {
            None => None,
            Some(_) => Some((
                find(saved, TOKEN_WEIGHT, &[rows, self.spec.dim])?.to_vec(),
                find(saved, TOKEN_BIAS, &[rows])?.to_vec(),
            )),
        };
        let (spec, decay) = (self.spec.clone(), self.adam.weight_decay());
        *self = BackboneLearner::with(spec, &tensors, token_head, decay, device)?;
        self.adam.restore("adam", &self.names, saved, device)
    }
}

/// Shapes of a module's parameters, in order.
#[derive(Default)]
struct Shapes(Vec<Vec<usize>>);

impl ModuleVisitor for Shapes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().dims().to_vec());
    }
}
