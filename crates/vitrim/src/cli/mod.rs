//! The commands. Results go to stdout, everything else to stderr; exit codes are 0, 1 for an error (one
//! line), 2 for a wrong command line and 130 for an interruption.

mod args;
mod bench;
mod calibrate;
mod compare;
mod demo;
mod downloads;
mod embed;
mod eval;
mod export;
mod finetune;
mod info;
mod interrupt;
mod metric;
mod predict;
mod pretrain;
mod print;
mod progress;
mod ranks;
mod report;
mod serve;
mod train;
mod visualize;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
pub use args::Args;
use args::{Command, Global};

use progress::Reporter;
use vitrim_hub::HubError;
use vitrim_kernels::memory::{keep_freed_memory, return_large_buffers};
use vitrim_measure::model::Opening;
use vitrim_measure::{Listener, Loaded};
use vitrim_ranks::Ranks;

/// Exit code after an interruption: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs the command, alone or as one of the ranks that MPI started.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Some(process) = ranks::start(&args.command)? else { return Ok(ExitCode::SUCCESS) };
    ranks::settle(process.ranks(), carry_out(args, process.ranks()))
}

/// Runs the command as one of `ranks`.
fn carry_out(args: Args, ranks: &Ranks) -> anyhow::Result<ExitCode> {
    let args = args.with_threads();
    match args.command {
        Command::Serve(_) => return_large_buffers(),
        _ => keep_freed_memory(),
    }
    vitrim_kernels::InstructionSet::from_env()?;
    if args.global.threads > 0 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(args.global.threads);
        pool.build_global().context("--threads: the threads cannot be started")?;
    }
    let quiet = args.global.quiet || !ranks.is_first();
    downloads::show(quiet);
    let app = App { global: &args.global, reporter: Reporter::new(quiet), ranks };
    match &args.command {
        Command::Demo(args) => demo::run(&app, args),
        Command::Train(args) => train::run(&app, args),
        Command::TrainMetric(args) => metric::run(&app, args),
        Command::Pretrain(args) => pretrain::run(&app, args),
        Command::Calibrate(args) => calibrate::run(&app, args),
        Command::Eval(args) => eval::run(&app, args),
        Command::Finetune(args) => finetune::run(&app, args),
        Command::Compare(args) => compare::run(&app, args),
        Command::Predict(args) => predict::run(&app, args),
        Command::Embed(args) => embed::run(&app, args),
        Command::Visualize(args) => visualize::run(&app, args),
        Command::Report(args) => report::run(&app, args),
        Command::Export(args) => export::run(&app, args),
        Command::Bench(args) => bench::run(&app, args),
        Command::Info(args) => info::run(&app, args),
        Command::Serve(args) => serve::run(&app, args),
    }
}

/// Context of every command.
struct App<'a> {
    global: &'a Global,
    reporter: Reporter,
    /// The processes that share the work.
    ranks: &'a Ranks,
}

impl App<'_> {
    /// Opens `model`, and says what was chosen among several readings of it.
    fn open(&self, model: &Path, opening: impl Into<Opening>) -> anyhow::Result<Loaded> {
        let loaded = Loaded::open_in(model, opening)?;
        self.say(&loaded.notes);
        Ok(loaded)
    }

    /// Prints notes on stderr.
    fn say(&self, notes: &[String]) {
        notes.iter().for_each(|note| self.reporter.note(&format!("note: {note}")));
    }

    /// Reports the state of work that was asked to stop.
    fn interrupted(&self, line: &str) -> ExitCode {
        if self.ranks.is_first() {
            eprintln!("{line}");
        }
        ExitCode::from(INTERRUPTED)
    }

    /// Runs `work` with its progress on stderr; `stop` ends it.
    fn follow<T>(&self, stop: &AtomicBool, work: impl FnOnce(&mut Listener<'_>) -> T) -> T {
        let mut shown = self.reporter.show();
        work(&mut Listener { stop, tell: &mut |event| shown.event(event) })
    }

    /// Runs `work` with its progress on stderr. The work leaves nothing incomplete if an interruption ends the
    /// program.
    fn show<T>(&self, work: impl FnOnce(&mut Listener<'_>) -> T) -> T {
        self.follow(&AtomicBool::new(false), work)
    }
}

/// Prints `error` as one line on stderr.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // The reader of stdout may stop reading: `vitrim predict photos | head -1`.
    let is_closed_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(is_closed_pipe) {
        return ExitCode::SUCCESS;
    }
    let is_interruption = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(HubError::Interrupted))
    };
    if let Some(interruption) = error.chain().find(|cause| is_interruption(*cause)) {
        eprintln!("{interruption}");
        return ExitCode::from(INTERRUPTED);
    }
    eprintln!("error: {}", in_one_line(error));
    ExitCode::FAILURE
}

/// The messages of `error` and its causes, in one line.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let message = cause.to_string();
        // Some messages contain the message of their cause.
        if !line.ends_with(&message) {
            line = if line.is_empty() { message } else { format!("{line}: {message}") };
        }
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Installs a panic hook: a panic prints one line and ends the program, on any thread, because other threads may wait
/// for the panicked one forever. Only a panic of an image's decoder continues, because it is caught and becomes a
/// bad-image error.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if vitrim_data::is_guarded() {
            return;
        }
        let place =
            panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        let message = panic.payload_as_str().unwrap_or("unknown");
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        eprintln!("error: a bug in vitrim{place}: {message}; please report it with the command you ran");
        std::process::exit(1);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the hook's exception, the panic would end the test's process.
    #[test]
    fn a_decoders_panic_is_a_bad_image_and_not_the_end() {
        report_panics();
        let decode = || -> Result<(), vitrim_data::DataError> { panic!("a decoder's bug") };
        let error = std::thread::spawn(move || vitrim_data::guarded(|| "a.jpg".into(), decode)).join();
        let _default = std::panic::take_hook();
        let error = error.expect("the panic was caught").unwrap_err().to_string();
        assert!(
            error.starts_with("a.jpg: cannot be decoded (the decoder panicked: a decoder's bug)"),
            "{error}"
        );
    }
}
