//! Runs the commands of README and `docs/*.md` in order on a tiny backbone, checks the links, and checks that the
//! messages in `docs/troubleshooting.md` are those that the program prints.
//!
//! A block that begins with ```` ```sh ```` is run. A block that begins with ```` ```sh no-test: reason ```` needs a
//! network, a full-size model or hours: only the names of its options are checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::finetune::SMALL;
use crate::fixtures::{Run, Scratch, TINY, write_checkpoint, write_images};

/// Pages whose blocks run in their own tests: `checkpoints.rs`, `hub.rs`, `images.rs`.
const TESTED_ELSEWHERE: [&str; 3] = ["checkpoints.md", "hub.md", "images.md"];
/// The commands that CI reads from README and runs.
const MAIN_COMMANDS: &str = "cargo run --release -- demo\ncargo test --release --workspace\n";
/// The command in README that trains the policy for the other pages.
const TRAIN: &str = "vitrim train --model my/deit --data my/images --max-drop 0.4 --out runs/my";
/// Programs that may occur, besides `vitrim` and `just`, in a block that is not run.
const OTHER_PROGRAMS: [&str; 7] = ["cargo", "curl", "hf", "maturin", "pip", "python3", "sbatch"];

/// Programs that start several of the program behind their options.
const LAUNCHERS: [&str; 2] = ["mpirun", "srun"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// README, CONTRIBUTING and all pages of `docs/` but the notes, which are kept as they were.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = fs::read_dir(repository().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|name| repository().join(name)));
    pages
}

/// The `sh` blocks of a page: what follows `sh` in their first line, and their commands.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(info) = info.strip_prefix("sh") {
            blocks.push((info.trim().to_owned(), text.join("\n") + "\n"));
        }
    }
    blocks
}

/// `my/deit`, `my/images` and `photo.jpg`, which the pages use.
fn world() -> Scratch {
    let scratch = Scratch::new();
    write_checkpoint(&scratch.path("my/deit"), 1);
    for (split, count) in [("train", 12), ("val", 6), ("test", 6)] {
        write_images(&scratch.path(&format!("my/images/{split}")), split, count);
    }
    let photo = image::open(scratch.path("my/images/test/red/test00.png")).unwrap();
    photo.save(scratch.path("photo.jpg")).unwrap();
    scratch
}

/// Adds options with which a command takes a second.
fn shortened(command: &str) -> String {
    let more = match command.split(' ').nth(1).unwrap() {
        "train" => [&["--updates", "2"][..], &TINY].concat(),
        "finetune" => SMALL.to_vec(),
        "train-metric" => crate::metric::SMALL.to_vec(),
        "pretrain" => crate::pretrain::TINY.to_vec(),
        "eval" | "compare" => vec!["--no-speed"],
        "bench" => vec!["--seconds", "0.02", "--rounds", "1"],
        _ => Vec::new(),
    };
    let quoted = more.iter().map(|word| format!(" '{word}'"));
    command.to_owned() + &quoted.collect::<String>()
}

/// Runs a line of a page as a shell does, shortened.
fn shell(scratch: &Scratch, line: &str) -> Run {
    let program = Path::new(env!("CARGO_BIN_EXE_vitrim")).parent().unwrap().display();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command.args(["-c", &shortened(line)]).current_dir(scratch.path(""));
    Run(command.env("PATH", format!("{program}:{path}")).output().unwrap())
}

/// Checks that every option of `line` exists for its command.
fn has_its_options(scratch: &Scratch, line: &str) {
    let command = line.replacen("cargo run --release --", "vitrim", 1);
    let words: Vec<&str> = command.split_whitespace().map(|word| word.trim_matches('\'')).collect();
    let mut words: Vec<&str> = words.into_iter().skip_while(|word| word.contains('=')).collect();
    if words.first().is_some_and(|program| LAUNCHERS.contains(program)) {
        words = words.into_iter().skip_while(|word| *word != "vitrim").collect();
    }
    match words[..] {
        ["vitrim", name, ..] => {
            let help = scratch.run(&[name, "--help"]).good();
            let known = |flag: &str| help.split([' ', ',', '\n', '=']).any(|word| word == flag);
            for word in words.iter().filter(|word| word.starts_with("--")) {
                let flag = word.split('=').next().unwrap();
                assert!(known(flag), "`vitrim {name}` has no {flag}: {line}");
            }
        }
        ["just", recipe, ..] => {
            let justfile = fs::read_to_string(repository().join("justfile")).unwrap();
            let begins = |text: &str| text.split([' ', ':']).next() == Some(recipe);
            assert!(justfile.lines().any(begins), "no recipe {recipe}: {line}");
        }
        [program, ..] => {
            let script = program.strip_prefix("scripts/").is_some() && repository().join(program).is_file();
            assert!(script || OTHER_PROGRAMS.contains(&program), "what is `{line}`?");
        }
        [] => panic!("an empty line"),
    }
}

#[cfg(unix)]
#[test]
fn the_commands_of_the_pages_run() {
    for path in pages() {
        let name = path.file_name().unwrap().to_str().unwrap();
        if TESTED_ELSEWHERE.contains(&name) {
            continue;
        }
        let page = fs::read_to_string(&path).unwrap();
        let mut blocks = blocks(&page);
        if path == repository().join("README.md") {
            assert_eq!(
                blocks.remove(0),
                (String::new(), MAIN_COMMANDS.to_owned()),
                "CI runs README's first block"
            );
        }
        let scratch = world();
        let runs = blocks.iter().any(|(info, _)| info.is_empty());
        if runs && !page.contains(&format!("\n{TRAIN}\n")) {
            shell(&scratch, TRAIN).good();
        }
        for (info, commands) in blocks {
            assert!(info.is_empty() || info.starts_with("no-test: "), "{name}: what is `sh {info}`?");
            let joined = commands.replace("\\\n", " ");
            let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty());
            for line in lines.filter(|line| !line.starts_with('#')) {
                if !info.is_empty() {
                    has_its_options(&scratch, line);
                    continue;
                }
                assert!(
                    line.starts_with("vitrim "),
                    "{name}: `{line}` is not run; mark its block `no-test: reason`"
                );
                let run = shell(&scratch, line);
                assert!(run.0.status.success(), "{name}: {line}\n{}\n{}", run.stdout(), run.stderr());
                assert!(!run.stdout().is_empty(), "{name}: {line}");
            }
        }
    }
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .collect::<String>();
    kept.replace(' ', "-")
}

#[test]
fn links_between_pages_lead_somewhere() {
    let notes = ["README.md", "learning-2026-11.md", "speed-2026-11.md"];
    let notes = notes.map(|name| repository().join("docs/notes").join(name));
    let mut links = 0;
    for path in pages().into_iter().chain(notes) {
        let page = fs::read_to_string(&path).unwrap();
        for link in page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: no {link}", path.display());
            if !fragment.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.map(|line| anchor(line.trim_start_matches('#'))).any(|a| a == fragment);
                assert!(found, "{}: no heading for {link}", path.display());
            }
            links += 1;
        }
    }
    assert!(links > 60, "{links}");
}

/// A line with every number as `#`.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    for c in line.chars() {
        match c {
            '0'..='9' if text.ends_with('#') => {}
            '0'..='9' => text.push('#'),
            _ => text.push(c),
        }
    }
    text
}

/// Checks that a line of `printed` equals `documented`, in which `...` matches any text; numbers are ignored.
fn prints(printed: &str, documented: &str) {
    let parts = without_numbers(documented);
    let is = |line: &str| {
        let line = without_numbers(line);
        let mut parts = parts.split("...");
        let first = parts.next().unwrap();
        let mut rest = line.strip_prefix(first)?;
        for part in parts {
            rest = &rest[rest.find(part)? + part.len()..];
        }
        (rest.is_empty() || documented.ends_with("...")).then_some(())
    };
    assert!(printed.lines().any(|line| is(line).is_some()), "documented:\n{documented}\nprinted:\n{printed}");
}

#[test]
fn the_errors_that_troubleshooting_explains_are_printed() {
    let page = fs::read_to_string(repository().join("docs/troubleshooting.md")).unwrap();
    let documented =
        page.split("```text\n").skip(1).flat_map(|block| block.split("```").next().unwrap().lines());
    let mut documented = documented.filter(|line| !line.is_empty());
    let scratch = world();
    let eval = ["eval", "--model", "my/deit", "--data", "my/images", "--no-speed"];
    let mut check =
        |run: Run| prints(&(run.stdout() + &run.stderr()), documented.next().expect("one more message"));
    let config = scratch.path("my/deit/config.json");
    let with_config = |change: &dyn Fn(&str) -> String| {
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, change(&text)).unwrap();
        let run = scratch.run(&eval);
        fs::write(&config, text).unwrap();
        run
    };

    // 1. Not a checkpoint.
    for file in ["my/deit/config.json", "my/deit/model.safetensors"] {
        fs::rename(scratch.path(file), scratch.path("away")).unwrap();
        check(scratch.run(&eval));
        fs::rename(scratch.path("away"), scratch.path(file)).unwrap();
    }
    // 2. and 3. Another architecture, and weights of another shape or depth.
    check(with_config(&|text| text.replace("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224")));
    check(with_config(&|text| text.replace("\"embed_dim\":24", "\"embed_dim\":48")));
    check(with_config(&|text| text.replace("\"depth\":4", "\"depth\":5")));
    // 4. and 5. Another backbone, and no calibration.
    let train = ["train", "--model", "my/deit", "--data", "my/images", "--out", "runs/my", "--updates", "2"];
    let train = [&train[..], &["--no-calibrate"], &TINY].concat();
    scratch.run(&train).good();
    write_checkpoint(&scratch.path("other"), 2);
    let with_policy = [&eval[..], &["--policy", "runs/my/policy"]].concat();
    check(scratch.run(&["eval", "--model", "other", "--data", "my/images", "--policy", "runs/my/policy"]));
    check(scratch.run(&[&with_policy[..], &["--max-drop", "1"]].concat()));
    // 6. Too few images to certify.
    let calibrate = ["calibrate", "--model", "my/deit", "--data", "my/images", "--policy", "runs/my/policy"];
    let calibrate = [&calibrate[..], &["--max-drop", "0.1"]].concat();
    check(scratch.run(&calibrate));
    check(scratch.run(&calibrate));
    // 7. and 8. Other classes, no images, no such split.
    let images = |name: &str| scratch.path(&format!("my/images/{name}"));
    let renamed = [("test/blue", "test/cat"), ("test/green", "test/dog"), ("test/red", "test/frog")];
    renamed.iter().for_each(|(from, to)| fs::rename(images(from), images(to)).unwrap());
    fs::create_dir_all(images("test/white")).unwrap();
    fs::copy(images("test/frog/test00.png"), images("test/white/a.png")).unwrap();
    check(scratch.run(&eval));
    fs::remove_dir_all(images("test/white")).unwrap();
    renamed.iter().for_each(|(from, to)| fs::rename(images(to), images(from)).unwrap());
    fs::rename(scratch.path("my/images"), scratch.path("my/full")).unwrap();
    fs::create_dir(scratch.path("my/images")).unwrap();
    check(scratch.run(&eval));
    fs::remove_dir(scratch.path("my/images")).unwrap();
    fs::rename(scratch.path("my/full"), scratch.path("my/images")).unwrap();
    check(scratch.run(&[&eval[..], &["--split", "holdout"]].concat()));
    // 9. An image that is cut off.
    let whole = fs::read(images("test/red/test00.png")).unwrap();
    fs::write(images("test/red/test00.png"), &whole[..whole.len() / 2]).unwrap();
    check(scratch.run(&eval));
    fs::write(images("test/red/test00.png"), whole).unwrap();
    // 10. Another run's folder.
    check(scratch.run(&[&train[..], &["--seed", "5"]].concat()));
    assert_eq!(documented.next(), None, "a message that no test prints");
}
