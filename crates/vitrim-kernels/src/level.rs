//! Which SIMD instructions the kernels use: found once at run time, changed by `VITRIM_SIMD`.

use std::fmt;
use std::sync::OnceLock;

/// A set of SIMD instructions that every kernel is compiled for. A processor may have a later one without an earlier: Ice
/// Lake has AVX-512 with VNNI and no AVX-VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Portable code, left to the compiler to vectorise for the build's target.
    Scalar,
    /// x86-64 with AVX2 and FMA: 8 lanes.
    Avx2,
    /// The same with dot products of 8-bit integers (AVX-VNNI), as Intel's processors for laptops and desktops have had them since
    /// Alder Lake.
    Avx2Vnni,
    /// x86-64 with AVX-512 F, BW, DQ and VL: 16 lanes.
    Avx512,
    /// The same with dot products of 8-bit integers (AVX512_VNNI).
    Avx512Vnni,
    /// The same with dot products of bf16 (AVX512_BF16), too.
    Avx512Bf16Vnni,
}

/// `VITRIM_SIMD` asks for what cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LevelError {
    /// Not a name of a level.
    Unknown(String),
    /// A level that the processor lacks.
    Unsupported(Level),
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LevelError::Unknown(name) => {
                let names = Level::ALL.map(|level| level.to_string()).join(", ");
                write!(f, "VITRIM_SIMD={name}: expected {names} or native")
            }
            LevelError::Unsupported(level) => {
                let names = Level::supported().map(|level| level.to_string()).collect::<Vec<_>>().join(", ");
                write!(f, "VITRIM_SIMD={level}: this processor has {names}")
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
            Level::Avx2Vnni => "avx2+vnni",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512+vnni",
            Level::Avx512Bf16Vnni => "avx512+bf16+vnni",
        })
    }
}

impl Level {
    /// All there are, each faster than those before it.
    pub const ALL: [Level; 6] = [
        Level::Scalar,
        Level::Avx2,
        Level::Avx2Vnni,
        Level::Avx512,
        Level::Avx512Vnni,
        Level::Avx512Bf16Vnni,
    ];

    /// The fastest level of this processor: the last that it has, but for Intel's, whose dot products of bf16 take longer than the
    /// same in f32. (DeiT-S of timm, one image on two cores of a fifth-generation Xeon: 11.5 images/s by them, 15.8 in f32; AMX,
    /// which those have as well, is not used.)
    pub fn native() -> Level {
        Level::fastest(Level::supported(), made_by_intel())
    }

    fn fastest(supported: impl Iterator<Item = Level>, intel: bool) -> Level {
        supported
            .filter(|level| !(intel && *level == Level::Avx512Bf16Vnni))
            .last()
            .expect("every processor has the scalar level")
    }

    /// The levels of this processor, in the order of [`Level::ALL`].
    pub fn supported() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|level| level.is_supported())
    }

    /// Whether this processor has the level.
    #[cfg(target_arch = "x86_64")]
    pub fn is_supported(self) -> bool {
        let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = || {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        };
        let vnni = || avx512() && is_x86_feature_detected!("avx512vnni");
        match self {
            Level::Scalar => true,
            Level::Avx2 => avx2(),
            Level::Avx2Vnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Level::Avx512 => avx512(),
            Level::Avx512Vnni => vnni(),
            Level::Avx512Bf16Vnni => vnni() && is_x86_feature_detected!("avx512bf16"),
        }
    }

    /// Whether this processor has the level.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_supported(self) -> bool {
        self == Level::Scalar
    }

    /// The level that `VITRIM_SIMD` names, as they are displayed, and [`Level::native`] where it is `native`, unset or empty.
    ///
    /// # Errors
    /// If the name is unknown, or the processor lacks the level.
    pub fn from_env() -> Result<Level, LevelError> {
        Level::named(&std::env::var_os("VITRIM_SIMD").unwrap_or_default().to_string_lossy())
    }

    fn named(name: &str) -> Result<Level, LevelError> {
        if ["", "native"].contains(&name) {
            return Ok(Level::native());
        }
        let named = Level::ALL.into_iter().find(|level| level.to_string() == name);
        let level = named.ok_or_else(|| LevelError::Unknown(name.to_owned()))?;
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

#[cfg(target_arch = "x86_64")]
fn made_by_intel() -> bool {
    let id = std::arch::x86_64::__cpuid(0);
    [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn made_by_intel() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_followed_or_refused() {
        assert_eq!(Level::named("scalar"), Ok(Level::Scalar));
        assert_eq!(Level::named("native"), Ok(Level::native()));
        assert_eq!(Level::named(""), Ok(Level::native()));
        let unknown = Level::named("sse9").unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "VITRIM_SIMD=sse9: expected scalar, avx2, avx2+vnni, avx512, avx512+vnni, avx512+bf16+vnni or native"
        );
        for level in Level::ALL {
            let supported =
                if level.is_supported() { Ok(level) } else { Err(LevelError::Unsupported(level)) };
            assert_eq!(Level::named(&level.to_string()), supported);
        }
        assert!(Level::supported().any(|level| level == Level::Scalar));
    }

    #[test]
    fn native_is_the_last_but_for_slow_instructions() {
        assert!(Level::native().is_supported());
        for (last, level) in Level::ALL.into_iter().enumerate() {
            let supported = || Level::ALL.into_iter().take(last + 1);
            assert_eq!(Level::fastest(supported(), false), level);
            let on_intel = if level == Level::Avx512Bf16Vnni { Level::Avx512Vnni } else { level };
            assert_eq!(Level::fastest(supported(), true), on_intel, "{level}");
        }
    }
}
