//! All commands, from a checkpoint and a folder of images to their results.

use serde_json::Value;

use crate::fixtures::{Run, Scratch};

#[test]
fn train_calibrate_and_use_a_policy() {
    let scratch = Scratch::new();
    let run = scratch.train(&[]);
    let out = run.good();
    assert!(out.contains("threshold") && out.contains("policy: run/policy"), "{out}");
    let stderr = run.stderr();
    assert!(
        stderr.contains("36 images to train on (0 left out") && stderr.contains("18 to calibrate"),
        "{stderr}"
    );
    assert!(stderr.contains("update 3/3: "), "{stderr}");
    for file in [
        "policy/policy.json",
        "policy/policy.safetensors",
        "config.toml",
        "checkpoint.safetensors",
        "log.jsonl",
    ] {
        assert!(scratch.path("run").join(file).is_file(), "{file}");
    }

    // The same command again only calibrates; another configuration is refused.
    let again = scratch.train(&[]);
    assert!(again.stderr().contains("has all 3 updates; only calibrating"), "{}", again.stderr());
    let before = scratch.snapshot("run");
    scratch.train(&["--seed", "5", "--quiet"]).refused(&[
        "run/checkpoint.safetensors",
        "another configuration",
        "--out",
    ]);
    assert_eq!(before, scratch.snapshot("run"));

    calibrates(&scratch);
    evaluates(&scratch);
    predicts_and_draws(&scratch);
    benches(&scratch);
}

fn calibrates(scratch: &Scratch) {
    let args = ["calibrate", "--model", "model", "--policy", "run/policy", "--data", "data"];
    let json =
        scratch.run(&[&args[..], &["--max-drop", "100", "--confidence", "0.5", "--json"]].concat()).json();
    let record = &json[0]["calibration"];
    assert_eq!((&record["certified"], &record["max_drop"]), (&Value::Bool(true), &Value::from(100.0)));
    assert_eq!(
        (&record["split"], &record["front"]["images"]),
        (&Value::from("calibration"), &Value::from(18))
    );
    assert_eq!(record["dtype"], "f32");
    // A record of another precision is distinguished from one of this precision.
    let bf16 = ["--max-drop", "100", "--confidence", "0.5", "--dtype", "bf16", "--json"];
    let json = scratch.run(&[&args[..], &bf16].concat()).json();
    assert_eq!(json[0]["calibration"]["dtype"], "bf16");
    let predict = ["predict", "data/test/red/test00.png", "--model", "model", "--policy", "run/policy"];
    let dtype = |dtype: &'static str| scratch.run(&[&predict[..], &["--dtype", dtype]].concat());
    assert!(dtype("int8").stderr().contains("calibrated in bf16, so that no drop is certified in int8"));
    assert_eq!(dtype("bf16").stderr(), "");
    // 18 images certify nothing: the policy becomes the dense model, and the output says how many images are needed.
    let out = scratch.run(&[&args[..], &["--max-drop", "0.1"]].concat()).good();
    assert!(out.contains("18 images cannot certify a drop of at most 0.1 pp"), "{out}");
    assert!(out.contains("set to keep everything") && out.contains("threshold=0\n"), "{out}");
}

fn evaluates(scratch: &Scratch) {
    let args = ["eval", "--model", "model", "--data", "data", "--json"];
    let dense = &scratch.run(&args).json()[0];
    assert_eq!((&dense["images"], &dense["methods"]), (&Value::from(18), &Value::Array(Vec::new())));

    let read_out = ["--policy", "run/policy", "--read-out", "top-r=0.75,0.5,0.25"];
    let json = &scratch.run(&[&args[..], &read_out].concat()).json()[0];
    let methods = json["methods"].as_array().unwrap();
    let names: Vec<&str> = methods.iter().map(|m| m["method"].as_str().unwrap()).collect();
    assert_eq!(names, ["policy", "random", "cls-attention"]);
    for method in methods {
        assert_eq!(method["keep_ratio"], Value::from(vec![0.75, 0.5, 0.25]));
        assert!(method["cost"].as_f64().unwrap() < 0.8);
        let (low, high) =
            (method["interval_pp"][0].as_f64().unwrap(), method["interval_pp"][1].as_f64().unwrap());
        assert!((low..=high).contains(&method["drop_pp"].as_f64().unwrap()));
        assert_eq!(method["speed"][0]["batch"], 1);
        assert!(method["speed"][0]["speed_up"].as_f64().unwrap() > 0.0);
    }
    let sampled = [&args[..], &["--policy", "run/policy", "--read-out", "sample", "--no-speed"]].concat();
    assert_eq!(scratch.run(&sampled).json(), scratch.run(&sampled).json(), "sampling is keyed");
    // From the record: everything is certified at 100 pp.
    let table = scratch.run(&[
        "eval",
        "--model",
        "model",
        "--data",
        "data",
        "--no-speed",
        "--policy",
        "run/policy",
        "--max-drop",
        "100",
    ]);
    assert!(table.stderr().contains("at most 100 pp is certified on 18 images"), "{}", table.stderr());
    assert!(table.good().contains("| cls-attention |"));

    // By cost: the mildest threshold on record that stays within it. A keep ratio of 1 stands for the dense cost.
    let by_cost = |more: &[&str]| {
        let policy = ["--policy", "run/policy", "--no-speed"];
        scratch.run(&[&args[..], &policy[..], more].concat())
    };
    let cost = |run: &Run| run.json()[0]["methods"][0]["gmacs"].as_f64().unwrap();
    let (all, some) = (by_cost(&["--keep", "1"]), by_cost(&["--gmacs", "1"]));
    assert!(
        all.stderr().contains("nothing is certified") && some.stderr().contains("GMACs"),
        "{}",
        all.stderr()
    );
    assert!(cost(&all) <= dense["dense_gmacs"].as_f64().unwrap() && cost(&all) <= cost(&some));
    by_cost(&["--gmacs", "1e-9"]).refused(&["run/policy", "the cheapest costs"]);
    by_cost(&["--keep", "0.9,0.8"]).refused(&["--keep", "single one"]);
    by_cost(&["--keep", "1.5"]).refused(&["keep ratios [1.5]"]);
    let alone = scratch.run(&[&args[..], &["--gmacs", "1"]].concat());
    assert!(alone.0.status.code() == Some(2) && alone.stderr().contains("--policy"), "{}", alone.stderr());

    // Corrupted images give other figures.
    let corrupted = &by_cost(&["--corrupt", "noise-severe"]).json()[0];
    let d = |evaluation: &Value| evaluation["methods"][0]["fidelity"].as_f64();
    assert_eq!(corrupted["images"], 18);
    assert_ne!(d(corrupted), d(&by_cost(&[]).json()[0]));
    let unknown = by_cost(&["--corrupt", "fog"]);
    assert_eq!(unknown.0.status.code(), Some(2), "{}", unknown.stderr());

    // In every precision, and the figures name it.
    for dtype in ["bf16", "int8"] {
        let json = &scratch.run(&[&args[..], &["--dtype", dtype]].concat()).json()[0];
        assert_eq!((&json["dtype"], &json["images"]), (&Value::from(dtype), &Value::from(18)));
    }

    // Without labels, disagreement stands in for the drop.
    let flat = scratch.path("flat");
    std::fs::create_dir(&flat).unwrap();
    for name in ["test00.png", "test01.png", "test02.png"] {
        std::fs::copy(scratch.path("data/test/red").join(name), flat.join(name)).unwrap();
    }
    let unlabelled =
        ["eval", "--model", "model", "--data", "flat", "--split", "all", "--keep", "0.5", "--no-speed"];
    let out = scratch.run(&unlabelled).good();
    assert!(out.contains("no labels: disagreement") && out.contains("| random "), "{out}");
}

fn predicts_and_draws(scratch: &Scratch) {
    let policy = ["--model", "model", "--policy", "run/policy", "--read-out", "top-r=0.5"];
    let predictions =
        scratch.run(&[&["predict", "data/test", "--json", "--top-k", "2"], &policy[..]].concat()).json();
    assert_eq!(predictions.len(), 18);
    let by_cost =
        ["predict", "data/test/red/test00.png", "--model", "model", "--policy", "run/policy", "--keep", "1"];
    assert!(scratch.run(&by_cost).stderr().contains("GMACs"));
    for prediction in &predictions {
        assert_eq!(prediction["classes"].as_array().unwrap().len(), 2);
        let survivors =
            prediction["stages"].as_array().unwrap().iter().map(|s| s["positions"].as_array().unwrap().len());
        assert_eq!(survivors.collect::<Vec<_>>(), [8, 4, 2]);
    }
    let hand_made = ["predict", "data/test/red/test00.png", "--model", "model", "--policy"];
    let left = &scratch.run(&[&hand_made[..], &["evit:0.5", "--json"]].concat()).json()[0]["stages"];
    assert_eq!(left[0]["positions"].as_array().unwrap().len(), 9, "half, and the fused one: {left}");
    let unfitted = scratch.run(&[&hand_made[..], &["dtome:0.5"]].concat());
    unfitted.refused(&["dtome must be fitted to images"]);
    scratch
        .run(&[&hand_made[..], &["tome:0.5", "--read-out", "sample"]].concat())
        .refused(&["tome:0.5 is a hand-made method"]);
    let text = scratch.run(&["predict", "data/test/red/test00.png", "--model", "model"]).good();
    assert!(text.contains("data/test/red/test00.png") && text.contains("16 patches; "), "{text}");

    scratch
        .run(&[&["visualize", "data/test/red", "data/test/blue", "--out", "pictures"], &policy[..]].concat())
        .good();
    let picture = image::open(scratch.path("pictures/test00.png")).unwrap();
    assert!(picture.width() > 4 * 224);
    assert!(scratch.path("pictures/test00-2.png").is_file(), "the second test00 has a name of its own");
}

fn benches(scratch: &Scratch) {
    let json =
        scratch.run(&["bench", "--model", "model", "--batch", "1,8", "--seconds", "0.05", "--json"]).json();
    let cells = json[0]["cells"].as_array().unwrap();
    assert_eq!((cells[0]["batch"].as_u64(), cells[1]["batch"].as_u64()), (Some(1), Some(8)));
    assert!(cells[0]["rounds"].as_u64().unwrap() >= 5);
    every_dtype_side_by_side(scratch);
    several_streams(scratch);
    for method in ["random", "cls-attention", "policy"] {
        let args =
            ["bench", "--model", "model", "--batch", "2", "--seconds", "0.01", "--keep", "0.5,0.4,0.3"];
        let out = scratch.run(&[&args[..], &["--method", method]].concat()).good();
        assert!(out.contains("kept after each stage: 0.500 0.375 0.312"), "{out}");
    }
    let trained = [
        "bench",
        "--model",
        "model",
        "--policy",
        "run/policy",
        "--data",
        "data",
        "--batch",
        "1",
        "--seconds",
        "0.01",
    ];
    scratch.run(&trained).good();
}

fn several_streams(scratch: &Scratch) {
    let args = ["bench", "--model", "model", "--seconds", "0.02", "--rounds", "3", "--threads", "2"];
    let more = ["--batch", "2", "--streams", "2", "--ragged", "--json"];
    let report = &scratch.run(&[&args[..], &more].concat()).json()[0];
    assert_eq!((report["threads"].as_u64(), report["streams"].as_u64()), (Some(2), Some(2)));
    let cell = &report["cells"][0];
    assert_eq!(cell["images"].as_u64().unwrap() % 4, 0, "whole batches in both streams: {cell}");
    for speed in [&cell["dense"], &cell["pruned"], &cell["ragged"]["varied"]] {
        assert!(speed["images_per_s"].as_f64().unwrap() > 0.0, "{cell}");
    }
    scratch.run(&[&args[..], &["--streams", "3"]].concat()).refused(&["3 streams", "2: ask for fewer"]);
}

fn every_dtype_side_by_side(scratch: &Scratch) {
    let args = ["bench", "--model", "model", "--batch", "1,8", "--seconds", "0.02", "--rounds", "3"];
    let more = ["--dtype", "f32,bf16,int8", "--profile", "--ragged"];
    let report = &scratch.run(&[&args[..], &more, &["--json"]].concat()).json()[0];
    let cells = report["cells"].as_array().unwrap();
    let of: Vec<_> =
        cells.iter().map(|c| (c["dtype"].as_str().unwrap(), c["batch"].as_u64().unwrap())).collect();
    assert_eq!(of, [("f32", 1), ("bf16", 1), ("int8", 1), ("f32", 8), ("bf16", 8), ("int8", 8)]);
    for cell in cells {
        for model in ["dense", "pruned"] {
            assert!(cell[model]["images_per_s"].as_f64().unwrap() > 0.0, "{cell}");
            assert!(cell[model]["gflops"].as_f64().unwrap() > 0.0, "{cell}");
            assert!((0.0..1.5).contains(&cell[model]["of_peak"].as_f64().unwrap()), "{cell}");
            let shares =
                cell["profile"].as_array().unwrap().iter().map(|o| o[model]["share"].as_f64().unwrap());
            let sum: f64 = shares.sum();
            assert!((sum - 1.0).abs() < 1e-9, "shares of {model} sum to {sum}");
        }
        let spent = |model: &str, operation: &str| -> f64 {
            let rows = cell["profile"].as_array().unwrap();
            rows.iter().find(|o| o["operation"] == operation).unwrap()[model]["share"].as_f64().unwrap()
        };
        assert_eq!((spent("dense", "policy scoring"), spent("dense", "compaction")), (0.0, 0.0));
        let overhead = spent("pruned", "policy scoring") + spent("pruned", "compaction");
        assert!((cell["overhead"].as_f64().unwrap() - overhead).abs() < 1e-9 && overhead > 0.0, "{cell}");
        assert_eq!(cell["ragged"].is_object(), cell["batch"] == 8, "{cell}");
    }
    assert!(report["dtypes"].as_array().unwrap().iter().all(|d| d["peak_gflops"].as_f64().unwrap() > 0.1));
    let memory = &report["memory"];
    assert!(memory["peak"].as_u64() <= memory["bound"].as_u64(), "{memory}");
    let table = scratch.run(&[&args[..], &more].concat()).good();
    for words in ["int8", "policy scoring", "varied : equal", "peak memory", "FMA peak"] {
        assert!(table.contains(words), "no `{words}` in {table}");
    }
}

#[test]
fn a_single_split_is_cut_and_duplicates_never_train() {
    let scratch = Scratch::new();
    let whole = scratch.path("whole");
    std::fs::rename(scratch.path("data/train"), &whole).unwrap();
    let args = ["train", "--model", "model", "--updates", "1", "--no-calibrate"];
    let tiny = crate::fixtures::TINY;
    let run = scratch.run(&[&args[..], &tiny, &["--data", "whole", "--out", "cut"]].concat());
    assert!(run.good().contains("not calibrated"));
    assert!(!run.stderr().contains("36 images to train on"), "{}", run.stderr());

    std::fs::rename(&whole, scratch.path("data/train")).unwrap();
    std::fs::copy(scratch.path("data/test/red/test00.png"), scratch.path("data/train/red/copy.png")).unwrap();
    let run = scratch.run(&[&args[..], &tiny, &["--data", "data", "--out", "copy"]].concat());
    assert!(run.stderr().contains("36 images to train on (1 left out"), "{}", run.stderr());
}

#[test]
fn info_and_configuration_need_no_data() {
    let scratch = Scratch::new();
    let json = scratch.run(&["info", "--model", "deit_small_patch16_224", "--json"]).json();
    assert_eq!(json[0]["patch_tokens"], 196);
    assert!((json[0]["published_gmacs"].as_f64().unwrap() - 4.6).abs() < 0.01);
    assert!((json[0]["dense_gmacs"].as_f64().unwrap() - 4.31).abs() < 0.01);
    assert!(scratch.run(&["info", "--model", "model"]).good().contains("4 x 4 patches of 8"));

    let toml = scratch.run(&["train", "--print-config", "--preset", "paper", "--max-drop", "1.5"]).good();
    assert!(toml.contains("max_drop = 1.5") && toml.contains("kind = \"paper\""), "{toml}");
    std::fs::write(scratch.path("run.toml"), &toml).unwrap();
    let again = scratch.run(&["train", "--print-config", "--config", "run.toml"]).good();
    assert_eq!(again, toml, "what is printed can be read");
}

#[test]
fn wrong_command_lines_exit_with_2() {
    let scratch = Scratch::new();
    for args in [
        &["train"][..],
        &["bench", "--model", "model", "--batch", "0"],
        &["bench", "--model", "model", "--dtype", "f32,int4"],
        &["frobnicate"],
        &["eval", "--methods", "x"],
        &["eval", "--model", "model", "--data", "data", "--dtype", "fp16"],
    ] {
        assert_eq!(scratch.run(args).0.status.code(), Some(2), "{args:?}");
    }
}
