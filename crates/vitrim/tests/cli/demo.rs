//! The demo, interrupted and continued, and its backbone.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vitrim::bundled;
use vitrim_data::{Dataset, Loader, LoaderOptions, Order};
use vitrim_measure::Loaded;
use vitrim_report::Findings;
use vitrim_vit::PixelBatch;

use crate::browser::Browser;
use crate::fixtures::{Run, Scratch};

#[test]
fn the_quick_demo_survives_an_interruption_and_holds_what_it_promises() {
    let scratch = Scratch::new();
    let mut demo = scratch.command(&["demo", "--quick", "--out", "demo"]);
    let child = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let waiting = Instant::now();
    let log = || std::fs::read_to_string(scratch.path("demo/log.jsonl")).unwrap_or_default();
    while log().lines().count() < 2 {
        assert!(waiting.elapsed() < Duration::from_secs(120), "no update in two minutes");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Twice at once, as Slurm does: the second one must not end the program before what is done is saved.
    let process = child.id().to_string();
    for signal in ["-INT", "-TERM"] {
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }
    let run = Run(child.wait_with_output().unwrap());
    assert_eq!(run.0.status.code(), Some(130), "{}", run.stderr());
    assert!(run.stderr().trim_end().ends_with("run the same command again to go on"), "{}", run.stderr());
    let before = log();

    let run = scratch.run(&["demo", "--quick", "--out", "demo", "--json"]);
    let printed = &run.json()[0];
    assert!(run.stderr().contains("going on in demo from update "), "{}", run.stderr());
    assert!(log().starts_with(&before), "what was learned is not learned again");
    assert_eq!(printed["report"], "demo/report.html");

    let findings = Findings::read(&scratch.path("demo")).unwrap().unwrap();
    let of = |name: &str| findings.evaluation.methods.iter().find(|method| method.method == name).unwrap();
    let (policy, random) = (of("policy"), of("random"));
    assert!(policy.cost < 0.98, "{}", policy.cost);
    // The calibration promises 0.4 pp at confidence 0.9; this many images measure it to +- 0.7 pp.
    assert!(policy.interval_pp.0 <= 0.4, "{policy:?}");
    assert_eq!((policy.images, random.images), (None, Some(1_600)), "hand-made methods see a part");
    // At a tenth to a fifth of the compute gone; at the full demo's cost, random loses ten.
    assert!(random.drop_pp.unwrap() > policy.drop_pp.unwrap() + 1.0, "{random:?}");
    assert_eq!(findings.object_sizes.as_ref().map(Vec::len), Some(findings.evaluation.images));
    assert_eq!((findings.gallery.len(), findings.fronts.len()), (9, 3));
    let points: Vec<usize> = findings.fronts.iter().map(|front| front.points.len()).collect();
    assert!(
        points.iter().all(|&points| points >= 5),
        "a front is more than what was calibrated over: {points:?}"
    );

    if let Some(mut browser) = Browser::open() {
        let faults = browser.faults(&scratch.path("demo/report.html"));
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

#[test]
fn the_bundled_backbone_is_as_good_as_its_card_says() {
    let folder = tempfile::tempdir().unwrap();
    bundled::unpack(folder.path()).unwrap();
    let card = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
    let line = card.lines().find(|line| line.starts_with("| top-1 on 10,000 test scenes |")).unwrap();
    let claimed: f64 = line.split('|').nth(2).unwrap().trim().trim_end_matches(" %").parse().unwrap();
    let size = std::fs::metadata(folder.path().join("model.safetensors")).unwrap().len();
    assert!(size <= 4_000_000, "{size} bytes");

    let loaded = Loaded::open(folder.path()).unwrap();
    let options = LoaderOptions { limit: Some(2_000), ..LoaderOptions::default() };
    let scenes = Dataset::scenes("test").unwrap();
    let (mut right, mut images) = (0, 0);
    for batch in Loader::new(&scenes, Order::Sequential, &loaded.transform, options).unwrap() {
        let batch = batch.unwrap();
        let logits = loaded.model.dense_logits(PixelBatch::new(&batch.pixels, batch.len())).unwrap();
        let found = logits.argmax().into_iter().zip(&batch.labels);
        right += found.filter(|(class, label)| **label == Some(*class as u32)).count();
        images += batch.len();
    }
    let (share, claimed) = (right as f64 / images as f64, claimed / 100.0);
    // Three standard deviations of a sample of this size.
    let spread = 3.0 * (claimed * (1.0 - claimed) / images as f64).sqrt();
    assert!((share - claimed).abs() <= spread, "{share} where the card says {claimed}");
}
