//! Opens a policy for an open backbone.

use std::path::Path;

use vitrim_hub::{Kind, local};
use vitrim_prune::{AnyPolicy, Method};

use super::Loaded;
use crate::error::{MeasureError, Result};

/// Reads the policy in `folder`, which may be an `hf://` reference or `universal`, for `loaded`: one that is for it, or one
/// for every backbone.
///
/// # Errors
/// If it cannot be fetched, is damaged or invalid ([`AnyPolicy::load`]), is for another backbone, or is no folder but the name
/// of a hand-made method.
pub fn open_policy(folder: &Path, loaded: &Loaded) -> Result<AnyPolicy> {
    if let Some(method) = named_method(folder) {
        return Err(MeasureError::Policy {
            path: folder.to_owned(),
            reason: format!(
                "is a hand-made method, and no policy folder; `vitrim calibrate --policy {method} --model MODEL --data \
                 IMAGES --out runs/{method}` makes one of it"
            ),
        });
    }
    Ok(AnyPolicy::open(&local(folder, Kind::Policy)?, &loaded.spec, &loaded.id)?)
}

/// The hand-made method that `policy` names, with or without a keep ratio, as in `tome` and `tome:0.7`. A folder of that name
/// is no method.
pub fn named_method(policy: &Path) -> Option<Method> {
    let text = policy.to_str().filter(|_| !policy.exists())?;
    let name = text.split(':').next()?;
    Method::all().find(|method| *method != Method::Policy && method.name() == name)
}
