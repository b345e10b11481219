//! The CPU executor: packed weights, packed batches, no padding anywhere.
//!
//! Images are independent. Each thread carries a group of images through all blocks up to the next site without
//! synchronisation. LayerNorm, the linear layers and the MLP are row-wise: a chunk of rows passes through a chain of
//! them while it is in cache. Only attention depends on where images start. A thread that has no images left takes
//! chunks and heads from the others; a single image is shared between threads in the same way.

mod answer;
mod embedding;
mod heads;
mod interruptible;
mod part;
mod probe;
mod scratch;
mod session;
mod weights;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rayon::prelude::*;
use vitrim_kernels::{
    AttentionOptions, AttentionTaps, Bf16Pair, Epilogue, InstructionSet, LineBuffer, Precision, RowBuffer,
    Word, rows_per_task,
};

use crate::backbone::{At, Backbone, Output, PixelBatch, Site, Taps, View, Want, image_values};
use crate::error::Result;
use crate::packed::Reduction;
use crate::places::GridPlaces;
use crate::profile::{Operation, Profile};
use crate::spec::{EmbeddingNorm, VitSpec};
use crate::state::HostState;
use crate::tensors::Tensors;
use embedding::unfold;
pub use interruptible::Interruptible;
use part::{LEAST_PART_ROWS, PART_ROWS, PARTS_PER_THREAD, Part, Way};
use scratch::{Scratch, ScratchPool};
use session::Spinning;
pub use session::{SessionOptions, Threads};
use weights::Activations;
pub use weights::CpuWeights;

thread_local! {
    /// A thread's buffers for a chunk of rows: normed rows, and hidden rows of the MLP.
    static ROWS: RefCell<(RowBuffer, RowBuffer)> = RefCell::default();
    /// Queries, keys and values of a chunk of rows whose queries and keys need a norm, and one row's queries or keys.
    static HEADS: RefCell<(LineBuffer, Vec<f32>)> = RefCell::default();
    /// Unfolded patches, and embedded patches before their norm and after it.
    static PATCHES: RefCell<(LineBuffer, Vec<f32>)> = const { RefCell::new((LineBuffer::new(), Vec::new())) };
    /// Outputs of an MLP's first layer, and hidden rows before their norm, for MLPs with a norm; outputs of attention before
    /// theirs.
    static UNNORMED: RefCell<(LineBuffer, LineBuffer)> =
        const { RefCell::new((LineBuffer::new(), LineBuffer::new())) };
}

/// A session of a Vision Transformer on the CPU: shared weights, and the state that a pass needs. Passes may run in
/// parallel.
///
/// The residual stream, norms, softmax and sums are f32. Linear layers and attention multiply in the chosen
/// [`Precision`]; the patch embedding and attention use bf16 at the lowest, and the heads f32. Attention is also in
/// f32 if the processor has no instruction for pairs of bf16 (bf16 would not be faster), or if the head width is odd.
pub struct CpuBackbone {
    weights: Arc<CpuWeights>,
    threads: Threads,
    spinning: Spinning,
    scratch: ScratchPool,
    profile: Profile,
}

impl CpuBackbone {
    /// Packs `tensors` for `spec`, in f32, for a session with default options.
    ///
    /// # Errors
    /// As [`CpuBackbone::in_precision`].
    pub fn new(spec: &VitSpec, tensors: &Tensors) -> Result<Self> {
        Self::in_precision(spec, tensors, Precision::F32)
    }

    /// Packs `tensors` for `spec`, with arithmetic in `precision`, for a session with default options.
    ///
    /// # Errors
    /// If the geometry is not supported, or a tensor is missing, has the wrong shape, or has a type that is not read.
    pub fn in_precision(spec: &VitSpec, tensors: &Tensors, precision: Precision) -> Result<Self> {
        let weights = Arc::new(CpuWeights::pack(spec, tensors, precision)?);
        Ok(Self::over(weights, SessionOptions::default()))
    }

    /// Another session over the same weights.
    pub fn session(&self, options: SessionOptions) -> Self {
        Self::over(Arc::clone(&self.weights), options)
    }

    fn over(weights: Arc<CpuWeights>, options: SessionOptions) -> Self {
        CpuBackbone {
            weights,
            spinning: Spinning::new(options.spin),
            threads: options.threads,
            scratch: ScratchPool::default(),
            profile: Profile::default(),
        }
    }

    /// The weights, which all sessions over them share.
    pub fn weights(&self) -> &CpuWeights {
        &self.weights
    }

    /// The time that each operation of this session's passes took.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The output `want` of an unpruned batch.
    ///
    /// # Errors
    /// As [`Backbone::embed`] and [`Backbone::finish`].
    pub fn dense(&self, pixels: PixelBatch<'_>, want: Want) -> Result<Output> {
        self.enter(|| {
            let mut state = self.embed(pixels)?;
            if want == Want::Tokens {
                self.advance(&mut state, Site::end(self.spec()), Taps::NONE)?;
            } else {
                self.advance_to_answer(&mut state)?;
            }
            self.finish(&state, want)
        })
    }

    /// [`Backbone::embed`]; once `stop` is set, the state means nothing.
    fn embed_until(&self, pixels: PixelBatch<'_>, stop: Option<&AtomicBool>) -> Result<HostState> {
        pixels.check(self.spec())?;
        let embedded = || self.enter(|| self.weights.embedded(pixels, stop));
        Ok(self.profile.time(Operation::PatchEmbedding, embedded))
    }

    /// [`Backbone::advance`]; once `stop` is set, the state means nothing.
    fn advance_until(
        &self,
        state: &mut HostState,
        to: Site,
        taps: Taps,
        stop: Option<&AtomicBool>,
    ) -> Result<()> {
        state.site.check_forward(to, self.spec())?;
        self.enter(|| self.advance_here(state, to, taps, None, stop));
        Ok(())
    }

    /// [`Backbone::advance_to_answer`]; once `stop` is set, the state means nothing.
    fn advance_to_answer_until(&self, state: &mut HostState, stop: Option<&AtomicBool>) -> Result<()> {
        let (spec, answer, end) = (self.spec(), Site::of_answer(self.spec()), Site::end(self.spec()));
        if !spec.answers_from_prefix() || state.site > answer {
            return self.advance_until(state, end, Taps::NONE, stop);
        }
        self.enter(|| {
            self.advance_here(state, Site::input_of(spec.depth - 1), Taps::NONE, None, stop);
            self.advance_here(state, answer, Taps::NONE, Some(spec.num_prefix_tokens()), stop);
            state.reduce(&Reduction::prefix(&state.packed.offsets, spec.num_prefix_tokens()))?;
            self.advance_here(state, end, Taps::NONE, None, stop);
            Ok(())
        })
    }

    /// [`Backbone::advance`] on this thread and the others of its pool, unless `to` lies behind the state. `attending`: see
    /// [`Way::attending`].
    fn advance_here(
        &self,
        state: &mut HostState,
        to: Site,
        taps: Taps,
        attending: Option<usize>,
        stop: Option<&AtomicBool>,
    ) {
        if to < state.site {
            return;
        }
        let started = Instant::now();
        let packed = &mut state.packed;
        let (total, threads) = (packed.total(), rayon::current_num_threads());
        let way = Way {
            from: state.site,
            to,
            rows: total
                .div_ceil(PARTS_PER_THREAD * threads)
                .max(total.div_ceil(threads).min(LEAST_PART_ROWS))
                .min(PART_ROWS),
            threads: (threads / packed.batch().max(1)).max(1),
            attending,
            profile: Profile::default(),
            stop,
        };
        if way.attends() {
            let tap = |wanted: bool, width: usize| wanted.then(|| vec![0.0; total * width]);
            state.taps = AttentionTaps {
                cls_attention: tap(taps.cls_attention, 1),
                received_attention: tap(taps.received_attention, 1),
                keys: tap(taps.keys, self.spec().head_dim()),
                value_norm: tap(taps.value_norm, 1),
                inputs: tap(taps.inputs, self.spec().dim),
            };
        }
        let key_bias = packed.key_bias();
        let part = Part {
            tokens: &mut packed.tokens,
            offsets: &packed.offsets,
            places: GridPlaces::new(&packed.origins, self.spec().grid()),
            key_bias: key_bias.as_deref(),
            cls_attention: state.taps.cls_attention.as_deref_mut(),
            received_attention: state.taps.received_attention.as_deref_mut(),
            keys: state.taps.keys.as_deref_mut(),
            value_norm: state.taps.value_norm.as_deref_mut(),
            inputs: state.taps.inputs.as_deref_mut(),
        };
        self.weights.carry(part, &way, &self.scratch);
        self.scratch.end_step();
        state.site = to;
        self.profile.share_out(started.elapsed(), &way.profile);
    }

    /// Logits of an unpruned batch, `[B, C]`.
    ///
    /// # Errors
    /// As [`CpuBackbone::dense`].
    pub fn dense_logits(&self, pixels: PixelBatch<'_>) -> Result<Output> {
        self.dense(pixels, Want::Logits)
    }
}

impl CpuWeights {
    /// The batch at the input of block 0, which means nothing once `stop` is set. The pixels must have been checked.
    fn embedded(&self, pixels: PixelBatch<'_>, stop: Option<&AtomicBool>) -> HostState {
        let (p, d) = (self.spec.patch_size, self.spec.dim);
        let (prefix, patch) = (self.spec.num_prefix_tokens(), 3 * p * p);
        let grids = pixels.grids(&self.spec);
        let mut tokens = self.origin_embedding.of(&grids);
        let rows = rows_per_task(tokens.len() / d);
        let mut tasks = Vec::new();
        let (mut images, mut free) = (pixels.data, tokens.as_mut_slice());
        for (b, [grid_rows, columns]) in grids.iter().enumerate() {
            let size = pixels.size(&self.spec, b);
            let (image, others) = images.split_at(image_values(size));
            let (tokens, rest) = free.split_at_mut((prefix + grid_rows * columns) * d);
            let chunks = tokens[prefix * d..].chunks_mut(rows * d).enumerate();
            tasks.extend(chunks.map(|(i, tokens)| (image, size, i * rows, tokens)));
            (images, free) = (others, rest);
        }
        tasks.into_par_iter().for_each(|(image, size, first, tokens)| {
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return;
            }
            PATCHES.with_borrow_mut(|(patches, embedded)| {
                let patches = patches.room(tokens.len() / d * patch);
                unfold(image, size, p, first, patches);
                match &self.embedding_norm {
                    Some(norm) if self.spec.embedding.norm == EmbeddingNorm::Patches => {
                        embedded.resize(2 * tokens.len(), 0.0);
                        let (raw, normed) = embedded.split_at_mut(tokens.len());
                        self.patch.apply(&patches[..], Epilogue::Store(raw));
                        norm.forward(raw, normed, d);
                        tokens.iter_mut().zip(normed).for_each(|(token, patch)| *token += *patch);
                    }
                    _ => self.patch.apply(&patches[..], Epilogue::Add(tokens)),
                }
            });
        });
        if let (EmbeddingNorm::Tokens, Some(norm)) = (self.spec.embedding.norm, &self.embedding_norm) {
            tokens.par_chunks_mut(rows * d).for_each(|tokens| {
                PATCHES.with_borrow_mut(|(_, raw)| {
                    raw.clear();
                    raw.extend_from_slice(tokens);
                    norm.forward(raw, tokens, d);
                });
            });
        }
        HostState::embedded(&self.spec, tokens, grids)
    }

    /// Carries `part` along `way`; splits it in halves while it has too many rows.
    fn carry(&self, mut part: Part<'_>, way: &Way<'_>, pool: &ScratchPool) {
        if part.rows() > way.rows && part.images() > 1 {
            let [part, other] = part.halve(self.spec.dim, self.spec.head_dim());
            rayon::join(|| self.carry(part, way, pool), || self.carry(other, way, pool));
            return;
        }
        let mut scratch = pool.take();
        let mut site = way.from;
        while site < way.to && !way.is_stopped() {
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
        pool.put(scratch);
    }

    /// Block `l` up to and including attention's residual. Queries, keys and values are stored as words Q,
    /// attention's output as words O.
    fn attend<Q: Word, O: Word>(&self, l: usize, part: &mut Part<'_>, scratch: &mut Scratch, way: &Way<'_>) {
        let (d, block, rows, places) = (self.spec.dim, &self.blocks[l], part.rows(), part.places);
        let chunk = way.chunk(rows) * d;
        let count = (rows * d).div_ceil(chunk);
        // Taps are taken from the last attention before the target.
        let last = way.to <= Site::input_of(l + 1);
        if let Some(inputs) = part.inputs.as_deref_mut().filter(|_| last) {
            inputs.copy_from_slice(part.tokens);
        }
        let qkv = scratch.qkv.room::<Q>(rows * 3 * d / Q::VALUES);
        let attended = scratch.attended.room::<O>(rows * d / O::VALUES);

        let chunks = part.tokens.par_chunks(chunk).zip(qkv.par_chunks_mut(3 * chunk / Q::VALUES)).enumerate();
        way.profile.time(Operation::NormQkv, || {
            chunks.for_each(|(i, (x, qkv))| {
                let then = (i + 1 < count).then_some(&block.qkv);
                ROWS.with_borrow_mut(|(normed, _)| {
                    block.norm1.forward_rows(x, normed, self.precision(), d);
                    match &block.heads {
                        None => block.qkv.apply_prefetching(then, &*normed, Epilogue::store(qkv)),
                        Some(steps) => HEADS.with_borrow_mut(|(heads, raw)| {
                            let heads = heads.room(3 * x.len());
                            block.qkv.apply_prefetching(then, &*normed, Epilogue::Store(heads));
                            let first = i * chunk / d;
                            steps.apply(heads, raw, places.rows(first..first + x.len() / d));
                            InstructionSet::current().convert(heads, qkv);
                        }),
                    }
                });
            });
        });
        way.profile.time(Operation::Attention, || {
            let (key_bias, threads) = (part.key_bias, way.threads);
            let received = part.received_attention.as_deref_mut().filter(|_| last);
            let mut cls_attention = part.cls_attention.as_deref_mut().filter(|_| last);
            if received.is_some() && cls_attention.is_some() {
                // A pass gives one of the two. Both are wanted only where several pruners share a start.
                let cls_attention = cls_attention.take();
                let options =
                    AttentionOptions { key_bias, cls_attention, threads, ..AttentionOptions::default() };
                self.attention.forward(qkv, part.offsets, attended, options);
            }
            let of_all_queries = received.is_some();
            let cls_attention = received.or(cls_attention);
            let options =
                AttentionOptions { key_bias, cls_attention, threads, of_all_queries, queries: way.attending };
            self.attention.forward(qkv, part.offsets, attended, options);
            if let Some(keys) = part.keys.as_deref_mut().filter(|_| last) {
                self.attention.mean_keys(qkv, keys);
            }
            if let Some(norms) = part.value_norm.as_deref_mut().filter(|_| last) {
                self.attention.value_norms(qkv, norms);
            }
        });
        let Some(attending) = way.attending else {
            self.project(l, part.tokens, attended, way);
            return;
        };
        let rows = part.first_rows(attending);
        let (mut tokens, words) = (Vec::with_capacity(rows.len() * d), d / O::VALUES);
        let mut own = Vec::with_capacity(rows.len() * words);
        for &row in &rows {
            tokens.extend_from_slice(&part.tokens[row * d..][..d]);
            own.extend_from_slice(&attended[row * words..][..words]);
        }
        self.project(l, &mut tokens, &own, way);
        for (&row, token) in rows.iter().zip(tokens.chunks_exact(d)) {
            part.tokens[row * d..][..d].copy_from_slice(token);
        }
    }

    /// Adds the projection of attention's outputs `attended: [t, D]` in block `l` to `tokens: [t, D]`.
    fn project<O: Word>(&self, l: usize, tokens: &mut [f32], attended: &[O], way: &Way<'_>) {
        let (d, block) = (self.spec.dim, &self.blocks[l]);
        let chunk = way.chunk(tokens.len() / d) * d;
        let count = tokens.len().div_ceil(chunk);
        let chunks = tokens.par_chunks_mut(chunk).zip(attended.par_chunks(chunk / O::VALUES)).enumerate();
        way.profile.time(Operation::Projection, || {
            chunks.for_each(|(i, (x, attended))| {
                let then = if i + 1 < count { &block.proj } else { &block.fc1 };
                match &block.attn_norm {
                    None => block.proj.apply_prefetching(Some(then), attended, Epilogue::Add(x)),
                    Some(norm) => ROWS.with_borrow_mut(|(normed, _)| {
                        UNNORMED.with_borrow_mut(|(raw, _)| {
                            let raw = raw.room(x.len());
                            let values =
                                attended.iter().flat_map(|word| word.values().into_iter().take(O::VALUES));
                            raw.iter_mut().zip(values).for_each(|(raw, value)| *raw = value);
                            norm.forward_rows(raw, normed, self.precision(), d);
                        });
                        block.proj.apply_prefetching(Some(then), &*normed, Epilogue::Add(x));
                    }),
                }
            });
        });
    }

    /// Block `l` from its attention's residual to its end.
    fn mlp(&self, l: usize, part: &mut Part<'_>, way: &Way<'_>) {
        let (d, block, mlp) = (self.spec.dim, &self.blocks[l], &self.spec.mlp);
        let (function, gated, precision) =
            (mlp.activation.function(), mlp.activation.is_gated(), self.precision());
        let chunk = way.chunk(part.rows()) * d;
        let count = part.tokens.len().div_ceil(chunk);
        way.profile.time(Operation::NormMlp, || {
            part.tokens.par_chunks_mut(chunk).enumerate().for_each(|(i, x)| {
                ROWS.with_borrow_mut(|(normed, hidden)| {
                    block.norm2.forward_rows(x, normed, precision, d);
                    match &block.mlp_norm {
                        Some(norm) => UNNORMED.with_borrow_mut(|(first, raw)| {
                            let rows = x.len() / d;
                            let first = first.room(rows * mlp.first());
                            block.fc1.apply_prefetching(Some(&block.fc2), &*normed, Epilogue::Store(first));
                            let raw = if gated {
                                let raw = raw.room(rows * mlp.hidden);
                                InstructionSet::current().gate(function, first, raw, mlp.first());
                                raw
                            } else {
                                InstructionSet::current().activate(function, first);
                                first
                            };
                            norm.forward_rows(raw, hidden, precision, mlp.hidden);
                        }),
                        None => {
                            let to = if gated {
                                Epilogue::GateRows(function, hidden, precision)
                            } else {
                                Epilogue::ActivateRows(function, hidden, precision)
                            };
                            block.fc1.apply_prefetching(Some(&block.fc2), &*normed, to);
                        }
                    }
                    let then =
                        if i + 1 < count { Some(&block.fc1) } else { self.blocks.get(l + 1).map(|b| &b.qkv) };
                    block.fc2.apply_prefetching(then, &*hidden, Epilogue::Add(x));
                });
            });
        });
    }
}

impl Backbone for CpuBackbone {
    type State = HostState;

    fn spec(&self) -> &VitSpec {
        &self.weights.spec
    }

    fn enter<T: Send>(&self, pass: impl FnOnce() -> T + Send) -> T {
        self.threads.enter(pass)
    }

    fn short_step<T>(&self, step: impl FnOnce() -> T) -> T {
        self.spinning.during(step)
    }

    fn embed(&self, pixels: PixelBatch<'_>) -> Result<HostState> {
        self.embed_until(pixels, None)
    }

    fn advance(&self, state: &mut HostState, to: Site, taps: Taps) -> Result<()> {
        self.advance_until(state, to, taps, None)
    }

    fn advance_to_answer(&self, state: &mut HostState) -> Result<()> {
        self.advance_to_answer_until(state, None)
    }

    fn view<'s>(&self, state: &'s HostState) -> Result<View<'s>> {
        Ok(state.view(self.spec()))
    }

    fn reduce(&self, state: &mut HostState, reduction: &Reduction) -> Result<()> {
        self.profile.time(Operation::Compaction, || self.enter(|| state.reduce(reduction)))
    }

    fn finish(&self, state: &HostState, want: Want) -> Result<Output> {
        want.check(self.spec(), state.site, &state.packed.offsets)?;
        let answer = || self.enter(|| self.weights.answer(state, want));
        Ok(self.profile.time(Operation::Head, answer))
    }
}
