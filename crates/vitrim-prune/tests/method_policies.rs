//! A hand-made method as a policy folder: what was written is read, what could not run is refused.

#[expect(dead_code, reason = "other tests use the rest")]
mod toy;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use vitrim_prune::policy::{BackboneId, MetricHeads, Nonlinearity, Recipe};
use vitrim_prune::{AnyPolicy, Dial, Method, MethodPolicy, Policy, ReadOut, run};
use vitrim_random::uniform;
use vitrim_vit::{PixelBatch, Tensors, VitSpec, cost};

fn id(spec: &VitSpec) -> BackboneId {
    BackboneId::of(spec, &Tensors::random(spec, 1)).unwrap()
}

/// `name`, fitted to three images of noise.
fn policy(name: &str) -> MethodPolicy {
    let (spec, method) = (toy::spec(true), name.parse::<Method>().unwrap());
    let (model, pixels) = (toy::backbone(&spec), toy::pixels(&spec, 3));
    let fit = method
        .is_fitted()
        .then(|| method.fit(&model, PixelBatch::new(&pixels, 3), &mut |_, _| Ok(())).unwrap());
    MethodPolicy::new(&id(&spec), method, fit.map_or(Vec::new(), |fit| fit.points().to_vec()))
}

fn saved(policy: &MethodPolicy) -> TempDir {
    let folder = TempDir::new().unwrap();
    AnyPolicy::Method(policy.clone()).save(folder.path()).unwrap();
    folder
}

#[test]
fn every_method_is_read_as_it_was_written_and_costs_what_it_is_asked_for() {
    let spec = toy::spec(true);
    let (model, pixels) = (toy::backbone(&spec), toy::pixels(&spec, 3));
    let macs = |policy: &AnyPolicy| -> f64 {
        let pruner = policy.pruner(&spec).unwrap();
        let out = run(&model, pruner.as_ref(), PixelBatch::new(&pixels, 3), &[0, 1, 2]).unwrap();
        out.macs.iter().sum::<u64>() as f64 / 3.0 / cost::dense_macs(&spec) as f64
    };
    for method in Method::all().filter(|method| *method != Method::Policy) {
        let mut written = policy(method.name());
        assert!((0.0..0.95).contains(&written.least_cost(&spec).unwrap()), "{method}");
        written.calibration = Some(json!({"any": 1.5}));
        let mut dense = AnyPolicy::Method(written.clone());
        assert_eq!((dense.dial(), macs(&dense)), (Dial::Cost(1.0), 1.0), "{method}: every token stays");
        dense.set(Dial::Cost(0.0)).unwrap();
        let least = macs(&dense);
        assert!(least < 0.95, "{method}: {least}");

        written.cost = 0.5 + 0.5 * least;
        let folder = saved(&written);
        let read = AnyPolicy::open(folder.path(), &spec, &written.backbone).unwrap();
        assert_eq!(read, AnyPolicy::Method(written.clone()), "{method}");
        assert_eq!(read.identity(), written.identity());
        assert_ne!(read.identity(), dense.identity());
        let between = macs(&read);
        assert!(least < between && between < 1.05, "{method}: {least} {between}");
        let stages = read.drop_stages(&spec).unwrap();
        assert!(
            stages.windows(2).all(|w| w[0] < w[1]) && stages.iter().all(|l| *l < spec.depth),
            "{stages:?}"
        );
    }
}

#[test]
fn each_kind_has_its_own_dial() {
    let spec = toy::spec(true);
    let mut method = AnyPolicy::Method(policy("dtome"));
    let mut learned = AnyPolicy::from(toy::policy(&spec, toy::FULL, Nonlinearity::Gelu));
    let (cost, threshold) = (Dial::Cost(0.7), Dial::ReadOut(ReadOut::Threshold { threshold: 0.7 }));
    assert_eq!((method.at_setting(0.7), learned.at_setting(0.7)), (cost.clone(), threshold.clone()));
    assert_eq!((cost.setting(), threshold.setting()), (Some(0.7), Some(0.7)));
    assert_eq!(method.parse_dial("cost=0.7").unwrap(), cost);
    assert_eq!(learned.parse_dial("threshold=0.7").unwrap(), threshold);
    for text in ["cost=1.5", "cost=x", "cost", "threshold=0.5", "cost=NaN"] {
        let error = method.parse_dial(text).unwrap_err().to_string();
        assert!(error.contains("dtome") && error.contains("cost=0.7"), "{error}");
    }
    assert!(learned.parse_dial("cost=0.7").is_err());
    assert!(method.set(threshold.clone()).is_err() && method.pruner_at(&spec, &threshold).is_err());
    assert!(learned.set(cost.clone()).is_err() && learned.pruner_at(&spec, &cost).is_err());
    let folder = Path::new("my/policy");
    assert!(learned.learned(folder).is_ok());
    let error = method.learned(folder).unwrap_err().to_string();
    assert!(error.contains("my/policy") && error.contains("dtome") && error.contains("no actor"), "{error}");
}

#[test]
fn one_folder_holds_one_kind_after_another() {
    let spec = toy::spec(true);
    let method = AnyPolicy::Method(policy("dtome"));
    let learned = AnyPolicy::from(toy::policy(&spec, toy::FULL, Nonlinearity::Gelu));
    let folder = TempDir::new().unwrap();
    for policy in [&learned, &method, &learned, &method] {
        policy.save(folder.path()).unwrap();
        assert_eq!(AnyPolicy::load(folder.path()).unwrap(), *policy);
    }
    let error = Policy::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("dtome") && error.contains("learned policy"), "{error}");
    let other = BackboneId { fingerprint: "other".into(), ..id(&spec) };
    let error = AnyPolicy::open(folder.path(), &spec, &other).unwrap_err().to_string();
    assert!(error.contains("not for this backbone"), "{error}");
}

/// A metric of random layers.
fn metric() -> MethodPolicy {
    let (spec, width) = (toy::spec(true), 6);
    let values = |layer: u64, count: usize| {
        (0..count).map(|i| uniform(&[layer, i as u64]) as f32 - 0.5).collect::<Vec<_>>()
    };
    let layers =
        (0..spec.depth as u64).map(|l| (values(l, width * spec.dim), values(l + 9, width))).collect();
    MethodPolicy::of(&id(&spec), Recipe::Metric(MetricHeads { dim: spec.dim, width, layers }))
}

#[test]
fn a_learned_metric_is_read_as_it_was_written() {
    let spec = toy::spec(true);
    let (model, pixels) = (toy::backbone(&spec), toy::pixels(&spec, 3));
    let mut written = metric();
    written.cost = 0.8;
    let folder = saved(&written);
    let read = AnyPolicy::open(folder.path(), &spec, &written.backbone).unwrap();
    assert_eq!(read, AnyPolicy::Method(written.clone()));
    assert_eq!(read.identity(), written.identity());
    let Recipe::Metric(heads) = &mut written.recipe else { panic!("a metric") };
    heads.layers[0].1[0] += 1.0;
    assert_ne!(read.identity(), written.identity(), "other weights");
    let out = run(&model, read.pruner(&spec).unwrap().as_ref(), PixelBatch::new(&pixels, 3), &[0, 1, 2]);
    let share = out.unwrap().macs[0] as f64 / cost::dense_macs(&spec) as f64;
    assert!((share - 0.8).abs() < 0.1, "{share}");

    type Change = fn(&mut Value);
    let changes: [(Change, &str); 8] = [
        (|policy| policy["metric_width"] = json!(7), "blocks.0.metric.weight"),
        (|policy| policy["metric_width"] = json!(0), "outside 1 to"),
        (|policy| policy["metric_width"] = json!(4_000_000_000_u64), "outside 1 to"),
        (|policy| policy["metric_width"] = json!(null), "version 5"),
        (|policy| policy["backbone"]["depth"] = json!(5), "blocks.4.metric.weight"),
        (|policy| policy["backbone"]["depth"] = json!(60_000), "metric.weight"),
        (|policy| policy["fitted"] = json!([{"macs": 1.0, "numbers": []}]), "version 5"),
        (|policy| policy["method"] = json!("tome"), "version 5"),
    ];
    for (i, (change, word)) in changes.into_iter().enumerate() {
        let folder = saved(&metric());
        let path = folder.path().join("policy.json");
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        let error = AnyPolicy::load(folder.path()).unwrap_err().to_string();
        let file = if word.starts_with("blocks") || word == "metric.weight" {
            "policy.safetensors"
        } else {
            "policy.json"
        };
        assert!(error.contains(word) && error.contains(file), "change {i}: no '{word}', '{file}' in {error}");
    }
    let mut infinite = metric();
    let Recipe::Metric(heads) = &mut infinite.recipe else { panic!("a metric") };
    heads.layers[1].0[3] = f32::INFINITY;
    let error = AnyPolicy::load(saved(&infinite).path()).unwrap_err().to_string();
    assert!(error.contains("blocks.1.metric.weight") && error.contains("infinite"), "{error}");
}

#[test]
fn what_could_not_run_is_refused() {
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 19] = [
        (|policy| policy["method"] = json!("best"), "'best'"),
        (|policy| policy["method"] = json!("policy"), "'policy'"),
        (|policy| policy["method"] = json!("tome"), "tome is not fitted"),
        (|policy| policy["method"] = json!("diffrate"), "8 numbers"),
        (|policy| policy["fitted"] = json!([]), "not at 0"),
        (|policy| policy["fitted"] = vec![policy["fitted"][0].clone(); 20_000].into(), "not at 20000"),
        (|policy| policy["fitted"][1]["numbers"] = json!([0.5]), "4 numbers"),
        (|policy| policy["fitted"][1]["numbers"] = json!(vec![0.5; 100_000]), "not 100000"),
        (|policy| policy["fitted"][0]["macs"] = json!(-1.0), "above 0"),
        (|policy| policy["fitted"][0]["macs"] = json!(1.0), "do not fall"),
        (|policy| policy["fitted"][0]["macs"] = json!(null), "not a policy"),
        (|policy| policy["fitted"][0]["more"] = json!(1), "not a policy"),
        (|policy| policy["cost"] = json!(1.5), "cost of 1.5"),
        (|policy| policy["cost"] = json!(-0.1), "cost of -0.1"),
        (|policy| policy["backbone"]["depth"] = json!(0), "outside 1 to"),
        (|policy| policy["backbone"]["depth"] = json!(12), "12 blocks"),
        (|policy| policy["version"] = json!(6), "versions 1 to 5"),
        (|policy| policy["version"] = json!(5), "version 5"),
        (|policy| policy["metric_width"] = json!(3), "version 3"),
    ];
    for (i, (change, word)) in changes.into_iter().enumerate() {
        let folder = saved(&policy("dtome"));
        let path = folder.path().join("policy.json");
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        let error = AnyPolicy::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("policy.json"), "change {i}: no '{word}' in {error}");
        assert!(error.len() < 500 && !error.contains('\n'), "change {i}: {error}");
    }
    let folder = saved(&policy("tome"));
    fs::write(folder.path().join("policy.safetensors"), "weights").unwrap();
    let error = AnyPolicy::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("policy.safetensors") && error.contains("damaged"), "{error}");
}
