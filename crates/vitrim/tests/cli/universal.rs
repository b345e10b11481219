//! A policy for every backbone: trained on several, calibrated for one, and the bundled one wherever a policy is expected.

use serde_json::Value;

use crate::fixtures::{Run, Scratch, TINY, write_checkpoint};

const CALIBRATE: [&str; 9] =
    ["calibrate", "--model", "model", "--data", "data", "--max-drop", "100", "--confidence", "0.5"];

fn run(scratch: &Scratch, args: &[&str], more: &[&str]) -> Run {
    scratch.run(&[args, more].concat())
}

#[test]
fn one_policy_is_trained_on_several_backbones() {
    let scratch = Scratch::new();
    write_checkpoint(&scratch.path("other"), 2);
    let args = ["train", "--with", "model=data", "--with", "other=data", "--out", "run", "--updates", "4"];
    let trained = run(&scratch, &args, &TINY);
    assert!(trained.good().contains("policy: run/policy, not calibrated"), "{}", trained.stdout());
    let stderr = trained.stderr();
    for line in ["model: 36 images to train on", "update 1/4: model: ", "update 4/4: other: "] {
        assert!(stderr.contains(line), "no `{line}` in {stderr}");
    }
    let again = run(&scratch, &args, &TINY);
    assert!(again.stderr().contains("has all 4 updates"), "{}", again.stderr());

    // It fits a backbone that it has not seen, and is calibrated for it in another folder.
    write_checkpoint(&scratch.path("third"), 3);
    let policy = ["--policy", "run/policy"];
    let before = scratch.snapshot("run");
    run(&scratch, &CALIBRATE, &policy).refused(&["run/policy", "for every backbone", "--out"]);
    let calibrate =
        ["calibrate", "--model", "third", "--data", "data", "--max-drop", "100", "--out", "quick"];
    let calibrated = run(&scratch, &calibrate, &[&policy[..], &["--confidence", "0.5"]].concat()).good();
    assert!(calibrated.contains("policy: quick/policy"), "{calibrated}");
    assert_eq!(before, scratch.snapshot("run"));
    let eval = ["eval", "--model", "third", "--data", "data", "--policy", "quick/policy", "--no-speed"];
    run(&scratch, &eval, &["--max-drop", "100", "--confidence", "0.5"]).good();
    let wrong = ["eval", "--model", "model", "--data", "data", "--policy", "quick/policy"];
    run(&scratch, &wrong, &[]).refused(&["trained for", "not for this backbone"]);
    run(&scratch, &["report"], &["run"]).good();

    let one_sided = ["train", "--with", "model=data", "--set", "actor.observation.context=true"];
    run(&scratch, &one_sided, &["--set", "actor.observation.embedding=true"]).refused(&["several backbones"]);
}

#[test]
fn the_bundled_policy_is_taken_wherever_a_policy_is_expected() {
    let scratch = Scratch::new();
    let universal = ["--policy", "universal"];
    run(&scratch, &CALIBRATE, &universal).refused(&["universal", "--out runs/quick"]);
    let json = run(&scratch, &CALIBRATE, &[&universal[..], &["--out", "quick", "--json"]].concat()).json();
    assert_eq!(json[0]["policy"], "quick/policy");
    assert_eq!(json[0]["calibration"]["front"]["images"], Value::from(18));
    let offsets = |folder: &str| {
        let text = std::fs::read_to_string(scratch.path(&format!("{folder}/policy/policy.json"))).unwrap();
        let policy: Value = serde_json::from_str(&text).unwrap();
        let count = |name: &str| policy[name].as_array().map(Vec::len);
        (count("offsets"), count("stages"))
    };
    let (balanced, stages) = offsets("quick");
    assert_eq!(balanced, stages, "one offset a stage");
    let plain = [&universal[..], &["--out", "plain", "--no-balance"]].concat();
    run(&scratch, &CALIBRATE, &plain).good();
    assert_eq!(offsets("plain"), (None, stages));
    // Nothing is left to balance on.
    let train = [&universal[..], &["--out", "all", "--split", "train"]].concat();
    let said = run(&scratch, &CALIBRATE, &train).stderr();
    assert!(said.contains("stages are not balanced"), "{said}");

    let (model, data) = (["--model", "model"], ["--data", "data"]);
    let image = "data/test/red/test00.png";
    let answer = run(&scratch, &["predict", image, "--json"], &[model, universal].concat()).json();
    assert!(answer[0]["gmacs"].as_f64().unwrap() > 0.0, "{answer:?}");
    run(&scratch, &["visualize", image, "--out", "drawn"], &[model, universal].concat()).good();
    run(&scratch, &["eval", "--no-speed"], &[model, data, universal].concat()).good();
    run(&scratch, &["embed", "--out", "embedded"], &[model, data, universal].concat()).good();
    let bench = ["bench", "--seconds", "0.05", "--batch", "1"];
    run(&scratch, &bench, &[model, data, universal].concat()).good();
    // Comparing at equal costs needs the front that calibration measures.
    let compare =
        ["compare", "--no-speed", "--no-studies", "--methods", "policy,tome", "--report", "compared"];
    run(&scratch, &compare, &[&model[..], &data, &["--policy", "quick/policy"]].concat()).good();
    let compare = ["compare", "--no-speed", "--no-studies", "--methods", "policy", "--report", "other"];
    run(&scratch, &compare, &[model, data, universal].concat()).refused(&["universal", "calibrate"]);
}

#[test]
fn a_training_starts_from_a_policy() {
    let scratch = Scratch::new();
    scratch.train(&["--from", "universal", "--set", "checkpoint_every=3"]).good();
    // The policy of this backbone, and the same backbone's policy as a start: of the same inputs.
    let config = std::fs::read_to_string(scratch.path("run/config.toml")).unwrap();
    assert!(config.contains("relative = true") && config.contains("context = true"), "{config}");
    let next = ["train", "--model", "model", "--data", "data", "--out", "next", "--updates", "2"];
    let trained = run(&scratch, &next, &[&TINY[..], &["--from", "run/policy"]].concat());
    trained.good();
    run(&scratch, &next, &["--from", "dtome:0.7"]).refused(&[
        "dtome",
        "hand-made method",
        "vitrim calibrate",
    ]);
    write_checkpoint(&scratch.path("other"), 2);
    let args = ["train", "--with", "other=data", "--out", "several", "--updates", "1"];
    run(&scratch, &args, &[&TINY[..], &["--from", "universal"]].concat()).good();
    run(&scratch, &args, &[&TINY[..], &["--from", "run/policy"]].concat())
        .refused(&["configuration", "several"]);
}
