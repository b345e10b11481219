//! The error for a checkpoint that cannot be opened says why, and what to do.

mod stored;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use stored::own;
use tempfile::TempDir;
use vitrim_vit::{Checkpoint, WeightFiles};

/// A copy of the fixture `name`.
fn copy(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(own(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

/// Changes a JSON file of `folder`.
fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
}

fn refused(path: &Path, words: &[&str]) {
    let error = Checkpoint::open(path).err().expect("must be refused").to_string();
    println!("{error}");
    for word in words {
        assert!(error.contains(word), "no '{word}' in: {error}");
    }
    assert!(!error.contains('\n'), "one line: {error}");
}

#[test]
fn an_unsupported_architecture_is_named_with_the_list() {
    let folder = copy("timm_distilled");
    edit(folder.path(), "config.json", |config| config["architecture"] = json!("resnet50.a1_in1k"));
    refused(folder.path(), &["'resnet50.a1_in1k'", "deit3_", "Dinov2WithRegisters"]);
    let folder = copy("hf_vit");
    for class in
        ["SwinForImageClassification", "ViTForMaskedImageModeling", "ViTForImageClassificationWithTeacher"]
    {
        edit(folder.path(), "config.json", |config| config["architectures"] = json!([class]));
        refused(folder.path(), &[&format!("'{class}'"), "deit3_", "Dinov2WithRegisters"]);
    }
}

/// What such a backbone needs is said before its tensors are looked at, so that it is never run as another one.
#[test]
fn what_an_unsupported_architecture_needs_is_said() {
    let timm = |name: &str| json!({"architecture": name, "num_classes": 5});
    let transformers = |class: &str| json!({"architectures": [class], "hidden_size": 16});
    let open_clip = |vision: Value| json!({"model_cfg": {"embed_dim": 12, "vision_cfg": vision}});
    let mixed = json!({"architecture": "eva02_tiny_patch14_224", "model_args": {"rope_type": "mixed"}});
    for (config, words) in [
        (timm("convnext_tiny.fb_in22k"), ["'convnext_tiny.fb_in22k'", "it needs convolutions"]),
        (transformers("ConvNextV2ForImageClassification"), ["ConvNextV2", "it needs convolutions"]),
        (timm("swin_tiny_patch4_window7_224"), ["swin_tiny", "attention within windows"]),
        (transformers("Swinv2Model"), ["Swinv2Model", "attention within windows"]),
        (timm("beitv2_base_patch16_224"), ["beitv2_base", "a relative position bias"]),
        (transformers("BeitForMaskedImageModeling"), ["BeitForMasked", "a relative position bias"]),
        (transformers("BeitForImageClassification"), ["BeitFor", "a relative position bias"]),
        (transformers("Data2VecVisionModel"), ["Data2VecVision", "a relative position bias"]),
        (timm("naflexvit_base_patch16_parfac_gap"), ["naflexvit_base", "positions of rows and columns"]),
        (timm("hiera_base_224"), ["hiera_base", "pooling between stages"]),
        (transformers("HieraForImageClassification"), ["Hiera", "pooling between stages"]),
        (timm("vit_base_patch16_rope_mixed_224"), ["rope_mixed", "learned for each block and head"]),
        (mixed, ["rope_type", "\"mixed\" is not supported"]),
        (timm("eva02_enormous_patch14_clip_224"), ["eva02_enormous", "norms after the residual branches"]),
        (open_clip(json!({"layers": [3, 4, 6, 3], "width": 64})), ["a ResNet", "convolutions"]),
        (open_clip(json!({"timm_model_name": "convnext_base"})), ["convnext_base", "it needs convolutions"]),
        (open_clip(json!({"attentional_pool": true})), ["attentional_pool", "is not supported"]),
        (
            open_clip(json!({"timm_model_name": "vit_base_patch16_224", "timm_proj": "mlp"})),
            ["timm_proj 'mlp'", "linear"],
        ),
    ] {
        let folder = copy("hf_vit");
        if config.get("model_cfg").is_some() {
            fs::remove_file(folder.path().join("config.json")).unwrap();
            fs::write(folder.path().join("open_clip_config.json"), config.to_string()).unwrap();
        } else {
            fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        }
        refused(folder.path(), &words);
    }
}

#[test]
fn a_missing_surplus_or_misshapen_tensor_is_named() {
    let folder = copy("timm_distilled");
    edit(folder.path(), "config.json", |config| config["model_args"]["qk_norm"] = json!(true));
    refused(folder.path(), &["model.safetensors", "no tensor 'blocks.0.attn.q_norm.weight' of shape [8]"]);
    edit(folder.path(), "config.json", |config| {
        config["model_args"]["qk_norm"] = json!(false);
        config["model_args"]["qkv_bias"] = json!(false);
    });
    refused(folder.path(), &["2 tensors are not part", "'blocks.0.attn.qkv.bias'"]);
    edit(folder.path(), "config.json", |config| {
        config["model_args"]["qkv_bias"] = json!(true);
        config["num_classes"] = json!(9);
        config["model_args"]["num_classes"] = json!(9);
    });
    refused(folder.path(), &["'head.weight'", "[5, 16]", "[9, 16]"]);

    // With the names in the file, which may differ from ours.
    let folder = copy("hf_vit");
    edit(folder.path(), "config.json", |config| config["num_hidden_layers"] = json!(3));
    refused(folder.path(), &["'vit.encoder.layer.2.layernorm_before.weight'"]);
    edit(folder.path(), "config.json", |config| config["num_hidden_layers"] = json!(1));
    refused(folder.path(), &["16 tensors are not part", "'vit.encoder.layer.1."]);
}

#[test]
fn a_configuration_that_cannot_be_run_says_which_field() {
    for (key, value) in [
        ("norm_layer", json!("rmsnorm")),
        ("in_chans", json!(1)),
        ("patch_size", json!([4, 2])),
        ("depth", json!("two")),
        ("global_pool", json!("avgmax")),
    ] {
        let folder = copy("timm_distilled");
        edit(folder.path(), "config.json", |config| config["model_args"][key] = value);
        refused(folder.path(), &["config.json", key]);
    }
    for (key, value) in [
        ("hidden_act", json!("relu")),
        ("num_channels", json!(1)),
        ("num_attention_heads", json!(3)),
        ("image_size", json!(-4)),
    ] {
        let folder = copy("hf_vit");
        edit(folder.path(), "config.json", |config| config[key] = value);
        refused(folder.path(), &["config.json", if key == "num_attention_heads" { "3 heads" } else { key }]);
    }
}

#[test]
fn a_size_that_patches_do_not_tile_is_refused() {
    for size in [[18, 16], [0, 16], [1 << 20, 16]] {
        let error = Checkpoint::open_at(&own("hf_vit"), Some(size)).err().unwrap().to_string();
        assert!(error.contains("multiples of 4"), "{error}");
    }
}

#[test]
fn shards_that_are_missing_or_elsewhere_are_refused() {
    let folder = copy("hf_deit_teacher_sharded");
    fs::remove_file(folder.path().join("model-00002-of-00003.safetensors")).unwrap();
    refused(folder.path(), &["cannot read", "model-00002-of-00003.safetensors"]);

    let folder = copy("hf_deit_teacher_sharded");
    let index = "model.safetensors.index.json";
    edit(folder.path(), index, |index| {
        index["weight_map"]["cls_classifier.bias"] = json!("../hf_vit/model.safetensors");
    });
    refused(folder.path(), &[index, "../hf_vit/model.safetensors"]);
    edit(folder.path(), index, |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        map.remove("cls_classifier.bias");
        map.insert("another".to_owned(), json!("model-00001-of-00003.safetensors"));
    });
    refused(folder.path(), &[index, "tensor 'another'"]);
}

/// A pickle that would run a command with Python's `pickle.loads`.
#[test]
fn a_pickle_executes_nothing() {
    let folder = copy("hf_vit_bin");
    let proof = folder.path().join("executed");
    let command = format!("touch {}", proof.display());
    // {"vit.embeddings.cls_token": posix.system(command)}
    let key = "vit.embeddings.cls_token";
    let mut pickle = b"\x80\x02}".to_vec();
    pickle.extend([b'X'].into_iter().chain((key.len() as u32).to_le_bytes()).chain(key.bytes()));
    pickle.extend(b"cposix\nsystem\n");
    pickle.extend([b'X'].into_iter().chain((command.len() as u32).to_le_bytes()).chain(command.bytes()));
    pickle.extend(b"\x85Rs.");
    fs::write(folder.path().join("pytorch_model.bin"), pickle).unwrap();
    refused(folder.path(), &["pytorch_model.bin", "not a readable PyTorch file", "no tensors"]);
    assert!(!proof.exists());
    fs::write(folder.path().join("pytorch_model.bin"), [0x80; 99]).unwrap();
    refused(folder.path(), &["not a readable PyTorch file"]);
}

#[test]
fn a_folder_without_weights_lists_what_is_looked_for() {
    let folder = TempDir::new().unwrap();
    fs::copy(own("timm_distilled").join("config.json"), folder.path().join("config.json")).unwrap();
    refused(folder.path(), &["not a checkpoint", "model.safetensors", ".pth"]);
    refused(&folder.path().join("nowhere"), &["no such folder"]);

    let folder = copy("deit3_pth");
    fs::copy(folder.path().join("checkpoint.pth"), folder.path().join("other.pth")).unwrap();
    refused(folder.path(), &["2 files of weights; name one"]);
    Checkpoint::open(&folder.path().join("other.pth")).unwrap();
}

/// Meta's files have timm's name and a hash, and there are no other files next to them.
#[test]
fn a_lone_file_is_what_its_name_says() {
    let folder = TempDir::new().unwrap();
    let named = |name: &str| {
        let path = folder.path().join(name);
        fs::copy(own("deit3_pth").join("checkpoint.pth"), &path).unwrap();
        path
    };
    refused(&named("deit_tiny_patch16_224-a1311bcf.pth"), &["'patch_embed.proj.weight'", "[192, 3, 16, 16]"]);
    refused(&named("weights.pth"), &["no config.json beside it", "'weights'"]);
}

#[test]
fn weights_beside_an_optimizer_are_found() {
    let files = WeightFiles::open(&own("deit3_pth").join("checkpoint.pth")).unwrap();
    assert!(files.names().all(|name| !name.contains("exp_avg") && !name.starts_with("model.")));
    assert_eq!(files.shape("blocks.1.gamma_2"), Some(&[16][..]));
}

#[test]
fn classes_have_the_names_that_somebody_gave_them() {
    let names = |name: &str| Checkpoint::open(&own(name)).unwrap().classes.names;
    assert_eq!(names("hf_vit"), ["ant", "bee", "cat", "dog", "elk"].map(|name| Some(name.to_owned())));
    assert!(names("timm_distilled").is_empty());
    let folder = copy("hf_vit");
    edit(folder.path(), "config.json", |config| {
        config["id2label"] = (0..5).map(|i| (i.to_string(), json!(format!("LABEL_{i}")))).collect();
    });
    assert!(Checkpoint::open(folder.path()).unwrap().classes.names.is_empty(), "numbers are no names");
}
