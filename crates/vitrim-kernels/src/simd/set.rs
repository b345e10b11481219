//! The definition of an instruction set: its name, the processor features that it needs, and how it multiplies.

use super::dot::{Bf16Pairs, Dot, F32, Int8, ShortInt8};
use super::tile::Tile;
use super::vector::Vector;
use crate::Precision;
use crate::line::Line;
use crate::precision::WordLayout;

/// The instructions of an architecture with a set of features. A value is a token: it proves that the processor has
/// the features.
///
/// Implemented by [`define_set`].
pub(crate) trait Simd: Vector {
    /// Name in `VITRIM_SIMD`.
    const NAME: &'static str;
    /// The precision in which the set multiplies fastest.
    const FASTEST: Precision;
    /// How bf16 layers multiply.
    type Bf16: Multiply<Self>;
    /// How 8-bit layers multiply.
    type Int8: Multiply<Self>;

    /// Cache lines that hold the largest tile.
    const TILE_LINES: usize = {
        let rows = [<F32 as Multiply<Self>>::ROWS, Self::Bf16::ROWS, Self::Int8::ROWS];
        let (mut most, mut i) = (0, 0);
        while i < rows.len() {
            most = if rows[i] > most { rows[i] } else { most };
            i += 1;
        }
        (most * Self::NV * Self::LANES).div_ceil(Line::WORDS)
    };

    /// The token, if the processor has the features.
    fn detect() -> Option<Self>;

    /// Preference on a processor that has several sets: the highest wins.
    fn preference(vendor: Vendor) -> u32;

    /// Runs `kernel` with the set's instructions.
    fn run<K: Kernel>(self, kernel: K) -> K::Out;

    /// The tile of `rows` in `1..=D::ROWS` and `vectors` in `1..=NV`. It writes its sums, or adds them to the values
    /// in the output.
    fn tile<D: Dot<Self>>(self, rows: usize, vectors: usize, add: bool) -> Tile;
}

/// Vendors of processors, as far as the speed of instructions depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vendor {
    Intel,
    Other,
}

/// How a set multiplies operands of one precision: by a [`Dot`] in registers, or by its own tiles.
pub(crate) trait Multiply<S: Simd> {
    const LAYOUT: WordLayout;
    /// Rows of the largest tile.
    const ROWS: usize;

    /// The tile of `rows` in `1..=ROWS` and `vectors` in `1..=NV`, see [`Simd::tile`].
    fn tile(s: S, rows: usize, vectors: usize, add: bool) -> Tile;
}

macro_rules! multiply_by_dot {
    ($($dot:ty: $bound:path),*) => {$(
        impl<S: Simd + $bound> Multiply<S> for $dot {
            const LAYOUT: WordLayout = <$dot as Dot<S>>::LAYOUT;
            const ROWS: usize = <$dot as Dot<S>>::ROWS;

            #[inline(always)]
            fn tile(s: S, rows: usize, vectors: usize, add: bool) -> Tile {
                s.tile::<$dot>(rows, vectors, add)
            }
        }
    )*};
}
multiply_by_dot!(F32: Vector, Bf16Pairs: Vector, Int8: super::vector::DotU8S8, ShortInt8: super::vector::ShortDotU8S8);

/// One bf16 per word, widened to f32: as fast as f32, for sets without an instruction for two bf16.
pub(crate) struct WidenedBf16;

impl<S: Simd> Multiply<S> for WidenedBf16 {
    const LAYOUT: WordLayout = WordLayout::WideBf16;
    const ROWS: usize = <F32 as Multiply<S>>::ROWS;

    #[inline(always)]
    fn tile(s: S, rows: usize, vectors: usize, add: bool) -> Tile {
        s.tile::<F32>(rows, vectors, add)
    }
}

/// Code to run with the instructions of a set. `run` and everything that it calls must be `#[inline(always)]`: a
/// function that is not inlined, such as a closure may be, is compiled without the set's instructions.
pub(crate) trait Kernel {
    type Out;
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Implements [`Simd`] for `$token`; `$make` constructs the token, which only the calling module can do. The features
/// are written once: they are detected, and kernels and tiles are compiled with them.
macro_rules! define_set {
    (
        $token:ty = $make:expr,
        name: $name:literal,
        features: $detected:ident [$($feature:tt),*],
        preference: $preference:expr,
        fastest: $fastest:ident,
        bf16: $bf16:ty,
        int8: $int8:ty,
        tiles: $rows:tt x $vectors:tt $(,)?
    ) => {
        impl crate::simd::set::Simd for $token {
            const NAME: &'static str = $name;
            const FASTEST: crate::Precision = crate::Precision::$fastest;
            type Bf16 = $bf16;
            type Int8 = $int8;

            fn detect() -> Option<Self> {
                let all = true $(&& std::arch::$detected!($feature))*;
                all.then_some($make)
            }

            fn preference(vendor: crate::simd::set::Vendor) -> u32 {
                let preference: fn(crate::simd::set::Vendor) -> u32 = $preference;
                preference(vendor)
            }

            #[inline]
            fn run<K: crate::simd::set::Kernel>(self, kernel: K) -> K::Out {
                $(#[target_feature(enable = $feature)])*
                fn with_features<K: crate::simd::set::Kernel>(token: $token, kernel: K) -> K::Out {
                    kernel.run(token)
                }
                // SAFETY: the token proves that the processor has the features.
                #[allow(unused_unsafe, reason = "a set without features has nothing to prove")]
                unsafe {
                    with_features(self, kernel)
                }
            }

            #[inline]
            fn tile<D: crate::simd::dot::Dot<Self>>(
                self,
                rows: usize,
                vectors: usize,
                add: bool,
            ) -> crate::simd::tile::Tile {
                $(#[target_feature(enable = $feature)])*
                unsafe fn with_features<
                    D: crate::simd::dot::Dot<$token>,
                    const ADD: bool,
                    const MR: usize,
                    const NV: usize,
                >(
                    a: *const u32,
                    a_stride: usize,
                    b: *const u32,
                    steps: usize,
                    sink: &crate::simd::tile::Sink,
                ) {
                    // SAFETY: the caller keeps `Tile`'s contract, and the tile was obtained with the token.
                    unsafe {
                        crate::simd::tile::tile::<$token, D, ADD, MR, NV>($make, a, a_stride, b, steps, sink)
                    }
                }
                let tiles = if add {
                    crate::simd::tile::tiles!(with_features, D, true, $rows, $vectors)
                } else {
                    crate::simd::tile::tiles!(with_features, D, false, $rows, $vectors)
                };
                tiles[rows - 1][vectors - 1]
            }
        }
    };
}
pub(crate) use define_set;
