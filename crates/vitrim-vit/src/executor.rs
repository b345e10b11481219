//! The CPU executor: packed weights, packed batches, no padding anywhere.
//!
//! LayerNorm, the linear layers and the MLP are row-wise: each thread carries a chunk of rows through a
//! whole chain of them while it is in cache. Only attention knows where images begin.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use vitrim_kernels::{
    Attention, AttentionOptions, LayerNorm, Linear, Output as To, Packing, Precision, RowBuffer,
    rows_per_task,
};

use crate::backbone::{At, Backbone, Output, PixelBatch, Site, Taps, View, Want};
use crate::error::Result;
use crate::packed::Reduction;
use crate::profile::{Operation, Profile};
use crate::spec::{Pool, VitSpec};
use crate::state::HostState;
use crate::tensors::Tensors;

thread_local! {
    /// What a thread carries a chunk of rows through: a block's normed rows, and its hidden ones.
    static ROWS: RefCell<(RowBuffer, RowBuffer)> = RefCell::default();
    /// Unfolded patches.
    static PATCHES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A Vision Transformer on the CPU.
///
/// The residual stream, norms, softmax and sums are f32; linear layers and attention multiply in the
/// [`Precision`] asked for, but the patch embedding not below bf16, and the heads in f32.
pub struct CpuBackbone {
    spec: VitSpec,
    precision: Precision,
    patch: Linear,
    /// Prefix tokens with their position embeddings, then the patches' position embeddings, `[N, D]`.
    origin_embedding: Vec<f32>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    heads: Vec<Linear>,
    attention: Attention,
    profile: Profile,
}

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

/// Buffers of one running forward pass, reused by the next, of whichever backbone.
#[derive(Default)]
struct Scratch {
    qkv: Vec<f32>,
    attended: Vec<f32>,
}

/// As many as passes have run side by side.
static SCRATCH: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

fn lock_scratch() -> MutexGuard<'static, Vec<Scratch>> {
    SCRATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first `len` values of `buffer`, unspecified; it grows where it is shorter, and never shrinks.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        // The old one goes before the new one comes.
        *buffer = Vec::new();
        *buffer = vec![0.0; len];
    }
    &mut buffer[..len]
}

impl CpuBackbone {
    /// Packs `tensors` for `spec`, in f32.
    ///
    /// # Errors
    /// As [`CpuBackbone::in_precision`].
    pub fn new(spec: &VitSpec, tensors: &Tensors) -> Result<Self> {
        Self::in_precision(spec, tensors, Precision::F32)
    }

    /// Packs `tensors` for `spec`, to multiply in `precision`.
    ///
    /// # Errors
    /// If the geometry cannot be run, or a tensor is missing, misshapen or of an unread type.
    pub fn in_precision(spec: &VitSpec, tensors: &Tensors, precision: Precision) -> Result<Self> {
        spec.check()?;
        let d = spec.dim;
        let get = |name: &str, shape: &[usize]| tensors.get(name, shape);
        let layer = |name: &str, outputs: usize, inputs: usize, bias: bool, precision| -> Result<Linear> {
            let weight = get(&format!("{name}.weight"), &[outputs, inputs])?;
            let bias = if bias { Some(get(&format!("{name}.bias"), &[outputs])?) } else { None };
            Ok(Linear::packed(&weight, bias.as_deref(), outputs, inputs, Packing::new(precision)))
        };
        let linear = |name: &str, outputs, inputs, bias| layer(name, outputs, inputs, bias, precision);
        let norm = |name: &str| -> Result<LayerNorm> {
            let (weight, bias) = (get(&format!("{name}.weight"), &[d])?, get(&format!("{name}.bias"), &[d])?);
            Ok(LayerNorm::new(&weight, &bias, spec.norm_eps))
        };

        let p = spec.patch_size;
        let patch_weight = get("patch_embed.proj.weight", &[d, 3, p, p])?;
        let patch_bias = get("patch_embed.proj.bias", &[d])?;
        let mut origin_embedding = get("pos_embed", &[1, spec.num_tokens(), d])?.into_owned();
        let mut prefix = Vec::new();
        if spec.class_token {
            prefix.push(get("cls_token", &[1, 1, d])?);
        }
        if spec.distilled {
            prefix.push(get("dist_token", &[1, 1, d])?);
        }
        for (row, token) in origin_embedding.chunks_exact_mut(d).zip(&prefix) {
            row.iter_mut().zip(token.iter()).for_each(|(r, t)| *r += t);
        }

        let blocks = (0..spec.depth).map(|l| {
            let name = |part: &str| format!("blocks.{l}.{part}");
            Ok(Block {
                norm1: norm(&name("norm1"))?,
                qkv: linear(&name("attn.qkv"), 3 * d, d, spec.qkv_bias)?,
                proj: linear(&name("attn.proj"), d, d, true)?,
                norm2: norm(&name("norm2"))?,
                fc1: linear(&name("mlp.fc1"), spec.mlp_hidden, d, true)?,
                fc2: linear(&name("mlp.fc2"), d, spec.mlp_hidden, true)?,
            })
        });
        let heads =
            spec.head_names().iter().map(|head| layer(head, spec.num_classes, d, true, Precision::F32));
        let patch = Packing::new(if precision == Precision::F32 { Precision::F32 } else { Precision::Bf16 });
        Ok(CpuBackbone {
            precision,
            patch: Linear::packed(&patch_weight, Some(&patch_bias), d, 3 * p * p, patch),
            origin_embedding,
            blocks: blocks.collect::<Result<_>>()?,
            norm: norm(if spec.fc_norm { "fc_norm" } else { "norm" })?,
            heads: heads.collect::<Result<_>>()?,
            attention: Attention {
                heads: spec.heads,
                head_dim: spec.head_dim(),
                class_token: spec.class_token,
            },
            profile: Profile::default(),
            spec: spec.clone(),
        })
    }

    /// What its layers multiply in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of everything that was packed at loading.
    pub fn weight_bytes(&self) -> usize {
        let block = |block: &Block| {
            let linears = [&block.qkv, &block.proj, &block.fc1, &block.fc2].map(Linear::bytes);
            linears.iter().sum::<usize>() + block.norm1.bytes() + block.norm2.bytes()
        };
        self.patch.bytes()
            + size_of_val(self.origin_embedding.as_slice())
            + self.blocks.iter().map(block).sum::<usize>()
            + self.norm.bytes()
            + self.heads.iter().map(Linear::bytes).sum::<usize>()
    }

    /// Where its passes spend their time.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Logits of an unpruned batch, `[B, C]`.
    ///
    /// # Errors
    /// As [`Backbone::embed`] and [`Backbone::finish`].
    pub fn dense_logits(&self, pixels: PixelBatch<'_>) -> Result<Output> {
        let mut state = self.embed(pixels)?;
        self.advance(&mut state, Site::end(&self.spec), Taps::NONE)?;
        self.finish(&state, Want::Logits)
    }

    /// The batch at the input of block 0; its pixels fit.
    fn embedded(&self, pixels: PixelBatch<'_>) -> HostState {
        let (p, d) = (self.spec.patch_size, self.spec.dim);
        let (n, prefix, patch) = (self.spec.num_tokens(), self.spec.num_prefix_tokens(), 3 * p * p);
        let mut tokens = self.origin_embedding.repeat(pixels.batch);
        let rows = rows_per_task(pixels.batch * n);
        let mut tasks = Vec::new();
        for (image, tokens) in tokens.chunks_exact_mut(n * d).enumerate() {
            tasks.extend(
                tokens[prefix * d..].chunks_mut(rows * d).enumerate().map(|(i, t)| (image, i * rows, t)),
            );
        }
        let image_len = pixels.data.len() / pixels.batch.max(1);
        tasks.into_par_iter().for_each(|(image, first, tokens)| {
            PATCHES.with_borrow_mut(|patches| {
                patches.resize(tokens.len() / d * patch, 0.0);
                let image = &pixels.data[image * image_len..(image + 1) * image_len];
                unfold(image, self.spec.img_size, p, first, patches);
                self.patch.apply(&patches[..], To::Add(tokens));
            });
        });
        HostState::embedded(&self.spec, tokens, pixels.batch)
    }

    /// Block `l` up to and with its attention's residual.
    fn attend(&self, l: usize, state: &mut HostState, scratch: &mut Scratch, taps: Taps) {
        let (d, block) = (self.spec.dim, &self.blocks[l]);
        let packed = &mut state.packed;
        let total = packed.total();
        let chunk = rows_per_task(total) * d;
        let qkv = room(&mut scratch.qkv, total * 3 * d);
        let attended = room(&mut scratch.attended, total * d);

        let chunks = packed.tokens.par_chunks(chunk).zip(qkv.par_chunks_mut(3 * chunk));
        self.profile.time(Operation::NormQkv, || {
            chunks.for_each(|(x, qkv)| {
                ROWS.with_borrow_mut(|(normed, _)| {
                    block.norm1.forward_rows(x, normed, self.precision, d);
                    block.qkv.apply(&*normed, To::Store(qkv));
                });
            });
        });
        let mut cls_attention = taps.cls_attention.then(|| vec![0.0; total]);
        let key_bias = packed.key_bias();
        let options = AttentionOptions {
            precision: self.precision,
            key_bias: key_bias.as_deref(),
            cls_attention: cls_attention.as_deref_mut(),
            ..AttentionOptions::default()
        };
        self.profile.time(Operation::Attention, || {
            self.attention.forward(qkv, &packed.offsets, attended, options);
            state.taps = self.attention.tap_projections(qkv, taps.keys, taps.value_norm);
        });
        state.taps.cls_attention = cls_attention;
        let chunks = packed.tokens.par_chunks_mut(chunk).zip(attended.par_chunks(chunk));
        self.profile.time(Operation::Projection, || {
            chunks.for_each(|(x, attended)| block.proj.apply(attended, To::Add(x)));
        });
    }

    /// Block `l` from its attention's residual to its end.
    fn mlp(&self, l: usize, state: &mut HostState) {
        let (d, block) = (self.spec.dim, &self.blocks[l]);
        let chunk = rows_per_task(state.packed.total()) * d;
        self.profile.time(Operation::NormMlp, || {
            state.packed.tokens.par_chunks_mut(chunk).for_each(|x| {
                ROWS.with_borrow_mut(|(normed, hidden)| {
                    block.norm2.forward_rows(x, normed, self.precision, d);
                    block.fc1.apply(&*normed, To::GeluRows(hidden, self.precision));
                    block.fc2.apply(&*hidden, To::Add(x));
                });
            });
        });
    }

    /// Final tokens `[T, D]`: normed, unless the norm comes after pooling.
    fn final_tokens(&self, state: &HostState) -> Vec<f32> {
        let mut tokens = state.packed.tokens.clone();
        if !self.spec.fc_norm {
            self.norm.forward(&state.packed.tokens, &mut tokens, self.spec.dim);
        }
        tokens
    }

    /// What each head sees, `[B, D]` a head; without a head, one mean over the class tokens.
    fn pooled(&self, state: &HostState) -> Vec<Vec<f32>> {
        let (d, spec) = (self.spec.dim, &self.spec);
        let offsets = &state.packed.offsets;
        match spec.pool {
            Pool::Token => {
                let tokens = if spec.distilled { 2 } else { 1 };
                let normed = |token: usize| {
                    let mut pooled = Vec::with_capacity((offsets.len() - 1) * d);
                    for start in &offsets[..offsets.len() - 1] {
                        pooled.extend_from_slice(&state.packed.tokens[(start + token) * d..][..d]);
                    }
                    let raw = pooled.clone();
                    self.norm.forward(&raw, &mut pooled, d);
                    pooled
                };
                (0..tokens).map(normed).collect()
            }
            Pool::Avg => {
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
                if spec.fc_norm {
                    let raw = pooled.clone();
                    self.norm.forward(&raw, &mut pooled, d);
                }
                vec![pooled]
            }
        }
    }
}

/// Mean of equally long vectors.
fn mean(parts: Vec<Vec<f32>>) -> Vec<f32> {
    let scale = 1.0 / parts.len() as f32;
    (0..parts[0].len()).map(|i| parts.iter().map(|p| p[i]).sum::<f32>() * scale).collect()
}

impl Backbone for CpuBackbone {
    type State = HostState;

    fn spec(&self) -> &VitSpec {
        &self.spec
    }

    fn embed(&self, pixels: PixelBatch<'_>) -> Result<HostState> {
        pixels.check(&self.spec)?;
        Ok(self.profile.time(Operation::PatchEmbedding, || self.embedded(pixels)))
    }

    fn advance(&self, state: &mut HostState, to: Site, taps: Taps) -> Result<()> {
        state.site.check_forward(to, &self.spec)?;
        let mut scratch = lock_scratch().pop().unwrap_or_default();
        // Entered once, the thread pool then runs every parallel step without a hand-over from outside it.
        rayon::scope(|_| {
            while state.site < to {
                let l = state.site.block;
                match state.site.at {
                    At::BlockInput => {
                        // Tapped attention is the last that runs before the target.
                        let last = to == Site::after_attention_of(l) || to == Site::input_of(l + 1);
                        self.attend(l, state, &mut scratch, if last { taps } else { Taps::NONE });
                        state.site = Site::after_attention_of(l);
                    }
                    At::AfterAttention => {
                        self.mlp(l, state);
                        state.site = Site::input_of(l + 1);
                    }
                }
            }
        });
        lock_scratch().push(scratch);
        Ok(())
    }

    fn view<'s>(&self, state: &'s HostState) -> Result<View<'s>> {
        Ok(state.view(&self.spec))
    }

    fn reduce(&self, state: &mut HostState, reduction: &Reduction) -> Result<()> {
        self.profile.time(Operation::Compaction, || state.reduce(reduction))
    }

    fn finish(&self, state: &HostState, want: Want) -> Result<Output> {
        want.check(&self.spec, state.site, &state.packed.offsets)?;
        let d = self.spec.dim;
        Ok(self.profile.time(Operation::Head, || match want {
            Want::Tokens => Output { values: self.final_tokens(state), width: d },
            Want::Pooled => Output { values: mean(self.pooled(state)), width: d },
            Want::Logits => {
                let width = self.spec.num_classes;
                let logits = self.heads.iter().zip(self.pooled(state)).map(|(head, pooled)| {
                    let mut logits = vec![0.0; pooled.len() / d * width];
                    head.forward(&pooled, &mut logits);
                    logits
                });
                Output { values: mean(logits.collect()), width }
            }
        }))
    }
}

/// Cuts the patches from `first` on out of `image: [3, H, W]`, into `patches: [n, 3 * p * p]`, each in the
/// weight's order (c, y, x).
fn unfold(image: &[f32], [height, width]: [usize; 2], p: usize, first: usize, patches: &mut [f32]) {
    let columns = width / p;
    for (i, patch) in patches.chunks_exact_mut(3 * p * p).enumerate() {
        let (top, left) = ((first + i) / columns * p, (first + i) % columns * p);
        for (j, row) in patch.chunks_exact_mut(p).enumerate() {
            let (channel, y) = (j / p, j % p);
            row.copy_from_slice(&image[(channel * height + top + y) * width + left..][..p]);
        }
    }
}
