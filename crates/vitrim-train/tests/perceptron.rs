//! The Burn perceptron computes the same as its plain weights.

use burn::tensor::Device;
use vitrim_prune::policy::actor::{Nonlinearity, PerceptronSpec, PerceptronWeights};
use vitrim_random::SplitMix64;
use vitrim_train::Experience;
use vitrim_train::perceptron::{Inputs, LAYER_NORM_EPS, Perceptron, orthogonal_init};

fn spec(activation: Nonlinearity, layer_norm: bool) -> PerceptronSpec {
    PerceptronSpec {
        dim: 12,
        positions: 5,
        stages: 3,
        scalars: 2,
        shortcut: true,
        context: true,
        layer_norm,
        hidden: vec![8, 6],
        activation,
        outputs: 2,
    }
}

fn experience(spec: &PerceptronSpec, steps: usize, contexts: usize) -> Experience {
    let mut generator = SplitMix64::new(3);
    let mut normals = |n: usize| (0..n).map(|_| 3.0 * generator.normal() as f32 + 1.0).collect::<Vec<f32>>();
    Experience {
        tokens: normals(steps * spec.dim),
        actor_scalars: normals(steps * spec.scalars),
        contexts: normals(contexts * spec.dim),
        positions: (0..steps).map(|s| (s * 7 % spec.positions) as u32).collect(),
        stages: (0..steps).map(|s| (s % spec.stages) as u32).collect(),
        context_of: (0..steps).map(|s| (s % contexts) as u32).collect(),
        actions: vec![0; steps],
        ..Experience::default()
    }
}

/// The first layer as one matrix over the concatenated inputs; everything else as in textbooks.
fn reference(spec: &PerceptronSpec, w: &PerceptronWeights, e: &Experience, s: usize) -> Vec<f64> {
    let normalised = |row: &[f32]| -> Vec<f64> {
        let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        if !spec.layer_norm {
            return row;
        }
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / row.len() as f64;
        row.iter().map(|v| (v - mean) / (variance + LAYER_NORM_EPS).sqrt()).collect()
    };
    let row = |values: &[f32], i: usize, width: usize| values[i * width..][..width].to_vec();
    let dot = |weight: &[f32], x: &[f64]| weight.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
    let h = spec.hidden[0];
    let token = normalised(&row(&e.tokens, s, spec.dim));
    let context = normalised(&row(&e.contexts, e.context_of[s] as usize, spec.dim));
    let scalars: Vec<f64> = row(&e.actor_scalars, s, spec.scalars).iter().map(|&v| f64::from(v)).collect();
    let mut x: Vec<f64> = (0..h)
        .map(|i| {
            dot(&row(&w.embedding, i, spec.dim), &token)
                + f64::from(w.position[e.positions[s] as usize * h + i])
                + f64::from(w.stage[e.stages[s] as usize * h + i])
                + dot(&row(&w.scalar, i, spec.scalars), &scalars)
                + dot(&row(&w.context, i, spec.dim), &context)
                + f64::from(w.bias[i])
        })
        .collect();
    for ((weight, bias), (inputs, _)) in w.layers.iter().zip(spec.layer_widths()) {
        let active: Vec<f64> = x
            .iter()
            .map(|&v| match spec.activation {
                Nonlinearity::Tanh => v.tanh(),
                Nonlinearity::Gelu => 0.5 * v * (1.0 + erf(v / 2f64.sqrt())),
            })
            .collect();
        x = bias
            .iter()
            .enumerate()
            .map(|(o, b)| dot(&row(weight, o, inputs), &active) + f64::from(*b))
            .collect();
    }
    for (o, x) in x.iter_mut().enumerate() {
        *x += dot(&row(&w.shortcut, o, spec.scalars), &scalars);
    }
    x
}

/// The error function by its Taylor series, good to 1e-12 for |x| < 4.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn forward_equals_the_textbook() {
    let device = Device::flex();
    for (activation, layer_norm) in [(Nonlinearity::Gelu, true), (Nonlinearity::Tanh, false)] {
        let spec = spec(activation, layer_norm);
        let mut weights = orthogonal_init(&spec, 11, 1.0, &[0.25, -0.5]);
        assert_eq!(weights.shortcut, [0.0; 4]);
        weights.shortcut = vec![0.5, -1.0, 2.0, 0.25];
        let experience = experience(&spec, 40, 4);
        let inputs = Inputs::new(&spec, &experience, &experience.actor_scalars, &device);
        let perceptron = Perceptron::from_weights(&spec, &weights, &device);
        assert_eq!(perceptron.weights(), weights);

        let outputs: Vec<f32> = perceptron.forward(&inputs).try_into_vec_as().unwrap();
        for s in 0..40 {
            for (o, want) in reference(&spec, &weights, &experience, s).into_iter().enumerate() {
                let got = f64::from(outputs[s * 2 + o]);
                assert!((got - want).abs() < 1e-5, "{activation:?} step {s}: {got} instead of {want}");
            }
        }
    }
}

#[test]
fn the_first_layer_is_orthogonal_over_all_inputs_and_the_head_has_its_gain() {
    let spec = spec(Nonlinearity::Gelu, true);
    let weights = orthogonal_init(&spec, 5, 0.01, &[0.0, 2.0]);
    let h = spec.hidden[0];
    let full = |i: usize| -> Vec<f32> {
        let mut row = weights.embedding[i * spec.dim..][..spec.dim].to_vec();
        row.extend((0..spec.positions).map(|p| weights.position[p * h + i]));
        row.extend((0..spec.stages).map(|k| weights.stage[k * h + i]));
        row.extend(&weights.scalar[i * spec.scalars..][..spec.scalars]);
        row.extend(&weights.context[i * spec.dim..][..spec.dim]);
        row
    };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for i in 0..h {
        for j in 0..h {
            let want = if i == j { 1.0 } else { 0.0 };
            assert!((dot(&full(i), &full(j)) - want).abs() < 1e-5);
        }
    }
    let (head, bias) = &weights.layers[1];
    assert!((dot(&head[..6], &head[..6]).sqrt() - 0.01).abs() < 1e-6);
    assert_eq!(bias, &[0.0, 2.0]);
    assert_eq!(weights, orthogonal_init(&spec, 5, 0.01, &[0.0, 2.0]));
    assert_ne!(weights, orthogonal_init(&spec, 6, 0.01, &[0.0, 2.0]));
}
