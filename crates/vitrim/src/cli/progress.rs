//! What happens while it happens, on stderr: a bar on a terminal, a few lines elsewhere.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vitrim::training::describe;
use vitrim_train::UpdateLog;
use vitrim_train::finetune::{FinetuneLog, HeldOut};
use vitrim_train::pretrain::PretrainLog;

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

    /// Progress of a pre-training run.
    pub fn pretraining(&self) -> PretrainingProgress {
        let lines = !self.quiet && !self.terminal;
        PretrainingProgress { bar: self.bar("pre-training"), lines, first: None, held_out: None }
    }

    /// Progress of a fine-tuning run.
    pub fn finetuning(&self) -> FinetuningProgress {
        let lines = !self.quiet && !self.terminal;
        FinetuningProgress { bar: self.bar("fine-tuning"), lines, first: None, held_out: None }
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

/// A pre-training run's bar or lines.
pub struct PretrainingProgress {
    bar: Bar,
    lines: bool,
    /// When this call saw its first entry, and the step of it.
    first: Option<(Instant, usize)>,
    /// Last held-out top-1, percent.
    held_out: Option<f64>,
}

impl PretrainingProgress {
    /// `log` is the entry of the last step done, of `steps`.
    pub fn entry(&mut self, log: &PretrainLog, steps: usize) {
        let (started, first) = *self.first.get_or_insert_with(|| (Instant::now(), log.step));
        let left = match log.step - first {
            0 => "?".to_owned(),
            done => duration(started.elapsed().as_secs_f64() / done as f64 * (steps - log.step) as f64),
        };
        self.held_out = log.held_out_top1.or(self.held_out);
        let held_out = self.held_out.map_or_else(|| "?".to_owned(), |top1| format!("{top1:.2} %"));
        let message = format!(
            "{:.0} images/s, loss {:.3}, top-1 {:.1} %, held out {held_out}, {left} left",
            log.images_per_s, log.loss, log.train_top1
        );
        if self.lines && (log.held_out_top1.is_some() || log.step == first) {
            eprintln!("step {}/{steps}: {message}", log.step);
        }
        self.bar.show(log.step, steps, message);
    }
}

/// A fine-tuning run's bar or lines.
pub struct FinetuningProgress {
    bar: Bar,
    lines: bool,
    /// When this call saw its first entry, and the step of it.
    first: Option<(Instant, usize)>,
    /// The last that was measured.
    held_out: Option<HeldOut>,
}

impl FinetuningProgress {
    /// `log` is the entry of the last step done, of `steps`.
    pub fn entry(&mut self, log: &FinetuneLog, steps: usize) {
        let (started, first) = *self.first.get_or_insert_with(|| (Instant::now(), log.step));
        let left = match log.step - first {
            0 => "?".to_owned(),
            done => duration(started.elapsed().as_secs_f64() / done as f64 * (steps - log.step) as f64),
        };
        self.held_out = log.held_out.or(self.held_out);
        let held_out = self.held_out.map_or_else(
            || "?".to_owned(),
            |held_out| {
                let HeldOut { top1, teacher_top1, divergence, cost, .. } = held_out;
                format!(
                    "{top1:.2} % (dense before: {teacher_top1:.2} %), D {divergence:.4} at cost {cost:.3}"
                )
            },
        );
        let message = format!(
            "{:.0} images/s, loss {:.4}, held out {held_out}, {left} left",
            log.images_per_s, log.loss
        );
        if self.lines && (log.held_out.is_some() || log.step == first) {
            eprintln!("step {}/{steps}: {message}", log.step);
        }
        self.bar.show(log.step, steps, message);
    }
}

/// `75 s` as `1:15`, `3700 s` as `1:01:40`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}
