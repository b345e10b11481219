//! A run as a page: complete, incomplete, damaged; and as a browser shows it.

use std::path::PathBuf;

use image::{Rgb, RgbImage};
use vitrim_measure::Loaded;
use vitrim_measure::evaluate::{Evaluation, MethodReport};
use vitrim_measure::front::FrontPoint;
use vitrim_measure::metrics::CostSpread;
use vitrim_measure::seen::Overlap;
use vitrim_measure::speed::{Rate, SpeedUp};
use vitrim_report::Findings;
use vitrim_report::findings::{Group, MethodFront, Pictured};
use vitrim_report::picture::{captions, kept_tokens};

use crate::browser::Browser;
use crate::fixtures::Scratch;

const IMAGES: usize = 400;
/// What a careless page would take for its own.
const TITLE: &str = "<b>shapes</b> & \"scenes\"";

#[test]
fn a_report_opens_in_a_browser_and_holds_all_it_shows() {
    let scratch = Scratch::new();
    scratch.train(&[]).good();
    let mut browser = Browser::open();
    let mut check = |name: &str| {
        let faults = browser.as_mut().map_or(Vec::new(), |browser| browser.faults(&scratch.path(name)));
        assert!(faults.is_empty(), "{name}: {faults:#?}");
    };

    let run = scratch.run(&["report", "run"]);
    assert_eq!(run.good(), "run/report.html\n");
    assert!(run.stderr().contains("nothing is evaluated yet"), "{}", run.stderr());
    let html = std::fs::read_to_string(scratch.path("run/report.html")).unwrap();
    assert!(plain(&html).contains("vitrim eval --model MODEL --data data --policy run/policy --report run"));
    check("run/report.html");
    // The printed command is that of this very run, in full.
    let command = std::fs::read_to_string(scratch.path("run/command.txt")).unwrap();
    assert!(plain(&html).contains(command.trim_end()), "no `{command}`");
    let words = shlex::split(&command).unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(words[0], "vitrim");
    let again = scratch.run(&words[1..]);
    again.good();
    assert!(again.stderr().contains("run has all 3 updates; only calibrating"), "{}", again.stderr());

    write_findings(&scratch, "run");
    let run = scratch.run(&["report", "run", "--json"]);
    let written = &run.json()[0];
    assert_eq!(written["report"], "run/report.html");
    let plots: Vec<PathBuf> =
        written["plots"].as_array().unwrap().iter().map(|p| scratch.path(p.as_str().unwrap())).collect();
    for plot in &plots {
        match plot.extension().unwrap().to_str().unwrap() {
            "svg" => assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg ")),
            _ => assert_eq!(image::open(plot).unwrap().width(), 1200, "{}", plot.display()),
        }
    }
    let html = std::fs::read_to_string(scratch.path("run/report.html")).unwrap();
    // Two fronts of two panels, nine curves, cost twice, three stages; each as SVG and PNG.
    assert_eq!((html.matches("<svg ").count(), plots.len()), (18, 36));
    assert_eq!(html.matches("<img ").count(), 3);
    assert!(html.contains("<h1>&lt;b&gt;shapes&lt;/b&gt; &amp; &quot;scenes&quot;</h1>"), "{html:.2000}");
    let text = plain(&html);
    for words in [
        "1.50x the dense model's images/s at batch 32 for a drop of 0.25 pp [-0.60, 1.10] in top-1",
        "400 test images that the policy never saw",
        "Spearman's rank correlation of size and cost is 1.00",
        "images_per_update = 8",
        "measured by <hand>",
        "frozen, in int8",
    ] {
        assert!(text.contains(words), "no `{words}`");
    }
    assert!(!html.contains("<script") && !html.contains("https://"));
    check("run/report.html");
}

#[test]
fn a_run_of_the_paper_has_curves_without_beta() {
    let scratch = Scratch::new();
    let paper = ["--preset", "paper", "--no-calibrate"];
    scratch.train(&paper).good();
    scratch.run(&["report", "run", "--quiet"]).good();
    let html = std::fs::read_to_string(scratch.path("run/report.html")).unwrap();
    let text = plain(&html);
    assert!(text.contains("Not in this log: D to the dense prediction, nats"), "{text}");
    assert!(text.contains("The policy is not calibrated"), "{text}");
    assert!(scratch.path("run/plots/curve-sampled-drop.svg").is_file());
    if let Some(mut browser) = Browser::open() {
        assert_eq!(browser.faults(&scratch.path("run/report.html")), [""; 0]);
    }
}

#[test]
fn what_is_no_run_or_damaged_is_refused_in_one_line() {
    let scratch = Scratch::new();
    scratch.run(&["report", "nowhere"]).refused(&["nowhere", "no such folder", "vitrim train"]);
    scratch.run(&["report", "data"]).refused(&["data", "neither log.jsonl nor policy/"]);

    let folder = scratch.path("run");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("log.jsonl"), "{}\n").unwrap();
    scratch.run(&["report", "run"]).refused(&["run/log.jsonl: line 1 is no update"]);
    std::fs::write(folder.join("log.jsonl"), "").unwrap();
    scratch.run(&["report", "run"]).good();
    let good = std::fs::read(folder.join("report.html")).unwrap();

    write_findings(&scratch, "run");
    std::fs::remove_file(folder.join("gallery/cheap.png")).unwrap();
    scratch.run(&["report", "run"]).refused(&["run/gallery/cheap.png", "cannot be read", "evaluate the run"]);
    std::fs::write(folder.join("evaluation.json"), "{\"title\": 3}").unwrap();
    scratch.run(&["report", "run"]).refused(&["run/evaluation.json", "title", "evaluate the run again"]);
    assert_eq!(std::fs::read(folder.join("report.html")).unwrap(), good);

    let mut contradictory = findings();
    contradictory.costs.pop();
    let error = contradictory.write(&folder).unwrap_err().to_string();
    assert!(error.contains("costs has 399 values for 400 images"), "{error}");
}

#[test]
fn the_check_of_a_page_can_fail() {
    let Some(mut browser) = Browser::open() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut faults = |body: &str| {
        let path = folder.path().join("page.html");
        let head = r#"<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">"#;
        std::fs::write(&path, format!("<!doctype html>{head}<body style='margin: 0'>{body}")).unwrap();
        browser.faults(&path)
    };
    assert_eq!(faults("<p>fine</p><svg width='9' height='9'></svg>"), [""; 0]);
    let cases = [
        ("<script>console.error('no')</script>", "console.error"),
        ("<script>throw new Error('no')</script>", "exception"),
        ("<div style='width: 401px'>wide</div>", "401 px wide in a viewport of 400 px"),
        ("<img src='data:image/png;base64,AAAA'>", "broken image"),
        ("<svg width='0' height='0'></svg>", "drawing without a size"),
        ("<img src='http://127.0.0.1:9/x.png'>", "request: http://127.0.0.1:9/x.png"),
    ];
    for (body, fault) in cases {
        let found = faults(body);
        assert!(found.iter().any(|found| found.contains(fault)), "{body}: {found:?}");
    }
}

/// The text of a page, without tags.
fn plain(html: &str) -> String {
    let mut text = String::new();
    let mut in_tag = false;
    for letter in html.chars() {
        match letter {
            '<' => in_tag = true,
            '>' => in_tag = false,
            letter if !in_tag => text.push(letter),
            _ => {}
        }
    }
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Findings and their pictures, in a run folder.
fn write_findings(scratch: &Scratch, run: &str) {
    let gallery = scratch.path(run).join("gallery");
    std::fs::create_dir_all(&gallery).unwrap();
    let image = RgbImage::from_fn(32, 32, |x, y| Rgb([(x * 7) as u8, (y * 7) as u8, 90]));
    for (name, kept) in [("cheap", 1), ("typical", 8), ("expensive", 15)] {
        let kept = vec![(0..kept).collect::<Vec<_>>(); 3];
        let picture = kept_tokens(&image, 8, &kept, &captions(&kept, 16)).unwrap();
        picture.save(gallery.join(format!("{name}.png"))).unwrap();
    }
    findings().write(&scratch.path(run)).unwrap();
}

fn findings() -> Findings {
    let pictured = |group: Group| Pictured {
        group,
        picture: PathBuf::from(format!("gallery/{group}.png")),
        caption: "a shape & a name".into(),
        cost: 0.5,
    };
    Findings {
        title: TITLE.into(),
        command: "measured by <hand>".into(),
        command_trains: false,
        model: "model".into(),
        dtype: Some("int8".into()),
        data: "data".into(),
        split: "test".into(),
        seen: Some(Overlap { training: Some(0), calibration: Some(0) }),
        read_out: "threshold=0.5".into(),
        machine: "a desk, 2 threads".into(),
        seconds: vec![("training".into(), 81.2)],
        evaluation: Evaluation {
            images: IMAGES,
            labelled: IMAGES,
            bad_images: 0,
            dense_top1: Some(90.0),
            dense_gmacs: 0.2,
            methods: ["policy", "random", "cls-attention"].map(method).to_vec(),
        },
        fronts: ["policy", "random", "cls-attention"].map(front).to_vec(),
        grid: [4, 4],
        stages: vec![1, 2, 3],
        keep_maps: vec![(0..16).map(|i| i as f32 / 16.0).collect(); 3],
        costs: (0..IMAGES).map(|i| 0.4 + 0.5 * i as f32 / IMAGES as f32).collect(),
        object_sizes: Some((0..IMAGES).map(|i| 8.0 + i as f32 / 20.0).collect()),
        gallery: Group::ALL.map(pictured).to_vec(),
    }
}

fn method(name: &str) -> MethodReport {
    let rate = |images_per_s: f64| Rate { images_per_s, p50_ms: 1.0, p90_ms: 1.5, p99_ms: 2.0 };
    let speed = |batch: usize| SpeedUp {
        batch,
        dense: rate(1000.0),
        pruned: rate(1500.0),
        speed_up: 1.5,
        rounds: 5,
        images: 64,
    };
    MethodReport {
        method: name.into(),
        images: None,
        top1: Some(89.75),
        drop_pp: Some(0.25),
        interval_pp: (-0.6, 1.1),
        disagreement: Some(1.5),
        drift: None,
        fidelity: 0.01,
        keep_ratio: vec![0.9, 0.7, 0.4],
        gmacs: 0.12,
        cost: 0.6,
        cost_spread: CostSpread { p10: 0.5, p50: 0.6, p90: 0.7 },
        speed: vec![speed(1), speed(32)],
    }
}

fn front(name: &str) -> MethodFront {
    let point = |i: usize| FrontPoint {
        setting: 0.1 * i as f64,
        cost: 1.0 - 0.1 * i as f64,
        gmacs: 0.2 - 0.02 * i as f64,
        images: IMAGES,
        dense_only_right: i * i,
        pruned_only_right: i,
        drift: None,
        fidelity: 0.001 * (i * i) as f64,
        keep_ratio: vec![1.0 - 0.1 * i as f64; 3],
    };
    MethodFront { method: name.into(), points: (0..5).map(point).collect() }
}

#[test]
fn eval_gathers_what_a_report_shows() {
    let scratch = Scratch::new();
    scratch.train(&[]).good();
    let eval = ["eval", "--model", "model", "--data", "data", "--policy", "run/policy", "--no-speed"];
    let args = [&eval[..], &["--read-out", "top-r=0.5", "--report", "run"]].concat();
    let printed = scratch.run(&args).good();
    let findings = Findings::read(&scratch.path("run")).unwrap().unwrap();
    // What the table says is what the page says.
    assert_eq!(printed, scratch.run(&[&eval[..], &["--read-out", "top-r=0.5"]].concat()).good());
    assert_eq!(findings.evaluation.images, 18);
    assert_eq!(findings.dtype.as_deref(), Some("f32"));
    let policy = &findings.evaluation.methods[0];
    let mean = findings.costs.iter().map(|cost| f64::from(*cost)).sum::<f64>() / 18.0;
    assert!((mean - policy.cost).abs() < 1e-6, "{mean} {}", policy.cost);
    for (map, ratio) in findings.keep_maps.iter().zip(&policy.keep_ratio) {
        let mean = map.iter().map(|share| f64::from(*share)).sum::<f64>() / map.len() as f64;
        assert!((mean - ratio).abs() < 1e-6, "{mean} {ratio}");
    }
    assert_eq!(findings.keep_maps.len(), 3);
    assert_eq!(findings.object_sizes, None);
    let methods: Vec<&str> = findings.fronts.iter().map(|front| front.method.as_str()).collect();
    assert_eq!(methods, ["policy", "random", "cls-attention"]);
    assert!(!findings.gallery.is_empty());
    for pictured in &findings.gallery {
        assert!(image::open(scratch.path("run").join(&pictured.picture)).unwrap().width() > 224);
    }
    let html = std::fs::read_to_string(scratch.path("run/report.html")).unwrap();
    assert!(
        plain(&html)
            .contains("--policy run/policy --read-out top-r=0.5 --split test --no-speed --report run")
    );

    let scratch = Scratch::new();
    scratch.train(&["--no-calibrate"]).good();
    scratch.run(&[&eval[..], &["--report", "run"]].concat()).refused(&["not calibrated", "vitrim calibrate"]);
}

#[test]
fn a_shift_is_in_every_figure_of_a_report() {
    let scratch = Scratch::new();
    scratch.train(&[]).good();
    let eval = ["eval", "--model", "model", "--data", "data", "--policy", "run/policy", "--no-speed"];
    let corrupt = ["--corrupt", "brightness-severe", "--methods", "policy"];
    let mut shades = Vec::new();
    for more in [&corrupt[..], &corrupt[2..]] {
        scratch.run(&[&eval[..], more, &["--report", "run"]].concat()).good();
        let findings = Findings::read(&scratch.path("run")).unwrap().unwrap();
        // The front's points are those of an evaluation of the same images at the same threshold.
        for point in &findings.fronts[0].points {
            let read_out = format!("threshold={}", point.setting);
            let alone = scratch.run(&[&eval[..], more, &["--read-out", &read_out, "--json"]].concat());
            let policy = &alone.json()[0]["methods"][0];
            assert_eq!(policy["gmacs"].as_f64().unwrap(), point.gmacs, "{more:?}");
            assert_eq!(policy["fidelity"].as_f64().unwrap(), point.fidelity, "{more:?}");
        }
        let shade = |picture: &PathBuf| {
            let picture = image::open(scratch.path("run").join(picture)).unwrap().into_rgb8();
            picture.as_raw().iter().map(|value| f64::from(*value)).sum::<f64>()
                / picture.as_raw().len() as f64
        };
        let gallery = findings.gallery.iter();
        shades.push(gallery.map(|pictured| shade(&pictured.picture)).fold(0.0, f64::max));
    }
    assert!(shades[0] > shades[1] + 3.0, "the pictures are of the images as they were: {shades:?}");
}

/// The gallery shows the decisions of the evaluation, on a crop that was cut from the image once.
#[test]
fn the_gallery_shows_what_was_evaluated() {
    let scratch = Scratch::new();
    let config = scratch.path("model/config.json");
    let cropping = std::fs::read_to_string(&config).unwrap().replace("\"crop_pct\":1.0", "\"crop_pct\":0.5");
    assert!(cropping.contains("0.5"), "{cropping}");
    std::fs::write(&config, cropping).unwrap();
    scratch.train(&[]).good();
    let loaded = Loaded::open(&scratch.path("model")).unwrap();
    for image in ["blue/test00.png", "red/test03.png"] {
        let alone = scratch.path("alone/test").join(image);
        std::fs::create_dir_all(alone.parent().unwrap()).unwrap();
        std::fs::copy(scratch.path("data/test").join(image), &alone).unwrap();
        let eval = ["eval", "--model", "model", "--data", "alone", "--policy", "run/policy", "--no-speed"];
        let more = ["--read-out", "threshold=0.6", "--methods", "policy", "--report", "run"];
        scratch.run(&[&eval[..], &more].concat()).good();
        let findings = Findings::read(&scratch.path("run")).unwrap().unwrap();
        let kept = |map: &Vec<f32>| (0..map.len()).filter(|place| map[*place] > 0.5).collect::<Vec<_>>();
        let kept: Vec<Vec<usize>> = findings.keep_maps.iter().map(kept).collect();
        assert!(kept[2].len() < loaded.spec.num_patches(), "nothing was pruned: {kept:?}");
        let crop = loaded.transform.cropped(&image::open(&alone).unwrap().into_rgb8());
        let lines = captions(&kept, loaded.spec.num_patches());
        let expected = kept_tokens(&crop, loaded.spec.patch_size as u32, &kept, &lines).unwrap();
        let [pictured] = findings.gallery.as_slice() else { panic!("{:?}", findings.gallery.len()) };
        let drawn = image::open(scratch.path("run").join(&pictured.picture)).unwrap().into_rgb8();
        assert!(drawn == expected, "{image}: another picture than that of {kept:?}");
        std::fs::remove_dir_all(scratch.path("alone")).unwrap();
    }
}

#[test]
fn a_report_says_which_images_the_policy_saw() {
    let scratch = Scratch::new();
    scratch.train(&[]).good();
    let eval = ["eval", "--model", "model", "--data", "data", "--policy", "run/policy", "--no-speed"];
    let eval = [&eval[..], &["--methods", "policy", "--report", "run", "--split"]].concat();
    let check = |split: &str, seen: Option<(usize, usize)>, words: &str| {
        scratch.run(&[&eval[..], &[split]].concat()).good();
        let findings = Findings::read(&scratch.path("run")).unwrap().unwrap();
        let counts = findings.seen.map(|seen| (seen.training.unwrap_or(0), seen.calibration.unwrap_or(0)));
        assert_eq!(counts, seen, "{split}");
        let html = plain(&std::fs::read_to_string(scratch.path("run/report.html")).unwrap());
        assert!(html.contains(words), "no `{words}` in {html}");
    };
    check("test", Some((0, 0)), "18 test images that the policy never saw");
    check("calibration", Some((0, 18)), "of which the policy saw 18 in calibration");
    check("train", Some((36, 0)), "of which the policy saw 36 in training");
    // A split may be called test, and have images of the training.
    let copy = |name: &str| {
        let from = scratch.path("data/train/blue").join(name);
        std::fs::copy(from, scratch.path("data/test/blue").join(format!("again-{name}"))).unwrap();
    };
    copy("train00.png");
    copy("train01.png");
    check("test", Some((2, 0)), "20 images of the test split, of which the policy saw 2 in training");
    // A policy of before there was a record.
    std::fs::remove_file(scratch.path("run/policy/seen.safetensors")).unwrap();
    check("test", None, "the policy has no record of what it saw");
    // What was calibrated again knows of that alone.
    let again = ["calibrate", "--model", "model", "--data", "data", "--policy", "run/policy"];
    scratch.run(&again).good();
    check("test", Some((0, 0)), "what it was trained on is not on record");
}
