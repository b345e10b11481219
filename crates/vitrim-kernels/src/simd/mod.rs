//! Instruction sets: registers, tiles, and the interface against which kernels are written once.
//!
//! A kernel is a struct whose [`Kernel::run`] is generic over [`Simd`]. [`Simd::run`] compiles it once per set with
//! that set's instructions enabled, so that all `#[inline(always)]` code in it vectorises.

pub(crate) mod dot;
pub(crate) mod element;
pub(crate) mod set;
pub(crate) mod tile;
pub(crate) mod vector;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod scalar;

pub(crate) use dot::{Bf16Pairs, Dot, F32, STEPS};
pub(crate) use element::{Element, Identity, Map, WideBf16, store_row};
pub(crate) use set::{Kernel, Multiply, Simd};
pub(crate) use tile::{Prefetch, RowScale, Scales, Sink, prefetch};
