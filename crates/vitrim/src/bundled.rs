//! The bundled backbone, trained on ten shapes in cluttered scenes, so that the demo needs no download.
//!
//! `assets/backbone/README.md` is its model card.

use std::path::Path;

use crate::error::{Result, VitrimError};

/// Files of the backbone, in the layout of the Hugging Face Hub.
const FILES: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../assets/backbone/config.json")),
    ("model.safetensors", include_bytes!("../assets/backbone/model.safetensors")),
    ("README.md", include_bytes!("../assets/backbone/README.md")),
];

/// Writes the backbone into `folder`, which is then an ordinary checkpoint folder.
///
/// # Errors
/// If a file cannot be written.
pub fn unpack(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|source| VitrimError::Write { path: folder.to_owned(), source })?;
    for (name, bytes) in FILES {
        let path = folder.join(name);
        // An existing identical file is not rewritten, so that a continued run finds it unchanged.
        if std::fs::read(&path).is_ok_and(|there| there == bytes) {
            continue;
        }
        vitrim_durable::replace(&path, bytes)?;
    }
    Ok(())
}
