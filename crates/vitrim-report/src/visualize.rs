//! Writes pictures of the patches that the pruner keeps of each image.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use image::{ImageEncoder, RgbImage};
use vitrim_measure::model::Loaded;
use vitrim_measure::predict::Seen;

use crate::error::{ReportError, Result};
use crate::picture::{captions, kept_tokens, patches_of};

/// Writes pictures to a folder, each under its image's name.
pub struct Pictures {
    folder: PathBuf,
    taken: HashSet<PathBuf>,
}

impl Pictures {
    /// Pictures in `folder`, which is created if needed.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn into_folder(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .map_err(|source| ReportError::Write { path: folder.to_owned(), source })?;
        Ok(Pictures { folder: folder.to_owned(), taken: HashSet::new() })
    }

    /// Draws the survivors of `seen` after each stage; returns the file. Images of the same name in several folders
    /// get a number.
    ///
    /// # Errors
    /// If the file cannot be written, or would replace the image itself.
    pub fn write(&mut self, loaded: &Loaded, seen: &Seen) -> Result<PathBuf> {
        let source = &seen.prediction.image;
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        let numbered = (2..).map(|n| self.folder.join(format!("{stem}-{n}.png")));
        let candidates = std::iter::once(self.folder.join(format!("{stem}.png"))).chain(numbered);
        let path = candidates.into_iter().find(|path| !self.taken.contains(path) && !same_file(path, source));
        let path = path.ok_or_else(|| ReportError::Setting("no name is left for a picture".into()))?;
        let kept: Vec<Vec<usize>> = seen.prediction.stages.iter().map(|s| s.positions.clone()).collect();
        let patch = loaded.spec.patch_size as u32;
        let lines = captions(&kept, patches_of(&seen.crop, patch));
        let picture = kept_tokens(&seen.crop, patch, &kept, &lines)?;
        vitrim_durable::replace(&path, &png(&picture)?)?;
        self.taken.insert(path.clone());
        Ok(path)
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

pub(crate) fn png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes)
        .write_image(picture.as_raw(), picture.width(), picture.height(), image::ExtendedColorType::Rgb8)
        .map_err(|error| ReportError::Setting(format!("a picture cannot be encoded: {error}")))?;
    Ok(bytes)
}
