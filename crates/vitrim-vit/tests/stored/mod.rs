//! Checkpoints with the outputs of the libraries that made them.

use std::path::{Path, PathBuf};

use vitrim_vit::{VitSpec, WeightFiles};

/// What a library makes of a batch of B images.
#[allow(dead_code)]
pub struct Expected {
    /// B.
    pub batch: usize,
    /// `[B, 3, H, W]`
    pub pixels: Vec<f32>,
    /// Final tokens, `[B, N, D]`, where they are stored.
    pub features: Option<Vec<f32>>,
    /// Logits `[B, C]`, or pooled features `[B, D]` without a head.
    pub answer: Vec<f32>,
}

impl Expected {
    pub fn open(path: &Path, spec: &VitSpec) -> Self {
        let files = WeightFiles::open(path).unwrap();
        let batch = files.shape("pixel_values").unwrap()[0];
        let [height, width] = spec.img_size;
        let (answer, columns) =
            if spec.num_classes == 0 { ("pooled", spec.dim) } else { ("logits", spec.num_classes) };
        let tokens = [batch, spec.num_tokens(), spec.dim];
        let stored = files.shape("features").is_some();
        Expected {
            batch,
            pixels: files.read("pixel_values", &[batch, 3, height, width]).unwrap(),
            features: stored.then(|| files.read("features", &tokens).unwrap()),
            answer: files.read(answer, &[batch, columns]).unwrap(),
        }
    }
}

/// The folder of the shared fixtures, or a loud note that it is missing.
pub fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("VITRIM_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    if !path.is_dir() {
        eprintln!("SKIPPED: no shared folder at {}; set VITRIM_SHARED", path.display());
        return None;
    }
    Some(path.join("fixtures"))
}

/// A fixture of this repository.
pub fn own(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name)
}
