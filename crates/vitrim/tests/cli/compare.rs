//! Comparison of methods over whole fronts.

use crate::browser::Browser;
use crate::fixtures::{Scratch, TINY};

const METHODS: [&str; 18] = [
    "policy",
    "random",
    "cls-attention",
    "evit",
    "ats",
    "similarity",
    "tome",
    "tome-plain",
    "dtome",
    "pitome",
    "pitome-plain",
    "tofu",
    "atc",
    "atc-single",
    "atc-complete",
    "mctf",
    "diffrate",
    "diffrate-search",
];
const STUDIES: [&str; 4] = [
    "policy-fixed-budgets",
    "policy-budgets-random",
    "policy-budgets-cls-attention",
    "policy-budgets-similarity",
];

#[test]
fn every_method_has_a_front_and_a_second_run_goes_on() {
    let scratch = Scratch::new();
    scratch.train(&[]).good();
    let args = ["compare", "--model", "model", "--data", "data", "--policy", "run/policy", "--report", "cmp"];
    let run = scratch.run(&[&args[..], &["--no-speed", "--costs", "0.9,0.7", "--json"]].concat());
    let comparison = &run.json()[0];
    assert_eq!(comparison["images"], 18);
    let methods = comparison["methods"].as_array().unwrap();
    let names: Vec<&str> = methods.iter().map(|method| method["method"].as_str().unwrap()).collect();
    assert_eq!(names, [&METHODS[..], &STUDIES[..]].concat());
    for method in methods {
        for point in method["points"].as_array().unwrap() {
            let mean = &point["mean"];
            assert!(mean["cost"].as_f64().unwrap() > 0.0 && mean["divergence"].as_f64().unwrap() >= 0.0);
            let drop = &point["drop_pp"];
            assert!(drop["low"].as_f64().unwrap() <= drop["high"].as_f64().unwrap(), "{point}");
        }
    }
    // Random pruning reaches any cost; at each cost, every other method is compared with the policy.
    for at in comparison["at_cost"].as_array().unwrap() {
        let random = at["methods"].as_array().unwrap().iter().find(|m| m["method"] == "random");
        assert!(random.unwrap()["divergence"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(comparison["at_drop"].as_array().unwrap().len(), 2);

    // The browser checks the page; what is measured already is not measured again.
    let page = std::fs::read_to_string(scratch.path("cmp/report.html")).unwrap();
    for word in ["--policy", "run/policy", "--split", "--costs", "0.9,0.7", "--no-speed", "--report"] {
        assert!(page.contains(word), "the page's command lacks {word}");
    }
    let before = scratch.snapshot("cmp");
    let again = scratch.run(&[&args[..], &["--no-speed", "--costs", "0.9,0.7"]].concat());
    assert_eq!(again.stderr().matches("kept from before").count(), names.len(), "{}", again.stderr());
    assert!(again.good().contains("tome-plain"));
    assert_eq!(scratch.snapshot("cmp"), before);
    if let Some(mut browser) = Browser::open() {
        let faults = browser.faults(&scratch.path("cmp/report.html"));
        assert!(faults.is_empty(), "{faults:#?}");
    }

    // Figures of other images cannot be combined with these.
    let other = scratch.run(&[&args[..], &["--no-speed", "--images", "9"]].concat());
    other.refused(&["cmp/policy.json", "give another folder"]);
    let bf16 = scratch.run(&[&args[..], &["--no-speed", "--dtype", "bf16"]].concat());
    bf16.refused(&["cmp/policy.json", "another backbone, dtype"]);
    std::fs::rename(scratch.path("data"), scratch.path("data2")).unwrap();
    let moved = [&args[..2], &["model", "--data", "data2"], &args[5..], &["--no-speed"]].concat();
    scratch.run(&moved).refused(&["cmp/policy.json", "give another folder"]);
    std::fs::rename(scratch.path("data2"), scratch.path("data")).unwrap();
    let study = scratch.run(&[&args[..], &["--studies", "budgets"]].concat());
    assert_eq!(study.0.status.code(), Some(2), "{}", study.stderr());
    assert!(study.stderr().contains("use one of fixed-budgets, selection"), "{}", study.stderr());
    let costs = scratch.run(&[&args[..], &["--costs", "1.5"]].concat());
    costs.refused(&["costs 1.5", "between 0 and 1"]);
}

#[test]
fn near_measures_what_is_asked_for_alone() {
    let scratch = Scratch::new();
    let args =
        ["compare", "--model", "model", "--data", "data", "--methods", "random", "--no-speed", "--json"];
    let points = |more: &[&str]| {
        let comparison = scratch.run(&[&args[..], more].concat()).json()[0].clone();
        (comparison["methods"][0]["points"].as_array().unwrap().len(), comparison["at_cost"].clone())
    };
    let near = ["--near", "1", "--costs", "0.8", "--drops", "100", "--report", "near"];
    let ((few, at), (all, everywhere)) = (points(&near), points(&["--costs", "0.8", "--report", "whole"]));
    // Two about the cost, and the last before a drop that nothing reaches.
    assert!(few <= 3 && all > few, "{few} of {all}");
    // A thinned front may lack the very settings next to the cost.
    let divergence = |at: &serde_json::Value| at[0]["methods"][0]["divergence"].as_f64().unwrap();
    assert!(divergence(&at) > 0.0 && divergence(&everywhere) > 0.0);
    let others = ["--near", "1", "--costs", "0.5", "--report", "near"];
    scratch.run(&[&args[..], &others].concat()).refused(&["near/random.json", "other settings"]);
}

#[test]
fn fixed_budgets_stand_beside_each_setting_calibrated_or_not() {
    let scratch = Scratch::new();
    scratch.train(&[]).good();
    // A calibration with a single threshold.
    let path = scratch.path("run/policy/policy.json");
    let mut policy: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    policy["calibration"]["front"]["points"].as_array_mut().unwrap().truncate(1);
    std::fs::write(&path, policy.to_string()).unwrap();
    let args = ["compare", "--model", "model", "--data", "data", "--policy", "run/policy", "--report", "cmp"];
    let run = scratch.run(&[&args[..], &["--methods", "policy", "--no-speed", "--json"]].concat());
    let methods = &run.json()[0]["methods"];
    let costs = |method: usize| -> Vec<f64> {
        let points = methods[method]["points"].as_array().unwrap().iter();
        points.map(|point| point["mean"]["cost"].as_f64().unwrap()).collect()
    };
    let (own, fixed) = (costs(0), costs(1));
    assert!(own.len() > 1 && own.len() == fixed.len(), "{own:?}, {fixed:?}");
    assert!(own.iter().zip(&fixed).all(|(own, fixed)| (own - fixed).abs() < 0.1), "{own:?}, {fixed:?}");
}

#[test]
fn seeds_and_rivals_stand_beside_each_other() {
    let scratch = Scratch::new();
    scratch.train(&[]).good();
    for (out, more) in [("run-2", ["--seed", "2"]), ("gates", ["--preset", "gumbel"])] {
        let train = ["train", "--model", "model", "--data", "data", "--updates", "3", "--out", out];
        scratch.run(&[&train[..], &TINY[..], &more[..]].concat()).good();
    }
    let args = ["compare", "--model", "model", "--data", "data", "--report", "cmp", "--no-speed", "--json"];
    let policies = ["--policy", "run/policy", "--policy", "run-2/policy", "--rival", "gumbel=gates/policy"];
    let methods = ["--methods", "policy,random", "--costs", "0.99", "--studies", "fixed-budgets"];
    let comparison = &scratch.run(&[&args[..], &policies[..], &methods[..]].concat()).json()[0];
    let named = |list: &serde_json::Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|method| method["method"].as_str().unwrap().to_owned()).collect()
    };
    let all = named(&comparison["methods"]);
    let expected =
        ["policy", "policy-2", "gumbel", "random", "policy-fixed-budgets", "policy-fixed-budgets-2"];
    assert_eq!(all, expected, "the study asked for, of each seed");
    let at_drop = &comparison["at_drop"][0]["methods"];
    assert_eq!(named(at_drop), ["policy", "gumbel", "random", "policy-fixed-budgets"], "seeds count as one");
    assert_eq!(at_drop[0]["of_seeds"].as_array().unwrap().len(), 2);
    assert_eq!(at_drop[3]["of_seeds"].as_array().unwrap().len(), 2);
    for name in ["policy", "policy-2", "gumbel"] {
        assert!(scratch.path(&format!("cmp/{name}.json")).is_file(), "{name}");
    }

    // A policy with the read-out `sample` needs no calibration, and is a single point.
    let train = [
        "train",
        "--model",
        "model",
        "--data",
        "data",
        "--updates",
        "1",
        "--out",
        "sampling",
        "--no-calibrate",
    ];
    let paper = ["--preset", "paper", "--set", "actor.hidden=[4]", "--seed", "5"];
    scratch.run(&[&train[..], &TINY[..], &paper[..]].concat()).good();
    let rival = ["--rival", "paper=sampling/policy", "--methods", "policy"];
    let comparison = &scratch.run(&[&args[..], &policies[..2], &rival[..]].concat()).json()[0];
    let paper = &comparison["methods"][1];
    assert_eq!(paper["method"], "paper");
    assert_eq!(paper["points"].as_array().unwrap().len(), 1, "{paper}");
    assert_eq!(paper["points"][0]["setting"], "sample=5");

    let called = |name: &str| {
        let rival = format!("{name}=gates/policy");
        scratch.run(&[&args[..7], &["--policy", "run/policy", "--rival", &rival]].concat())
    };
    called("tome").refused(&["'tome'", "no method's name"]);
    called("a/b").refused(&["'a/b'"]);
    let unnamed = scratch.run(&[&args[..7], &["--rival", "gates/policy"]].concat());
    assert_eq!(unnamed.0.status.code(), Some(2), "{}", unnamed.stderr());
    assert!(unnamed.stderr().contains("NAME=FOLDER"), "{}", unnamed.stderr());
}

#[test]
fn speed_is_measured_beside_the_dense_model() {
    let scratch = Scratch::new();
    let run = scratch.run(&[
        "compare",
        "--model",
        "model",
        "--data",
        "data",
        "--methods",
        "tome,dtome",
        "--report",
        "cmp",
        "--json",
    ]);
    assert!(run.stderr().contains("dtome: fitting to 64 images of the sweep"), "{}", run.stderr());
    assert!(run.json()[0]["methods"][1]["points"][0]["speed_up"].as_f64().unwrap() > 0.0);
    let point = &run.json()[0]["methods"][0]["points"][0];
    assert!(point["speed_up"].as_f64().unwrap() > 0.0, "{point}");
    let none = scratch.run(&["compare", "--model", "model", "--data", "data", "--methods", "policy"]);
    none.refused(&["no method to compare"]);
}
