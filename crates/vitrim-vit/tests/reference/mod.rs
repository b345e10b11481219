//! The slow, direct Vision Transformer: one image, every token to the end, removed tokens masked out of attention
//! (and out of average pooling). Physical removal must give the same result.

use vitrim_kernels::reference::{
    activation, attention, gated, layer_norm, linear, rms_norm, rotate, softmax,
};
use vitrim_vit::{AttentionPool, AttentionSpec, EmbeddingNorm, MlpSpec, Pool, Tensors, VitSpec};

/// Logits of `pixels: [3, H, W]`; `stages[k] = (block, keep: [N0])` masks patches from that block on.
pub fn masked_logits(
    spec: &VitSpec,
    tensors: &Tensors,
    pixels: &[f32],
    stages: &[(usize, Vec<bool>)],
) -> Vec<f32> {
    let (x, alive) = masked_tokens(spec, tensors, pixels, stages);
    let d = spec.dim;
    let normed = |rows: &[f32]| match spec.final_norm() {
        Some(name) => norm(spec, tensors, name, rows, d),
        None => rows.to_vec(),
    };
    let prefix = spec.num_prefix_tokens();
    let token = |i: usize| normed(&x[i * d..(i + 1) * d]);
    let mean = || {
        let rows = (prefix..spec.num_tokens()).filter(|&t| alive[t]).map(|t| &x[t * d..(t + 1) * d]);
        let rows: Vec<Vec<f32>> =
            rows.map(|r| if spec.pooling.fc_norm { r.to_vec() } else { normed(r) }).collect();
        let mean: Vec<f32> =
            (0..d).map(|i| rows.iter().map(|r| r[i]).sum::<f32>() / rows.len() as f32).collect();
        if spec.pooling.fc_norm { normed(&mean) } else { mean }
    };
    let pooled: Vec<Vec<f32>> = match spec.pooling.pool {
        Pool::Token => (0..spec.head_names().len()).map(token).collect(),
        Pool::Avg => vec![mean()],
        Pool::TokenAvg => vec![[token(0), mean()].concat()],
        Pool::Map => {
            let pool = spec.pooling.attention.unwrap();
            let first = if pool.prefix { 0 } else { prefix };
            let alive = (first..spec.num_tokens()).filter(|&t| alive[t]);
            vec![attention_pool(
                spec,
                tensors,
                &pool,
                &normed(&alive.flat_map(|t| x[t * d..(t + 1) * d].to_vec()).collect::<Vec<_>>()),
            )]
        }
    };
    let pooled = if spec.pooling.zero_shot { vec![embedding(spec, tensors, &pooled[0])] } else { pooled };
    let mut logits = vec![0.0; spec.num_classes];
    for (head, pooled) in spec.head_names().iter().zip(&pooled) {
        let weight = get(tensors, &format!("{head}.weight"), &[spec.num_classes, pooled.len()]);
        let bias = get(tensors, &format!("{head}.bias"), &[spec.num_classes]);
        let out = linear(pooled, &weight, &bias, pooled.len(), spec.num_classes);
        logits.iter_mut().zip(out).for_each(|(l, o)| *l += o / spec.head_names().len() as f32);
    }
    logits
}

/// The image embedding of `pooled` features through their projection, scaled to length 1.
fn embedding(spec: &VitSpec, tensors: &Tensors, pooled: &[f32]) -> Vec<f32> {
    let width = spec.pooling.projection.unwrap();
    let biased = spec.pooling.projection_bias;
    let embedding = layer(tensors, "visual_projection", pooled, pooled.len(), width, biased);
    let length = embedding.iter().map(|value| value * value).sum::<f32>().sqrt();
    embedding.iter().map(|value| value / length).collect()
}

/// A learned query over `tokens: [n, D]`, key by key and value by value.
fn attention_pool(spec: &VitSpec, tensors: &Tensors, pool: &AttentionPool, tokens: &[f32]) -> Vec<f32> {
    let (d, n) = (spec.dim, tokens.len() / spec.dim);
    let layer = |name: &str, x: &[f32], outputs: usize, biased: bool| {
        layer(tensors, &format!("attn_pool.{name}"), x, d, outputs, biased)
    };
    let latent = get(tensors, "attn_pool.latent", &[1, 1, d]);
    let query = if pool.query { layer("q", &latent, d, pool.bias) } else { latent };
    let kv = layer("kv", tokens, 2 * d, pool.bias);
    let (head_dim, mut attended) = (d / pool.heads, Vec::new());
    for head in 0..pool.heads {
        let at = |t: usize, part: usize| &kv[t * 2 * d + part * d + head * head_dim..][..head_dim];
        let query = &query[head * head_dim..][..head_dim];
        let dot = |key: &[f32]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
        let scores: Vec<f32> = (0..n).map(|t| dot(at(t, 0)) / (head_dim as f32).sqrt()).collect();
        let weights = softmax(&scores);
        attended.extend((0..head_dim).map(|i| (0..n).map(|t| weights[t] * at(t, 1)[i]).sum::<f32>()));
    }
    let mut y = layer("proj", &attended, d, true);
    if let Some(pool_mlp) = &pool.mlp {
        let normed = norm(spec, tensors, "attn_pool.norm", &y, d);
        add(&mut y, &mlp(spec, tensors, "attn_pool.mlp", pool_mlp, &normed));
    }
    y
}

/// The MLP `name` of `x: [n, D]`.
fn mlp(spec: &VitSpec, tensors: &Tensors, name: &str, mlp: &MlpSpec, x: &[f32]) -> Vec<f32> {
    let hidden = layer(tensors, &format!("{name}.fc1"), x, spec.dim, mlp.first(), mlp.bias);
    let function = mlp.activation.function();
    let mut hidden = if mlp.activation.is_gated() {
        gated(function, &hidden, mlp.first())
    } else {
        activation(function, &hidden)
    };
    if mlp.norm {
        hidden = norm(spec, tensors, &format!("{name}.norm"), &hidden, mlp.hidden);
    }
    layer(tensors, &format!("{name}.fc2"), &hidden, mlp.hidden, spec.dim, mlp.bias)
}

/// The norm `name` of rows of `width` values.
fn norm(spec: &VitSpec, tensors: &Tensors, name: &str, x: &[f32], width: usize) -> Vec<f32> {
    let weight = get(tensors, &format!("{name}.weight"), &[width]);
    if spec.norm.rms {
        return rms_norm(x, &weight, spec.norm.eps);
    }
    layer_norm(x, &weight, &get(tensors, &format!("{name}.bias"), &[width]), spec.norm.eps)
}

/// The linear layer `name`.
fn layer(tensors: &Tensors, name: &str, x: &[f32], inputs: usize, outputs: usize, biased: bool) -> Vec<f32> {
    let bias = if biased { get(tensors, &format!("{name}.bias"), &[outputs]) } else { vec![0.0; outputs] };
    linear(x, &get(tensors, &format!("{name}.weight"), &[outputs, inputs]), &bias, inputs, outputs)
}

/// Tokens after the last block (`[N, D]`, not normed) and which are alive (`[N]`).
pub fn masked_tokens(
    spec: &VitSpec,
    tensors: &Tensors,
    pixels: &[f32],
    stages: &[(usize, Vec<bool>)],
) -> (Vec<f32>, Vec<bool>) {
    let (d, p, prefix) = (spec.dim, spec.patch_size, spec.num_prefix_tokens());
    let [height, width] = spec.img_size;
    let mut x: Vec<f32> = Vec::new();
    for (name, rows) in spec.prefix_tokens() {
        x.extend(get(tensors, name, &[1, rows, d]));
    }
    let weight = get(tensors, "patch_embed.proj.weight", &[d, 3, p, p]);
    let bias =
        if spec.embedding.patch_bias { get(tensors, "patch_embed.proj.bias", &[d]) } else { vec![0.0; d] };
    for row in 0..height / p {
        for column in 0..width / p {
            let mut patch = Vec::new();
            for c in 0..3 {
                for y in 0..p {
                    let start = (c * height + row * p + y) * width + column * p;
                    patch.extend_from_slice(&pixels[start..start + p]);
                }
            }
            let embedded = linear(&patch, &weight, &bias, 3 * p * p, d);
            match spec.embedding.norm {
                EmbeddingNorm::Patches => x.extend(norm(spec, tensors, "patch_embed.norm", &embedded, d)),
                EmbeddingNorm::None | EmbeddingNorm::Tokens => x.extend(embedded),
            }
        }
    }
    // The first prefix tokens have a position embedding, and so have all patches.
    let embedded = spec.embedded_prefix();
    if spec.position_rows() > 0 {
        let positions = get(tensors, "pos_embed", &[1, spec.position_rows(), d]);
        add(&mut x, &positions[..embedded * d]);
        add(&mut x[prefix * d..], &positions[embedded * d..]);
    }
    if spec.embedding.norm == EmbeddingNorm::Tokens {
        x = norm(spec, tensors, "norm_pre", &x, d);
    }

    let mut alive = vec![true; spec.num_tokens()];
    for l in 0..spec.depth {
        for (_, keep) in stages.iter().filter(|(block, _)| *block == l) {
            for (i, keep) in keep.iter().enumerate() {
                alive[prefix + i] &= keep;
            }
        }
        let named = |name: &str| format!("blocks.{l}.{name}");
        let get = |name: &str, shape: &[usize]| get(tensors, &named(name), shape);
        let scaled = |name: &str, y: Vec<f32>| {
            let gamma = if spec.layer_scale { get(&format!("{name}.gamma"), &[d]) } else { vec![1.0; d] };
            y.iter().zip(gamma.iter().cycle()).map(|(y, gamma)| y * gamma).collect::<Vec<f32>>()
        };
        let normed = norm(spec, tensors, &named("norm1"), &x, d);
        let AttentionSpec { heads, qkv_bias, unbiased_keys, .. } = spec.attention;
        let mut qkv = layer(tensors, &named("attn.qkv"), &normed, d, 3 * d, qkv_bias && !unbiased_keys);
        if qkv_bias && unbiased_keys {
            let bias = [get("attn.q_bias", &[d]), vec![0.0; d], get("attn.v_bias", &[d])].concat();
            qkv.chunks_exact_mut(3 * d).for_each(|row| add(row, &bias));
        }
        if spec.attention.qk_norm {
            let width = spec.head_dim();
            for row in qkv.chunks_exact_mut(3 * d) {
                for (part, name) in row.chunks_exact_mut(d).zip(["attn.q_norm", "attn.k_norm"]) {
                    part.copy_from_slice(&norm(spec, tensors, &named(name), part, width));
                }
            }
        }
        if let Some(rope) = spec.attention.rope {
            let columns = spec.grid()[1];
            for (patch, row) in qkv.chunks_exact_mut(3 * d).skip(prefix).enumerate() {
                let angles = rope.angles([patch / columns, patch % columns], spec.grid(), spec.head_dim());
                let rotated = rotate(&row[..2 * d], &angles, rope.pairs);
                row[..2 * d].copy_from_slice(&rotated);
            }
        }
        let mut attended = attention(&qkv, &alive, heads).0;
        if spec.attention.inner_norm {
            attended = norm(spec, tensors, &named("attn.norm"), &attended, d);
        }
        add(
            &mut x,
            &scaled("ls1", layer(tensors, &named("attn.proj"), &attended, d, d, spec.attention.proj_bias)),
        );
        let normed = norm(spec, tensors, &named("norm2"), &x, d);
        add(&mut x, &scaled("ls2", mlp(spec, tensors, &named("mlp"), &spec.mlp, &normed)));
    }
    (x, alive)
}

fn get(tensors: &Tensors, name: &str, shape: &[usize]) -> Vec<f32> {
    tensors.get(name, shape).unwrap().into_owned()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
