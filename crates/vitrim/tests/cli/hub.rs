//! `hf://` references for everything that can be opened, and `export`, whose result can be fetched again.

use std::process::Command;

use serde_json::Value;
use vitrim_hub_server::Server;

use crate::fixtures::{Run, Scratch, TINY, write_checkpoint};

const MODEL: &str = "hf://me/backbone";
const POLICY: &str = "hf://me/policy";
const DATA: &str = "hf://datasets/me/photos";

/// What a tester's own environment may set.
const VARIABLES: [&str; 14] = [
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
];

/// A trained and calibrated policy, a Hub that has its backbone and its images, and an empty cache.
struct World {
    scratch: Scratch,
    server: Server,
}

impl World {
    fn new() -> Self {
        let (scratch, server) = (Scratch::new(), Server::start());
        server.push_folder("models/me/backbone", &scratch.path("model"));
        server.push_folder("datasets/me/photos", &scratch.path("data"));
        World { scratch, server }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.scratch.command(args);
        for name in VARIABLES {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.env("HF_HOME", self.scratch.path("hf")).env("HF_ENDPOINT", self.server.endpoint());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        Run(self.command(args).output().unwrap())
    }

    fn offline(&self, args: &[&str]) -> Run {
        Run(self.command(args).env("HF_HUB_OFFLINE", "1").output().unwrap())
    }

    /// Trains and calibrates `run/policy`, so that it prunes.
    fn train(&self) {
        self.scratch.train(&["--no-calibrate"]).good();
        let calibrate = ["calibrate", "--model", "model", "--policy", "run/policy", "--data", "data"];
        self.run(&[&calibrate[..], &["--max-drop", "100", "--confidence", "0.5"]].concat()).good();
    }
}

#[test]
fn an_exported_policy_is_fetched_back() {
    let world = World::new();
    world.train();
    let out = world
        .run(&["export", "--policy", "run/policy", "--model", MODEL, "--out", "upload", "--json"])
        .json();
    assert_eq!(out[0]["folder"], "upload");
    let card = std::fs::read_to_string(world.scratch.path("upload/README.md")).unwrap();
    assert!(
        card.starts_with("---\nlibrary_name: vitrim\n") && card.contains("base_model: \"me/backbone\""),
        "{card}"
    );
    assert!(card.contains("Measured on 18 images of `calibration` of `data`"), "{card}");
    world.server.push_folder("models/me/policy", &world.scratch.path("upload"));

    // The answers are the same from the Hub as from the folders, and then from the cache alone.
    let eval = |model: &'static str, policy: &'static str, data: &'static str| {
        ["eval", "--model", model, "--policy", policy, "--data", data, "--no-speed", "--json"]
    };
    let local = world.run(&eval("model", "run/policy", "data")).json();
    assert!(local[0]["methods"][0]["cost"].as_f64().unwrap() < 1.0, "it prunes: {}", local[0]);
    let fetched = world.run(&eval(MODEL, POLICY, DATA));
    assert_eq!(answers(&fetched.json()[0]), answers(&local[0]));
    assert!(fetched.stderr().contains("fetching hf://me/policy: 2 files"), "{}", fetched.stderr());
    world.server.asked();
    let offline = world.offline(&eval(MODEL, POLICY, DATA));
    assert_eq!(answers(&offline.json()[0]), answers(&local[0]));
    assert!(!offline.stderr().contains("hf://"), "{}", offline.stderr());
    assert_eq!(world.server.asked(), []);

    // What was fetched can be exported again, and is the same.
    world.run(&["export", "--policy", POLICY, "--model", MODEL, "--out", "again"]).good();
    for (path, bytes) in world.scratch.snapshot("upload") {
        let name = path.file_name().unwrap();
        assert_eq!(std::fs::read(world.scratch.path("again").join(name)).unwrap(), bytes, "{name:?}");
    }
    // Its calibration record works, too.
    let asked = ["--max-drop", "50"];
    let predict = ["predict", "data/test/red/test00.png", "--model", MODEL, "--policy", POLICY, "--json"];
    let predicted = world.run(&[&predict[..], &asked].concat()).json();
    let expected =
        ["predict", "data/test/red/test00.png", "--model", "model", "--policy", "run/policy", "--json"];
    assert_eq!(predicted, world.run(&[&expected[..], &asked].concat()).json());
}

#[test]
fn the_documentations_commands_run() {
    let world = World::new();
    world.server.push_folder("models/timm/deit_small_patch16_224.fb_in1k", &world.scratch.path("model"));
    world.server.push_folder("datasets/you/photos", &world.scratch.path("data"));
    std::fs::copy(world.scratch.path("data/test/red/test00.png"), world.scratch.path("photo.png")).unwrap();
    let page = include_str!("../../../../docs/hub.md");
    let mut commands = 0;
    for block in page.split("```sh\n").skip(1) {
        for line in block.split_once("```").unwrap().0.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["vitrim", "train", ..] => {
                    world.run(&[&words[1..], &["--updates", "2"], &TINY[..]].concat()).good();
                }
                ["vitrim", "eval", ..] => drop(world.run(&[&words[1..], &["--no-speed"]].concat()).good()),
                ["vitrim", ..] => drop(world.run(&words[1..]).good()),
                ["hf", "upload", repo, folder] => {
                    world.server.push_folder(&format!("models/{repo}"), &world.scratch.path(folder));
                }
                _ => panic!("what is `{line}`?"),
            }
            commands += 1;
        }
    }
    assert_eq!(commands, 6);
}

/// An evaluation without the paths from which it was opened.
fn answers(evaluation: &Value) -> Value {
    let mut answers = evaluation.clone();
    for place in ["model", "data", "policy"] {
        answers.as_object_mut().unwrap().remove(place);
    }
    answers
}

#[test]
fn every_command_opens_references() {
    let world = World::new();
    let commit = world.server.push_folder("models/me/backbone", &world.scratch.path("model"));
    let train = ["train", "--model", MODEL, "--data", DATA, "--out", "run", "--updates", "2"];
    world.run(&[&train[..], &TINY].concat()).good();
    world.run(&["export", "--policy", "run/policy", "--model", MODEL, "--out", "upload"]).good();
    world.server.push_folder("models/me/policy", &world.scratch.path("upload"));
    let pinned = format!("{MODEL}@{commit}");
    let calibrate = ["calibrate", "--policy", "run/policy", "--model", &pinned, "--data", DATA];
    world.run(&calibrate).good();
    let compare = ["compare", "--model", MODEL, "--data", DATA, "--policy", POLICY, "--methods", "random"];
    world.run(&[&compare[..], &["--no-speed", "--no-studies", "--report", "compared"]].concat()).good();
    let image = format!("{DATA}/test/red/test00.png");
    world.run(&["predict", &image, "--model", MODEL, "--policy", POLICY]).good();
    world.run(&["visualize", &image, "--model", MODEL, "--policy", POLICY, "--out", "pictures"]).good();
    assert_eq!(world.scratch.path("pictures").read_dir().unwrap().count(), 1);
    let bench = ["bench", "--model", MODEL, "--policy", POLICY, "--data", DATA, "--batch", "1"];
    world.run(&[&bench[..], &["--seconds", "0.02", "--rounds", "1"]].concat()).good();
    assert!(world.run(&["info", "--model", MODEL]).good().contains("deit_tiny_patch16_224"));
}

#[test]
fn variables_are_taken_as_an_env_file_holds_them() {
    let world = World::new();
    let info = ["info", "--model", MODEL];
    let fetched = world.run(&info).good();
    world.server.asked();
    let home = world.scratch.path("");
    let hub = world.scratch.path("hf/hub");
    let offline = ("HF_HUB_OFFLINE", "1");
    for variables in [
        [("HF_HOME", "~/hf"), offline],
        [("HF_HOME", "$HOME/hf"), offline],
        [("HF_HOME", "\"${HOME}/hf\""), offline],
        [("HF_HUB_CACHE", "~/hf/hub"), offline],
        [("HUGGINGFACE_HUB_CACHE", hub.to_str().unwrap()), offline],
        [("HF_HOME", "~/hf"), ("TRANSFORMERS_OFFLINE", "1")],
    ] {
        let mut command = world.command(&info);
        command.env("HOME", &home).env("HF_HOME", "/nowhere").envs(variables);
        assert_eq!(Run(command.output().unwrap()).good(), fetched, "{variables:?}");
    }
    assert_eq!(world.server.asked(), []);
    let mut command = world.command(&info);
    command.env("HOME", &home).env("HF_HOME", "$SCRATCH/hf");
    Run(command.output().unwrap()).refused(&["HF_HOME=$SCRATCH/hf", "$SCRATCH is not set"]);
    for odd in ["~", "$HOME", "$SCRATCH", "\"${HOME}"] {
        assert!(!world.scratch.path(odd).exists(), "{odd}");
    }
}

#[test]
fn what_cannot_be_fetched_or_written_is_said() {
    let world = World::new();
    world.train();
    let info = ["info", "--model", MODEL];
    let words = [MODEL, "HF_HUB_OFFLINE is set", "run once without it", "put the files into a folder"];
    world.offline(&info).refused(&words);
    world.run(&["info", "--model", "hf://me/none"]).refused(&["hf://me/none", "answers 401", "HF_TOKEN"]);
    world
        .run(&["info", "--model", "hf://me"])
        .refused(&["hf://me: has no owner", "hf://owner/name[@revision]"]);
    world.run(&["info", "--model", DATA]).refused(&[DATA, "where a model is expected"]);
    let calibrate = ["calibrate", "--policy", POLICY, "--model", "model", "--data", "data"];
    world.run(&calibrate).refused(&[POLICY, "give --out, or a copy in a folder of yours"]);

    let export = |out: &'static str, base: &'static str, model: &'static str| {
        let args = ["export", "--policy", "run/policy", "--model", model, "--out", out, "--base-model", base];
        world.run(&args)
    };
    export("upload", "me", "model").refused(&["--base-model me", "give owner/name"]);
    export(POLICY, "me/backbone", "model").refused(&["--out hf://me/policy", "is no folder"]);
    write_checkpoint(&world.scratch.path("other"), 2);
    export("upload", "me/backbone", "other").refused(&["run/policy", "not for this backbone"]);
    assert!(!world.scratch.path("upload").exists(), "a refused export leaves nothing behind");
    export("data", "me/backbone", "model").refused(&["--out data", "is not empty"]);
    let card = export("upload", "me/backbone", "model");
    assert!(card.good().contains("hf upload OWNER/NAME upload"));
}
