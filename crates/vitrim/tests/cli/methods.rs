//! Hand-made methods as certified policies: fitted, calibrated, and taken wherever a policy is expected.

use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::fixtures::{Scratch, write_images};

const MODEL: [&str; 2] = ["--model", "model"];
const DATA: [&str; 2] = ["--data", "data"];
const POLICY: [&str; 2] = ["--policy", "quick/policy"];

/// Arguments that calibrate `method` into `quick/`.
fn calibrate<'a>(method: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let given =
        ["calibrate", "--policy", method, "--out", "quick", "--max-drop", "100", "--confidence", "0.5"];
    [&given[..], &MODEL, &DATA, more].concat()
}

/// The hashes of the images that the policy in `quick/` was fitted to and calibrated on.
fn seen(scratch: &Scratch) -> [Vec<[u8; 8]>; 2] {
    let bytes = fs::read(scratch.path("quick/policy/seen.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    ["training", "calibration"].map(|name| {
        let list = file.tensor(name).ok();
        list.map_or(Vec::new(), |list| list.data().as_chunks::<8>().0.to_vec())
    })
}

#[test]
fn fitted_methods_are_certified_on_images_that_they_did_not_see() {
    let scratch = Scratch::new();
    // Training images that are among those that certify, too: they must not be fitted to.
    for class in ["blue", "green", "red"] {
        for i in 0..6 {
            let copied = scratch.path(&format!("data/val/{class}/val{i:02}.png"));
            fs::copy(copied, scratch.path(&format!("data/train/{class}/copy{i:02}.png"))).unwrap();
        }
    }
    for (method, fitted) in [("dtome", 36), ("diffrate", 24)] {
        let run = scratch.run(&calibrate(method, &["--json"]));
        let json = run.json().remove(0);
        let said = format!("{method}: fitting to {fitted} images of train, none of which certifies");
        assert!(run.stderr().contains(&said), "{}", run.stderr());
        let [training, calibration] = seen(&scratch);
        assert_eq!((training.len(), calibration.len()), (fitted, 18), "{method}");
        assert!(training.iter().all(|image| !calibration.contains(image)), "{method}");

        let record = &json["calibration"];
        assert_eq!(
            (&record["certified"], &record["front"]["images"]),
            (&Value::from(true), &Value::from(18))
        );
        let cost = record["threshold"].as_f64().unwrap();
        assert_eq!(json["read_out"], format!("cost={cost}"), "{method}");
        let points = record["front"]["points"].as_array().unwrap();
        let costs: Vec<f64> = points.iter().map(|point| point["cost"].as_f64().unwrap()).collect();
        assert!(costs.len() > 5 && costs[0] > costs[costs.len() - 1] + 0.1, "{method}: {costs:?}");
        let policy = fs::read_to_string(scratch.path("quick/policy/policy.json")).unwrap();
        assert!(policy.contains(&format!("\"method\": \"{method}\"")), "{policy}");

        // The figures of an evaluation at this setting on the same images are those of the record.
        let eval = [&["eval", "--split", "calibration", "--no-speed", "--json"], &MODEL[..], &DATA, &POLICY];
        let figures = scratch.run(&eval.concat()).json().remove(0);
        let chosen = points.iter().find(|point| point["setting"].as_f64() == Some(cost)).unwrap();
        assert_eq!(figures["methods"][0]["cost"], chosen["cost"], "{method}");
        let fidelity = |figures: &Value| figures["fidelity"].as_f64().unwrap();
        let (evaluated, recorded) = (fidelity(&figures["methods"][0]), fidelity(chosen));
        assert!((evaluated - recorded).abs() < 1e-9 * recorded, "{method}: {evaluated} {recorded}");
    }
    // Calibrated again, on images that it was fitted to, it would certify itself.
    let again = [&["calibrate", "--split", "train"], &MODEL[..], &DATA, &POLICY].concat();
    scratch.run(&again).refused(&["diffrate was fitted to 24 of the images of train", "another --split"]);
    let again =
        [&["calibrate", "--max-drop", "0", "--confidence", "0.99"], &MODEL[..], &DATA, &POLICY].concat();
    let kept = scratch.run(&again).good();
    assert!(kept.contains("set to keep everything") && kept.contains("diffrate at cost=1"), "{kept}");
    let predict = [&["predict", "data/test/red/test00.png", "--json"], &MODEL[..]].concat();
    let dense = scratch.run(&predict).json().remove(0);
    assert_eq!(scratch.run(&[&predict[..], &POLICY].concat()).json().remove(0)["gmacs"], dense["gmacs"]);
}

#[test]
fn a_certified_method_is_taken_wherever_a_policy_is_expected() {
    let scratch = Scratch::new();
    let printed = scratch.run(&calibrate("dtome", &[])).good();
    assert!(printed.contains("policy: quick/policy, dtome at cost="), "{printed}");
    let image = "data/test/red/test00.png";
    for args in [
        [&["predict", image, "--json"], &MODEL[..], &POLICY].concat(),
        [&["predict", image], &MODEL[..], &POLICY, &["--max-drop", "1", "--confidence", "0.6"]].concat(),
        [&["predict", image], &MODEL[..], &POLICY, &["--read-out", "cost=0.9"]].concat(),
        [&["predict", image], &MODEL[..], &POLICY, &["--keep", "0.9"]].concat(),
        [&["visualize", image, "--out", "drawn"], &MODEL[..], &POLICY].concat(),
        [&["eval", "--no-speed"], &MODEL[..], &DATA, &POLICY].concat(),
        [&["eval", "--no-speed", "--report", "quick"], &MODEL[..], &DATA, &POLICY].concat(),
        vec!["report", "quick"],
        [&["embed", "--out", "embedded"], &MODEL[..], &DATA, &POLICY].concat(),
        [&["export", "--out", "upload"], &MODEL[..], &POLICY].concat(),
        [&["bench", "--seconds", "0.05", "--batch", "1"], &MODEL[..], &DATA, &POLICY].concat(),
        [
            &["compare", "--no-speed", "--methods", "policy,tome", "--report", "compared"],
            &MODEL[..],
            &DATA,
            &POLICY,
        ]
        .concat(),
    ] {
        scratch.run(&args).good();
    }
    // An actor is needed to train; read-outs are those of an actor.
    let train = [&["train", "--out", "run", "--updates", "1", "--from", "quick/policy"], &MODEL[..], &DATA];
    scratch.run(&train.concat()).refused(&["quick/policy", "dtome", "no actor"]);
    let finetune = [&["finetune", "--out", "tuned"], &MODEL[..], &DATA, &POLICY].concat();
    scratch.run(&finetune).refused(&["quick/policy", "dtome", "no actor"]);
    let sample = [&["predict", image, "--read-out", "sample"], &MODEL[..], &POLICY].concat();
    scratch.run(&sample).refused(&["--read-out sample", "cost=0.7"]);
}

#[test]
fn a_method_that_needs_no_fit_is_certified_too() {
    let scratch = Scratch::new();
    for method in ["tome", "cls-attention"] {
        let printed = scratch.run(&calibrate(method, &[])).good();
        assert!(printed.contains(&format!("{method} at cost=")), "{printed}");
        assert_eq!(seen(&scratch)[0].len(), 0, "{method}");
        scratch.run(&[&["eval", "--no-speed"], &MODEL[..], &DATA, &POLICY].concat()).good();
    }
}

#[test]
fn what_cannot_be_certified_is_refused_in_one_line() {
    let scratch = Scratch::new();
    let without_out = [&["calibrate", "--policy", "dtome"], &MODEL[..], &DATA].concat();
    scratch.run(&without_out).refused(&["dtome", "--out runs/dtome"]);
    scratch.run(&calibrate("dtome:0.7", &[])).refused(&["dtome:0.7", "--policy dtome"]);
    scratch.run(&calibrate("dtome", &["--split", "train"])).refused(&[
        "at least 24",
        "there are 0",
        "--split",
    ]);
    fs::remove_dir_all(scratch.path("data/train")).unwrap();
    write_images(&scratch.path("data/train"), "train", 7);
    scratch.run(&calibrate("dtome", &[])).refused(&["data", "at least 24", "there are 21"]);
    assert!(!scratch.path("quick").exists());
    let image = "data/test/red/test00.png";
    for verb in [&["predict", image][..], &["visualize", image, "--out", "drawn"], &["bench"]] {
        let named = [verb, &MODEL, &["--policy", "dtome:0.7"]].concat();
        scratch.run(&named).refused(&["dtome", "vitrim calibrate --policy dtome", "--out runs/dtome"]);
    }
}
