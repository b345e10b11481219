//! Opens a policy for an open backbone.

use std::path::Path;

use vitrim_hub::{Kind, local};
use vitrim_prune::Policy;

use super::Loaded;
use crate::error::Result;

/// Reads the policy in `folder`, which may be an `hf://` reference or `universal`, for `loaded`: one that was trained for
/// it, or one for every backbone.
///
/// # Errors
/// If it cannot be fetched, is damaged or invalid ([`Policy::load`]), or was trained for another backbone.
pub fn open_policy(folder: &Path, loaded: &Loaded) -> Result<Policy> {
    Ok(Policy::open(&local(folder, Kind::Policy)?, &loaded.spec, &loaded.id)?)
}
