//! Faults: the program is killed at random moments, the disk is full, the folder becomes read-only. Afterwards what was
//! good is still good, and the same command ends as an undisturbed run does.
//!
//! `VITRIM_KILLS` is the number of kills of each command; the default is small, and `just faults` makes it 200.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use vitrim_hub_server::Server;
use vitrim_prune::AnyPolicy;
use vitrim_skips::skip;

use crate::fixtures::{Run, Scratch, TINY};
use crate::{finetune, metric, pretrain};

/// A command that writes files.
struct Work {
    args: Vec<&'static str>,
    /// The folder that it writes.
    output: &'static str,
    /// A policy that exists before, and must not be lost.
    policy: Option<&'static str>,
    /// A folder that is copied for each trial: everything that the command needs.
    scratch: Scratch,
    /// The Hub to download from.
    server: Option<Server>,
}

impl Work {
    /// The command `args` on the small data set, after the command `before`.
    fn new(before: &[&[&str]], args: &[&[&'static str]], output: &'static str) -> Self {
        let scratch = Scratch::new();
        before.iter().for_each(|args| {
            scratch.run(args).good();
        });
        Work { args: args.concat(), output, policy: None, scratch, server: None }
    }

    /// `new`, after a policy was trained.
    fn with_policy(args: &[&[&'static str]], output: &'static str) -> Self {
        let train = ["train", "--model", "model", "--data", "data", "--out", "run", "--updates", "3"];
        let work = Self::new(&[&[&train[..], &TINY[..]].concat()], args, output);
        Work { policy: Some("run/policy"), ..work }
    }

    fn train() -> Self {
        let args = ["train", "--model", "model", "--data", "data", "--out", "run", "--updates", "6", "-q"];
        Self::new(&[], &[&args, &TINY], "run")
    }

    fn pretrain() -> Self {
        Self::new(&[], &[&["pretrain", "--data", "data", "--out", "pt", "-q"], &pretrain::TINY], "pt")
    }

    fn finetune() -> Self {
        let args = ["finetune", "--model", "model", "--data", "data", "--policy", "run/policy"];
        let more = ["--read-out", "threshold=0.6", "--out", "ft", "-q"];
        Self::with_policy(&[&args, &finetune::SMALL, &more], "ft")
    }

    fn train_metric() -> Self {
        let args = ["train-metric", "--model", "model", "--data", "data", "--out", "metric", "-q"];
        Self::new(&[], &[&args, &metric::SMALL], "metric")
    }

    fn calibrate() -> Self {
        let args = ["calibrate", "--model", "model", "--data", "data", "--policy", "run/policy"];
        Self::with_policy(&[&args, &["--max-drop", "50", "-q"]], "run")
    }

    fn compare() -> Self {
        let args = ["compare", "--model", "model", "--data", "data", "--policy", "run/policy", "-q"];
        let more = ["--no-speed", "--no-studies", "--methods", "policy,random,tome", "--report", "cmp"];
        Self::with_policy(&[&args, &more], "cmp")
    }

    fn export() -> Self {
        let args = ["export", "--policy", "run/policy", "--model", "model", "--out", "upload", "-q"];
        Self::with_policy(&[&args], "upload")
    }

    fn download() -> Self {
        let work = Self::new(&[], &[&["info", "--model", "hf://me/backbone", "-q"]], "hf");
        let server = Server::start();
        server.push_folder("models/me/backbone", &work.scratch.path("model"));
        Work { server: Some(server), ..work }
    }

    fn command(&self, scratch: &Scratch) -> Command {
        let mut command = scratch.command(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(server) = &self.server {
            for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"] {
                command.env_remove(name);
            }
            command.env("HF_HOME", scratch.path("hf")).env("HF_ENDPOINT", server.endpoint());
        }
        command
    }

    /// Runs the command to its end; returns what it wrote.
    fn finish(&self, scratch: &Scratch) -> BTreeMap<PathBuf, String> {
        Run(self.command(scratch).output().unwrap()).good();
        self.written(scratch)
    }

    /// What the command wrote, without figures of time.
    fn written(&self, scratch: &Scratch) -> BTreeMap<PathBuf, String> {
        let root = scratch.path("");
        let files = scratch.snapshot(self.output).into_iter();
        let files = files.map(|(path, bytes)| (path.strip_prefix(&root).unwrap().to_owned(), bytes));
        files.filter(|(path, _)| lasting(path)).map(|(path, bytes)| (path, timeless(bytes))).collect()
    }

    /// Checks what has to be good at any time: a policy that existed before, and whatever there is else.
    fn check_kept(&self, scratch: &Scratch) {
        for folder in ["run/policy", "ft/policy", "metric/policy", "upload"] {
            if self.policy == Some(folder) || scratch.path(folder).join("policy.json").is_file() {
                AnyPolicy::load(&scratch.path(folder)).expect("a policy is whole or absent");
            }
        }
        for model in ["pt/model", "ft/model"] {
            if scratch.path(model).join("model.safetensors").is_file() {
                scratch.run(&["info", "--model", model]).good();
            }
        }
    }

    /// Kills the command at random moments until `VITRIM_KILLS` kills hit it at work, and finishes it each time.
    fn survives_kills(&self, seed: u64) {
        let wanted: usize = std::env::var("VITRIM_KILLS").map_or(2, |n| n.parse().expect("VITRIM_KILLS"));
        let (started, first) = (Instant::now(), self.scratch.copy());
        let expected = self.finish(&first);
        let mut took = started.elapsed().as_secs_f64();
        check_same(&self.finish(&self.scratch.copy()), &expected, "an undisturbed run");
        let mut random = StdRng::seed_from_u64(seed);
        let (mut hits, mut tries) = (0, 0);
        while hits < wanted {
            tries += 1;
            assert!(tries <= 20 * wanted, "{:?}: {hits} of {tries} kills hit it at work", self.args);
            let scratch = self.scratch.copy();
            let mut child = Running::start(self.command(&scratch));
            took = child.wait_at_most(took * random.random_range(0.0..1.0)).unwrap_or(took);
            child.0.kill().unwrap();
            hits += usize::from(child.0.wait().unwrap().signal() == Some(9));
            self.check_kept(&scratch);
            check_same(&self.finish(&scratch), &expected, "a kill");
        }
        println!("{}: {hits} kills of {tries} hit it at work", self.args[0]);
    }

    /// Runs the command on disks that are too small by more and more, and finishes it on a large one.
    fn survives_full_disks(&self) {
        let first = self.scratch.copy();
        let expected = self.finish(&first);
        let bytes: usize = first.snapshot(self.output).values().map(Vec::len).sum();
        let mut full = 0;
        for share in [0.0, 0.2, 0.4, 0.6, 0.8, 0.95] {
            let scratch = self.scratch.copy();
            let pages = (bytes as f64 * share / 4096.0).ceil() as usize;
            let Some(disk) = Disk::mount(&scratch.path(self.output), pages.max(1)) else { return };
            let run = Run(self.command(&scratch).output().unwrap());
            if !run.0.status.success() {
                full += 1;
                refused(&run, &["space"]);
            }
            self.check_kept(&scratch);
            disk.set("size=1g");
            check_same(&self.finish(&scratch), &expected, &format!("a disk of {pages} pages"));
        }
        assert!(full > 0, "{:?}: no disk was too small", self.args);
    }

    /// Takes the right to write the folder away while the command runs, until it was refused twice, and finishes the
    /// command when the folder can be written again.
    fn survives_read_only_folders(&self, seed: u64) {
        let (started, first) = (Instant::now(), self.scratch.copy());
        let expected = self.finish(&first);
        let mut took = started.elapsed().as_secs_f64();
        let mut random = StdRng::seed_from_u64(seed);
        let (mut refusals, mut tries) = (0, 0);
        while refusals < 2 {
            tries += 1;
            assert!(tries <= 40, "{:?}: no folder became read-only in time", self.args);
            let scratch = self.scratch.copy();
            let output = scratch.path(self.output);
            let Some(command) = heeding_permissions(self.command(&scratch)) else { return };
            let mut child = Running::start(command);
            took = child.wait_at_most(took * random.random_range(0.0..0.9)).unwrap_or(took);
            while !child.ended() && !writable(&output, false) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let run = Run(child.0.wait_with_output().unwrap());
            if !run.0.status.success() {
                refusals += 1;
                refused(&run, &["Permission denied"]);
            }
            self.check_kept(&scratch);
            writable(&output, true);
            check_same(&self.finish(&scratch), &expected, "a read-only folder");
        }
    }
}

/// A command at work.
struct Running(Child, Instant);

impl Running {
    fn start(mut command: Command) -> Self {
        Running(command.spawn().unwrap(), Instant::now())
    }

    fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Waits for `seconds`, or returns how long the command took if it ends before.
    fn wait_at_most(&mut self, seconds: f64) -> Option<f64> {
        let end = self.1 + Duration::from_secs_f64(seconds);
        while Instant::now() < end {
            if self.ended() {
                return Some(self.1.elapsed().as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

/// Runs `command` so that it may not write what its user may not write: root loses the right to do so all the same.
/// Skips the test if it cannot.
fn heeding_permissions(command: Command) -> Option<Command> {
    let (lost, program) = ("-dac_override,-dac_read_search", command.get_program());
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--inh-caps", lost, "--bounding-set", lost]);
    let able = setpriv.arg("true").output().is_ok_and(|output| output.status.success());
    if !able {
        skip("no right to lose capabilities with setpriv; run as root");
        return None;
    }
    let mut restricted = Command::new("setpriv");
    restricted.args(["--inh-caps", lost, "--bounding-set", lost]).arg(program).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => restricted.env(name, value),
            None => restricted.env_remove(name),
        };
    }
    restricted.current_dir(command.get_current_dir().expect("the scratch folder"));
    restricted.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(restricted)
}

/// Gives or takes the right to write `folder` and all in it; returns whether the folder is there.
fn writable(folder: &Path, yes: bool) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let (of_folder, of_file) = if yes { (0o755, 0o644) } else { (0o555, 0o444) };
    // A file may be renamed meanwhile.
    let set = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).is_ok();
    let changed = set(folder, of_folder);
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            writable(&path, yes);
        } else {
            set(&path, of_file);
        }
    }
    changed
}

/// Whether a file is the same after every run: not locks, not TensorBoard's files, which have the time in their names,
/// and not the hidden file that a killed replacement leaves.
fn lasting(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    !name.starts_with("events.") && !name.ends_with(".lock") && !name.ends_with(".part")
}

/// Checks that `written` is `expected`; the message names the files that differ.
fn check_same(written: &BTreeMap<PathBuf, String>, expected: &BTreeMap<PathBuf, String>, after: &str) {
    let names = written.keys().chain(expected.keys());
    let differing: Vec<_> = names.filter(|name| written.get(*name) != expected.get(*name)).collect();
    let shown = differing.first().map(|name| (written.get(*name), expected.get(*name)));
    assert!(differing.is_empty(), "after {after}: {differing:?} differ, the first: {shown:?}");
}

/// The text of a file, without figures that depend on when the run was started; the hash of a file that is no JSON.
fn timeless(bytes: Vec<u8>) -> String {
    let hash = vitrim_hub_server::sha256(&bytes);
    let Ok(text) = String::from_utf8(bytes) else { return hash };
    let lines = text.lines().map(|line| match serde_json::from_str(line) {
        Ok(Value::Object(mut figures)) => {
            for figure in ["images_per_s", "play_s", "gather_s", "learn_s", "dense_passes"] {
                figures.remove(figure);
            }
            Value::Object(figures).to_string()
        }
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Checks that the program failed with one line on stderr that holds one of `words`.
fn refused(run: &Run, words: &[&str]) {
    let stderr = run.stderr();
    assert_eq!(run.0.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1, "{stderr}");
    assert!(words.iter().any(|word| stderr.contains(word)), "none of {words:?} in {stderr}");
}

/// A file system of its own, in memory, over a folder; unmounted when it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// Mounts `pages` of 4096 bytes over `folder`, besides what the folder holds already; skips the test if the user
    /// may not.
    fn mount(folder: &Path, pages: usize) -> Option<Disk> {
        let kept = folder.with_extension("kept");
        let existed = folder.is_dir();
        if existed {
            std::fs::rename(folder, &kept).unwrap();
        }
        std::fs::create_dir_all(folder).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1g", "tmpfs"]).arg(folder).output();
        if !mount.is_ok_and(|output| output.status.success()) {
            skip("no right to mount a file system; run as root");
            return None;
        }
        let disk = Disk(folder.to_owned());
        let mut used = 0;
        if existed {
            used = copy(&kept, folder);
        }
        disk.set(&format!("size={}", (used + pages) * 4096));
        Some(disk)
    }

    fn set(&self, option: &str) {
        let options = format!("remount,{option}");
        let mount = Command::new("mount").args(["-o", &options]).arg(&self.0).output().unwrap();
        assert!(mount.status.success(), "cannot remount with {option}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

/// Copies a folder; returns the pages of 4096 bytes that its entries take.
fn copy(from: &Path, to: &Path) -> usize {
    std::fs::create_dir_all(to).unwrap();
    let mut pages = 1;
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        if from.is_dir() {
            pages += copy(&from, &to.join(name));
        } else {
            pages += 1 + (std::fs::copy(from, to.join(name)).unwrap() / 4096) as usize;
        }
    }
    pages
}

impl Scratch {
    /// A scratch folder with the same content.
    fn copy(&self) -> Scratch {
        let other = Scratch::empty();
        copy(&self.path(""), &other.path(""));
        other
    }
}

#[test]
fn a_killed_training_ends_as_an_undisturbed_one() {
    Work::train().survives_kills(1);
}

#[test]
fn a_killed_pretraining_ends_as_an_undisturbed_one() {
    Work::pretrain().survives_kills(2);
}

#[test]
fn a_killed_finetuning_ends_as_an_undisturbed_one() {
    Work::finetune().survives_kills(3);
}

#[test]
fn a_killed_calibration_ends_as_an_undisturbed_one() {
    Work::calibrate().survives_kills(4);
}

#[test]
fn a_killed_comparison_ends_as_an_undisturbed_one() {
    Work::compare().survives_kills(5);
}

#[test]
fn a_killed_export_ends_as_an_undisturbed_one() {
    Work::export().survives_kills(6);
}

#[test]
fn a_killed_download_ends_as_an_undisturbed_one() {
    Work::download().survives_kills(7);
}

#[test]
fn killed_training_of_a_metric_goes_on() {
    Work::train_metric().survives_kills(8);
}

#[test]
fn full_disks_are_refused_in_one_line_and_nothing_is_half_written() {
    let works = [
        Work::train(),
        Work::train_metric(),
        Work::pretrain(),
        Work::finetune(),
        Work::calibrate(),
        Work::compare(),
    ];
    works.iter().for_each(Work::survives_full_disks);
    [Work::export(), Work::download()].iter().for_each(Work::survives_full_disks);
}

#[test]
fn folders_that_become_read_only_are_refused_in_one_line() {
    let works = [
        Work::train(),
        Work::train_metric(),
        Work::pretrain(),
        Work::finetune(),
        Work::calibrate(),
        Work::compare(),
    ];
    works.iter().for_each(|work| work.survives_read_only_folders(8));
}
