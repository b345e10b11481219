//! The instruction sets for which every kernel is compiled: which of them the processor has, which one is chosen, and
//! their names in `VITRIM_SIMD`.

use std::fmt;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::simd::{avx2::Avx2, avx512::Avx512};

use crate::Precision;
use crate::precision::WordLayout;
use crate::simd::scalar::Scalar;
use crate::simd::set::Vendor;
use crate::simd::{Dot, F32, Kernel, Multiply, Simd};

/// An instruction set that this processor has: an architecture with a set of features, such as x86-64 with AVX2 and FMA.
///
/// The kernels are its methods ([`InstructionSet::softmax`], ..), or belong to a layer that carries it
/// ([`crate::Linear`], [`crate::LayerNorm`], [`crate::Attention`]). A value exists only for a set that the processor
/// has: every constructor checks that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InstructionSet(Token);

/// Lists the types that implement [`Simd`]. Kernels are compiled for each of them, and one is chosen at run time.
macro_rules! instruction_sets {
    ($($(#[$cfg:meta])* $variant:ident: $set:ty),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        enum Token {
            $($(#[$cfg])* $variant($set)),*
        }

        /// Cache lines that hold the largest tile of any set.
        pub(crate) const TILE_LINES: usize = {
            let lines = [$($(#[$cfg])* <$set as Simd>::TILE_LINES),*];
            let (mut most, mut i) = (0, 0);
            while i < lines.len() {
                most = if lines[i] > most { lines[i] } else { most };
                i += 1;
            }
            most
        };

        impl InstructionSet {
            /// The names of all sets of this architecture, including those that the processor lacks.
            pub const NAMES: &[&str] = &[$($(#[$cfg])* <$set as Simd>::NAME),*];

            /// The sets of this processor, in the order of [`InstructionSet::NAMES`].
            pub fn supported() -> impl Iterator<Item = InstructionSet> {
                let sets = [$($(#[$cfg])* <$set as Simd>::detect().map(Token::$variant)),*];
                sets.into_iter().flatten().map(InstructionSet)
            }

            /// Name of the set in `VITRIM_SIMD`.
            fn name(self) -> &'static str {
                match self.0 {
                    $($(#[$cfg])* Token::$variant(_) => <$set as Simd>::NAME),*
                }
            }

            /// Preference of the set on a processor of `vendor` that has several: the highest wins.
            fn preference(self, vendor: Vendor) -> u32 {
                match self.0 {
                    $($(#[$cfg])* Token::$variant(_) => <$set as Simd>::preference(vendor)),*
                }
            }

            /// Runs `kernel` with the set's instructions.
            #[inline]
            pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Out {
                match self.0 {
                    $($(#[$cfg])* Token::$variant(token) => token.run(kernel)),*
                }
            }
        }
    };
}

instruction_sets! {
    Scalar: Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2: Avx2<false>,
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni: Avx2<true>,
    #[cfg(target_arch = "x86_64")]
    Avx512: Avx512<false, false>,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni: Avx512<false, true>,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16Vnni: Avx512<true, true>,
}

/// `VITRIM_SIMD` asks for a set that is not available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstructionSetError {
    /// Not a name of an instruction set.
    Unknown(String),
    /// A set that the processor lacks.
    Unsupported(String),
}

impl fmt::Display for InstructionSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstructionSetError::Unknown(name) => {
                let names = InstructionSet::NAMES.join(", ");
                write!(f, "VITRIM_SIMD={name}: expected {names} or native")
            }
            InstructionSetError::Unsupported(name) => {
                let names = InstructionSet::supported().map(InstructionSet::name).collect::<Vec<_>>();
                write!(f, "VITRIM_SIMD={name}: this processor has {}", names.join(", "))
            }
        }
    }
}

impl std::error::Error for InstructionSetError {}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl InstructionSet {
    /// The set that is preferred on this processor. Each set states its preference next to its features.
    pub fn native() -> InstructionSet {
        InstructionSet::preferred(InstructionSet::supported(), vendor())
    }

    fn preferred(sets: impl Iterator<Item = InstructionSet>, vendor: Vendor) -> InstructionSet {
        sets.max_by_key(|set| set.preference(vendor)).expect("every processor has the scalar set")
    }

    /// The set that `VITRIM_SIMD` names; [`InstructionSet::native`] if the variable is `native`, unset or empty.
    ///
    /// # Errors
    /// If the name is unknown, or the processor lacks the set.
    pub fn from_env() -> Result<InstructionSet, InstructionSetError> {
        InstructionSet::named(&std::env::var_os("VITRIM_SIMD").unwrap_or_default().to_string_lossy())
    }

    /// The set with the displayed name `name`; [`InstructionSet::native`] for `native` and for an empty name.
    fn named(name: &str) -> Result<InstructionSet, InstructionSetError> {
        if ["", "native"].contains(&name) {
            return Ok(InstructionSet::native());
        }
        if !InstructionSet::NAMES.contains(&name) {
            return Err(InstructionSetError::Unknown(name.to_owned()));
        }
        let set = InstructionSet::supported().find(|set| set.name() == name);
        set.ok_or_else(|| InstructionSetError::Unsupported(name.to_owned()))
    }

    /// [`InstructionSet::from_env`], read once.
    ///
    /// # Panics
    /// With the error's message, if the value of `VITRIM_SIMD` is an error.
    pub fn current() -> InstructionSet {
        static CURRENT: OnceLock<InstructionSet> = OnceLock::new();
        *CURRENT.get_or_init(|| InstructionSet::from_env().unwrap_or_else(|error| panic!("{error}")))
    }

    /// The precision in which the set multiplies fastest.
    pub fn fastest_precision(self) -> Precision {
        struct Fastest;
        impl Kernel for Fastest {
            type Out = Precision;

            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> Precision {
                S::FASTEST
            }
        }
        self.run(Fastest)
    }

    /// Whether bf16 layers multiply pairs of bf16, so that activations should be stored as [`crate::Bf16Pair`].
    pub fn multiplies_pairs(self) -> bool {
        self.layout(Precision::Bf16) == WordLayout::Bf16Pair
    }

    /// Data layout of rows for layers of `precision`.
    pub(crate) fn layout(self, precision: Precision) -> WordLayout {
        struct Layout(Precision);
        impl Kernel for Layout {
            type Out = WordLayout;

            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> WordLayout {
                match self.0 {
                    Precision::F32 => <F32 as Dot<S>>::LAYOUT,
                    Precision::Bf16 => S::Bf16::LAYOUT,
                    Precision::Int8 => S::Int8::LAYOUT,
                }
            }
        }
        self.run(Layout(precision))
    }
}

#[cfg(target_arch = "x86_64")]
fn vendor() -> Vendor {
    let id = std::arch::x86_64::__cpuid(0);
    let intel = [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel";
    if intel { Vendor::Intel } else { Vendor::Other }
}

#[cfg(not(target_arch = "x86_64"))]
fn vendor() -> Vendor {
    Vendor::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_followed_or_refused() {
        let named = |name: &str| InstructionSet::named(name);
        assert_eq!(named("scalar").unwrap().to_string(), "scalar");
        assert_eq!(named("native"), Ok(InstructionSet::native()));
        assert_eq!(named(""), Ok(InstructionSet::native()));
        for name in InstructionSet::NAMES {
            match InstructionSet::supported().find(|set| set.to_string() == *name) {
                Some(set) => assert_eq!(named(name), Ok(set)),
                None => assert_eq!(named(name), Err(InstructionSetError::Unsupported((*name).into()))),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_names_are_those_that_users_know() {
        assert_eq!(
            InstructionSet::named("sse9").unwrap_err().to_string(),
            "VITRIM_SIMD=sse9: expected scalar, avx2, avx2+vnni, avx512, avx512+vnni, avx512+bf16+vnni or native"
        );
        let lacking = InstructionSetError::Unsupported("avx512".into());
        assert!(lacking.to_string().starts_with("VITRIM_SIMD=avx512: this processor has scalar"));
    }

    /// The choice on several kinds of processors. The test creates no set that the processor lacks: it asks each type
    /// for its preference.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn native_is_the_one_preferred() {
        let preference = |vendor| {
            [
                Scalar::preference(vendor),
                Avx2::<false>::preference(vendor),
                Avx2::<true>::preference(vendor),
                Avx512::<false, false>::preference(vendor),
                Avx512::<false, true>::preference(vendor),
                Avx512::<true, true>::preference(vendor),
            ]
        };
        // The choice among the first `count` sets.
        let chosen = |vendor, count: usize| {
            let all = &preference(vendor)[..count];
            all.iter().enumerate().max_by_key(|(_, preference)| **preference).map(|(i, _)| i)
        };
        for count in 1..=6 {
            assert_eq!(chosen(Vendor::Other, count), Some(count - 1));
            // Intel's bf16 instructions are slow.
            assert_eq!(chosen(Vendor::Intel, count), Some(if count == 6 { 4 } else { count - 1 }));
        }
        for vendor in [Vendor::Intel, Vendor::Other] {
            let mut all = preference(vendor);
            all.sort_unstable();
            assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "no two are preferred alike");
        }
    }

    #[test]
    fn pairs_are_for_sets_that_multiply_them() {
        for set in InstructionSet::supported() {
            let pairs = ["scalar", "avx512+bf16+vnni"].contains(&set.name());
            assert_eq!(set.multiplies_pairs(), pairs, "{set}");
        }
    }
}
