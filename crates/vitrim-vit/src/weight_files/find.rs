//! The file of weights of a checkpoint's folder.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::kind::{FileKind, LOOKED_AT};
use crate::error::{Result, VitError};
use crate::text::is_lfs_pointer;

/// File names of weights on the Hub, in the order in which they are looked for.
const WEIGHTS: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
];

/// What a training script saves beside the weights, by the beginnings of the names: `optimizer.pt`, `rng_state.pth`.
const NOT_WEIGHTS: [&str; 6] =
    ["optimizer", "scheduler", "rng_state", "random_states", "training_args", "scaler"];

/// Ends of names of files of `torch.save`, though they may be damaged.
const WEIGHT_ENDS: [&str; 4] = ["pth", "pt", "bin", "ckpt"];

/// Ends of names of files that are not opened to see whether they hold weights.
const NOT_OPENED: [&str; 26] = [
    "json", "jsonl", "yaml", "yml", "toml", "txt", "md", "csv", "tsv", "log", "py", "ipynb", "html", "svg",
    "jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "parquet", "npz", "zip", "gz",
];

/// Most file names in an error.
const SHOWN: usize = 8;

/// The file of weights, or the index of its shards, at `path`, and what was passed over for it: `path` itself, or of a
/// folder one of [`WEIGHTS`], else the only file of `torch.save`, whatever its name, else the only safetensors file.
///
/// # Errors
/// If there is none, or several.
pub(crate) fn find_weights(path: &Path) -> Result<(PathBuf, Option<String>)> {
    let missing = |reason: String| VitError::NotACheckpoint { path: path.to_owned(), reason };
    if path.is_file() {
        return Ok((path.to_owned(), None));
    }
    if !path.is_dir() {
        let reason = "no such folder; give the folder that holds config.json and model.safetensors";
        return Err(missing(reason.into()));
    }
    if let Some(found) = WEIGHTS.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok((found, None));
    }
    let unread = |source| VitError::Read { path: path.to_owned(), source };
    let entries = std::fs::read_dir(path).map_err(unread)?;
    let files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut found: Vec<(FileKind, PathBuf)> = files.filter_map(|file| Some((kind(&file)?, file))).collect();
    found.sort_by(|a, b| a.1.cmp(&b.1));
    let (torch, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(kind, _)| *kind == FileKind::Torch);
    let (first, then) = if torch.is_empty() { (others, torch) } else { (torch, others) };
    match first.as_slice() {
        [(_, only)] => {
            let passed = (!then.is_empty()).then(|| format!("weights are in this file, not in {}", names(&then)));
            Ok((only.clone(), passed))
        }
        [] => Err(missing(
            "it holds no model.safetensors, model.safetensors.index.json, pytorch_model.bin or other file of \
             torch.save (.pth, .pt, .ckpt, .pth.tar)"
                .into(),
        )),
        several => Err(missing(format!(
            "it holds {} files of weights; name one of them: {}",
            several.len(),
            names(several)
        ))),
    }
}

/// The first names of `files`.
fn names(files: &[(FileKind, PathBuf)]) -> String {
    let shown = files.iter().take(SHOWN).filter_map(|(_, file)| Some(file.file_name()?.to_string_lossy()));
    let more = if files.len() > SHOWN { ", ..." } else { "" };
    shown.collect::<Vec<_>>().join(", ") + more
}

/// The kind of weights that `file` seems to hold.
fn kind(file: &Path) -> Option<FileKind> {
    let name = file.file_name()?.to_string_lossy().to_lowercase();
    let end = name.rsplit('.').next().unwrap_or_default();
    let other = name.starts_with('.')
        || NOT_WEIGHTS.iter().any(|start| name.starts_with(start))
        || NOT_OPENED.contains(&end);
    if other || !file.is_file() {
        return None;
    }
    let mut start = Vec::new();
    File::open(file).and_then(|file| file.take(LOOKED_AT).read_to_end(&mut start)).ok()?;
    // A damaged file, and one that Git LFS has elsewhere, are what their names say.
    FileKind::of_weights(&start).or_else(|| match end {
        "safetensors" => Some(FileKind::Safetensors),
        _ if WEIGHT_ENDS.contains(&end) || is_lfs_pointer(&start) => Some(FileKind::Torch),
        _ => None,
    })
}
