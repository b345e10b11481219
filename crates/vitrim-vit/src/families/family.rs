//! What a family is made of.

use super::{timm, transformers};

/// Backbones that are built alike.
pub(super) struct Family {
    /// Of timm's names.
    pub timm: timm::Names,
    /// Of transformers' classes; none where transformers does not have the family.
    pub transformers: &'static [transformers::Class],
}
