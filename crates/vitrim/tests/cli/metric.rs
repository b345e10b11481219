//! A metric for merging is learned, certified, and taken wherever a policy is expected.

use crate::fixtures::Scratch;

pub const SMALL: [&str; 6] = ["--images", "24", "--set", "batch=8", "--set", "log_every=1"];

#[test]
fn a_learned_metric_is_a_policy() {
    let scratch = Scratch::new();
    let on = ["--model", "model", "--data", "data"];
    let train = [&["train-metric", "--out", "metric"], &on[..], &SMALL].concat();
    let run = scratch.run(&train);
    assert!(
        run.good().contains("policy: metric/policy, cost=1, every token stays; calibrate it next"),
        "{}",
        run.stdout()
    );
    assert!(run.stderr().contains("step 3/3: "), "{}", run.stderr());
    let policy = std::fs::read_to_string(scratch.path("metric/policy/policy.json")).unwrap();
    assert!(policy.contains("\"method\": \"dtem\"") && policy.contains("\"version\": 5"), "{policy}");

    // Repeating the finished run changes nothing; another run cannot continue in its folder.
    let before = scratch.snapshot("metric/policy");
    let again = scratch.run(&[&train[..], &["--json"]].concat());
    assert!(again.stderr().contains("from step 3 of 3"), "{}", again.stderr());
    assert_eq!(again.json()[0]["policy"], "metric/policy");
    assert!(scratch.snapshot("metric/policy") == before, "the second call wrote something else");
    let train = [&train[..], &["-q"]].concat();
    scratch.run(&[&train[..], &["--seed", "5"]].concat()).refused(&["checkpoint", "another configuration"]);
    scratch.run(&[&train[..], &["--set", "parts=99"]].concat()).refused(&["parts", "must lie between"]);
    scratch.run(&[&train[..], &["--set", "speed=9"]].concat()).refused(&["speed"]);

    scratch.run(&[&train[..], &["--set", "batch=0"]].concat()).refused(&["batch = 0"]);
    scratch.run(&["report", "metric", "-q"]).good();
    let given = ["calibrate", "-q", "--policy", "metric/policy", "--out", "certified", "--max-drop", "100"];
    let calibrated = scratch.run(&[&given[..], &["--confidence", "0.5"], &on].concat()).good();
    assert!(calibrated.contains("dtem at cost="), "{calibrated}");
    // The images that it has learned from cannot certify it.
    let own = [&given[..], &["--split", "train"], &on].concat();
    scratch.run(&own).refused(&["dtem was fitted to", "another --split"]);
    let certified = ["--policy", "certified/policy"];
    let eval = [&["eval", "--no-speed"], &on[..], &certified].concat();
    assert!(scratch.run(&eval).good().contains("| policy "));
    let predict = [&["predict", "data/test/red/test00.png", "--json", "--model", "model"], &certified[..]];
    let gmacs = |args: &[&str]| scratch.run(args).json()[0]["gmacs"].as_f64().unwrap();
    let (pruned, dense) = (gmacs(&predict.concat()), gmacs(predict[0]));
    assert!(pruned < dense, "{pruned} {dense}");
    let compare = ["compare", "--rival", "dtem=certified/policy", "--methods", "policy,tome", "--no-speed"];
    let compare =
        [&compare[..], &["--near", "1", "--costs", "0.7", "--no-studies"], &certified, &on].concat();
    assert!(scratch.run(&compare).good().contains("| dtem "));
    let finetune = [&["finetune", "-q", "--out", "tuned"], &on[..], &certified].concat();
    scratch.run(&finetune).refused(&["dtem", "no actor"]);
}
