//! Images that keep their aspect ratio: as large as a number of patches allows (NaFlex, Dehghani et al., 2023,
//! <https://arxiv.org/abs/2307.06304>), with the sizes of transformers' SigLIP 2 image processor.

use serde::{Deserialize, Serialize};

use super::preprocess::invalid;
use crate::error::DataError;
use crate::limits::MAX_INPUT_PIXELS;

/// How large an image becomes that keeps its aspect ratio, as far as whole patches allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Naflex {
    /// Side of a patch, pixels; height and width are multiples of it.
    pub patch_size: usize,
    /// Most patches of an image.
    pub max_num_patches: usize,
}

impl Naflex {
    /// Patches and their number if an image processor does not say.
    pub const DEFAULT: Naflex = Naflex { patch_size: 16, max_num_patches: 256 };

    /// Height and width for an image of (height, width) `source`: the largest multiple of both sides, each rounded up to
    /// whole patches, that has at most as many patches as allowed. The search is that of transformers'
    /// `get_image_size_for_max_num_patches`, step by step.
    pub(crate) fn size(self, source: (u32, u32)) -> (u32, u32) {
        const EPS: f64 = 1e-5;
        let patch = self.patch_size as f64;
        let patches = |scale: f64, side: u32| (f64::from(side) * scale / patch).ceil().max(1.0);
        let (mut least, mut most) = (EPS / 10.0, 100.0);
        while most - least >= EPS {
            let scale = (least + most) / 2.0;
            if patches(scale, source.0) * patches(scale, source.1) <= self.max_num_patches as f64 {
                least = scale;
            } else {
                most = scale;
            }
        }
        let side = |side: u32| (patches(least, side) * patch) as u32;
        (side(source.0), side(source.1))
    }

    /// Checks that images stay within the limits.
    pub(super) fn validate(self) -> Result<(), DataError> {
        let Naflex { patch_size, max_num_patches } = self;
        let pixels = (patch_size.saturating_mul(patch_size)).saturating_mul(max_num_patches);
        if patch_size == 0 || max_num_patches == 0 || pixels as u64 > MAX_INPUT_PIXELS {
            return Err(invalid(format!(
                "max_num_patches is {max_num_patches}, of {patch_size} x {patch_size} pixels; give 1 to \
                 {MAX_INPUT_PIXELS} pixels in all"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_transformers() {
        let size = |patches, height, width| {
            Naflex { patch_size: 16, max_num_patches: patches }.size((height, width))
        };
        for (patches, [height, width], expected) in SIZES {
            assert_eq!(size(patches, height, width), expected.into(), "{patches} {height}x{width}");
        }
        for (height, width) in [(1, 1), (1, 16_384), (16_384, 3), (97, 1013)] {
            for patches in [1, 2, 7, 256, 1024] {
                let (high, wide) = size(patches, height, width);
                assert!(high % 16 == 0 && wide % 16 == 0 && high > 0 && wide > 0);
                assert!((high / 16 * (wide / 16)) as usize <= patches, "{height}x{width}: {high}x{wide}");
            }
        }
    }

    #[test]
    fn what_would_be_too_large_is_refused() {
        for (patch_size, max_num_patches, fine) in [
            (16, 256, true),
            (16, 1 << 16, true),
            (16, (1 << 16) + 1, false),
            (0, 256, false),
            (16, 0, false),
        ] {
            assert_eq!(Naflex { patch_size, max_num_patches }.validate().is_ok(), fine, "{max_num_patches}");
        }
        assert!(Naflex { patch_size: usize::MAX, max_num_patches: usize::MAX }.validate().is_err());
    }

    /// Patches, source and result of transformers' function.
    const SIZES: [(usize, [u32; 2], [u32; 2]); 11] = [
        (256, [480, 640], [224, 288]),
        (256, [640, 480], [288, 224]),
        (256, [333, 500], [208, 304]),
        (256, [224, 224], [256, 256]),
        (256, [100, 3000], [48, 1360]),
        (1024, [427, 640], [416, 624]),
        (64, [97, 61], [160, 96]),
        (256, [1, 16384], [16, 4096]),
        (7, [1013, 97], [112, 16]),
        (256, [3, 2], [304, 208]),
        (1, [50, 60], [16, 16]),
    ];
}
