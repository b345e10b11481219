//! The CPU executor: packed weights, packed batches, no padding anywhere.
//!
//! Images do not see each other, so that a thread carries a few of them through all blocks up to the next pruning site, and
//! waits for nobody on the way. LayerNorm, the linear layers and the MLP are row-wise: a chunk of rows goes through a whole
//! chain of them while it is in cache. Only attention knows where images begin. Threads that have run out of images help
//! with the chunks and heads of others', which is how a single image is shared, too.

mod embedding;
mod part;

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rayon::prelude::*;
use vitrim_kernels::{
    Attention, AttentionOptions, AttentionTaps, Bf16Pair, Epilogue, InstructionSet, LayerNorm, LineBuffer,
    Linear, Packing, Precision, RowBuffer, Word, rows_per_task,
};

use crate::backbone::{At, Backbone, Output, PixelBatch, Site, Taps, View, Want};
use crate::error::Result;
use crate::packed::Reduction;
use crate::profile::{Operation, Profile};
use crate::spec::{Activation, Pool, VitSpec};
use crate::state::HostState;
use crate::tensors::Tensors;
use embedding::{origin_embedding, unfold};
use part::{PART_ROWS, PARTS_PER_THREAD, Part, Way};

thread_local! {
    /// What a thread carries a chunk of rows through: a block's normed rows, and its hidden ones.
    static ROWS: RefCell<(RowBuffer, RowBuffer)> = RefCell::default();
    /// Queries, keys and values of a chunk of rows whose queries and keys are to be normed, and one row's queries or keys.
    static HEADS: RefCell<(LineBuffer, Vec<f32>)> = RefCell::default();
    /// Unfolded patches.
    static PATCHES: RefCell<LineBuffer> = const { RefCell::new(LineBuffer::new()) };
}

/// A Vision Transformer on the CPU.
///
/// The residual stream, norms, softmax and sums are f32; linear layers and attention multiply in the
/// [`Precision`] asked for, but the patch embedding and attention not below bf16, and the heads in f32. Attention is in f32, too, where
/// the processor has no instruction for pairs of bf16 (it would be no quicker in bf16), or heads have odd widths.
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
    activations: Activations,
    profile: Profile,
}

/// How queries, keys and values lie, and what attention makes of them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Activations {
    F32,
    Pairs,
    /// For a projection that takes whole rows of f32 to 8 bits.
    PairsToF32,
}

impl Activations {
    fn of(precision: Precision, isa: InstructionSet, head_dim: usize) -> Self {
        let pairs = isa.multiplies_pairs() && head_dim.is_multiple_of(Bf16Pair::VALUES);
        match precision {
            Precision::Bf16 if pairs => Activations::Pairs,
            Precision::Int8 if pairs => Activations::PairsToF32,
            _ => Activations::F32,
        }
    }
}

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    /// Over each head's queries and keys, where there are any.
    qk_norm: Option<[LayerNorm; 2]>,
    /// LayerScale is folded into it, as into `fc2`.
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

/// Buffers of one part of a batch, reused by the next, of whichever backbone.
#[derive(Default)]
struct Scratch {
    qkv: LineBuffer,
    attended: LineBuffer,
}

/// As many as passes have run side by side.
static SCRATCH: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

fn lock_scratch() -> MutexGuard<'static, Vec<Scratch>> {
    SCRATCH.lock().unwrap_or_else(PoisonError::into_inner)
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
        let layer =
            |name: &str, outputs: usize, inputs: usize, bias: bool, packing: Packing<'_>| -> Result<Linear> {
                let weight = get(&format!("{name}.weight"), &[outputs, inputs])?;
                let bias = if bias { Some(get(&format!("{name}.bias"), &[outputs])?) } else { None };
                Ok(Linear::packed(&weight, bias.as_deref(), outputs, inputs, packing))
            };
        let linear =
            |name: &str, outputs, inputs, bias| layer(name, outputs, inputs, bias, Packing::new(precision));
        // The last layer of a residual branch, with its LayerScale.
        let last = |name: &str, inputs, scale: &str| -> Result<Linear> {
            let gamma = if spec.layer_scale { Some(get(&format!("{scale}.gamma"), &[d])?) } else { None };
            layer(name, d, inputs, true, Packing { gamma: gamma.as_deref(), ..Packing::new(precision) })
        };
        let norm_of = |name: &str, width: usize| -> Result<LayerNorm> {
            let (weight, bias) =
                (get(&format!("{name}.weight"), &[width])?, get(&format!("{name}.bias"), &[width])?);
            Ok(LayerNorm::new(&weight, &bias, spec.norm_eps))
        };
        let norm = |name: &str| norm_of(name, d);

        let p = spec.patch_size;
        let patch_weight = get("patch_embed.proj.weight", &[d, 3, p, p])?;
        let patch_bias = get("patch_embed.proj.bias", &[d])?;
        let origin_embedding = origin_embedding(spec, tensors)?;

        let blocks = (0..spec.depth).map(|l| {
            let name = |part: &str| format!("blocks.{l}.{part}");
            Ok(Block {
                norm1: norm(&name("norm1"))?,
                qkv: linear(&name("attn.qkv"), 3 * d, d, spec.qkv_bias)?,
                qk_norm: if spec.qk_norm {
                    let head = |part: &str| norm_of(&name(part), spec.head_dim());
                    Some([head("attn.q_norm")?, head("attn.k_norm")?])
                } else {
                    None
                },
                proj: last(&name("attn.proj"), d, &name("ls1"))?,
                norm2: norm(&name("norm2"))?,
                fc1: linear(&name("mlp.fc1"), spec.mlp_first(), d, true)?,
                fc2: last(&name("mlp.fc2"), spec.mlp_hidden, &name("ls2"))?,
            })
        });
        let heads = spec.head_names().iter().map(|head| {
            layer(head, spec.num_classes, spec.num_features(), true, Packing::new(Precision::F32))
        });
        let patch = Packing::new(if precision == Precision::F32 { Precision::F32 } else { Precision::Bf16 });
        Ok(CpuBackbone {
            precision,
            activations: Activations::of(precision, InstructionSet::current(), spec.head_dim()),
            patch: Linear::packed(&patch_weight, Some(&patch_bias), d, 3 * p * p, patch),
            origin_embedding,
            blocks: blocks.collect::<Result<_>>()?,
            norm: norm(if spec.fc_norm { "fc_norm" } else { "norm" })?,
            heads: heads.collect::<Result<_>>()?,
            attention: Attention::new(spec.heads, spec.head_dim(), spec.class_token),
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
            let norms = [&block.norm1, &block.norm2].into_iter().chain(block.qk_norm.iter().flatten());
            linears.iter().sum::<usize>() + norms.map(LayerNorm::bytes).sum::<usize>()
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

    /// What is wanted of an unpruned batch.
    ///
    /// # Errors
    /// As [`Backbone::embed`] and [`Backbone::finish`].
    pub fn dense(&self, pixels: PixelBatch<'_>, want: Want) -> Result<Output> {
        // Entered once, the thread pool then runs every parallel step without a hand-over from outside it.
        rayon::scope(|_| {
            let mut state = self.embed(pixels)?;
            self.advance(&mut state, Site::end(&self.spec), Taps::NONE)?;
            self.finish(&state, want)
        })
    }

    /// Logits of an unpruned batch, `[B, C]`.
    ///
    /// # Errors
    /// As [`CpuBackbone::dense`].
    pub fn dense_logits(&self, pixels: PixelBatch<'_>) -> Result<Output> {
        self.dense(pixels, Want::Logits)
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
                let patches = patches.room(tokens.len() / d * patch);
                let image = &pixels.data[image * image_len..(image + 1) * image_len];
                unfold(image, self.spec.img_size, p, first, patches);
                self.patch.apply(&patches[..], Epilogue::Add(tokens));
            });
        });
        HostState::embedded(&self.spec, tokens, pixels.batch)
    }

    /// Carries `part` along: in halves, as long as they are too large.
    fn carry(&self, mut part: Part<'_>, way: &Way) {
        if part.rows() > way.rows && part.images() > 1 {
            let [part, other] = part.halve(self.spec.dim, self.spec.head_dim());
            rayon::join(|| self.carry(part, way), || self.carry(other, way));
            return;
        }
        let mut scratch = lock_scratch().pop().unwrap_or_default();
        let mut site = way.from;
        while site < way.to {
            let l = site.block;
            match site.at {
                At::BlockInput => {
                    match self.activations {
                        Activations::F32 => self.attend::<f32, f32>(l, &mut part, &mut scratch, way),
                        Activations::Pairs => {
                            self.attend::<Bf16Pair, Bf16Pair>(l, &mut part, &mut scratch, way);
                        }
                        Activations::PairsToF32 => {
                            self.attend::<Bf16Pair, f32>(l, &mut part, &mut scratch, way);
                        }
                    }
                    site = Site::after_attention_of(l);
                }
                At::AfterAttention => {
                    self.mlp(l, &mut part, way);
                    site = Site::input_of(l + 1);
                }
            }
        }
        lock_scratch().push(scratch);
    }

    /// Block `l` up to and with its attention's residual, with queries, keys and values in words Q and what attention makes of them in O.
    fn attend<Q: Word, O: Word>(&self, l: usize, part: &mut Part<'_>, scratch: &mut Scratch, way: &Way) {
        let (d, block, rows) = (self.spec.dim, &self.blocks[l], part.rows());
        let chunk = way.chunk(rows) * d;
        let count = (rows * d).div_ceil(chunk);
        let qkv = scratch.qkv.room::<Q>(rows * 3 * d / Q::VALUES);
        let attended = scratch.attended.room::<O>(rows * d / O::VALUES);

        let chunks = part.tokens.par_chunks(chunk).zip(qkv.par_chunks_mut(3 * chunk / Q::VALUES)).enumerate();
        way.profile.time(Operation::NormQkv, || {
            chunks.for_each(|(i, (x, qkv))| {
                let then = (i + 1 < count).then_some(&block.qkv);
                ROWS.with_borrow_mut(|(normed, _)| {
                    block.norm1.forward_rows(x, normed, self.precision, d);
                    match &block.qk_norm {
                        None => block.qkv.apply_prefetching(then, &*normed, Epilogue::store(qkv)),
                        Some(norms) => HEADS.with_borrow_mut(|(heads, raw)| {
                            let heads = heads.room(3 * x.len());
                            block.qkv.apply_prefetching(then, &*normed, Epilogue::Store(heads));
                            norm_heads(norms, heads, raw, d, self.spec.head_dim());
                            InstructionSet::current().convert(heads, qkv);
                        }),
                    }
                });
            });
        });
        // Taps are of the last attention before the target.
        let last = way.to <= Site::input_of(l + 1);
        way.profile.time(Operation::Attention, || {
            let options = AttentionOptions {
                key_bias: part.key_bias,
                cls_attention: part.cls_attention.as_deref_mut().filter(|_| last),
                threads: way.threads,
            };
            self.attention.forward(qkv, part.offsets, attended, options);
            if let Some(keys) = part.keys.as_deref_mut().filter(|_| last) {
                self.attention.mean_keys(qkv, keys);
            }
            if let Some(norms) = part.value_norm.as_deref_mut().filter(|_| last) {
                self.attention.value_norms(qkv, norms);
            }
        });
        let chunks =
            part.tokens.par_chunks_mut(chunk).zip(attended.par_chunks(chunk / O::VALUES)).enumerate();
        way.profile.time(Operation::Projection, || {
            chunks.for_each(|(i, (x, attended))| {
                let then = if i + 1 < count { &block.proj } else { &block.fc1 };
                block.proj.apply_prefetching(Some(then), attended, Epilogue::Add(x));
            });
        });
    }

    /// Block `l` from its attention's residual to its end.
    fn mlp(&self, l: usize, part: &mut Part<'_>, way: &Way) {
        let (d, block, activation) = (self.spec.dim, &self.blocks[l], self.spec.activation);
        let chunk = way.chunk(part.rows()) * d;
        let count = part.tokens.len().div_ceil(chunk);
        way.profile.time(Operation::NormMlp, || {
            part.tokens.par_chunks_mut(chunk).enumerate().for_each(|(i, x)| {
                ROWS.with_borrow_mut(|(normed, hidden)| {
                    block.norm2.forward_rows(x, normed, self.precision, d);
                    let to = match activation {
                        Activation::Gelu => Epilogue::GeluRows(hidden, self.precision),
                        Activation::SwiGlu => Epilogue::SwigluRows(hidden, self.precision),
                    };
                    block.fc1.apply_prefetching(Some(&block.fc2), &*normed, to);
                    let then =
                        if i + 1 < count { Some(&block.fc1) } else { self.blocks.get(l + 1).map(|b| &b.qkv) };
                    block.fc2.apply_prefetching(then, &*hidden, Epilogue::Add(x));
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

    /// What each head sees, `[B, num_features]` a head.
    fn pooled(&self, state: &HostState) -> Vec<Vec<f32>> {
        match self.spec.pool {
            Pool::Token if self.spec.distilled => vec![self.prefix(state, 0), self.prefix(state, 1)],
            Pool::Token => vec![self.prefix(state, 0)],
            Pool::Avg => vec![self.mean_patch(state)],
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
        let mut normed = raw.clone();
        self.norm.forward(&raw, &mut normed, d);
        normed
    }

    /// The mean of each image's patch tokens, weighed by their sizes, normed before or after, `[B, D]`.
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
        if spec.fc_norm {
            let raw = pooled.clone();
            self.norm.forward(&raw, &mut pooled, d);
        }
        pooled
    }
}

/// Norms each head's queries and keys of `qkv: [rows, 3D]` over their `head_dim` channels, by way of `raw`.
fn norm_heads(norms: &[LayerNorm; 2], qkv: &mut [f32], raw: &mut Vec<f32>, dim: usize, head_dim: usize) {
    for row in qkv.chunks_exact_mut(3 * dim) {
        for (norm, heads) in norms.iter().zip(row.chunks_exact_mut(dim)) {
            raw.clear();
            raw.extend_from_slice(heads);
            norm.forward(raw, heads, head_dim);
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
        let started = Instant::now();
        let packed = &mut state.packed;
        let (total, threads) = (packed.total(), rayon::current_num_threads());
        let way = Way {
            from: state.site,
            to,
            rows: total.div_ceil(PARTS_PER_THREAD * threads).min(PART_ROWS),
            threads: (threads / packed.batch().max(1)).max(1),
            profile: Profile::default(),
        };
        if way.attends() {
            let tap = |wanted: bool, width: usize| wanted.then(|| vec![0.0; total * width]);
            state.taps = AttentionTaps {
                cls_attention: tap(taps.cls_attention, 1),
                keys: tap(taps.keys, self.spec.head_dim()),
                value_norm: tap(taps.value_norm, 1),
            };
        }
        let key_bias = packed.key_bias();
        let part = Part {
            tokens: &mut packed.tokens,
            offsets: &packed.offsets,
            key_bias: key_bias.as_deref(),
            cls_attention: state.taps.cls_attention.as_deref_mut(),
            keys: state.taps.keys.as_deref_mut(),
            value_norm: state.taps.value_norm.as_deref_mut(),
        };
        rayon::scope(|_| self.carry(part, &way));
        state.site = to;
        self.profile.share_out(started.elapsed(), &way.profile);
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
            Want::Pooled => Output { values: mean(self.pooled(state)), width: self.spec.num_features() },
            Want::Logits => {
                let width = self.spec.num_classes;
                let logits = self.heads.iter().zip(self.pooled(state)).map(|(head, pooled)| {
                    let mut logits = vec![0.0; pooled.len() / head.inputs() * width];
                    head.forward(&pooled, &mut logits);
                    logits
                });
                Output { values: mean(logits.collect()), width }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_is_in_bf16_where_pairs_are_multiplied() {
        for set in InstructionSet::supported() {
            let pairs = ["scalar", "avx512+bf16+vnni"].contains(&set.to_string().as_str());
            let or_f32 = |with_pairs| if pairs { with_pairs } else { Activations::F32 };
            for (precision, even) in [
                (Precision::F32, Activations::F32),
                (Precision::Bf16, or_f32(Activations::Pairs)),
                (Precision::Int8, or_f32(Activations::PairsToF32)),
            ] {
                assert_eq!(Activations::of(precision, set, 64), even, "{precision:?}, {set}");
                assert_eq!(Activations::of(precision, set, 5), Activations::F32, "{precision:?}, {set}");
            }
        }
    }
}
