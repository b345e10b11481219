//! What happens while it happens, on stderr: a bar on a terminal, a few lines elsewhere.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vitrim::training::describe;
use vitrim_train::UpdateLog;

/// Updates between two lines where there is no terminal.
const UPDATES_A_LINE: usize = 25;

/// Says things on stderr, or keeps quiet.
pub struct Reporter {
    quiet: bool,
    terminal: bool,
}

impl Reporter {
    pub fn new(quiet: bool) -> Self {
        Reporter { quiet, terminal: std::io::stderr().is_terminal() }
    }

    /// One line.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    /// A bar for `what`, told (done, all).
    pub fn bar(&self, what: &str) -> Bar {
        let bar = ProgressBar::with_draw_target(Some(0), self.target());
        let style = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what.to_owned());
        Bar { bar, started: Instant::now() }
    }

    /// Progress of a training run.
    pub fn training(&self) -> TrainingProgress {
        TrainingProgress { bar: self.bar("training"), lines: !self.quiet && !self.terminal, first: None }
    }

    /// Progress of `what`, which is made of steps with a log entry now and then.
    pub fn steps(&self, what: &str) -> StepsProgress {
        StepsProgress { bar: self.bar(what), lines: !self.quiet && !self.terminal, first: None }
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.quiet || !self.terminal { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
    }
}

/// A bar; it is wiped away when dropped.
pub struct Bar {
    bar: ProgressBar,
    started: Instant,
}

impl Bar {
    /// Moves to `done` of `all`, and says how much time is left.
    pub fn set(&self, done: usize, all: usize) {
        let left = self.started.elapsed().as_secs_f64() * (all as f64 / done.max(1) as f64 - 1.0);
        self.show(done, all, format!("{} left", duration(left)));
    }

    fn show(&self, done: usize, all: usize, message: String) {
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(message);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A training run's bar or lines.
pub struct TrainingProgress {
    bar: Bar,
    lines: bool,
    /// When the first update of this call was done, and its number.
    first: Option<(Instant, usize)>,
}

impl TrainingProgress {
    /// An update is done, of `updates`.
    pub fn update(&mut self, log: &UpdateLog, updates: usize) {
        let (started, first) = *self.first.get_or_insert_with(|| (Instant::now(), log.update));
        let done = log.update - first;
        let left = match done {
            0 => "?".to_owned(),
            _ => duration(started.elapsed().as_secs_f64() / done as f64 * (updates - log.update) as f64),
        };
        let message = format!("{}, {left} left", describe(log));
        if self.lines && (log.update.is_multiple_of(UPDATES_A_LINE) || log.update == updates || done == 0) {
            eprintln!("update {}/{updates}: {message}", log.update);
        }
        self.bar.show(log.update, updates, message);
    }

    /// The reference is being measured: images done, of how many.
    pub fn reference(&self, done: usize, all: usize) {
        self.bar.show(done, all, "measuring random pruning".to_owned());
    }
}

/// The bar or lines of a run in steps.
pub struct StepsProgress {
    bar: Bar,
    lines: bool,
    /// When this call saw its first entry, and the step of it.
    first: Option<(Instant, usize)>,
}

impl StepsProgress {
    /// Step `step` of `steps` is done, as `figures` say; `evaluated` entries get a line where there is no terminal.
    pub fn entry(&mut self, step: usize, steps: usize, figures: &str, evaluated: bool) {
        let (started, first) = *self.first.get_or_insert_with(|| (Instant::now(), step));
        let left = match step - first {
            0 => "?".to_owned(),
            done => duration(started.elapsed().as_secs_f64() / done as f64 * (steps - step) as f64),
        };
        let message = format!("{figures}, {left} left");
        if self.lines && (evaluated || step == first) {
            eprintln!("step {step}/{steps}: {message}");
        }
        self.bar.show(step, steps, message);
    }
}

/// `75 s` as `1:15`, `3700 s` as `1:01:40`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}
