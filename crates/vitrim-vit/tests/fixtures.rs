//! From a file to the library's output: checkpoints of timm and transformers, in every layout.

mod stored;

use std::path::{Path, PathBuf};
use std::process::Command;

use stored::own;
use vitrim_kernels::InstructionSet;
use vitrim_kernels::reference::relative_difference;
use vitrim_skips::SHARED_FIXTURES;
use vitrim_vit::{
    Backbone, Checkpoint, PixelBatch, Precision, Site, Taps, TextClasses, VitSpec, Want, WeightFiles,
};

/// Fixtures of this repository, with the other input sizes at which they are tested.
const OWN: [(&str, &[[usize; 2]]); 39] = [
    ("timm_swiglu_reg", &[[24, 20]]),
    ("timm_rectangular", &[]),
    ("timm_distilled", &[[24, 32], [12, 8]]),
    ("timm_headless", &[]),
    ("timm_registers_avg", &[[12, 20]]),
    ("deit3_pth", &[]),
    ("hf_vit", &[[24, 20], [8, 12]]),
    ("hf_vit_bin", &[]),
    ("hf_vit_model", &[]),
    ("hf_deit_teacher_sharded", &[[20, 20]]),
    ("hf_dinov2_swiglu", &[[24, 16]]),
    ("hf_dinov2_reg", &[[24, 20], [8, 12]]),
    ("timm_clip", &[[24, 20]]),
    ("timm_siglip", &[[24, 20]]),
    ("timm_dinov3_plus", &[[24, 20]]),
    ("timm_eva02", &[[24, 20]]),
    ("timm_pe_core", &[[24, 20]]),
    ("hf_clip", &[[24, 20]]),
    ("hf_siglip", &[[24, 20]]),
    ("hf_dinov3", &[[24, 20]]),
    ("hf_ijepa", &[[24, 20]]),
    ("hf_aimv2", &[]),
    ("timm_eva02_clip", &[[24, 20]]),
    ("hf_vit_mae", &[]),
    ("hf_siglip_full", &[]),
    ("apple_aimv2", &[]),
    ("meta_dinov2_reg", &[]),
    ("meta_dinov3", &[]),
    ("meta_pe_core", &[]),
    ("open_clip", &[]),
    ("openai_script", &[]),
    ("timm_beit3", &[[24, 20]]),
    ("hf_beit", &[[24, 20]]),
    ("timm_geglu", &[]),
    ("hf_dinov3_geglu", &[]),
    ("hf_aimv2_native", &[[24, 20]]),
    ("apple_aimv2_native", &[[24, 20]]),
    ("timm_naflexvit", &[[24, 20], [12, 16]]),
    ("timm_naflexvit_map", &[[24, 20], [12, 16]]),
];

/// A library's outputs for a batch of B images.
struct Expected {
    /// B, the number of images.
    batch: usize,
    /// Pixels, `[B, 3, H, W]`.
    pixels: Vec<f32>,
    /// The outputs that are stored, at least one.
    outputs: Vec<(Want, Vec<f32>)>,
}

impl Expected {
    fn open(path: &Path, spec: &VitSpec) -> Self {
        let files = WeightFiles::open(path).unwrap();
        let batch = files.shape("pixel_values").unwrap()[0];
        let [height, width] = spec.img_size;
        let known = [
            ("logits", Want::Logits, vec![batch, spec.num_classes]),
            ("pooled", Want::Pooled, vec![batch, spec.num_features()]),
            ("image_embeds", Want::Embedding, vec![batch, spec.embedding_width().unwrap_or(0)]),
            ("features", Want::Tokens, vec![batch, spec.num_tokens(), spec.dim]),
        ];
        let stored = known.into_iter().filter(|(name, ..)| files.shape(name).is_some());
        let outputs: Vec<_> =
            stored.map(|(name, want, shape)| (want, files.read(name, &shape).unwrap())).collect();
        assert!(!outputs.is_empty(), "{}: no output", path.display());
        let pixels = files.read("pixel_values", &[batch, 3, height, width]).unwrap();
        Expected { batch, pixels, outputs }
    }
}

/// The folder of the shared fixtures, if it exists.
fn shared() -> Option<PathBuf> {
    Some(vitrim_skips::shared()?.join("fixtures"))
}

/// Opens `folder` at `size` and compares its outputs with those stored in its file `expected`.
fn agrees(folder: &Path, size: Option<[usize; 2]>, expected: &str) {
    let what = format!("{} {expected}", folder.display());
    let checkpoint = Checkpoint::open_at(folder, size).unwrap();
    let spec = checkpoint.spec.clone();
    let expected = Expected::open(&folder.join(expected), &spec);
    let model = checkpoint.into_backbone(Precision::F32).unwrap();
    assert_eq!(model.weights().precision(), Precision::F32);
    let mut state = model.embed(PixelBatch::new(&expected.pixels, expected.batch)).unwrap();
    let mut answering = state.clone();
    model.advance(&mut state, Site::end(&spec), Taps::NONE).unwrap();
    model.advance_to_answer(&mut answering).unwrap();
    for (want, expected) in expected.outputs {
        let output = model.finish(&state, want).unwrap();
        if want != Want::Tokens {
            assert_eq!(model.finish(&answering, want).unwrap(), output, "{what}: {want:?}, the answer alone");
        }
        let difference = relative_difference(&output.values, &expected);
        println!("{what}: {want:?} {difference:.1e}");
        assert!(difference <= 1e-4, "{what}: {want:?} differs by {difference}");
    }
}

#[test]
fn shared_fixtures_agree() {
    let Some(shared) = shared() else { return };
    for name in SHARED_FIXTURES {
        agrees(&shared.join(name), None, "expected.safetensors");
    }
}

#[test]
fn own_fixtures_agree_at_every_size() {
    for (name, sizes) in OWN {
        let folder = own(name);
        agrees(&folder, None, "expected.safetensors");
        for size @ [height, width] in sizes.iter().copied() {
            agrees(&folder, Some(size), &format!("expected_{height}x{width}.safetensors"));
        }
    }
}

/// A copy of the fixture `name` without its configurations, with `config` as its `config.json`.
fn redescribed(name: &str, config: &serde_json::Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(own(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end != "json") {
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

/// OpenAI's file is described by the name of timm's architecture; its tower is that of open_clip.
#[test]
fn openais_names_are_read_under_timms_architecture() {
    let args = serde_json::json!({
        "img_size": [16, 16], "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
    });
    let name = "vit_base_patch32_clip_quickgelu_224";
    let config = serde_json::json!({"architecture": name, "num_classes": 1000, "model_args": args});
    let folder = redescribed("open_clip", &config);
    agrees(folder.path(), None, "expected.safetensors");
    let spec = Checkpoint::open(folder.path()).unwrap().spec;
    assert_eq!((spec.num_classes, spec.embedding_width()), (0, Some(12)));
}

/// A tower of timm's within open_clip, with its text tower.
#[test]
fn towers_within_open_clip_are_read_under_timms_architecture() {
    let folder = tempfile::tempdir().unwrap();
    let from = own("timm_siglip");
    for file in ["config.json", "expected.safetensors"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let files = WeightFiles::open(&from.join("model.safetensors")).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for name in files.names() {
        let shape = files.shape(name).unwrap().to_vec();
        let values = files.read(name, &shape).unwrap().iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.push((format!("visual.trunk.{name}"), shape, values));
    }
    tensors.push(("text.positional_embedding".into(), vec![1, 2], vec![0; 8]));
    tensors.push(("logit_scale".into(), vec![], vec![0; 4]));
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    agrees(folder.path(), None, "expected.safetensors");
}

/// Logits of images among the texts of a whole model of transformers, and of open_clip.
#[test]
fn zero_shot_classes_are_those_of_the_libraries() {
    for name in ["hf_siglip_full", "open_clip"] {
        let folder = own(name);
        let classes = TextClasses::open(&folder.join("classes.safetensors")).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap().with_classes(&classes).unwrap();
        assert_eq!(checkpoint.classes.names[3].as_deref(), Some("dog"));
        let spec = checkpoint.spec.clone();
        let expected = Expected::open(&folder.join("zero_shot.safetensors"), &spec);
        let model = checkpoint.into_backbone(Precision::F32).unwrap();
        let (want, logits) = &expected.outputs[0];
        assert_eq!(*want, Want::Logits);
        let ours = model.dense(PixelBatch::new(&expected.pixels, expected.batch), *want).unwrap();
        let difference = relative_difference(&ours.values, logits);
        assert!(difference <= 1e-4, "{name}: {difference}");
    }
}

/// DINOv2's positions are for 518 pixels, and its processor gives 224.
#[test]
fn dinov2_is_as_large_as_its_processor_says() {
    let folder = own("hf_dinov2_model");
    assert_eq!(Checkpoint::open(&folder).unwrap().spec.img_size, [12, 12]);
    assert_eq!(Checkpoint::open_at(&folder, Some([16, 8])).unwrap().spec.img_size, [16, 8]);
    agrees(&folder, None, "expected.safetensors");
}

/// Bounds a few times as large as the measured errors; an error below the lower bound means that another precision is
/// in use.
#[test]
fn lower_precisions_stay_near() {
    let Some(shared) = shared() else { return };
    for name in SHARED_FIXTURES {
        let folder = shared.join(name);
        for (precision, most) in [(Precision::Bf16, 0.03), (Precision::Int8, 0.1)] {
            let checkpoint = Checkpoint::open(&folder).unwrap();
            let expected = Expected::open(&folder.join("expected.safetensors"), &checkpoint.spec);
            let model = checkpoint.into_backbone(precision).unwrap();
            let (want, expected_values) = &expected.outputs[0];
            let ours = model.dense(PixelBatch::new(&expected.pixels, expected.batch), *want).unwrap().values;
            let difference = relative_difference(&ours, expected_values);
            println!("{name} in {precision:?}: {want:?} {difference:.1e}");
            assert!((1e-4..most).contains(&difference), "{name} in {precision:?}: {difference}");
        }
    }
}

/// The instruction set is fixed for a process: the tests above run again in a process of their own.
#[test]
fn all_instruction_sets_agree() {
    if std::env::var_os("VITRIM_SIMD").is_some() {
        return;
    }
    let supported: Vec<String> = InstructionSet::supported().map(|set| set.to_string()).collect();
    for name in InstructionSet::NAMES {
        if !supported.iter().any(|set| set == name) {
            vitrim_skips::skip(&format!("this processor has no {name}"));
            continue;
        }
        let run = Command::new(std::env::current_exe().unwrap()).env("VITRIM_SIMD", name).output().unwrap();
        let output = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{name}: {output}");
        assert!(output.contains("10 passed"), "{name}: {output}");
    }
}

/// Policies identify their backbone by the fingerprint: policies that are trained already must still match.
#[test]
fn fingerprints_stay() {
    let Some(shared) = shared() else { return };
    for (name, fingerprint) in [
        ("timm_deit", "6433d7111c437eb1911c687d2c02b928"),
        ("timm_deit_distilled", "dc8a1f2b177d21eeb2d00e35531f82b6"),
        ("timm_vit_avg_pool", "c84400f7158b862dd90bd03fad55fbe4"),
    ] {
        let Checkpoint { spec, tensors, .. } = Checkpoint::open(&shared.join(name)).unwrap();
        assert_eq!(tensors.fingerprint(&spec).unwrap(), fingerprint, "{name}");
    }
}

/// The same weights are the same backbone, whatever the file format.
#[test]
fn a_fingerprint_is_of_the_weights_and_not_of_their_file() {
    let of = |name: &str| {
        let Checkpoint { spec, tensors, .. } = Checkpoint::open(&own(name)).unwrap();
        tensors.fingerprint(&spec).unwrap()
    };
    assert_eq!(of("hf_vit"), of("hf_vit_bin"));
    assert_ne!(of("hf_vit"), of("hf_vit_model"));
}
