//! The description of a family.

use super::{timm, transformers};

/// Backbones of one construction.
pub(super) struct Family {
    /// The family's names in timm.
    pub timm: timm::Names,
    /// The family's classes in transformers; empty if transformers does not have the family.
    pub transformers: &'static [transformers::Class],
}
