//! For tests: reports tests that are skipped because the machine lacks something, so that they can be counted.
//!
//! A test that needs an instruction set, a browser, timm or the shared folder calls [`skip`] if it is missing, and
//! returns. The line goes to stderr, which the test runner shows only for failed tests, and to the file that
//! `VITRIM_SKIPS` names, which `.ci/run` prints at its end.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The checkpoints in the folder `fixtures` of the shared folder, each with the outputs of its own library.
pub const SHARED_FIXTURES: [&str; 30] = [
    "timm_deit",
    "timm_deit_distilled",
    "timm_deit3",
    "timm_dinov2",
    "timm_dinov2_reg",
    "timm_vit_avg_pool",
    "timm_vit_qknorm",
    "hf_vit",
    "hf_deit",
    "hf_dinov2",
    "timm_clip",
    "timm_clip_quickgelu",
    "hf_clip_vision",
    "hf_clip_projection",
    "hf_clip_full",
    "hf_clip_classes",
    "timm_siglip",
    "timm_siglip_classes",
    "timm_vit_map",
    "hf_siglip_vision",
    "hf_siglip_classes",
    "hf_siglip_full",
    "timm_dinov3",
    "timm_dinov3_qkvb",
    "hf_dinov3",
    "hf_ijepa",
    "hf_vit_mae_msn",
    "timm_eva02",
    "timm_pe_core",
    "hf_aimv2",
];

/// Reports that the running test is skipped, and why: what the machine lacks, and how to get it.
///
/// # Panics
/// If the file that `VITRIM_SKIPS` names cannot be written.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}", thread.name().unwrap_or("a test"));
    eprintln!("SKIPPED {line}");
    if let Some(file) = std::env::var_os("VITRIM_SKIPS") {
        append(Path::new(&file), &line);
    }
}

/// The shared folder (`VITRIM_SHARED`, or `../shared` next to the repository); if it is missing, the running test is
/// skipped.
pub fn shared() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let path = PathBuf::from(std::env::var_os("VITRIM_SHARED").unwrap_or(default.into()));
    match path.canonicalize() {
        Ok(path) if path.is_dir() => Some(path),
        _ => {
            skip(&format!("no shared folder at {}; set VITRIM_SHARED", path.display()));
            None
        }
    }
}

/// Appends `line` to `file`. One write, so that lines of several processes do not mix.
fn append(file: &Path, line: &str) {
    let file = OpenOptions::new().create(true).append(true).open(file);
    let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.expect("VITRIM_SKIPS names a file that can be written");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_to_those_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("skips");
        append(&file, "one: no browser");
        append(&file, "two: no timm");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "one: no browser\ntwo: no timm\n");
    }
}
