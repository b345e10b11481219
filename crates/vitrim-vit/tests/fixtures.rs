//! File in, timm's output out.

use std::path::PathBuf;
use std::process::Command;

use vitrim_kernels::Level;
use vitrim_kernels::reference::relative_difference;
use vitrim_vit::{Backbone, Checkpoint, PixelBatch, Precision, Site, Taps, Tensors, Want};

fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("VITRIM_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    if !path.is_dir() {
        eprintln!("SKIPPED: no shared folder at {}; set VITRIM_SHARED", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn timm_fixtures_agree() {
    let Some(shared) = shared() else { return };
    for name in ["timm_deit", "timm_deit_distilled", "timm_vit_avg_pool"] {
        let folder = shared.join("fixtures").join(name);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let spec = checkpoint.spec.clone();
        let expected = Tensors::open(&folder.join("expected.safetensors")).unwrap();
        let [h, w] = spec.img_size;
        let pixels = expected.get("pixel_values", &[3, 3, h, w]).unwrap();
        let logits = expected.get("logits", &[3, spec.num_classes]).unwrap();
        let features = expected.get("features", &[3, spec.num_tokens(), spec.dim]).unwrap();
        let model = checkpoint.into_backbone(Precision::F32).unwrap();
        assert_eq!(model.precision(), Precision::F32);
        let mut state = model.embed(PixelBatch::new(&pixels, 3)).unwrap();
        model.advance(&mut state, Site::end(&spec), Taps::NONE).unwrap();
        let ours = model.finish(&state, Want::Logits).unwrap().values;
        let difference = relative_difference(&ours, &logits);
        let tokens = model.finish(&state, Want::Tokens).unwrap().values;
        let tokens_difference = relative_difference(&tokens, &features);
        println!("{name}: logits {difference:.1e}, features {tokens_difference:.1e}");
        assert!(difference <= 1e-4, "{name}: logits differ by {difference}");
        assert!(tokens_difference <= 1e-4, "{name}: features differ by {tokens_difference}");
    }
}

/// Bounds a few times what was measured; below the lower one, the precision asked for is not the one in use.
#[test]
fn lower_precisions_stay_near_timm() {
    let Some(shared) = shared() else { return };
    for name in ["timm_deit", "timm_deit_distilled", "timm_vit_avg_pool"] {
        let folder = shared.join("fixtures").join(name);
        let expected = Tensors::open(&folder.join("expected.safetensors")).unwrap();
        for (precision, most) in [(Precision::Bf16, 0.03), (Precision::Int8, 0.06)] {
            let checkpoint = Checkpoint::open(&folder).unwrap();
            let spec = checkpoint.spec.clone();
            let [h, w] = spec.img_size;
            let pixels = expected.get("pixel_values", &[3, 3, h, w]).unwrap();
            let logits = expected.get("logits", &[3, spec.num_classes]).unwrap();
            let model = checkpoint.into_backbone(precision).unwrap();
            let ours = model.dense_logits(PixelBatch::new(&pixels, 3)).unwrap().values;
            let difference = relative_difference(&ours, &logits);
            println!("{name} in {precision:?}: logits {difference:.1e}");
            assert!((1e-4..most).contains(&difference), "{name} in {precision:?}: {difference}");
        }
    }
}

/// A level holds for a process: the tests above run again in one of their own.
#[test]
fn lower_levels_agree() {
    if std::env::var_os("VITRIM_SIMD").is_some() {
        return;
    }
    for (name, level) in [("scalar", Level::Scalar), ("avx2", Level::Avx2), ("avx512", Level::Avx512)] {
        if !level.is_supported() {
            eprintln!("SKIPPED: this processor has no {level}");
            continue;
        }
        let run = Command::new(std::env::current_exe().unwrap()).env("VITRIM_SIMD", name).output().unwrap();
        let output = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{level}: {output}");
        assert!(output.contains("3 passed"), "{level}: {output}");
    }
}
