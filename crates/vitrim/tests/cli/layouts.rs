//! What other tools and systems leave in a data set: archives, links, folders that cannot be read, names that are not
//! UTF-8, byte order marks.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::fixtures::{Run, Scratch};

const EVAL: [&str; 7] = ["eval", "--model", "model", "--data", "data", "--no-speed", "--json"];

#[test]
fn what_is_left_out_is_said_on_stderr_and_in_json() {
    let scratch = Scratch::new();
    let before = scratch.run(&EVAL);
    assert_eq!(before.json()[0]["layout_notes"], json!([]));
    assert!(!before.stderr().contains("note: "), "{}", before.stderr());
    fs::write(scratch.path("data/photos.tar.gz"), b"no archive").unwrap();
    fs::create_dir(scratch.path("data/test/lost+found")).unwrap();
    let after = scratch.run(&EVAL);
    let note = "data: the images are read, not the archives beside them: photos.tar.gz";
    assert_eq!(after.json()[0]["layout_notes"], json!([note]));
    assert!(after.stderr().contains(&format!("note: {note}\n")), "{}", after.stderr());
    for field in ["images", "labelled", "dense_top1"] {
        assert_eq!(after.json()[0][field], before.json()[0][field], "{field}");
    }
    for (from, to) in [("train", "Training"), ("val", "Dev"), ("test", "Testing")] {
        fs::rename(scratch.path("data").join(from), scratch.path("data").join(to)).unwrap();
    }
    assert_eq!(scratch.run(&EVAL).json()[0]["dense_top1"], before.json()[0]["dense_top1"]);
    let dev = scratch.run(&[&EVAL[..], &["--split", "dev"]].concat()).json();
    let part = scratch.run(&[&EVAL[..], &["--split", "calibration"]].concat()).json();
    assert_eq!((&dev[0]["images"], &dev[0]["dense_top1"]), (&part[0]["images"], &part[0]["dense_top1"]));
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_read_is_one_bad_image() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let scratch = Scratch::new();
    let closed = scratch.path("data/test/red/closed");
    fs::create_dir(&closed).unwrap();
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&scratch.path(""), 0o755);
    mode(&closed, 0o000);
    // The super-user may read everything, so that the program has to run as somebody else.
    let is_open = fs::read_dir(&closed).is_ok();
    let run = |args: &[&str]| {
        let mut command = scratch.command(args);
        if is_open {
            command.gid(65534).uid(65534);
        }
        command.output().map(Run)
    };
    if !run(&["--version"]).is_ok_and(|version| version.0.status.success()) {
        vitrim_skips::skip(
            "no other user may run the program; run the tests as a user, or below a folder that all may read",
        );
        mode(&closed, 0o755);
        return;
    }
    run(&EVAL).unwrap().refused(&["data/test/red/closed", "cannot be read"]);
    let skipped = run(&[&EVAL[..], &["--on-bad-image", "skip"]].concat()).unwrap();
    let json = &skipped.json()[0];
    assert_eq!((&json["labelled"], &json["bad_images"]), (&json!(18), &json!(1)));
    assert!(
        skipped.stderr().contains("left out: data/test/red/closed: cannot be read"),
        "{}",
        skipped.stderr()
    );
    let predict = ["predict", "data/test", "--model", "model", "--json"];
    assert_eq!(run(&predict).unwrap().0.status.code(), Some(1));
    let predicted = run(&[&predict[..], &["--on-bad-image", "skip"]].concat()).unwrap();
    assert_eq!(predicted.json().len(), 18);
    assert!(predicted.stderr().contains("left out: data/test/red/closed"), "{}", predicted.stderr());
    mode(&closed, 0o755);
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf8_are_escaped_in_json() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    let name = OsStr::from_bytes(b"caf\xe9.png");
    fs::rename(scratch.path("data/test/red/test00.png"), scratch.path("data/test/red").join(name)).unwrap();
    let predicted = scratch.run(&["predict", "data/test/red", "--model", "model", "--json"]);
    assert_eq!(predicted.json()[0]["image"], "data/test/red/caf\\xe9.png");
    let drawn =
        scratch.run(&["visualize", "data/test/red", "--model", "model", "--out", "pictures", "--json"]);
    assert_eq!(drawn.json()[0]["image"], "data/test/red/caf\\xe9.png");
}

#[test]
fn a_byte_order_mark_before_a_configuration_is_dropped_and_utf16_is_refused() {
    let scratch = Scratch::new();
    let config = fs::read(scratch.path("model/config.json")).unwrap();
    let plain = scratch.run(&EVAL).json();
    fs::write(scratch.path("model/config.json"), [&b"\xef\xbb\xbf"[..], &config].concat()).unwrap();
    assert_eq!(scratch.run(&EVAL).json()[0]["dense_top1"], plain[0]["dense_top1"]);
    let utf16: Vec<u8> = config.iter().flat_map(|byte| [*byte, 0]).collect();
    fs::write(scratch.path("model/config.json"), utf16).unwrap();
    scratch.run(&EVAL).refused(&["model/config.json", "is UTF-16 text; save it as UTF-8"]);
    fs::write(scratch.path("model/config.json"), config).unwrap();
    let train = ["train", "--model", "model", "--data", "data", "--config", "my.toml", "--print-config"];
    fs::write(scratch.path("my.toml"), b"\xef\xbb\xbfupdates = 3\n").unwrap();
    assert!(scratch.run(&train).good().contains("updates = 3"));
    fs::write(scratch.path("my.toml"), b"\xff\xfeu\0").unwrap();
    scratch.run(&train).refused(&["my.toml: is UTF-16 text; save it as UTF-8"]);
}
