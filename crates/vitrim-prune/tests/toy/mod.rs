//! A small random backbone and policies for it.

use vitrim_prune::policy::{
    BackboneId, Departure, Nonlinearity, Observation, PerceptronSpec, PerceptronWeights,
};
use vitrim_prune::{Policy, ReadOut};
use vitrim_random::uniform;
use vitrim_vit::{CpuBackbone, Pool, Pooling, Tensors, VitSpec};

pub fn spec(class_token: bool) -> VitSpec {
    let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([64, 48]);
    (spec.dim, spec.depth, spec.num_classes) = (24, 4, 5);
    (spec.attention.heads, spec.mlp.hidden) = (3, 48);
    if !class_token {
        spec.embedding.class_token = false;
        spec.pooling = Pooling::plain(Pool::Avg, true);
    }
    spec.check().unwrap();
    spec
}

pub fn backbone(spec: &VitSpec) -> CpuBackbone {
    CpuBackbone::new(spec, &Tensors::random(spec, 1)).unwrap()
}

pub fn pixels(spec: &VitSpec, batch: usize) -> Vec<f32> {
    let [h, w] = spec.img_size;
    (0..batch * 3 * h * w).map(|i| uniform(&[5, i as u64]) as f32 * 2.0 - 1.0).collect()
}

pub fn policy(spec: &VitSpec, observation: Observation, activation: Nonlinearity) -> Policy {
    // Agents that see pairs merge; after the last block's attention, pruning saves nothing.
    let (departure, stages) =
        if observation.pair { (Departure::Merge, vec![0, 1, 2]) } else { (Departure::Drop, vec![1, 2, 3]) };
    let actor = PerceptronSpec {
        dim: if observation.embedding { spec.dim } else { 0 },
        positions: if observation.position { spec.num_patches() } else { 0 },
        stages: if observation.stage { stages.len() } else { 0 },
        scalars: observation.scalars(),
        shortcut: observation.pair,
        context: observation.context,
        layer_norm: observation.layer_norm,
        hidden: vec![8, 6],
        activation,
        outputs: 2,
    };
    let mut weights = PerceptronWeights::zeros(&actor);
    for (tensor, (_, values)) in weights.named_mut().into_iter().enumerate() {
        for (i, v) in values.iter_mut().enumerate() {
            *v = uniform(&[9, tensor as u64, i as u64]) as f32 * 1.6 - 0.8;
        }
    }
    let backbone = BackboneId::of(spec, &Tensors::random(spec, 1)).unwrap();
    let read_out = ReadOut::Threshold { threshold: 0.5 };
    Policy {
        backbone,
        stages,
        departure,
        observation,
        actor,
        weights,
        offsets: Vec::new(),
        read_out,
        calibration: None,
    }
}

pub const FULL: Observation = Observation {
    embedding: true,
    layer_norm: true,
    position: true,
    stage: true,
    cls_attention: true,
    pair: false,
    pair_tokens: false,
    context: true,
    relative: false,
};

pub const MERGING: Observation = Observation { pair: true, ..FULL };

pub const MERGING_BY_TOKENS: Observation = Observation { pair_tokens: true, ..MERGING };
