//! Which SIMD instructions the kernels use: found once at run time, lowered by `VITRIM_SIMD`.

use std::fmt;
use std::sync::OnceLock;

/// A set of SIMD instructions that every kernel is compiled for, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Portable code, left to the compiler to vectorise for the build's target.
    Scalar,
    /// x86-64 with AVX2 and FMA: 8 lanes.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL: 16 lanes.
    Avx512,
    /// The same with dot products of bf16 (AVX512_BF16) and of 8-bit integers (AVX512_VNNI).
    Avx512Bf16Vnni,
}

/// `VITRIM_SIMD` asks for what cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LevelError {
    /// Not a name of a level.
    Unknown(String),
    /// A level above what the processor has.
    Unsupported(Level),
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LevelError::Unknown(name) => {
                write!(f, "VITRIM_SIMD={name}: expected scalar, avx2, avx512 or native")
            }
            LevelError::Unsupported(level) => {
                write!(f, "VITRIM_SIMD={level}: this processor has {} at most", Level::detected())
            }
        }
    }
}

impl std::error::Error for LevelError {}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16Vnni => "avx512+bf16+vnni",
        })
    }
}

impl Level {
    /// The highest level of this processor.
    pub fn detected() -> Level {
        static DETECTED: OnceLock<Level> = OnceLock::new();
        *DETECTED.get_or_init(Level::detect)
    }

    #[cfg(target_arch = "x86_64")]
    fn detect() -> Level {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let dots = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni");
        match (avx2, avx512, dots) {
            (_, true, true) => Level::Avx512Bf16Vnni,
            (_, true, false) => Level::Avx512,
            (true, false, _) => Level::Avx2,
            _ => Level::Scalar,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detect() -> Level {
        Level::Scalar
    }

    /// The levels of this processor, lowest first.
    pub fn supported() -> impl Iterator<Item = Level> {
        [Level::Scalar, Level::Avx2, Level::Avx512, Level::Avx512Bf16Vnni]
            .into_iter()
            .filter(|level| level.is_supported())
    }

    /// Whether this processor has the level.
    pub fn is_supported(self) -> bool {
        self <= Level::detected()
    }

    /// Whether 8-bit products are added in pairs, in 16 bits, before they are in 32: weights are then quantised so that no pair
    /// can overflow ([`crate::reference::quantise`]), to some tenths of a bit less.
    pub(crate) fn adds_pairs_in_16_bits(self) -> bool {
        matches!(self, Level::Avx2 | Level::Avx512)
    }

    /// The level that `VITRIM_SIMD` names (`scalar`, `avx2`, `avx512`, or `native` for the highest), and
    /// the highest where it is unset or empty.
    ///
    /// # Errors
    /// If the name is unknown, or the processor lacks the level.
    pub fn from_env() -> Result<Level, LevelError> {
        Level::named(&std::env::var_os("VITRIM_SIMD").unwrap_or_default().to_string_lossy())
    }

    fn named(name: &str) -> Result<Level, LevelError> {
        let level = match name {
            "" | "native" => Level::detected(),
            "scalar" => Level::Scalar,
            "avx2" => Level::Avx2,
            "avx512" => Level::Avx512,
            _ => return Err(LevelError::Unknown(name.to_owned())),
        };
        if level.is_supported() { Ok(level) } else { Err(LevelError::Unsupported(level)) }
    }

    /// [`Level::from_env`], read once.
    ///
    /// # Panics
    /// With the error's message, if `VITRIM_SIMD` cannot be followed.
    pub fn current() -> Level {
        static CURRENT: OnceLock<Level> = OnceLock::new();
        *CURRENT.get_or_init(|| Level::from_env().unwrap_or_else(|error| panic!("{error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_followed_or_refused() {
        assert_eq!(Level::named("scalar"), Ok(Level::Scalar));
        assert_eq!(Level::named("native"), Ok(Level::detected()));
        assert_eq!(Level::named(""), Ok(Level::detected()));
        let unknown = Level::named("sse9").unwrap_err();
        assert_eq!(unknown.to_string(), "VITRIM_SIMD=sse9: expected scalar, avx2, avx512 or native");
        match Level::named("avx512") {
            Ok(level) => assert!(level.is_supported()),
            Err(error) => assert_eq!(error, LevelError::Unsupported(Level::Avx512)),
        }
        assert!(Level::supported().any(|level| level == Level::Scalar));
    }
}
