//! Sessions of one checkpoint share one copy of the weights, measured by allocations.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use vitrim_vit::{CpuBackbone, PixelBatch, SessionOptions, Tensors, Threads, VitSpec};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The only test of its process, because allocations of others would be counted, too.
#[test]
fn sessions_share_one_copy_of_the_weights() {
    let spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap();
    let tensors = Tensors::random(&spec, 1);
    let held = |region: &Region<'_, System>| {
        let change = region.change();
        change.bytes_allocated - change.bytes_deallocated
    };
    let region = Region::new(ALLOCATOR);
    let first = CpuBackbone::new(&spec, &tensors).unwrap();
    let weights = first.weights().bytes();
    assert!(weights > 20 << 20 && held(&region) >= weights, "{} bytes held", held(&region));

    let region = Region::new(ALLOCATOR);
    let second = first.session(SessionOptions::default());
    assert!(held(&region) < 1024, "{} bytes for another session", held(&region));
    assert!(std::ptr::eq(first.weights(), second.weights()));

    // The shared weights outlive the session that packed them.
    let pixels = vec![0.5; 3 * 224 * 224];
    let answer = first.dense_logits(PixelBatch::new(&pixels, 1)).unwrap();
    drop(first);
    assert_eq!(second.dense_logits(PixelBatch::new(&pixels, 1)).unwrap(), answer);
    let third = second.session(SessionOptions::sharing(&Threads::pool(3).unwrap()));
    drop(second);
    assert_eq!(third.dense_logits(PixelBatch::new(&pixels, 1)).unwrap(), answer);
}
