//! What a configuration comes to.

use crate::names::StoredNames;
use crate::positions::Bicubic;
use crate::spec::VitSpec;

/// What a library's configuration says of a checkpoint.
pub(crate) struct Description {
    pub spec: VitSpec,
    pub names: StoredNames,
    /// By index; empty where nobody named them.
    pub class_names: Vec<String>,
    /// How the library resamples position embeddings.
    pub bicubic: Bicubic,
    /// The size of input in use, where it is not the one that the positions are for.
    pub usual_size: Option<[usize; 2]>,
}
