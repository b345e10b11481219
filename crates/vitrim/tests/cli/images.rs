//! Every kind of data set, labels and classes, and bad images, from the command line.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::fixtures::{Run, Scratch};

const EVAL: [&str; 6] = ["eval", "--model", "model", "--split", "test", "--json"];

/// The test images of the world, in the order of its folder: 6 are blue, 4 green, 2 red, so that even a backbone that
/// always gives one answer has another top-1 if labels are mixed up.
fn test_images() -> Vec<(String, u32)> {
    let colours = ["blue", "green", "red"];
    let of = |class: usize| {
        (0..6 - 2 * class).map(move |i| (format!("{}/test{i:02}.png", colours[class]), class as u32))
    };
    (0..3).flat_map(of).collect()
}

/// A tar archive of images and their labels.
fn tar(scratch: &Scratch, images: &[(String, u32)], label: impl Fn(u32) -> String) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut append = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    for (name, class) in images {
        append(name.clone(), &fs::read(scratch.path("data/test").join(name)).unwrap());
        append(name.replace(".png", ".cls"), label(*class).as_bytes());
    }
    archive.into_inner().unwrap()
}

/// `lists/`, `shards/`, `photos/` and `my/deit/`, as docs/images.md has them.
fn world() -> Scratch {
    let scratch = Scratch::new();
    let images = test_images();
    for left_out in ["green/test04", "green/test05", "red/test02", "red/test03", "red/test04", "red/test05"] {
        fs::remove_file(scratch.path(&format!("data/test/{left_out}.png"))).unwrap();
    }
    fs::create_dir_all(scratch.path("lists")).unwrap();
    fs::create_dir_all(scratch.path("shards")).unwrap();
    let number = |class: u32| class.to_string();
    let words = |class: u32| ["sky", "grass", "rose"][class as usize].to_owned();
    for (shard, part) in images.chunks(10).enumerate() {
        fs::write(scratch.path(&format!("shards/test-{shard:02}.tar")), tar(&scratch, part, number)).unwrap();
    }
    let table = |label: &dyn Fn(u32) -> String| {
        let row = |(name, class): &(String, u32)| format!("../data/test/{name},{}\n", label(*class));
        format!("path,label\n{}", images.iter().map(row).collect::<String>())
    };
    fs::write(scratch.path("lists/test.csv"), table(&number)).unwrap();
    fs::write(scratch.path("lists/test-words.csv"), table(&words)).unwrap();
    let line = |(name, class): &(String, u32)| {
        json!({ "file_name": format!("../data/test/{name}"), "label": class }).to_string()
    };
    fs::write(scratch.path("lists/test.jsonl"), images.iter().map(line).collect::<Vec<_>>().join("\n"))
        .unwrap();
    let line = |(name, class): &(String, u32)| format!("../data/test/{name} {class}\n");
    fs::write(scratch.path("lists/test.txt"), images.iter().map(line).collect::<String>()).unwrap();
    fs::write(scratch.path("lists/map.json"), r#"{"sky": 0, "grass": 1, "rose": 2}"#).unwrap();
    fs::write(scratch.path("lists/cut.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    let with_bad =
        ["../data/test/red/test00.png 2", "cut.png 1", "gone.png 0", "../data/test/blue/test01.png 0"];
    fs::write(scratch.path("lists/test-bad.txt"), with_bad.join("\n")).unwrap();
    scratch
}

impl Scratch {
    /// Runs the program with `bytes` on its standard input.
    fn piped(&self, args: &[&str], bytes: &[u8]) -> Run {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        // A program that refuses early closes its end.
        let writer = std::thread::spawn(move || stdin.write_all(&bytes).ok());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Run(output)
    }
}

/// What an evaluation measured, without where it was read from.
fn measured(evaluation: &Value) -> [&Value; 4] {
    ["images", "labelled", "dense_top1", "bad_images"].map(|field| &evaluation[field])
}

#[test]
fn every_shape_gives_the_same_figures() {
    let scratch = world();
    let eval = |data: &str| scratch.run(&[&EVAL[..], &["--data", data]].concat()).json().remove(0);
    let folder = eval("data");
    assert_eq!((&folder["images"], &folder["labelled"]), (&json!(12), &json!(12)));
    assert!(folder["dense_top1"].as_f64().unwrap() > 0.0, "a top-1 of 0 would hide wrong labels");
    assert_eq!(folder["decoding"]["images"], 12);
    assert!(folder["decoding"]["images_per_s"].as_f64().unwrap() > 0.0);
    for data in ["shards", "shards/test-{00..01}.tar", "lists/test.csv", "lists/test.jsonl", "lists/test.txt"]
    {
        assert_eq!(measured(&eval(data)), measured(&folder), "{data}");
    }
    let all = [0, 1].map(|n| fs::read(scratch.path(&format!("shards/test-{n:02}.tar"))).unwrap()).concat();
    let stdin = [&EVAL[..], &["--data", "-"]].concat();
    let piped = scratch.piped(&stdin, &all);
    assert_eq!(measured(&piped.json()[0]), measured(&folder));
    assert!(piped.stderr().contains("images: 12 decoded at "), "{}", piped.stderr());
    // Without the two blocks that end it and the two of the last label: no shorter data set.
    let cut = scratch.piped(&[&stdin[..], &["--quiet"]].concat(), &all[..all.len() - 4 * 512]);
    cut.refused(&["standard input", "damaged"]);
    scratch
        .piped(&["train", "--model", "model", "--data", "-", "--quiet"], &all)
        .refused(&["standard input", "front to back"]);
    scratch
        .piped(&["compare", "--model", "model", "--data", "-", "--quiet"], &all)
        .refused(&["-: is read front to back", "compare"]);
}

#[test]
fn names_and_maps_find_the_backbones_classes() {
    let scratch = world();
    let eval = |more: &[&str]| scratch.run(&[&EVAL[..], more].concat());
    let folder = eval(&["--data", "data"]).json().remove(0);
    // Two of three classes, whose own numbers would be 0 and 1.
    fs::create_dir_all(scratch.path("some/test")).unwrap();
    for colour in ["green", "red"] {
        fs::rename(
            scratch.path(&format!("data/test/{colour}")),
            scratch.path(&format!("some/test/{colour}")),
        )
        .unwrap();
    }
    let some = eval(&["--data", "some"]).json().remove(0);
    let blue = eval(&["--data", "data"]).json().remove(0);
    let right =
        |e: &Value| (e["dense_top1"].as_f64().unwrap() * e["images"].as_f64().unwrap() / 100.0).round();
    assert_eq!((&some["images"], &blue["images"]), (&json!(6), &json!(6)));
    assert_eq!(right(&some) + right(&blue), right(&folder));

    // Unknown words are in the order of their names, grass, rose, sky, until a map says better.
    let scratch = world();
    let eval = |more: &[&str]| scratch.run(&[&EVAL[..], more].concat());
    let words = ["--data", "lists/test-words.csv"];
    let mapped = eval(&[&words[..], &["--label-map", "lists/map.json"]].concat()).json().remove(0);
    assert_eq!(measured(&mapped), measured(&folder));
    fs::write(scratch.path("lists/half.json"), r#"{"sky": 0, "grass": null}"#).unwrap();
    let half = [&words[..], &["--label-map", "lists/half.json", "--quiet"]].concat();
    eval(&half).refused(&["class `rose` is not in the label map", "red/test00.png"]);
    fs::write(scratch.path("lists/half.json"), r#"{"sky": 0, "grass": null, "rose": 2}"#).unwrap();
    assert_eq!(eval(&half).json()[0]["labelled"], 8);
    fs::write(scratch.path("lists/half.json"), r#"{"sky": 0, "grass": 1, "rose": 3}"#).unwrap();
    eval(&half).refused(&["half.json: has class 3", "classes 0 to 2"]);
    // Words in a stream: known ones are mapped, others named.
    let stdin = ["--data", "-", "--quiet"];
    let colours = tar(&scratch, &test_images(), |class| ["blue", "green", "red"][class as usize].into());
    let piped = scratch.piped(&[&EVAL[..], &stdin].concat(), &colours);
    assert_eq!(measured(&piped.json()[0]), measured(&folder));
    let odd = tar(&scratch, &test_images(), |_| "pink".into());
    scratch.piped(&[&EVAL[..], &stdin].concat(), &odd).refused(&["blue/test00.png", "`pink`"]);
}

#[test]
fn what_is_guessed_of_labels_is_said_and_two_readings_are_refused() {
    let scratch = world();
    let eval = |more: &[&str]| scratch.run(&[&EVAL[..], more].concat());
    let folder = eval(&["--data", "data"]);
    assert_eq!(folder.json()[0]["label_notes"], json!([]));
    let words = ["--data", "lists/test-words.csv"];
    let guessed = eval(&words);
    let notes = guessed.json()[0]["label_notes"].clone();
    assert!(notes[0].as_str().unwrap().contains("`grass` as class 0 to `sky` as class 2"), "{notes}");
    assert!(guessed.stderr().contains("labels: the backbone does not know"), "{}", guessed.stderr());
    let own = eval(&[&words[..], &["--label-order", "own"]].concat());
    assert_eq!(
        (measured(&own.json()[0]), &own.json()[0]["label_notes"]),
        (measured(&guessed.json()[0]), &json!([]))
    );
    let both = ["--label-order", "own", "--label-map", "lists/map.json", "--quiet"];
    assert!(!eval(&[&words[..], &both].concat()).0.status.success());

    let rename = |from: &str, to: &str| {
        fs::rename(scratch.path(&format!("data/test/{from}")), scratch.path(&format!("data/test/{to}")))
            .unwrap();
    };
    rename("green", "gren");
    eval(&["--data", "data", "--quiet"]).refused(&["data: class `gren` (nearest: `green`)", "the other 2"]);
    rename("gren", "GREEN");
    let spelled = eval(&["--data", "data"]);
    assert_eq!(measured(&spelled.json()[0]), measured(&folder.json()[0]));
    assert!(spelled.stderr().contains("`GREEN` is `green`"), "{}", spelled.stderr());
    for (from, to) in [("blue", "class_9"), ("GREEN", "class_10"), ("red", "class_11")] {
        rename(from, to);
    }
    eval(&["--data", "data", "--quiet"]).refused(&[
        "two orders",
        "--label-order own",
        "--label-order number",
    ]);
    let by_number = eval(&["--data", "data", "--label-order", "number"]);
    assert_eq!(measured(&by_number.json()[0]), measured(&folder.json()[0]));
}

#[test]
fn bad_images_are_counted_and_named_by_every_command() {
    let scratch = world();
    let data = ["--data", "lists/test-bad.txt"];
    let eval = |more: &[&str]| scratch.run(&[&EVAL[..], &data, more].concat());
    eval(&["--quiet"]).refused(&["lists/cut.png", "cannot be decoded"]);
    let skipped = eval(&["--on-bad-image", "skip"]);
    let json = &skipped.json()[0];
    assert_eq!((&json["images"], &json["bad_images"]), (&json!(2), &json!(2)));
    let left_out = json["left_out"].as_array().unwrap();
    assert!(left_out[0].as_str().unwrap().contains("cut.png"), "{left_out:?}");
    assert!(left_out[1].as_str().unwrap().contains("gone.png"), "{left_out:?}");
    assert_eq!(skipped.stderr().matches("left out: ").count(), 2, "{}", skipped.stderr());
    let predict = ["predict", "lists/test-bad.txt", "--model", "model", "--json", "--on-bad-image", "skip"];
    let predicted = scratch.run(&predict);
    assert_eq!(predicted.json().len(), 2);
    assert!(predicted.stderr().contains("left out: 2 images in all"), "{}", predicted.stderr());
    let bench =
        ["bench", "--model", "model", "--method", "random", "--batch", "1", "--seconds", "0.01", "--json"];
    let bench = |more: &[&str]| scratch.run(&[&bench[..], &["--data", "lists/test-bad.txt"], more].concat());
    bench(&["--quiet"]).refused(&["lists/cut.png", "cannot be decoded"]);
    assert!(bench(&["--on-bad-image", "skip"]).stderr().contains("gone.png"));
}

#[test]
fn predictions_and_pictures_come_from_any_shape() {
    let scratch = world();
    let predict = |inputs: &[&str]| {
        scratch.run(&[&["predict", "--model", "model", "--json", "--top-k", "3"], inputs].concat()).json()
    };
    let files = predict(&["data/test"]);
    let classes =
        |predictions: &[Value]| predictions.iter().map(|p| p["classes"].clone()).collect::<Vec<_>>();
    assert_eq!(files.len(), 12);
    for inputs in [&["shards"][..], &["shards/test-00.tar", "shards/test-01.tar"], &["lists/test-words.csv"]]
    {
        assert_eq!(classes(&predict(inputs)), classes(&files), "{inputs:?}");
    }
    let named = predict(&["shards"]);
    assert_eq!(named[0]["image"], "test-00.tar/blue/test00.png");
    // Labels do not matter: no map is asked for.
    let odd = tar(&scratch, &test_images(), |_| "pink".into());
    let piped = scratch.piped(&["predict", "-", "--model", "model", "--json", "--top-k", "3"], &odd).json();
    assert_eq!(classes(&piped), classes(&files));
    assert_eq!(piped[7]["image"], "green/test01.png");
    // What came whole before a pipe broke is answered.
    let cut = scratch.piped(&["predict", "-", "--model", "model", "--json"], &odd[..odd.len() / 2]);
    assert!(!cut.0.status.success() && cut.stderr().contains("standard input"), "{}", cut.stderr());
    assert!((3..=10).contains(&cut.stdout().lines().count()), "{}", cut.stdout());
    let pictures = ["visualize", "shards/test-00.tar", "--model", "model", "--out", "pictures"];
    assert_eq!(scratch.run(&pictures).good().lines().count(), 10);
    assert_eq!(scratch.snapshot("pictures").len(), 10);
}

#[test]
fn exif_turns_what_a_command_sees() {
    let scratch = Scratch::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../vitrim-data/tests/data/images");
    for name in ["turned.jpg", "rgb_444.jpg"] {
        fs::copy(format!("{folder}/{name}"), scratch.path(name)).unwrap();
    }
    let predict = |name: &str, more: &[&str]| {
        let prediction =
            scratch.run(&[&["predict", name, "--model", "model", "--json"], more].concat()).json().remove(0);
        prediction["classes"].clone()
    };
    assert_ne!(predict("turned.jpg", &[]), predict("turned.jpg", &["--exif"]));
    assert_eq!(predict("rgb_444.jpg", &[]), predict("rgb_444.jpg", &["--exif"]));
}

#[cfg(unix)]
#[test]
fn the_documentations_commands_run() {
    let scratch = world();
    fs::create_dir_all(scratch.path("my")).unwrap();
    fs::rename(scratch.path("model"), scratch.path("my/deit")).unwrap();
    std::os::unix::fs::symlink(scratch.path("data"), scratch.path("photos")).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_vitrim")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let page = include_str!("../../../../docs/images.md");
    let mut commands = 0;
    for block in page.split("```sh\n").skip(1) {
        for line in block.split_once("```").unwrap().0.lines() {
            let output = Command::new("sh")
                .args(["-c", line])
                .current_dir(scratch.path(""))
                .env("PATH", format!("{}:{path}", program.display()))
                .output()
                .unwrap();
            assert!(!Run(output).good().is_empty(), "{line}");
            commands += 1;
        }
    }
    assert_eq!(commands, 10);
}
