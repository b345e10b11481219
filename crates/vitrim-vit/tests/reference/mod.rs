//! The slow, direct Vision Transformer: one image, every token to the end, removed tokens masked out of attention
//! (and out of average pooling). Physical removal must give the same result.

use vitrim_kernels::reference::{attention, gelu, layer_norm, linear, swiglu};
use vitrim_vit::{MlpActivation, Pool, Tensors, VitSpec};

/// Logits of `pixels: [3, H, W]`; `stages[k] = (block, keep: [N0])` masks patches from that block on.
pub fn masked_logits(
    spec: &VitSpec,
    tensors: &Tensors,
    pixels: &[f32],
    stages: &[(usize, Vec<bool>)],
) -> Vec<f32> {
    let (x, alive) = masked_tokens(spec, tensors, pixels, stages);
    let d = spec.dim;
    let norm = spec.final_norm();
    let (weight, bias) =
        (get(tensors, &format!("{norm}.weight"), &[d]), get(tensors, &format!("{norm}.bias"), &[d]));
    let normed = |rows: &[f32]| layer_norm(rows, &weight, &bias, spec.norm.eps);
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
    };
    let mut logits = vec![0.0; spec.num_classes];
    for (head, pooled) in spec.head_names().iter().zip(&pooled) {
        let weight = get(tensors, &format!("{head}.weight"), &[spec.num_classes, pooled.len()]);
        let bias = get(tensors, &format!("{head}.bias"), &[spec.num_classes]);
        let out = linear(pooled, &weight, &bias, pooled.len(), spec.num_classes);
        logits.iter_mut().zip(out).for_each(|(l, o)| *l += o / spec.head_names().len() as f32);
    }
    logits
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
    let bias = get(tensors, "patch_embed.proj.bias", &[d]);
    for row in 0..height / p {
        for column in 0..width / p {
            let mut patch = Vec::new();
            for c in 0..3 {
                for y in 0..p {
                    let start = (c * height + row * p + y) * width + column * p;
                    patch.extend_from_slice(&pixels[start..start + p]);
                }
            }
            x.extend(linear(&patch, &weight, &bias, 3 * p * p, d));
        }
    }
    // The first prefix tokens have a position embedding, and so have all patches.
    let embedded = spec.embedded_prefix();
    let positions = get(tensors, "pos_embed", &[1, embedded + spec.num_patches(), d]);
    add(&mut x, &positions[..embedded * d]);
    add(&mut x[prefix * d..], &positions[embedded * d..]);

    let mut alive = vec![true; spec.num_tokens()];
    for l in 0..spec.depth {
        for (_, keep) in stages.iter().filter(|(block, _)| *block == l) {
            for (i, keep) in keep.iter().enumerate() {
                alive[prefix + i] &= keep;
            }
        }
        let get = |name: &str, shape: &[usize]| get(tensors, &format!("blocks.{l}.{name}"), shape);
        let norm = |name: &str, x: &[f32]| {
            let (weight, bias) = (get(&format!("{name}.weight"), &[d]), get(&format!("{name}.bias"), &[d]));
            layer_norm(x, &weight, &bias, spec.norm.eps)
        };
        let layer = |name: &str, x: &[f32], inputs: usize, outputs: usize| {
            let bias = match (name, spec.attention.qkv_bias) {
                ("attn.qkv", false) => vec![0.0; outputs],
                _ => get(&format!("{name}.bias"), &[outputs]),
            };
            linear(x, &get(&format!("{name}.weight"), &[outputs, inputs]), &bias, inputs, outputs)
        };
        let scaled = |name: &str, y: Vec<f32>| {
            let gamma = if spec.layer_scale { get(&format!("{name}.gamma"), &[d]) } else { vec![1.0; d] };
            y.iter().zip(gamma.iter().cycle()).map(|(y, gamma)| y * gamma).collect::<Vec<f32>>()
        };
        let mut qkv = layer("attn.qkv", &norm("norm1", &x), d, 3 * d);
        if spec.attention.qk_norm {
            let width = spec.head_dim();
            for row in qkv.chunks_exact_mut(3 * d) {
                for (part, name) in row.chunks_exact_mut(d).zip(["attn.q_norm", "attn.k_norm"]) {
                    let weight = get(&format!("{name}.weight"), &[width]);
                    let bias = get(&format!("{name}.bias"), &[width]);
                    let normed: Vec<f32> = part
                        .chunks_exact(width)
                        .flat_map(|head| layer_norm(head, &weight, &bias, spec.norm.eps))
                        .collect();
                    part.copy_from_slice(&normed);
                }
            }
        }
        let attended = attention(&qkv, &alive, spec.attention.heads).0;
        add(&mut x, &scaled("ls1", layer("attn.proj", &attended, d, d)));
        let (first, h) = (spec.mlp.first(), spec.mlp.hidden);
        let hidden = layer("mlp.fc1", &norm("norm2", &x), d, first);
        let hidden = match spec.mlp.activation {
            MlpActivation::Gelu => gelu(&hidden),
            MlpActivation::SwiGlu => swiglu(&hidden, first),
        };
        add(&mut x, &scaled("ls2", layer("mlp.fc2", &hidden, h, d)));
    }
    (x, alive)
}

fn get(tensors: &Tensors, name: &str, shape: &[usize]) -> Vec<f32> {
    tensors.get(name, shape).unwrap().into_owned()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
