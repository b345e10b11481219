//! Checkpoints of timm and transformers, other input sizes, and features.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::fixtures::{Scratch, TINY};
use crate::naflex;

/// A scratch folder with the checkpoint `name` of transformers or timm in `to`.
fn with_checkpoint(scratch: &Scratch, name: &str, to: &str) {
    let from = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../vitrim-vit/tests/fixtures")).join(name);
    fs::create_dir(scratch.path(to)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), scratch.path(to).join(entry.file_name())).unwrap();
    }
}

const PHOTO: &str = "data/test/red/test00.png";

#[test]
fn transformers_names_its_classes_and_another_size_is_another_grid() {
    let scratch = Scratch::new();
    with_checkpoint(&scratch, "hf_vit", "vit");
    let predict = ["predict", PHOTO, "--model", "vit", "--json"];
    let own = &scratch.run(&predict).json()[0];
    let mut names: Vec<&str> =
        own["classes"].as_array().unwrap().iter().map(|class| class["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["ant", "bee", "cat", "dog", "elk"]);
    let wide = &scratch.run(&[&predict[..], &["--img-size", "24x20"]].concat()).json()[0];
    assert!(wide["gmacs"].as_f64() > own["gmacs"].as_f64(), "{wide} {own}");

    let info = ["info", "--model", "vit", "--json", "--img-size", "24x20"];
    assert_eq!(scratch.run(&info).json()[0]["patch_tokens"], 30);
    let named = ["info", "--model", "deit_tiny_patch16_224", "--json", "--img-size", "384"];
    assert_eq!(scratch.run(&named).json()[0]["patch_tokens"], 24 * 24);
    scratch.run(&["info", "--model", "vit", "--img-size", "18"]).refused(&["18x18", "multiples of 4"]);
    let bench = ["bench", "--model", "deit_tiny_patch16_224", "--img-size", "33", "--seconds", "0"];
    scratch.run(&bench).refused(&["33x33", "multiples of 16"]);
    let error = scratch.run(&["info", "--model", "vit", "--img-size", "big"]);
    assert_eq!(error.0.status.code(), Some(2));
    assert!(error.stderr().contains("HEIGHTxWIDTH"), "{}", error.stderr());
}

/// timm's `label_names` at the root or in `pretrained_cfg`, a list or an object, with descriptions: one meaning.
#[test]
fn timm_names_its_classes_in_several_places() {
    let scratch = Scratch::new();
    let path = scratch.path("model/config.json");
    let plain: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let classes = json!(["red", "green", "blue"]);
    let top1 = |change: &dyn Fn(&mut Value)| {
        let mut config = plain.clone();
        config["pretrained_cfg"].as_object_mut().unwrap().remove("label_names");
        change(&mut config);
        fs::write(&path, config.to_string()).unwrap();
        let eval = ["eval", "--model", "model", "--data", "data", "--json", "--no-speed"];
        scratch.run(&eval).json()[0]["dense_top1"].clone()
    };
    let inside = top1(&|config| config["pretrained_cfg"]["label_names"] = classes.clone());
    assert_ne!(inside, top1(&|_| ()), "the folders' order is another one");
    let root = top1(&|config| config["label_names"] = classes.clone());
    let object = top1(&|config| config["label_names"] = json!({"0": "red", "1": "green", "2": "blue"}));
    let described = top1(&|config| {
        config["label_names"] = json!(["n1", "n2", "n3"]);
        config["label_descriptions"] = json!({"n1": "red", "n2": "green", "n3": "blue"});
    });
    assert_eq!([&root, &object, &described], [&inside; 3]);

    let predict = ["predict", PHOTO, "--model", "model", "--json", "--top-k", "3"];
    top1(&|config| config["label_names"] = json!({"0": "red", "2": "blue"}));
    for class in scratch.run(&predict).json()[0]["classes"].as_array().unwrap() {
        let name =
            [json!("red"), Value::Null, json!("blue")][class["class"].as_u64().unwrap() as usize].clone();
        assert_eq!(class["name"], name);
    }
    // A fine-tuned checkpoint that kept the names of more classes.
    top1(&|config| config["label_names"] = json!(["a", "b", "c", "d"]));
    let info = scratch.run(&["info", "--model", "model", "--json"]);
    assert!(info.stderr().contains("note: model/config.json: label_names has 4 names"), "{}", info.stderr());
    assert!(info.json()[0]["notes"][0].as_str().unwrap().contains("they are not used"));
    let text = scratch.run(&["info", "--model", "model"]).stdout();
    assert!(text.contains("\nnote          model/config.json: label_names has 4 names"), "{text}");
}

/// timm's first form of `config.json`: everything at the root.
#[test]
fn a_flat_configuration_prepares_images_and_names_classes() {
    let scratch = Scratch::new();
    let path = scratch.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let cfg = json!({"input_size": [3, 32, 32], "crop_pct": 0.8, "interpolation": "bilinear", "mean": [0.5, 0.4, 0.3]});
    let predict = || {
        let predicted = scratch.run(&["predict", PHOTO, "--model", "model", "--json", "--top-k", "3"]);
        predicted.json()[0]["classes"].clone()
    };
    config["pretrained_cfg"] = cfg.clone();
    config["pretrained_cfg"]["label_names"] = json!(["a", "b", "c"]);
    fs::write(&path, config.to_string()).unwrap();
    let todays = predict();
    config.as_object_mut().unwrap().remove("pretrained_cfg");
    config.as_object_mut().unwrap().extend(cfg.as_object().unwrap().clone());
    config["labels"] = json!(["a", "b", "c"]);
    fs::write(&path, format!("\u{feff}{config}")).unwrap();
    assert_eq!(predict(), todays);
    config["mean"] = json!([0.1, 0.1, 0.1]);
    fs::write(&path, config.to_string()).unwrap();
    assert_ne!(predict(), todays);
}

#[test]
fn a_backbone_without_a_head_gives_features_and_is_timed() {
    let scratch = Scratch::new();
    with_checkpoint(&scratch, "hf_dinov2_model", "dinov2");
    let predict = ["predict", PHOTO, "--model", "dinov2"];
    scratch.run(&predict).refused(&["no classifier head", "--features pooled"]);
    let features =
        |kind| scratch.run(&[&predict[..], &["--json", "--features", kind]].concat()).json()[0].clone();
    let (pooled, tokens) = (features("pooled"), features("tokens"));
    assert!(pooled.get("classes").is_none() && pooled.get("tokens").is_none(), "{pooled}");
    assert_eq!(pooled["pooled"].as_array().unwrap().len(), 16);
    let tokens = tokens["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 1 + 9, "a class token, and a grid as large as the processor says");
    // The pooled feature of a headless DINOv2 is its class token.
    assert_eq!((&tokens[0]["place"], &tokens[0]["features"]), (&Value::Null, &pooled["pooled"]));
    let places: Vec<Value> = tokens[1..].iter().map(|token| token["place"].clone()).collect();
    assert_eq!((&places[0], &places[5]), (&json!([0, 0]), &json!([1, 2])));
    let text = scratch.run(&[&predict[..], &["--features", "tokens"]].concat()).good();
    assert!(text.contains("10 tokens of 16 features") && text.contains("9 patches"), "{text}");

    let bench = ["bench", "--model", "dinov2", "--seconds", "0.1", "--rounds", "1", "--batch", "1", "--json"];
    let report = &scratch.run(&bench).json()[0];
    assert!(report["cells"][0]["pruned"]["images_per_s"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_backbone_without_classes_is_pruned_within_a_drift() {
    let scratch = Scratch::new();
    with_checkpoint(&scratch, "timm_headless", "headless");
    let train = ["train", "--model", "headless", "--data", "data", "--updates", "3", "--out", "run"];
    let train = |loss: &[&str]| scratch.run(&[&train[..], loss, &TINY].concat());
    train(&["--max-drop", "1"]).refused(&["max-drop", "no classes", "max-drift"]);
    train(&["--preset", "paper"]).refused(&["paper", "classes"]);
    let trained = train(&["--max-drift", "50", "--confidence", "0.5"]);
    assert!(trained.stderr().contains(" %, beta"), "{}", trained.stderr());
    let text = trained.good();
    assert!(text.contains("a drift of at most 50 % is certified on"), "{text}");
    let record: Value =
        serde_json::from_slice(&fs::read(scratch.path("run/policy/policy.json")).unwrap()).unwrap();
    let points = record["calibration"]["front"]["points"].as_array().unwrap();
    let (first, last) = (&points[0], &points[points.len() - 1]);
    assert!(last["drift"]["mean"].as_f64() > first["drift"]["mean"].as_f64(), "{points:?}");
    assert!(last["cost"].as_f64() < first["cost"].as_f64(), "{points:?}");

    let with_policy = ["--model", "headless", "--policy", "run/policy"];
    let eval =
        ["eval", "--data", "data", "--json", "--no-speed", "--methods", "policy,random", "--report", "run"];
    let evaluation = &scratch.run(&[&eval[..], &with_policy].concat()).json()[0];
    for method in evaluation["methods"].as_array().unwrap() {
        assert!(method["drop_pp"].is_null() && method["disagreement"].is_null(), "{method}");
        let (drift, d) = (method["drift"].as_f64().unwrap(), method["fidelity"].as_f64().unwrap());
        assert!((drift - 100.0 * d).abs() < 1e-9 && (0.0..=200.0).contains(&drift), "{method}");
    }
    let page = fs::read_to_string(scratch.path("run/report.html")).unwrap();
    assert!(page.contains("Drift of the features") && !page.contains("taken for"));
    let dialled =
        ["predict", PHOTO, "--features", "pooled", "--max-drift", "0.000001", "--confidence", "0.5"];
    scratch.run(&[&dialled[..], &with_policy].concat()).good();
    scratch
        .run(&[&["predict", PHOTO, "--features", "pooled", "--max-drop", "1"], &with_policy[..]].concat())
        .refused(&["max-drift"]);
    let tune =
        ["finetune", "--data", "data", "--read-out", "threshold=0.6", "--images", "16", "--out", "tuned"];
    let tune = [&tune[..], &["--set", "batch=8"], &with_policy].concat();
    let out = scratch.run(&tune).good();
    assert!(out.contains("held-out images: a drift of ") && !out.contains("top-1"), "{out}");
    let tuned =
        ["predict", PHOTO, "--features", "pooled", "--model", "tuned/model", "--policy", "tuned/policy"];
    scratch.run(&tuned).good();
    scratch
        .run(&[&tune[..], &["--set", "label_weight=1", "-q"]].concat())
        .refused(&["label_weight", "no classes"]);
    scratch.run(&["compare", "--model", "headless", "--data", "data", "--report", "cmp"]).refused(&[
        "compare",
        "no classes",
        "eval",
    ]);
    scratch
        .run(&["predict", PHOTO, "--model", "model", "--policy", "run/policy", "--max-drift", "1"])
        .refused(&["policy"]);
}

/// A policy is trained on each family, and fine-tuned weights are a checkpoint that opens again, text tower and all.
#[test]
fn towers_are_pruned_and_tuned_and_give_embeddings() {
    let scratch = Scratch::new();
    for (name, embedding) in [
        ("hf_clip", Some(12)),
        ("hf_siglip", Some(18)),
        ("timm_siglip", Some(24)),
        ("timm_dinov3_plus", None),
        ("hf_dinov3", None),
        ("hf_aimv2", None),
    ] {
        with_checkpoint(&scratch, name, name);
        let (run, tuned) = (format!("run_{name}"), format!("tuned_{name}"));
        let train = ["train", "--model", name, "--data", "data", "--updates", "2", "--no-calibrate"];
        scratch.run(&[&train[..], &["--out", &run], &TINY].concat()).good();
        let policy = format!("{run}/policy");
        let pruned = ["--model", name, "--policy", &policy, "--read-out", "top-r=0.5"];
        let predict = ["predict", PHOTO, "--json", "--features"];
        let tokens = &scratch.run(&[&predict[..], &["tokens"], &pruned].concat()).json()[0];
        let dense = &scratch.run(&[&predict[..], &["tokens", "--model", name]].concat()).json()[0];
        let count = |answer: &Value| answer["tokens"].as_array().unwrap().len();
        assert!(count(tokens) < count(dense), "{name}: {} of {}", count(tokens), count(dense));
        assert!(tokens["gmacs"].as_f64() < dense["gmacs"].as_f64(), "{name}");
        let tune = ["finetune", "--data", "data", "--images", "16", "--set", "batch=8", "--out", &tuned];
        scratch.run(&[&tune[..], &pruned].concat()).good();
        let model = format!("{tuned}/model");
        let embed = [&predict[..], &["embedding", "--model", &model]].concat();
        match embedding {
            Some(width) => {
                let answer = &scratch.run(&embed).json()[0];
                assert_eq!(answer["embedding"].as_array().unwrap().len(), width, "{name}");
            }
            None => scratch.run(&embed).refused(&["no image embedding", "--features pooled"]),
        }
    }
}

/// Text embeddings of `width` for the classes of the images, at right angles to each other.
fn write_classes(path: &Path, width: usize, scale: Option<f32>) {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let rows: Vec<f32> = (0..3 * width).map(|i| f32::from(u8::from(i % width == i / width))).collect();
    let (rows, scale) = (bytes(&rows), scale.map(|scale| bytes(&[scale])));
    let mut views = vec![("text", TensorView::new(Dtype::F32, vec![3, width], &rows).unwrap())];
    views.extend(
        scale.iter().map(|scale| ("logit_scale", TensorView::new(Dtype::F32, vec![], scale).unwrap())),
    );
    let names = [("names".to_owned(), json!(["red", "green", "blue"]).to_string())];
    fs::write(path, safetensors::serialize(views, Some(names.into())).unwrap()).unwrap();
}

/// A tower with texts is trained for, calibrated, evaluated, compared and timed like any classifier.
#[test]
fn texts_make_a_classifier_of_a_tower() {
    let scratch = Scratch::new();
    with_checkpoint(&scratch, "hf_siglip_full", "tower");
    let (file, other) = (scratch.path("texts.safetensors"), scratch.path("other.safetensors"));
    write_classes(&file, 16, Some(40.0));
    write_classes(&other, 16, Some(30.0));
    let of = ["--model", "tower", "--classes", "texts.safetensors"];
    let run = |words: &[&str]| scratch.run(&[words, &of[..]].concat());

    let dense = &run(&["predict", PHOTO, "--json"]).json()[0];
    let names: Vec<&str> =
        dense["classes"].as_array().unwrap().iter().map(|class| class["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3);
    // The texts are axes: the logits are 40 times the first values of the embedding at length 1.
    let embedded = &run(&["predict", PHOTO, "--features", "embedding", "--json"]).json()[0]["embedding"];
    let embedded: Vec<f64> = embedded.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let length = embedded.iter().map(|v| v * v).sum::<f64>().sqrt();
    let weights: Vec<f64> = embedded[..3].iter().map(|v| (40.0 * v / length).exp()).collect();
    for class in dense["classes"].as_array().unwrap() {
        let expected = weights[class["class"].as_u64().unwrap() as usize] / weights.iter().sum::<f64>();
        assert!((class["probability"].as_f64().unwrap() - expected).abs() < 1e-4, "{class} {expected}");
    }

    assert_eq!(run(&["info", "--json"]).json()[0]["spec"]["num_classes"], 3);
    let train = [
        "train",
        "--data",
        "data",
        "--updates",
        "2",
        "--max-drop",
        "100",
        "--confidence",
        "0.5",
        "--out",
        "zs",
    ];
    run(&[&train[..], &TINY].concat()).good();
    let policy = ["--policy", "zs/policy"];
    let calibrate =
        ["calibrate", "--data", "data", "--split", "val", "--max-drop", "100", "--confidence", "0.5"];
    run(&[&calibrate[..], &policy].concat()).good();
    let eval = ["eval", "--data", "data", "--split", "test", "--no-speed", "--json", "--report", "zs"];
    let figures = &run(&[&eval[..], &policy].concat()).json()[0];
    assert!(figures["dense_top1"].as_f64().is_some(), "{figures}");
    // Each word of a command is an element of its own.
    let page = fs::read_to_string(scratch.path("zs/report.html")).unwrap().replace("</span> <span>", " ");
    assert!(page.contains("--classes texts.safetensors"), "the report's command lacks the classes");
    let compare = [
        "compare",
        "--data",
        "data",
        "--split",
        "test",
        "--no-speed",
        "--no-studies",
        "--methods",
        "policy,random",
    ];
    run(&[&compare[..], &policy, &["--report", "compared"]].concat()).good();
    run(&[&["bench", "--batch", "1", "--seconds", "0.02", "--rounds", "1"], &policy[..]].concat()).good();
    let gumbel = [
        "train",
        "--data",
        "data",
        "--updates",
        "2",
        "--preset",
        "gumbel",
        "--no-calibrate",
        "--out",
        "gumbel",
    ];
    run(&[&gumbel[..], &TINY].concat()).good();

    // Other texts are another classifier, and so is the tower without any.
    let asked = ["predict", PHOTO, "--policy", "zs/policy", "--model", "tower"];
    scratch
        .run(&[&asked[..], &["--classes", "other.safetensors"]].concat())
        .refused(&["not for this backbone"]);
    scratch.run(&asked).refused(&["not for this backbone"]);
    write_classes(&other, 12, Some(40.0));
    let with_other =
        |model: &str| scratch.run(&["predict", PHOTO, "--classes", "other.safetensors", "--model", model]);
    with_other("tower").refused(&["other.safetensors", "width 12", "width 16"]);
    with_other("model").refused(&["other.safetensors", "no image embedding"]);
    write_classes(&other, 16, None);
    with_other("tower").refused(&["no logit_scale", "exp()"]);
    scratch.run(&["info", "--model", "tower", "--classes", "none.npz"]).refused(&["none.npz"]);
}

/// What LLaVA-like models read: the patch tokens after a block, those that a policy leaves, each with its place.
#[test]
fn tokens_after_a_block_are_those_of_its_input_to_the_next() {
    let scratch = Scratch::new();
    with_checkpoint(&scratch, "hf_clip", "clip");
    let predict = ["predict", PHOTO, "--model", "clip", "--features", "tokens", "--json"];
    let after = |block: &str, more: &[&str]| {
        scratch.run(&[&predict[..], &["--block", block], more].concat()).json()[0].clone()
    };
    let (first, last) = (after("-2", &[]), after("-1", &[]));
    let tokens = |answer: &Value| answer["tokens"].as_array().unwrap().clone();
    assert_eq!((tokens(&first).len(), &first), (16, &after("0", &[])));
    assert_eq!(last, after("1", &[]));
    assert!(first["gmacs"].as_f64() < last["gmacs"].as_f64());
    assert_eq!(tokens(&first)[5]["place"], json!([1, 1]));
    // CLIP's final tokens are not normed.
    let end = &scratch.run(&predict).json()[0];
    assert_eq!(tokens(end)[1..], tokens(&last)[..]);
    // A stage before the block counts, one after it does not.
    let stage = [
        "train",
        "--model",
        "clip",
        "--data",
        "data",
        "--updates",
        "2",
        "--no-calibrate",
        "--out",
        "clip-run",
    ];
    scratch.run(&[&stage[..], &TINY].concat()).good();
    let pruned = after("-1", &["--policy", "clip-run/policy", "--read-out", "top-r=0.5"]);
    assert!(tokens(&pruned).len() < 16 && pruned["gmacs"].as_f64() < last["gmacs"].as_f64(), "{pruned}");
    let left = pruned["stages"].as_array().unwrap().last().unwrap()["positions"].as_array().unwrap().len();
    assert_eq!(tokens(&pruned).len(), left);
    let refused = |more: &[&str], words: &[&str]| {
        scratch.run(&[&["predict", PHOTO, "--model", "clip"], more].concat()).refused(words)
    };
    refused(&["--features", "tokens", "--block", "2"], &["block 2", "give 0 to 1, or -2 to -1"]);
    refused(&["--features", "pooled", "--block", "-2"], &["--features tokens"]);
}

#[test]
fn a_policy_belongs_to_the_size_that_it_was_trained_at() {
    let scratch = Scratch::new();
    scratch.train(&["--img-size", "40", "--no-calibrate"]).good();
    let predict = ["predict", PHOTO, "--model", "model", "--policy", "run/policy"];
    scratch.run(&predict).refused(&["40x40", "32x32"]);
    let asked = ["--img-size", "40", "--json", "--features", "tokens", "--read-out", "top-r=0.5"];
    let answer = &scratch.run(&[&predict[..], &asked].concat()).json()[0];
    let stages = answer["stages"].as_array().unwrap();
    let left = stages.last().unwrap()["positions"].as_array().unwrap();
    assert!(left.len() < 25);
    let tokens = answer["tokens"].as_array().unwrap();
    let places: Vec<Value> = tokens[1..].iter().map(|token| token["place"].clone()).collect();
    let expected: Vec<Value> =
        left.iter().map(|p| p.as_u64().unwrap()).map(|p| serde_json::json!([p / 5, p % 5])).collect();
    assert_eq!(places, expected);

    let export = ["export", "--model", "model", "--policy", "run/policy", "--out", "out", "--img-size", "40"];
    scratch.run(&export).good();
    assert!(fs::read_to_string(scratch.path("out/README.md")).unwrap().contains("--img-size 40x40"));
}

#[test]
fn the_documentations_commands_run() {
    let scratch = Scratch::new();
    with_checkpoint(&scratch, "hf_dinov2_model", "dinov2-small");
    with_checkpoint(&scratch, "deit3_pth", "deit");
    with_checkpoint(&scratch, "hf_siglip_full", "clip");
    naflex::write_checkpoint(&scratch.path("siglip2-naflex"), false);
    write_classes(&scratch.path("classes.safetensors"), 16, Some(40.0));
    fs::rename(scratch.path("model"), scratch.path("vit-base")).unwrap();
    fs::rename(scratch.path("data"), scratch.path("images")).unwrap();
    fs::copy(scratch.path("images/test/red/test00.png"), scratch.path("photo.png")).unwrap();
    let page = include_str!("../../../../docs/checkpoints.md");
    let mut commands = 0;
    for block in page.split("```sh\n").skip(1) {
        for line in block.split_once("```").unwrap().0.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["vitrim", "train", ..] => {
                    scratch.run(&[&words[1..], &["--updates", "2"], &TINY[..]].concat()).good();
                }
                ["vitrim", ..] => drop(scratch.run(&words[1..]).good()),
                _ => panic!("what is `{line}`?"),
            }
            commands += 1;
        }
    }
    assert_eq!(commands, 16);
}
