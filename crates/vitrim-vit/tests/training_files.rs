//! Checkpoints as training scripts leave them: any file name, other state beside the weights, modules around them.

mod stored;
mod torch_save;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stored::own;
use tempfile::TempDir;
use torch_save::{Py, save};
use vitrim_vit::{Checkpoint, WeightFiles};

/// Tensors of the fixture `name`.
fn tensors(name: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let files = WeightFiles::open(&own(name).join("model.safetensors")).unwrap();
    let read = |name: &str| {
        let shape = files.shape(name).unwrap();
        (name.to_owned(), shape.to_vec(), files.read(name, shape).unwrap())
    };
    files.names().map(read).collect()
}

/// A state dictionary of these tensors, each called `prefix` and its name, each value times `scale`.
fn state(tensors: &[(String, Vec<usize>, Vec<f32>)], prefix: &str, scale: f32) -> Py {
    let entry = |(name, shape, values): &(String, Vec<usize>, Vec<f32>)| {
        let values = values.iter().map(|value| scale * value).collect();
        (format!("{prefix}{name}"), Py::Tensor(shape.clone(), values))
    };
    Py::Dict(tensors.iter().map(entry).collect())
}

/// A folder with the configuration of the fixture `name`, without weights.
fn folder(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::copy(own(name).join("config.json"), folder.path().join("config.json")).unwrap();
    folder
}

fn print(checkpoint: &Checkpoint) -> String {
    checkpoint.tensors.fingerprint(&checkpoint.spec).unwrap()
}

fn refused(path: &Path, words: &[&str]) {
    let error = Checkpoint::open(path).and_then(|open| open.tensors.fingerprint(&open.spec).map(drop));
    let error = error.expect_err("must be refused").to_string();
    println!("{error}");
    for word in words {
        assert!(error.contains(word), "no '{word}' in: {error}");
    }
    assert!(!error.contains('\n'), "one line: {error}");
}

const FIXTURE: &str = "timm_distilled";

#[test]
fn what_timm_and_lightning_leave_is_opened_by_file_and_by_folder() {
    let reference = print(&Checkpoint::open(&own(FIXTURE)).unwrap());
    let t = tensors(FIXTURE);
    let optimizer = || {
        let moment = Py::dict([("exp_avg", Py::Tensor(vec![3], vec![0.0; 3]))]);
        Py::dict([("state", Py::dict([("0", moment)]))])
    };
    let arguments = || {
        let path = Py::Object("pathlib", "PosixPath", vec![Py::str("/data")], Vec::new());
        let metric = Py::Object(
            "numpy._core.multiarray",
            "scalar",
            vec![Py::str("f8"), Py::str("8 bytes")],
            Vec::new(),
        );
        Py::Object(
            "argparse",
            "Namespace",
            Vec::new(),
            vec![("data".into(), path), ("metric".into(), metric)],
        )
    };
    let script = |weights: Py| {
        Py::dict([
            ("epoch", Py::Int(9)),
            ("args", arguments()),
            ("state_dict", weights),
            ("optimizer", optimizer()),
        ])
    };
    for (name, content) in [
        ("model_best.pth.tar", script(state(&t, "", 1.0))),
        ("checkpoint-9.pth.tar", script(state(&t, "_orig_mod.", 1.0))),
        ("ddp_compiled.pth", script(state(&t, "module._orig_mod.", 1.0))),
        ("last.ckpt", script(state(&t, "model.", 1.0))),
        ("nested.ckpt", script(state(&t, "model.module.backbone.encoder._orig_mod.", 1.0))),
        ("checkpoint.pt", Py::dict([("model", state(&t, "module.", 1.0)), ("optimizer", optimizer())])),
        ("weights", state(&t, "", 1.0)),
    ] {
        let folder = folder(FIXTURE);
        let file = folder.path().join(name);
        save(&file, &content);
        fs::write(folder.path().join("args.yaml"), "lr: 1\n").unwrap();
        save(&folder.path().join("optimizer.pt"), &optimizer());
        for given in [&file, &folder.path().to_owned()] {
            let checkpoint = Checkpoint::open(given).unwrap();
            assert_eq!(print(&checkpoint), reference, "{name}");
            assert!(checkpoint.notes.is_empty(), "{name}: {:?}", checkpoint.notes);
        }
    }
}

#[test]
fn a_head_beside_the_backbone_is_its_head() {
    let t = tensors(FIXTURE);
    let (heads, body): (Vec<_>, Vec<_>) = t.into_iter().partition(|(name, ..)| name.starts_with("head"));
    let folder = folder(FIXTURE);
    for prefix in ["backbone.", "model."] {
        let (Py::Dict(mut all), Py::Dict(heads)) = (state(&body, prefix, 1.0), state(&heads, "", 1.0)) else {
            unreachable!()
        };
        all.extend(heads);
        save(&folder.path().join("last.ckpt"), &Py::dict([("state_dict", Py::Dict(all))]));
        let reference = print(&Checkpoint::open(&own(FIXTURE)).unwrap());
        assert_eq!(print(&Checkpoint::open(folder.path()).unwrap()), reference, "{prefix}");
    }
}

/// timm loads `state_dict_ema` if there is one.
#[test]
fn the_moving_average_is_taken_and_it_is_said() {
    let (folder, t) = (folder(FIXTURE), tensors(FIXTURE));
    let file = folder.path().join("last.pth.tar");
    let both = [("state_dict", state(&t, "module.", 0.5)), ("state_dict_ema", state(&t, "", 1.0))];
    save(&file, &Py::dict(both));
    let checkpoint = Checkpoint::open(&file).unwrap();
    assert_eq!(print(&checkpoint), print(&Checkpoint::open(&own(FIXTURE)).unwrap()));
    let [note] = checkpoint.notes.as_slice() else { panic!("{:?}", checkpoint.notes) };
    assert!(
        note.contains("last.pth.tar") && note.contains("'state_dict_ema', not those under 'state_dict'"),
        "{note}"
    );
}

#[test]
fn two_readings_of_a_tensor_are_refused() {
    let (folder, t) = (folder(FIXTURE), tensors(FIXTURE));
    let (Py::Dict(mut all), Py::Dict(more)) = (state(&t, "backbone.", 1.0), state(&t, "encoder.", 1.0))
    else {
        unreachable!()
    };
    all.extend(more);
    save(&folder.path().join("a.pth"), &Py::Dict(all));
    refused(folder.path(), &["'backbone.", "'encoder.", "may both be tensor"]);
}

#[test]
fn several_files_of_weights_are_listed() {
    let (folder, t) = (folder(FIXTURE), tensors(FIXTURE));
    for name in ["model_best.pth.tar", "last.pth.tar"] {
        save(&folder.path().join(name), &state(&t, "", 1.0));
    }
    refused(folder.path(), &["2 files of weights; name one of them: last.pth.tar, model_best.pth.tar"]);
    fs::remove_file(folder.path().join("last.pth.tar")).unwrap();
    fs::copy(own(FIXTURE).join("model.safetensors"), folder.path().join("other.safetensors")).unwrap();
    let notes = Checkpoint::open(folder.path()).unwrap().notes;
    assert!(notes.len() == 1 && notes[0].ends_with("in this file, not in other.safetensors"), "{notes:?}");
}

/// A view of one value that is as large as the backbone's tensor.
#[test]
fn a_small_file_cannot_state_large_tensors() {
    let folder = folder(FIXTURE);
    save(&folder.path().join("a.pth"), &Py::dict([("x", Py::Repeated(vec![30_000, 30_000], 1.0))]));
    refused(folder.path(), &["its tensors have 3600000000 bytes"]);
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_tensor() {
    let (folder, mut t) = (folder(FIXTURE), tensors(FIXTURE));
    let (_, _, values) = t.iter_mut().find(|(name, ..)| name == "blocks.1.attn.proj.weight").unwrap();
    (values[3], values[5]) = (f32::NAN, f32::INFINITY);
    save(&folder.path().join("a.pth"), &state(&t, "module.", 1.0));
    refused(folder.path(), &["a.pth", "'blocks.1.attn.proj.weight' has 2 values of 256 that are NaN"]);
}

#[test]
fn a_git_lfs_pointer_is_called_so() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 350000000\n";
    for name in
        ["model.safetensors", "pytorch_model.bin", "model_best.pth.tar", "model.safetensors.index.json"]
    {
        let folder = folder(FIXTURE);
        fs::write(folder.path().join(name), pointer).unwrap();
        refused(folder.path(), &[name, "Git LFS pointer", "git lfs pull"]);
    }
    let folder = folder(FIXTURE);
    fs::copy(own(FIXTURE).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    fs::write(folder.path().join("config.json"), pointer).unwrap();
    refused(folder.path(), &["config.json", "Git LFS pointer"]);
}

/// A copy of the fixture `name`, whose tensors are called `rename(name)`, each times its part.
fn renamed(name: &str, rename: impl Fn(&str) -> String) -> (TempDir, PathBuf) {
    let (folder, t) = (folder(name), tensors(name));
    let named: Vec<_> = t.into_iter().map(|(name, shape, values)| (rename(&name), shape, values)).collect();
    let file = folder.path().join("raw.pth");
    save(&file, &state(&named, "", 1.0));
    (folder, file)
}

#[test]
fn transformers_five_has_other_names_in_memory() {
    let vit = |name: &str| {
        name.replace("encoder.layer.", "layers.")
            .replace("attention.attention.query", "attention.q_proj")
            .replace("attention.attention.key", "attention.k_proj")
            .replace("attention.attention.value", "attention.v_proj")
            .replace("attention.output.dense", "attention.o_proj")
            .replace("intermediate.dense", "mlp.fc1")
            .replace("output.dense", "mlp.fc2")
    };
    let wrapped = |name: &str| format!("model._orig_mod.{}", vit(name));
    for rename in [&vit as &dyn Fn(&str) -> String, &wrapped] {
        let (_folder, file) = renamed("hf_vit", rename);
        let reference = print(&Checkpoint::open(&own("hf_vit")).unwrap());
        assert_eq!(print(&Checkpoint::open(&file).unwrap()), reference);
    }
    let (_folder, file) = renamed("hf_dinov2_reg", |name| {
        name.replace("attention.attention.query", "attention.q_proj")
            .replace("attention.attention.key", "attention.k_proj")
            .replace("attention.attention.value", "attention.v_proj")
            .replace("attention.output.dense", "attention.o_proj")
    });
    assert_eq!(
        print(&Checkpoint::open(&file).unwrap()),
        print(&Checkpoint::open(&own("hf_dinov2_reg")).unwrap())
    );
}

/// A copy of the fixture `name` with another configuration.
fn configured(name: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let folder = folder(name);
    fs::copy(own(name).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let path = folder.path().join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
    folder
}

/// `_parse_model_cfg` of timm: what is at the root goes first; one flat object is all of it.
#[test]
fn timms_configurations_state_classes_in_several_places() {
    let names = json!(["a", "b", "c", "d", "e"]);
    let called = |folder: &TempDir| {
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let names = checkpoint.classes.names.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
        (names.join(","), checkpoint.pretrained_cfg["mean"].clone())
    };
    let mean = json!([0.1, 0.2, 0.3]);
    let inside = configured(FIXTURE, |config| {
        config.as_object_mut().unwrap().remove("num_classes");
        config["model_args"].as_object_mut().unwrap().remove("num_classes");
        config["pretrained_cfg"] = json!({"num_classes": 5, "label_names": names, "mean": mean});
    });
    let root = configured(FIXTURE, |config| {
        config["label_names"] = json!({"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"});
        config["pretrained_cfg"] = json!({"label_names": ["x"], "mean": mean});
    });
    let flat = configured(FIXTURE, |config| {
        config.as_object_mut().unwrap().remove("pretrained_cfg");
        config["labels"] = names.clone();
        config["mean"] = mean.clone();
    });
    for folder in [inside, root, flat] {
        assert_eq!(called(&folder), ("a,b,c,d,e".to_owned(), mean.clone()));
    }
}

/// What is stated in a few bytes is refused before memory is taken for it.
#[test]
fn a_configuration_cannot_ask_for_any_size() {
    let huge = [
        ("depth", json!(16_000_000)),
        ("embed_dim", json!(16_000_000)),
        ("num_heads", json!(0)),
        ("num_classes", json!(16_000_000)),
        ("reg_tokens", json!(16_000_000)),
        ("mlp_ratio", json!(1e300)),
        ("mlp_ratio", json!(100_000)),
        ("mlp_ratio", json!(-3)),
        ("img_size", json!([16_000_000, 4])),
        ("img_size", json!([16_384, 16_384])),
        ("patch_size", json!(0)),
        ("depth", json!("9".repeat(100_000))),
    ];
    for (key, value) in huge {
        let folder = configured(FIXTURE, |config| config["model_args"][key] = value);
        refused(folder.path(), &["config.json"]);
        let error = Checkpoint::open(folder.path()).err().unwrap().to_string();
        assert!(error.len() < 600, "{} bytes", error.len());
    }
    for (key, value) in [
        ("num_hidden_layers", json!(16_000_000)),
        ("hidden_size", json!(16_000_000)),
        ("intermediate_size", json!(16_000_000)),
        ("layer_norm_eps", json!(-1.0)),
        ("num_labels", json!(16_000_000)),
        ("id2label", json!("ant")),
    ] {
        let folder = configured("hf_vit", |config| {
            config.as_object_mut().unwrap().remove("id2label");
            config.as_object_mut().unwrap().remove("label2id");
            config[key] = value;
        });
        refused(folder.path(), &["config.json"]);
    }
    let folder = configured(FIXTURE, |config| config["model_args"] = json!("depth"));
    refused(folder.path(), &["config.json", "model_args"]);
    let huge = Checkpoint::open_at(&own("hf_vit"), Some([16_384, 16_384])).err().unwrap().to_string();
    assert!(huge.contains("limit"), "{huge}");
}
