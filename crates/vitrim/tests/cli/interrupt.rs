//! Ctrl-C: the work done is kept, and the same command goes on.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixtures::{Run, Scratch, TINY};

const MANY: [&str; 10] =
    ["train", "--model", "model", "--data", "data", "--out", "run", "--no-calibrate", "--updates", "100000"];

#[test]
fn an_interruption_during_a_fit_writes_nothing() {
    let scratch = Scratch::new();
    let calibrate = ["calibrate", "--model", "model", "--data", "data", "--policy", "diffrate-search"];
    let to = ["--out", "quick", "--max-drop", "100", "--confidence", "0.5"];
    let mut command = scratch.command(&[&calibrate[..], &to].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    let fitting = told.by_ref().map(Result::unwrap).find(|line| line.contains("fitting to"));
    assert!(fitting.is_some(), "the fit says that it begins");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = told.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.last().unwrap().starts_with("interrupted"), "{rest:?}");
    assert!(!scratch.path("quick/policy").exists(), "nothing was certified");
}

#[test]
fn an_interrupted_training_is_saved_and_goes_on() {
    let scratch = Scratch::new();
    let start = || {
        let mut command = scratch.command(&[&MANY[..], &TINY].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let interrupted = |child: std::process::Child, updates: usize| {
        let waiting = Instant::now();
        let done =
            || std::fs::read_to_string(scratch.path("run/log.jsonl")).map_or(0, |log| log.lines().count());
        while done() < updates {
            assert!(waiting.elapsed() < Duration::from_secs(60), "no update in a minute");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let run = Run(child.wait_with_output().unwrap());
        assert_eq!(run.0.status.code(), Some(130), "{}", run.stderr());
        run.stderr()
    };
    let stderr = interrupted(start(), 2);
    let last = stderr.trim_end().lines().last().unwrap();
    assert!(
        last.starts_with("interrupted: update ") && last.contains("run the same command again"),
        "{stderr}"
    );
    assert!(scratch.path("run/checkpoint.safetensors").is_file());
    assert!(scratch.path("run/policy/policy.json").is_file());
    let before = std::fs::read_to_string(scratch.path("run/log.jsonl")).unwrap();

    let stderr = interrupted(start(), before.lines().count() + 2);
    let from = format!("going on in run from update {} of 100000", before.lines().count());
    assert!(stderr.contains(&from), "{stderr}");
    let after = std::fs::read_to_string(scratch.path("run/log.jsonl")).unwrap();
    assert!(after.starts_with(&before), "what was learned is not learned again");
}
