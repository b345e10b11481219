//! A checkpoint's description: the result of reading a library's configuration.

use crate::classes::ClassNames;
use crate::names::{Dialect, NameTable};
use crate::positions::Resampling;
use crate::spec::VitSpec;

/// The description of a checkpoint in a library's configuration.
pub(crate) struct Description {
    pub spec: VitSpec,
    pub names: NameTable,
    /// Other names that the tensors may have.
    pub dialects: &'static [Dialect],
    pub classes: ClassNames,
    /// How the library resamples position embeddings.
    pub resampling: Resampling,
    /// The input size in use, if it differs from the size that the positions are for.
    pub usual_size: Option<[usize; 2]>,
}
