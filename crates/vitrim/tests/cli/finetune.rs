//! A backbone is fine-tuned under a policy, and then used.

use crate::fixtures::{Scratch, TINY};

pub const SMALL: [&str; 10] = [
    "--set",
    "batch=8",
    "--set",
    "log_every=1",
    "--set",
    "evaluate_every=1",
    "--set",
    "augment.flip=false",
    "--images",
    "24",
];

#[test]
fn finetunes_under_a_policy_and_without() {
    let scratch = Scratch::new();
    scratch
        .run(
            &[&["train", "--model", "model", "--data", "data", "--out", "run", "--updates", "3"], &TINY[..]]
                .concat(),
        )
        .good();
    let args = [&["finetune", "--model", "model", "--data", "data"], &SMALL[..]].concat();
    let policy = ["--policy", "run/policy", "--read-out", "threshold=0.6"];
    let run = scratch.run(&[&args[..], &policy[..], &["--out", "ft"]].concat());
    let out = run.good();
    for word in ["held-out images: ", "backbone: ft/model", "policy: ft/policy", "of the dense MACs"] {
        assert!(out.contains(word), "{word}: {out}");
    }
    assert!(
        run.stderr().contains("36 images to train on") && run.stderr().contains("step 3/3: "),
        "{}",
        run.stderr()
    );
    let eval = ["eval", "--data", "data", "--no-speed", "--model", "ft/model", "--policy"];
    assert!(scratch.run(&[&eval[..], &["ft/policy"]].concat()).good().contains("| policy "));
    scratch.run(&[&eval[..], &["run/policy"]].concat()).refused(&["run/policy", "not for this backbone"]);

    // Repeating the finished run gives the same output; another run cannot continue in its folder.
    let events = || {
        let names = std::fs::read_dir(scratch.path("ft")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("events.")).count()
    };
    let written = || (scratch.snapshot("ft/model"), scratch.snapshot("ft/policy"), events());
    let before = written();
    let again = scratch.run(&[&args[..], &policy[..], &["--out", "ft", "--json"]].concat());
    assert!(again.stderr().contains("from step 3 of 3"), "{}", again.stderr());
    assert!(again.json()[0]["held_out"]["cost"].as_f64().unwrap() <= 1.1);
    assert!(written() == before, "the second call wrote something else");
    let other = ["--policy", "run/policy", "--read-out", "threshold=0.7", "--out", "ft", "-q"];
    scratch.run(&[&args[..], &other[..]].concat()).refused(&["checkpoint.safetensors", "another policy"]);

    let control = scratch.run(&[&args[..], &["--dense", "--out", "control"]].concat()).good();
    assert!(
        control.contains("control/model") && control.contains("at 100.0 % of the dense MACs"),
        "{control}"
    );
    scratch.run(&args).refused(&["--policy", "--dense"]);
    scratch
        .run(&[&args[..], &["--dense", "--set", "batch=0"]].concat())
        .refused(&["batch must be at least 1"]);
    std::fs::write(scratch.path("model/config.json"), "{}").unwrap();
    assert!(!scratch.run(&[&args[..], &["--dense"]].concat()).0.status.success());
}
