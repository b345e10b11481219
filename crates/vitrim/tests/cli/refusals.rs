//! Bad input: one line that names the file, exit code 1, and nothing that exists is touched.

use std::fs;

use crate::fixtures::{Run, Scratch, TINY, write_checkpoint};

const EVAL: [&str; 5] = ["eval", "--model", "model", "--data", "data"];

#[test]
fn bad_checkpoints() {
    let scratch = Scratch::new();
    let weights = scratch.path("model/model.safetensors");
    let good = fs::read(&weights).unwrap();
    fs::write(&weights, &good[..good.len() / 2]).unwrap();
    scratch.run(&EVAL).refused(&["model/model.safetensors", "download it again"]);
    fs::write(&weights, vec![0xff; 4096]).unwrap();
    scratch.run(&EVAL).refused(&["model/model.safetensors"]);
    fs::write(&weights, &good).unwrap();

    let config = scratch.path("model/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"embed_dim\":24", "\"embed_dim\":48")).unwrap();
    scratch.run(&EVAL).refused(&["model/model.safetensors", "shape"]);
    fs::write(&config, "{").unwrap();
    scratch.run(&EVAL).refused(&["model/config.json", "not valid JSON"]);
    fs::remove_file(&config).unwrap();
    scratch.run(&EVAL).refused(&["model", "no config.json"]);
    scratch.run(&["bench", "--model", "resnet50"]).refused(&["resnet50", "no such checkpoint folder"]);
    scratch.run(&["info", "--model", "nowhere/model"]).refused(&["nowhere/model"]);
}

#[test]
fn bad_policies() {
    let scratch = Scratch::new();
    scratch.train(&["--no-calibrate"]).good();
    let with_policy = [&EVAL[..], &["--policy", "run/policy", "--no-speed"]].concat();
    let calibrate = ["calibrate", "--model", "model", "--policy", "run/policy", "--data", "data"];

    scratch
        .run(&[&with_policy[..], &["--max-drop", "1"]].concat())
        .refused(&["policy.json", "not calibrated"]);
    scratch
        .run(&[&with_policy[..], &["--read-out", "top-r=0.5,0.4"]].concat())
        .refused(&["2 keep ratios for 3 stages"]);
    scratch.run(&[&with_policy[..], &["--read-out", "best"]].concat()).refused(&["--read-out best"]);

    write_checkpoint(&scratch.path("other"), 2);
    let before = scratch.snapshot("run");
    scratch
        .run(&["calibrate", "--model", "other", "--policy", "run/policy", "--data", "data"])
        .refused(&["run/policy", "not for this backbone"]);
    let weights = scratch.path("run/policy/policy.safetensors");
    let good = fs::read(&weights).unwrap();
    fs::write(&weights, &good[..good.len() - 9]).unwrap();
    scratch.run(&calibrate).refused(&["policy.safetensors", "damaged"]);
    fs::write(&weights, &good).unwrap();
    assert_eq!(before, scratch.snapshot("run"));

    let header = scratch.path("run/policy/policy.json");
    let text = fs::read_to_string(&header).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, wrong, word) in [
        ("stages", serde_json::json!([1, 9, 3]), "ascend"),
        ("read_out", serde_json::json!({"kind": "top-r", "keep": [0.5]}), "ratios"),
        ("calibration", serde_json::json!({"front": 3}), "damaged calibration record"),
    ] {
        let mut changed = value.clone();
        changed[key] = wrong;
        fs::write(&header, changed.to_string()).unwrap();
        let more: &[&str] = if key == "calibration" { &["--max-drop", "1"] } else { &[] };
        scratch.run(&[&with_policy[..], more].concat()).refused(&["policy.json", word]);
    }
    fs::write(&header, "{").unwrap();
    scratch.run(&calibrate).refused(&["policy.json", "not valid JSON"]);
}

#[test]
fn bad_images_and_data() {
    let scratch = Scratch::new();
    let train = ["train", "--model", "model", "--data", "data", "--out", "run", "--updates", "2", "--quiet"];
    let train = [&train[..], &TINY].concat();
    let image = scratch.path("data/train/red/train03.png");
    let good = fs::read(&image).unwrap();
    fs::write(&image, &good[..good.len() / 2]).unwrap();
    scratch.run(&train).refused(&["data/train/red/train03.png", "cannot be decoded"]);
    scratch.run(&[&train[..], &["--on-bad-image", "skip"]].concat()).good();
    let predict = ["predict", "data/train/red/train03.png", "--model", "model"];
    scratch.run(&predict).refused(&["train03.png"]);
    let skipping = scratch.run(&[&predict[..], &["--on-bad-image", "skip"]].concat());
    assert!(skipping.good().is_empty() && skipping.stderr().contains("train03.png"));
    fs::write(&image, good).unwrap();

    let before = scratch.snapshot("run");
    scratch
        .run(&["eval", "--model", "model", "--data", "data/none.parquet"])
        .refused(&["data/none.parquet", "no such file"]);
    fs::write(scratch.path("cut.parquet"), b"PAR1 and no more").unwrap();
    scratch
        .run(&["eval", "--model", "model", "--data", "cut.parquet"])
        .refused(&["cut.parquet", "download it again"]);
    scratch.run(&[&EVAL[..], &["--split", "holdout"]].concat()).refused(&[
        "data",
        "`holdout`",
        "train, validation, test",
    ]);
    // A class that the backbone does not have is noted while it is empty, and refused with an image.
    fs::create_dir(scratch.path("data/test/yellow")).unwrap();
    let empty = scratch.run(&EVAL);
    empty.good();
    assert!(empty.stderr().contains("counted as a class without images: yellow"), "{}", empty.stderr());
    fs::copy(scratch.path("data/test/red/test00.png"), scratch.path("data/test/yellow/a.png")).unwrap();
    scratch
        .run(&EVAL)
        .refused(&["data: class `yellow` is not among the backbone's class names", "--label-map"]);
    assert_eq!(before, scratch.snapshot("run"));
}

#[test]
fn bad_configurations() {
    let scratch = Scratch::new();
    let train = ["train", "--model", "model", "--data", "data", "--out", "run"];
    let with = |more: &[&str]| scratch.run(&[&train[..], more].concat());
    fs::write(scratch.path("bad.toml"), "updates = [3\n").unwrap();
    with(&["--config", "bad.toml"]).refused(&["bad.toml:", "not TOML"]);
    fs::write(scratch.path("bad.toml"), "[ppo]\nclpi = 0.1\n").unwrap();
    with(&["--config", "bad.toml"]).refused(&["bad.toml", "`ppo.clpi`", "`ppo.clip`"]);
    with(&["--config", "absent.toml"]).refused(&["absent.toml"]);
    with(&["--set", "ppo.clpi=0.1"]).refused(&["--set ppo.clpi=0.1", "`ppo.clip`"]);
    with(&["--set", "updates=many"]).refused(&["--set updates=many"]);
    with(&["--updates", "0"]).refused(&["updates must be at least 1"]);
    with(&["--set", "stages=[9]"]).refused(&["stages", "4 blocks"]);
    with(&["--max-drop", "-1"]).refused(&["max-drop -1"]);
    with(&["--preset", "best"])
        .refused(&["--preset best", "default, universal, drop, paper, gumbel, dynamicvit"]);
    assert!(!scratch.path("run").exists(), "a refused run leaves nothing behind");
}

#[test]
fn a_damaged_training_checkpoint_is_not_overwritten() {
    let scratch = Scratch::new();
    scratch.train(&["--no-calibrate"]).good();
    let checkpoint = scratch.path("run/checkpoint.safetensors");
    let good = fs::read(&checkpoint).unwrap();
    fs::write(&checkpoint, &good[..good.len() / 3]).unwrap();
    let before = scratch.snapshot("run");
    scratch.train(&["--quiet"]).refused(&["run/checkpoint.safetensors", "delete it to train from the start"]);
    assert_eq!(before, scratch.snapshot("run"));
}

#[test]
fn unknown_instructions_are_refused_in_one_line() {
    let scratch = Scratch::new();
    let run = |level: &str| {
        Run(scratch.command(&["info", "--model", "model"]).env("VITRIM_SIMD", level).output().unwrap())
    };
    run("sse9").refused(&[
        "VITRIM_SIMD=sse9",
        "expected scalar, avx2, avx2+vnni, avx512, avx512+vnni, avx512+bf16+vnni or native",
    ]);
    run("scalar").good();
}

#[test]
fn processes_that_cannot_share_the_work_are_refused_by_the_first_of_them() {
    let scratch = Scratch::new();
    let started = |number: &str, args: &[&str]| {
        let mut command = scratch.command(args);
        command.env("OMPI_COMM_WORLD_SIZE", "4").env("OMPI_COMM_WORLD_RANK", number);
        Run(command.output().unwrap())
    };
    let train = ["train", "--model", "model", "--data", "data", "--out", "run"];
    // With MPI, the script `test_mpi.sh` starts them.
    if cfg!(not(feature = "mpi")) {
        started("0", &train).refused(&["one of 4 processes", "build with `--features mpi`"]);
    }
    let report = ["report", "run"];
    started("0", &report)
        .refused(&["one of 4 processes", "only train, train-metric, pretrain, finetune, calibrate"]);
    // The others leave the line to the first, and their end does not end it.
    let other = started("3", &report);
    assert_eq!((other.good(), other.stderr()), (String::new(), String::new()));
    assert!(!scratch.path("run").exists());
    // A shard is one process's own.
    let embed = ["embed", "--model", "model", "--data", "data", "--out", "embedded", "--shard", "3/4"];
    started("3", &embed).good();
}
