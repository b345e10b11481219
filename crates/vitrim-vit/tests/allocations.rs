//! After the first batch of a size, blocks allocate nothing.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use vitrim_vit::{Backbone, CpuBackbone, MlpActivation, PixelBatch, Precision, Site, Taps, Tensors, VitSpec};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Batches in a row that have to allocate nothing.
const QUIET: usize = 20;

/// Batches until every thread has run a part of one at the latest: each thread has its own buffers, and on a busy machine
/// one may come late.
const MOST: usize = 1000;

/// The only test of its process, because allocations of others would be counted, too.
#[test]
fn blocks_allocate_nothing_after_the_first_batch() {
    let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap();
    (spec.dim, spec.mlp.hidden, spec.depth) = (96, 384, 4);
    let mut swiglu = spec.clone();
    (swiglu.attention.qk_norm, swiglu.mlp.activation) = (true, MlpActivation::SwiGlu);
    let [height, width] = spec.img_size;
    for (spec, precision) in [&spec, &swiglu].into_iter().flat_map(|spec| Precision::ALL.map(|p| (spec, p))) {
        let tensors = Tensors::random(spec, 1);
        let model = CpuBackbone::in_precision(spec, &tensors, precision).unwrap();
        for batch in [3, 1, 2] {
            let pixels = vec![0.5; batch * 3 * height * width];
            // From inside the pool: its queue for work from outside grows now and then.
            let counts: Vec<usize> = rayon::scope(|_| {
                let count = |()| {
                    let mut state = model.embed(PixelBatch::new(&pixels, batch)).unwrap();
                    let region = Region::new(ALLOCATOR);
                    model.advance(&mut state, Site::end(spec), Taps::NONE).unwrap();
                    let change = region.change();
                    change.allocations + change.reallocations
                };
                let mut counts = Vec::new();
                while counts.len() < MOST && !is_quiet(&counts) {
                    counts.push(count(()));
                }
                counts
            });
            let activation = spec.mlp.activation;
            assert!(is_quiet(&counts), "{activation:?} in {precision}, batch {batch}: {counts:?}");
        }
    }
}

/// Whether the last batches allocated nothing.
fn is_quiet(counts: &[usize]) -> bool {
    counts.len() >= QUIET && counts[counts.len() - QUIET..].iter().all(|count| *count == 0)
}
