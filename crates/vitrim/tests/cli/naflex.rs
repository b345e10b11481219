//! Images of any aspect ratio: SigLIP 2's NaFlex classifier through every command.

use std::path::Path;

use image::{Rgb, RgbImage};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::fixtures::Scratch;

/// Width and height of the images, and the grids that they have of at most 40 patches of 4 pixels.
const SHAPES: [((u32, u32), [u64; 2]); 4] =
    [((64, 40), [5, 8]), ((20, 61), [10, 4]), ((33, 33), [6, 6]), ((8, 200), [25, 1])];

/// A `Siglip2ForImageClassification` of 3 classes or, without a pooling head, a `Siglip2VisionModel`, of 4 blocks of width
/// 24, as transformers saves it, with its processor.
pub fn write_checkpoint(folder: &Path, classifies: bool) {
    let (d, hidden) = (24, 48);
    let mut tensors: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: &str, shape: &[usize]| tensors.push((name.to_owned(), shape.to_vec()));
    let mut layer = |name: &str, outputs: usize, inputs: usize| {
        add(&format!("{name}.weight"), &[outputs, inputs]);
        add(&format!("{name}.bias"), &[outputs]);
    };
    layer("vision_model.embeddings.patch_embedding", d, 3 * 16);
    for l in 0..4 {
        let name = |part: &str| format!("vision_model.encoder.layers.{l}.{part}");
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            layer(&name(&format!("self_attn.{part}")), d, d);
        }
        layer(&name("mlp.fc1"), hidden, d);
        layer(&name("mlp.fc2"), d, hidden);
    }
    if classifies {
        layer("classifier", 3, d);
    }
    add("vision_model.embeddings.position_embedding.weight", &[16, d]);
    let norms = (0..4).flat_map(|l| [1, 2].map(|n| format!("vision_model.encoder.layers.{l}.layer_norm{n}")));
    for norm in norms.chain(["vision_model.post_layernorm".to_owned()]) {
        add(&format!("{norm}.weight"), &[d]);
        add(&format!("{norm}.bias"), &[d]);
    }
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .enumerate()
        .map(|(tensor, (name, shape))| {
            let one = f32::from(u8::from(name.contains("norm") && name.ends_with("weight")));
            let value = |i: usize| one + 0.3 * ((tensor * 911 + i * 37) as f32).sin();
            (0..shape.iter().product::<usize>()).flat_map(|i| value(i).to_le_bytes()).collect()
        })
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let config = json!({
        "architectures": [if classifies { "Siglip2ForImageClassification" } else { "Siglip2VisionModel" }],
        "id2label": {"0": "blue", "1": "green", "2": "red"},
        "vision_config": {
            "hidden_size": d, "intermediate_size": hidden, "num_hidden_layers": 4, "num_attention_heads": 3,
            "patch_size": 4, "num_patches": 16, "vision_use_head": false,
        },
    });
    let processor =
        json!({"image_processor_type": "Siglip2ImageProcessor", "patch_size": 4, "max_num_patches": 40});
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("preprocessor_config.json"), processor.to_string()).unwrap();
}

/// A scratch folder with the model, and images of all shapes in each class.
fn scratch() -> Scratch {
    let scratch = Scratch::empty();
    write_checkpoint(&scratch.path("model"), true);
    for (split, class) in
        ["train", "val", "test"].iter().flat_map(|split| (0..3).map(move |class| (split, class)))
    {
        let folder = scratch.path(&format!("data/{split}/{}", ["blue", "green", "red"][class]));
        std::fs::create_dir_all(&folder).unwrap();
        for (i, ((width, height), _)) in SHAPES.into_iter().enumerate() {
            let image = RgbImage::from_fn(width, height, |x, y| {
                let mut pixel = [(x * 7 % 97) as u8, (y * 5 % 89) as u8, (split.len() * 9) as u8];
                pixel[2 - class] = 200 + ((x + y) % 50) as u8;
                Rgb(pixel)
            });
            image.save(folder.join(format!("{i}.png"))).unwrap();
        }
    }
    scratch
}

const MODEL: [&str; 2] = ["--model", "model"];
const DATA: [&str; 2] = ["--data", "data"];
const UNIVERSAL: [&str; 2] = ["--policy", "universal"];

#[test]
fn a_batch_of_many_shapes_gives_what_each_image_gives_alone() {
    let scratch = scratch();
    let run = |args: &[&[&str]]| scratch.run(&args.concat()).json();
    let images: Vec<String> = (0..4).map(|i| format!("data/val/red/{i}.png")).collect();
    for pruned in [&UNIVERSAL[..], &["--policy", "tome:0.7"], &["--policy", "random:0.6"]] {
        for features in [&["--top-k", "3"][..], &["--features", "tokens"], &["--features", "pooled"]] {
            let more = [&["--json"][..], &MODEL, pruned, features].concat();
            let together = run(&[&["predict", "data/val/red"], &more]);
            for (i, image) in images.iter().enumerate() {
                assert_eq!(together[i], run(&[&["predict", image], &more])[0], "{image} {pruned:?}");
                let [rows, columns] = SHAPES[i].1;
                assert_eq!(together[i]["grid"], json!([rows, columns]));
                let within = |position: &Value| position.as_u64().unwrap() < rows * columns;
                let stages = together[i]["stages"].as_array().unwrap();
                assert!(stages.iter().all(|s| s["positions"].as_array().unwrap().iter().all(within)));
                let of_tokens = together[i].get("tokens").into_iter().flat_map(|t| t.as_array().unwrap());
                for token in of_tokens {
                    let at = |axis: usize| token["place"][axis].as_u64().unwrap();
                    assert!(at(0) < rows && at(1) < columns, "{token}");
                }
            }
        }
    }
    let text = scratch.run(&["predict", &images[1], "--model", "model"]).good();
    assert!(text.contains("  10 x 4 patches; "), "{text}");
}

#[test]
fn costs_are_shares_of_each_images_own() {
    let scratch = scratch();
    let run = |args: &[&[&str]]| scratch.run(&args.concat()).json().remove(0);
    let dense = |i: usize| {
        let image = format!("data/val/blue/{i}.png");
        run(&[&["predict", &image, "--json"], &MODEL])["gmacs"].as_f64().unwrap()
    };
    let mean = (0..4).map(dense).sum::<f64>() / 4.0;
    let eval = ["eval", "--split", "val", "--no-speed", "--json"];
    let figures = run(&[&eval, &MODEL, &DATA, &UNIVERSAL]);
    assert!((figures["dense_gmacs"].as_f64().unwrap() / mean - 1.0).abs() < 1e-9, "{figures}");
    for method in figures["methods"].as_array().unwrap() {
        let (cost, gmacs) = (method["cost"].as_f64().unwrap(), method["gmacs"].as_f64().unwrap());
        assert!(cost > 0.0 && (cost * mean / gmacs - 1.0).abs() < 1e-9, "{method}");
        let keep = method["keep_ratio"].as_array().unwrap();
        assert!(keep.iter().all(|share| (0.0..=1.0).contains(&share.as_f64().unwrap())), "{method}");
    }
}

#[test]
fn every_command_runs_or_says_what_it_needs() {
    let scratch = scratch();
    let run = |args: &[&[&str]]| scratch.run(&args.concat());
    let calibrate = ["calibrate", "--out", "quick", "--max-drop", "100", "--confidence", "0.5"];
    run(&[&calibrate, &MODEL, &DATA, &UNIVERSAL]).good();
    let policy = ["--policy", "quick/policy"];
    run(&[&["eval", "--no-speed", "--split", "val", "--report", "quick"], &MODEL, &DATA, &policy]).good();
    let compare =
        ["compare", "--methods", "policy,tome,dtome,random", "--costs", "0.9", "--no-speed", "--json"];
    let compared = run(&[&compare, &["--no-studies"], &MODEL, &DATA, &policy]).json().remove(0);
    let points = compared["methods"].as_array().unwrap().iter().map(|method| &method["points"]);
    assert!(points.clone().count() == 4 && points.into_iter().all(|p| !p.as_array().unwrap().is_empty()));
    run(&[&["embed", "--out", "embedded", "--split", "val", "--answer", "both"], &MODEL, &DATA, &policy])
        .good();
    let bench = ["bench", "--seconds", "0.1", "--batch", "3"];
    run(&[&bench, &MODEL, &policy]).good();
    run(&[&bench, &MODEL, &DATA, &policy]).good();
    run(&[&bench, &MODEL, &DATA]).good();
    let info = run(&[&["info", "--json"], &MODEL]).json().remove(0);
    assert_eq!(info["spec"]["position_grid"], json!([4, 4]), "{info}");
    run(&[&["visualize", "data/val/red", "--out", "pictures"], &MODEL, &policy]).good();
    run(&[&["predict", "data/val/red", "--img-size", "16"], &MODEL, &UNIVERSAL]).good();
    let needs = ["Siglip2ForImageClassification", "NaFlex", "training by gradients needs images of one size"];
    run(&[&["finetune", "--dense", "--out", "tuned"], &MODEL, &DATA]).refused(&needs);
    let position = ["train", "--out", "run", "--preset", "paper"];
    run(&[&position, &MODEL, &DATA]).refused(&["actor.observation", "position", "a grid of its own"]);
    let gumbel = ["train", "--out", "run", "--set", "learner=\"gumbel\""];
    run(&[&gumbel, &MODEL, &DATA]).refused(&["gumbel", "images of one size", "mappo"]);
    assert!(!scratch.path("run").exists() && !scratch.path("tuned").exists());
}

#[test]
fn a_policy_is_trained_on_images_of_all_shapes() {
    let scratch = scratch();
    write_checkpoint(&scratch.path("tower"), false);
    let run = |args: &[&[&str]]| scratch.run(&args.concat());
    let small = ["--updates", "4", "--set", "images_per_update=6", "--set", "rollouts_per_image=2"];
    let limits = [("model", "--max-drop", "100"), ("tower", "--max-drift", "100")];
    for ((model, limit, most), preset) in limits.into_iter().zip(["default", "universal"]) {
        let out = format!("run-{model}");
        let model = ["--model", model];
        let train = ["train", "--out", &out, limit, most, "--confidence", "0.5", "--preset", preset];
        run(&[&train, &small, &model, &DATA]).good();
        let log = std::fs::read_to_string(scratch.path(&format!("{out}/log.jsonl"))).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        let cost = last["cost"].as_f64().unwrap();
        assert!(log.lines().count() == 4 && cost > 0.0 && cost < 1.0, "{last}");
        let policy = format!("{out}/policy");
        let predict = ["predict", "data/val/red", "--json", "--features", "pooled", "--policy", &policy];
        assert_eq!(run(&[&predict, &model]).json().len(), SHAPES.len());
    }
    run(&[&["visualize", "data/val/red", "--out", "pictures", "--policy", "run-model/policy"], &MODEL])
        .good();
}
