//! `vitrim embed`: a whole data set in parquet files, by several processes that are killed at random.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use vitrim_measure::embed::contents;

use crate::fixtures::{Scratch, write_images};

/// The command on the small data set, which has 72 images in three splits.
const EMBED: [&str; 9] = ["embed", "--model", "model", "--data", "data", "--part", "5", "--batch", "3"];

/// An image's answers.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    class: i32,
    name: String,
    probability: f64,
    features: Vec<f32>,
    gmacs: f64,
    certified: Option<f64>,
}

/// The answers in `folder`, by split and key; each occurs once.
fn answers(folder: &Path) -> BTreeMap<(String, String), Answer> {
    let mut all = BTreeMap::new();
    for path in parts(folder) {
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        for row in reader.get_row_iter(None).unwrap().map(Result::unwrap) {
            let list = row.get_list(6).unwrap();
            let answer = Answer {
                class: row.get_int(3).unwrap(),
                name: row.get_string(4).unwrap().clone(),
                probability: row.get_double(5).unwrap(),
                features: list.elements().iter().map(float).collect(),
                gmacs: row.get_double(7).unwrap(),
                certified: row.get_double(8).ok(),
            };
            let key = (row.get_string(0).unwrap().clone(), row.get_string(2).unwrap().clone());
            assert!(all.insert(key.clone(), answer).is_none(), "{key:?} twice");
        }
    }
    all
}

fn float(field: &parquet::record::Field) -> f32 {
    let parquet::record::Field::Float(value) = field else { panic!("{field:?} is no float") };
    *value
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut parts: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|e| e == "parquet")).collect();
    parts.sort();
    parts
}

#[test]
fn every_image_is_answered_once_as_predict_answers_it() {
    let scratch = Scratch::new();
    let run = scratch.run(&[&EMBED[..], &["--out", "out", "--policy", "cls-attention:0.7"]].concat());
    assert_eq!(run.good().lines().last(), Some("all 16 parts are there"));
    assert!(run.stderr().contains("image 72/72: ") && run.stderr().contains(" left"), "{}", run.stderr());
    let found = answers(&scratch.path("out"));
    let splits: Vec<&str> = found.keys().map(|(split, _)| split.as_str()).collect();
    let count = |name| splits.iter().filter(|split| **split == name).count();
    assert_eq!((count("train"), count("validation"), count("test")), (36, 18, 18));

    let predict = ["predict", "data/test", "--model", "model", "--policy", "cls-attention:0.7", "--json"];
    let classes = scratch.run(&predict).json();
    let features = scratch.run(&[&predict[..], &["--features", "pooled"]].concat()).json();
    assert_eq!(classes.len(), 18);
    for (classes, features) in classes.iter().zip(&features) {
        let key = classes["image"].as_str().unwrap().strip_prefix("data/test/").unwrap();
        let answer = &found[&("test".to_owned(), key.to_owned())];
        let best = &classes["classes"][0];
        assert_eq!(
            (Some(i64::from(answer.class)), &*answer.name),
            (best["class"].as_i64(), best["name"].as_str().unwrap())
        );
        assert!((answer.probability - best["probability"].as_f64().unwrap()).abs() < 1e-5);
        assert_eq!(Some(answer.gmacs), classes["gmacs"].as_f64());
        assert_eq!(answer.certified, None, "nothing is certified of a hand-made method");
        let wanted = features["pooled"].as_array().unwrap();
        assert_eq!(answer.features.len(), wanted.len());
        for (value, wanted) in answer.features.iter().zip(wanted) {
            assert!((f64::from(*value) - wanted.as_f64().unwrap()).abs() < 1e-4);
        }
    }
}

#[test]
fn a_policys_certificate_is_in_every_row() {
    let scratch = Scratch::new();
    scratch.train(&["--max-drop", "60", "--confidence", "0.5"]).good();
    let run = |out: &str, more: &[&str]| {
        let args = [&EMBED[..], &["--policy", "run/policy", "--split", "test", "--out", out], more].concat();
        scratch.run(&args).good();
        answers(&scratch.path(out))
    };
    let bound = |found: &BTreeMap<_, Answer>| {
        let bounds: HashSet<Option<u64>> = found.values().map(|a| a.certified.map(f64::to_bits)).collect();
        assert_eq!((bounds.len(), found.len()), (1, 18));
        bounds.into_iter().next().flatten().map(f64::from_bits)
    };
    let certified = bound(&run("policy", &[])).expect("the policy is calibrated");
    assert!((0.0..=60.0).contains(&certified), "{certified}");
    assert_eq!(bound(&run("uncertified", &["--read-out", "threshold=0.123"])), None);
    assert_eq!(bound(&run("bf16", &["--dtype", "bf16"])), None, "calibrated in f32");
}

#[test]
fn processes_that_are_killed_at_random_write_what_one_writes() {
    let scratch = Scratch::new();
    scratch.run(&[&EMBED[..], &["--out", "many", "--threads", "1"]].concat()).good();
    std::fs::rename(scratch.path("many"), scratch.path("one")).unwrap();
    let bytes = |out: &str| -> BTreeMap<PathBuf, Vec<u8>> {
        let named = |path: PathBuf| (path.file_name().unwrap().into(), std::fs::read(&path).unwrap());
        parts(&scratch.path(out)).into_iter().map(named).collect()
    };
    let one = bytes("one");
    assert_eq!((one.len(), answers(&scratch.path("one")).len()), (16, 72));

    // Tiny parts, so that kills hit between them: a process takes some 100 ms.
    let mut random = StdRng::seed_from_u64(7);
    let start = |shard: String| -> Child {
        let more = ["--out", "many", "--threads", "2", "-q", "--shard", &shard];
        let args = [&EMBED[..], &more].concat();
        scratch.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (mut kills, begun) = (0, Instant::now());
    // Processes come and go, in changing numbers, until all is there. Some are started twice.
    while !scratch.path("many").is_dir() || parts(&scratch.path("many")).len() < 16 {
        assert!(begun.elapsed() < Duration::from_secs(120), "{kills} kills, and never done");
        let of = random.random_range(1..=4);
        let mut children: Vec<Child> = (0..of).map(|index| start(format!("{index}/{of}"))).collect();
        children.push(start(format!("0/{of}")));
        std::thread::sleep(Duration::from_millis(random.random_range(5..120)));
        for mut child in children {
            if random.random_bool(0.7) {
                child.kill().unwrap();
                kills += 1;
            }
            child.wait().unwrap();
        }
    }
    assert!(kills > 0, "nothing was killed");
    let many = bytes("many");
    let differing: Vec<&PathBuf> = one.keys().filter(|part| many.get(*part) != one.get(*part)).collect();
    assert!(differing.is_empty() && many.len() == one.len(), "after {kills} kills: {differing:?}");
    assert_eq!(answers(&scratch.path("many")), answers(&scratch.path("one")));
    let again = scratch.run(&[&EMBED[..], &["--out", "many", "--json"]].concat()).json();
    assert_eq!((&again[0]["written"], &again[0]["images"]), (&Value::from(0), &Value::from(72)));
}

#[test]
fn shards_write_their_own_parts_only() {
    let scratch = Scratch::new();
    let shard = |shard: &str| {
        let run = scratch.run(&[&EMBED[..], &["--out", "out", "--shard", shard, "--json"]].concat());
        run.json().remove(0)
    };
    let first = shard("0/3");
    assert_eq!((&first["parts"], &first["present"]), (&Value::from(5), &Value::from(5)));
    assert_eq!(shard("2/3")["present"], 11);
    let last = shard("1/3");
    assert_eq!((&last["written"], &last["present"], &last["all_parts"]), (&5.into(), &16.into(), &16.into()));
    assert_eq!(answers(&scratch.path("out")).len(), 72);
}

#[test]
fn a_bad_image_ends_the_work_or_is_left_out_and_recorded() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("data/test/green/test01.png"), b"no image").unwrap();
    let args = [&EMBED[..], &["--out", "out", "-q"]].concat();
    scratch.run(&args).refused(&["test01.png", "cannot be decoded"]);
    let before = parts(&scratch.path("out")).len();
    assert!(before > 0, "the parts before it are kept");
    let skip = scratch.run(&[&args[..], &["--on-bad-image", "skip", "--json"]].concat()).json();
    assert_eq!((&skip[0]["left_out"], &skip[0]["images"]), (&Value::from(1), &Value::from(71)));
    assert_eq!(skip[0]["written"], 16 - before);
    assert!(skip[0]["first_left_out"][0].as_str().unwrap().contains("test01.png"));
    let left: Vec<_> =
        parts(&scratch.path("out")).iter().flat_map(|part| contents(part).unwrap().1).collect();
    assert_eq!((left.len(), left[0].index, &*left[0].key), (1, 7, "green/test01.png"));
    assert_eq!(answers(&scratch.path("out")).len(), 71);
}

#[test]
fn an_interruption_keeps_the_parts_and_the_same_command_goes_on() {
    let scratch = Scratch::empty();
    crate::fixtures::write_checkpoint(&scratch.path("model"), 1);
    write_images(&scratch.path("data"), "many", 700);
    let args =
        ["embed", "--model", "model", "--data", "data", "--out", "out", "--part", "7", "--batch", "7", "-q"];
    let child = scratch.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let waiting = Instant::now();
    while !scratch.path("out").is_dir() || parts(&scratch.path("out")).is_empty() {
        assert!(waiting.elapsed() < Duration::from_secs(60), "no part in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let run = crate::fixtures::Run(child.wait_with_output().unwrap());
    assert_eq!(run.0.status.code(), Some(130), "{}", run.stderr());
    assert!(run.stderr().contains("run the same command again to go on"), "{}", run.stderr());
    let kept = parts(&scratch.path("out")).len();
    assert!((1..300).contains(&kept), "{kept}");
    let rest = scratch.run(&[&args[..], &["--json"]].concat()).json();
    assert_eq!((&rest[0]["written"], &rest[0]["images"]), (&Value::from(300 - kept), &Value::from(2100)));
}

#[test]
fn what_cannot_be_embedded_is_refused_in_one_line() {
    let scratch = Scratch::new();
    let run = |more: &[&str]| scratch.run(&[&EMBED[..], more].concat());
    run(&["--out", "out", "--answer", "classes"]).good();
    run(&["--out", "out", "--answer", "both", "-q"]).refused(&[
        "belongs to another command",
        "features",
        "vitrim embed",
    ]);
    run(&["--out", "out", "--answer", "classes", "--dtype", "bf16", "-q"])
        .refused(&["dtype is \"f32\" and not \"bf16\""]);
    std::fs::write(scratch.path("data/test/red/new.png"), b"x").unwrap();
    run(&["--out", "out", "--answer", "classes", "-q"]).refused(&["whose images have other names"]);
    run(&["--out", "data", "-q"]).refused(&["holds other files", "give an empty folder"]);
    run(&["--out", "x", "--features", "tokens", "-q"])
        .refused(&["different numbers of tokens", "vitrim predict"]);
    run(&["--out", "x", "--features", "embedding", "-q"]).refused(&["no space of texts"]);
    let empty = ["embed", "--model", "model", "--data", "data", "--out", "x", "--part", "0", "-q"];
    scratch.run(&empty).refused(&["--part 0"]);
    let shard = run(&["--out", "x", "--shard", "3/3"]);
    assert_eq!(shard.0.status.code(), Some(2));
    assert!(shard.stderr().contains("give I/N with I from 0 to N - 1"), "{}", shard.stderr());
    let stream = ["embed", "--model", "model", "--data", "-", "--out", "x", "-q"];
    scratch.run(&stream).refused(&["is read front to back"]);
    std::fs::write(scratch.path("out/test-00000-of-00004.parquet"), b"PAR1").unwrap();
    std::fs::remove_file(scratch.path("data/test/red/new.png")).unwrap();
    run(&["--out", "out", "--answer", "classes", "-q"])
        .refused(&["damaged", "the same command writes it again"]);
}

#[test]
fn the_xargs_job_in_contrib_writes_every_part() {
    let scratch = Scratch::new();
    let job = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/embed-xargs.sh");
    let program = Path::new(env!("CARGO_BIN_EXE_vitrim")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(job);
    command.args(["model", "data", "out", "--part", "5"]).current_dir(scratch.path("")).env("PATH", path);
    crate::fixtures::Run(command.output().unwrap()).good();
    assert_eq!(answers(&scratch.path("out")).len(), 72);
}
