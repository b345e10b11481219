//! Progress on stderr: a bar on a terminal, a few lines elsewhere.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vitrim_measure::progress::Event;

/// Updates between two lines if there is no terminal.
const UPDATES_A_LINE: usize = 25;

/// Writes to stderr, unless quiet.
pub struct Reporter {
    quiet: bool,
    terminal: bool,
}

impl Reporter {
    pub fn new(quiet: bool) -> Self {
        Reporter { quiet, terminal: std::io::stderr().is_terminal() }
    }

    /// Prints one line.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    /// A display of a request's progress.
    pub fn show(&self) -> Shown<'_> {
        Shown { reporter: self, bar: None, first: None }
    }

    /// A bar for `what`.
    fn bar(&self, what: &'static str) -> Bar {
        let bar = ProgressBar::with_draw_target(Some(0), self.target());
        let style = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what);
        Bar { what, bar, started: Instant::now() }
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.quiet || !self.terminal { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
    }
}

/// A progress bar; it is erased when dropped.
struct Bar {
    what: &'static str,
    bar: ProgressBar,
    started: Instant,
}

impl Bar {
    /// Sets the bar to `done` of `all`, and shows the remaining time.
    fn set(&self, done: usize, all: usize) {
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

/// The progress of the current work: a bar on a terminal, lines elsewhere.
pub struct Shown<'a> {
    reporter: &'a Reporter,
    /// The bar of the current task.
    bar: Option<Bar>,
    /// Time and number of the first entry that this call got.
    first: Option<(Instant, usize)>,
}

impl Shown<'_> {
    /// Shows an event.
    pub fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Note(line) => {
                self.bar = None;
                self.reporter.note(line);
            }
            Event::Step { what, done, all } => self.bar(what).set(done, all),
            Event::Entry { unit, done, all, line, evaluated, .. } => {
                self.entry(unit, done, all, line, evaluated);
            }
        }
    }

    /// Shows that `done` of `all` updates or steps are done; without a terminal, only some get a line.
    fn entry(&mut self, unit: &'static str, done: usize, all: usize, line: &str, evaluated: bool) {
        let (started, first) = *self.first.get_or_insert_with(|| (Instant::now(), done));
        let left = match done - first {
            0 => "?".to_owned(),
            since => duration(started.elapsed().as_secs_f64() / since as f64 * (all - done) as f64),
        };
        let message = format!("{line}, {left} left");
        let now_and_then = unit == "update" && done.is_multiple_of(UPDATES_A_LINE);
        if !self.reporter.quiet
            && !self.reporter.terminal
            && (evaluated || now_and_then || done == all || done == first)
        {
            eprintln!("{unit} {done}/{all}: {message}");
        }
        self.bar(unit).show(done, all, message);
    }

    /// The bar of `what`, which replaces any other bar.
    fn bar(&mut self, what: &'static str) -> &Bar {
        if self.bar.as_ref().is_none_or(|bar| bar.what != what) {
            // The old bar is erased first.
            self.bar = None;
        }
        self.bar.get_or_insert_with(|| self.reporter.bar(what))
    }
}

/// `75 s` as `1:15`, `3700 s` as `1:01:40`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}
