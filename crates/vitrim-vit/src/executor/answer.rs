//! The backbone's answer from the tokens after the last block: final norm, pooling, heads.

use super::weights::CpuWeights;
use crate::backbone::{Output, Want};
use crate::spec::Pool;
use crate::state::HostState;
use crate::text_classes::unit;

impl CpuWeights {
    /// The output `want` of a state at the end of the last block.
    pub(super) fn answer(&self, state: &HostState, want: Want) -> Output {
        match want {
            Want::Tokens => Output { values: self.final_tokens(state), width: self.spec.dim },
            Want::Pooled => Output { values: mean(self.pooled(state)), width: self.spec.num_features() },
            Want::Embedding => self.embedding(state),
            Want::Logits => {
                let width = self.spec.num_classes;
                let inputs = if self.spec.pooling.zero_shot {
                    vec![unit_rows(self.embedding(state))]
                } else {
                    self.pooled(state)
                };
                let logits = self.heads.iter().zip(inputs).map(|(head, inputs)| {
                    let mut logits = vec![0.0; inputs.len() / head.inputs() * width];
                    head.forward(&inputs, &mut logits);
                    logits
                });
                Output { values: mean(logits.collect()), width }
            }
        }
    }

    /// The image embeddings, `[B, P]`, not normalised.
    fn embedding(&self, state: &HostState) -> Output {
        let pooled = mean(self.pooled(state));
        let Some(projection) = &self.projection else {
            return Output { values: pooled, width: self.spec.num_features() };
        };
        let mut values = vec![0.0; pooled.len() / projection.inputs() * projection.outputs()];
        projection.forward(&pooled, &mut values);
        Output { values, width: projection.outputs() }
    }

    /// Final tokens `[T, D]`: normed, unless the norm comes after pooling.
    fn final_tokens(&self, state: &HostState) -> Vec<f32> {
        let tokens = &state.packed.tokens;
        if self.spec.pooling.fc_norm { tokens.clone() } else { self.normed(tokens) }
    }

    /// The rows `x: [n, D]` after the final norm, if there is one.
    fn normed(&self, x: &[f32]) -> Vec<f32> {
        let mut normed = x.to_vec();
        if let Some(norm) = &self.norm {
            norm.forward(x, &mut normed, self.spec.dim);
        }
        normed
    }

    /// The input of each head, `[B, num_features]` per head.
    fn pooled(&self, state: &HostState) -> Vec<Vec<f32>> {
        match self.spec.pooling.pool {
            Pool::Token if self.spec.embedding.distilled => {
                vec![self.prefix(state, 0), self.prefix(state, 1)]
            }
            Pool::Token => vec![self.prefix(state, 0)],
            Pool::Avg => vec![self.mean_patch(state)],
            Pool::Map => {
                let probe =
                    self.probe.as_ref().expect("a checked geometry that pools by attention has its weights");
                let pooled =
                    probe.pool(&self.final_tokens(state), &state.packed, self.spec.num_prefix_tokens());
                vec![if self.spec.pooling.fc_norm { self.normed(&pooled) } else { pooled }]
            }
            Pool::TokenAvg => {
                let d = self.spec.dim;
                let (class, mean) = (self.prefix(state, 0), self.mean_patch(state));
                let rows = class.chunks_exact(d).zip(mean.chunks_exact(d));
                vec![rows.flat_map(|(class, mean)| class.iter().chain(mean)).copied().collect()]
            }
        }
    }

    /// Prefix token `i` of each image, normed, `[B, D]`.
    fn prefix(&self, state: &HostState, i: usize) -> Vec<f32> {
        let (d, offsets) = (self.spec.dim, &state.packed.offsets);
        let starts = offsets[..offsets.len() - 1].iter();
        let raw: Vec<f32> =
            starts.flat_map(|start| &state.packed.tokens[(start + i) * d..][..d]).copied().collect();
        self.normed(&raw)
    }

    /// The mean of each image's patch tokens, weighted by their sizes, `[B, D]`; the norm is applied before or after
    /// the mean.
    fn mean_patch(&self, state: &HostState) -> Vec<f32> {
        let (d, spec, offsets) = (self.spec.dim, &self.spec, &state.packed.offsets);
        let tokens = self.final_tokens(state);
        let mut pooled = vec![0.0; (offsets.len() - 1) * d];
        for (mean, image) in pooled.chunks_exact_mut(d).zip(offsets.windows(2)) {
            let rows = image[0] + spec.num_prefix_tokens()..image[1];
            let mass: f32 = state.packed.sizes[rows.clone()].iter().sum();
            for row in rows {
                let weight = state.packed.sizes[row] / mass;
                let token = &tokens[row * d..(row + 1) * d];
                mean.iter_mut().zip(token).for_each(|(m, t)| *m += weight * t);
            }
        }
        if spec.pooling.fc_norm { self.normed(&pooled) } else { pooled }
    }
}

/// The rows, each scaled to length 1.
fn unit_rows(output: Output) -> Vec<f32> {
    let Output { mut values, width } = output;
    for row in values.chunks_exact_mut(width) {
        // An embedding of 0 is like no text.
        unit(row);
    }
    values
}

/// Mean of vectors of equal length.
fn mean(parts: Vec<Vec<f32>>) -> Vec<f32> {
    let scale = 1.0 / parts.len() as f32;
    (0..parts[0].len()).map(|i| parts.iter().map(|p| p[i]).sum::<f32>() * scale).collect()
}
