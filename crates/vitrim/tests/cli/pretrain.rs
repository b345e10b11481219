//! A backbone from scratch, through the program; and timm's word on what it writes.

use std::process::Command;

use serde_json::Value;
use vitrim_measure::Loaded;
use vitrim_vit::PixelBatch;

use crate::fixtures::Scratch;

pub const TINY: [&str; 20] = [
    "--set",
    "model.img_size=32",
    "--set",
    "model.dim=16",
    "--set",
    "model.depth=2",
    "--set",
    "model.heads=2",
    "--set",
    "batch=6",
    "--set",
    "log_every=1",
    "--set",
    "evaluate_every=2",
    "--set",
    "augment.crop_padding=2",
    "--set",
    "held_out_images=9",
    "--images",
    "24",
];

#[test]
fn a_backbone_is_trained_from_a_folder_of_images() {
    let scratch = Scratch::new();
    let args = [&["pretrain", "--data", "data", "--out", "pt"], &TINY[..]].concat();
    let printed = scratch.run(&args).good();
    assert!(
        printed.starts_with("backbone: pt/model, ") && printed.ends_with(" % top-1 on held-out images\n")
    );
    let log = std::fs::read_to_string(scratch.path("pt/log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 4);
    scratch.run(&["info", "--model", "pt/model"]).good();
    let classes = Loaded::open(&scratch.path("pt/model")).unwrap().class_names;
    assert_eq!(classes, ["blue", "green", "red"].map(|name| Some(name.to_owned())));
    // Everything is done: the same command only says so.
    assert!(scratch.run(&args).good().starts_with("backbone: pt/model, "));
}

#[test]
fn what_cannot_be_trained_is_refused_in_one_line() {
    let scratch = Scratch::new();
    let refused = |args: &[&str], words: &str| scratch.run(&[&["pretrain"], args].concat()).refused(&[words]);
    refused(&["--data", "scenes", "--preset", "photos"], "no such preset; use default or scenes");
    refused(&["--data", "scenes", "--preset", "scenes", "--set", "mixup=0.5"], "token_labels need mixup = 0");
    refused(&["--data", "nowhere"], "nowhere");
}

/// Loads the backbone that vitrim wrote, and prints its logits for an image of zeros.
const SCRIPT: &str = "
import sys, json, timm, torch
model = timm.create_model('local-dir:' + sys.argv[1], pretrained=True).eval()
print(json.dumps(model(torch.zeros(1, 3, 32, 32))[0].tolist()))
";

#[test]
fn timm_loads_it() {
    let python = std::env::var("VITRIM_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_timm = Command::new(&python).args(["-c", "import timm, torch"]).output();
    if !has_timm.is_ok_and(|output| output.status.success()) {
        vitrim_skips::skip(&format!("{python} has no timm; set VITRIM_PYTHON to one that has"));
        return;
    }
    let scratch = Scratch::new();
    scratch
        .run(&[&["pretrain", "--data", "data", "--out", "pt", "--weights", "bf16"], &TINY[..]].concat())
        .good();
    let folder = scratch.path("pt/model");
    let output = Command::new(&python).args(["-c", SCRIPT]).arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let loaded = Loaded::open(&folder).unwrap();
    let ours = loaded.model.dense_logits(PixelBatch::new(&vec![0.0; 3 * 32 * 32], 1)).unwrap();
    for (theirs, ours) in theirs.as_array().unwrap().iter().zip(&ours.values) {
        assert!((theirs.as_f64().unwrap() - f64::from(*ours)).abs() < 1e-4, "{theirs} {ours}");
    }
    assert_eq!(ours.values.len(), 3);
}

#[test]
fn training_goes_on_from_a_checkpoint_of_the_same_geometry() {
    let scratch = Scratch::new();
    let args = [&["pretrain", "--data", "data"], &TINY[..]].concat();
    scratch.run(&[&args[..], &["--out", "first"]].concat()).good();
    // A learning rate of nothing leaves the weights that it starts from as they are.
    let still = [
        "--init",
        "first/model",
        "--out",
        "second",
        "--set",
        "learning_rate=0",
        "--set",
        "learning_rate_end=0",
    ];
    scratch.run(&[&args[..], &still[..]].concat()).good();
    let weights = |run: &str| std::fs::read(scratch.path(&format!("{run}/model/model.safetensors"))).unwrap();
    assert!(weights("first") == weights("second"));

    let from_scratch = scratch.run(
        &[
            &args[..],
            &["--out", "second", "--quiet", "--set", "learning_rate=0", "--set", "learning_rate_end=0"],
        ]
        .concat(),
    );
    from_scratch.refused(&["second/checkpoint.safetensors", "another start"]);
    let wider = scratch
        .run(&[&args[..], &["--init", "first/model", "--out", "third", "--set", "model.dim=32"]].concat());
    wider.refused(&["--init first/model", "2 blocks of width 16", "2 blocks of width 32"]);
}
