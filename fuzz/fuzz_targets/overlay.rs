//! A configuration file in TOML, then after a NUL the `--set`s, one a line. What is accepted must be written and read again
//! unchanged. The module is compiled here by itself, because the crate that it is in links Burn.
#![no_main]

#[path = "../../crates/vitrim/src/overlay.rs"]
mod overlay;

use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};
use vitrim_fuzz::file;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    name: String,
    updates: usize,
    layers: Vec<u32>,
    optimizer: Optimizer,
    read_out: ReadOut,
    note: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Optimizer {
    learning_rate: f64,
    clip: Option<f64>,
    warm: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ReadOut {
    Sample,
    Threshold(f64),
}

fn preset() -> Config {
    let optimizer = Optimizer { learning_rate: 1e-3, clip: Some(0.2), warm: false };
    let (name, layers) = ("default".to_owned(), vec![3, 6, 9]);
    Config { name, updates: 400, layers, optimizer, read_out: ReadOut::Sample, note: None }
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let path = file("config.toml", parts.next().unwrap_or_default());
    let sets = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let sets: Vec<String> = sets.lines().map(str::to_owned).collect();
    match overlay::merge(&preset(), Some(&path), &sets) {
        Ok(config) => {
            let written = overlay::to_toml(&config).expect("what was read from TOML can be written");
            let path = file("written.toml", written.as_bytes());
            let again = overlay::merge(&preset(), Some(&path), &[]).expect("what was written can be read");
            // NaN differs from itself.
            let may_differ = written.contains("nan");
            assert!(config == again || may_differ, "{config:?} became {again:?}");
        }
        Err(error) => assert!(!error.to_string().contains(['\n', '\r']), "{error:?}"),
    }
});
